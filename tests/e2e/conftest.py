"""The run that the tests of this folder train."""

from pathlib import Path

import pytest

from dipaco.node.data.sources.dispatch import rows
from dipaco.node.data.sources.interface import Access
from tests.e2e.tiny import TINY
from tests.node.data.corpora import synthetic, write_jsonl


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def tiny_of_files(tmp_path: Path) -> Path:
    """Return the same run on the same documents, in a file beside it."""
    documents = rows(synthetic(160), start=0, stop=160, access=Access())
    write_jsonl(tmp_path / "rows.jsonl", [row["text"] for row in documents])
    synthetic_source = 'kind = "synthetic"\ndocuments = 160'
    assert synthetic_source in TINY
    path = tmp_path / "files.toml"
    path.write_text(TINY.replace(synthetic_source, 'kind = "files"\nfiles = ["rows.jsonl"]'))
    return path
