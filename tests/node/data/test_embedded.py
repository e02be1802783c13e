"""Rules of this file: the shipped files are held against the constants that name them."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from dipaco.node.data.embedded import (
    DOCUMENTS,
    embedded_paths,
    embedded_source,
    embedded_tokenizer,
    embedded_tokenizer_path,
)
from dipaco.node.data.readers import count_rows
from dipaco.node.storage.files import hash_file
from dipaco.protocol.digest import sha256
from dipaco.protocol.errors import Unavailable


def test_the_corpus_is_the_one_that_the_source_pins() -> None:
    source = embedded_source()
    (path,) = embedded_paths(source)
    assert path.name == source.files[0].name
    assert path.stat().st_size == source.files[0].size
    assert hash_file(path) == source.files[0].sha256
    assert count_rows(path) == source.documents == DOCUMENTS


def test_the_tokenizer_is_the_one_that_its_value_pins() -> None:
    pinned = embedded_tokenizer()
    path = embedded_tokenizer_path(pinned.sha256)
    assert path is not None
    assert path.stat().st_size == pinned.size
    assert hash_file(path) == pinned.sha256
    assert embedded_tokenizer_path(sha256(b"another")) is None


def test_the_notice_travels_with_the_corpus() -> None:
    notice = embedded_paths(embedded_source())[0].with_name("NOTICE.md")
    assert "public domain" in notice.read_text(encoding="utf-8")


@pytest.mark.parametrize("field", ["revision", "files"])
def test_another_embedded_corpus_is_not_here(field: str) -> None:
    source = embedded_source()
    other = {
        "revision": "demo-2",
        "files": (replace(source.files[0], name="/etc/passwd"),),
    }
    with pytest.raises(Unavailable, match="this version embeds the corpus demo-1"):
        embedded_paths(replace(source, **{field: other[field]}))


def test_a_source_can_be_cut_into_windows() -> None:
    source = embedded_source(documents=1000, window=300)
    assert (source.documents, source.windows) == (1000, 4)
    assert Path(source.files[0].name).suffix == ".parquet"
