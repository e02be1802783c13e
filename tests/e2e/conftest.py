"""The run that the tests of this folder train."""

from pathlib import Path

import pytest

from tests.e2e.tiny import TINY


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path
