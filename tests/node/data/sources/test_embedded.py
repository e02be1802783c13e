"""Rules of this file: the shipped files are held against the constants that name them."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from dipaco.node.data.embedded_tokenizer import embedded_tokenizer, embedded_tokenizer_path
from dipaco.node.data.readers import count_rows
from dipaco.node.data.sources.dispatch import reachable, rows
from dipaco.node.data.sources.embedded import CORPUS_PATH, DOCUMENTS, embedded_source
from dipaco.node.data.sources.interface import Access, Reach
from dipaco.node.storage.files import hash_file
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.wire.digest import sha256


def test_the_corpus_is_the_one_that_the_source_pins() -> None:
    source, path = embedded_source(), CORPUS_PATH
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
    notice = CORPUS_PATH.with_name("NOTICE.md")
    assert "public domain" in notice.read_text(encoding="utf-8")


@pytest.mark.parametrize("field", ["revision", "files"])
def test_another_embedded_corpus_is_not_here(field: str) -> None:
    source = embedded_source()
    other = {
        "revision": "demo-2",
        "files": (replace(source.files[0], name="/etc/passwd"),),
    }
    changed = replace(source, **{field: other[field]})
    with pytest.raises(Unavailable, match=r"not the one that this version embeds \(demo-1\)"):
        rows(changed, start=0, stop=1, access=Access())
    assert reachable(source, Access()) == Reach("embedded: part of this program")
    found = reachable(changed, Access())
    assert "embeds (demo-1)" in found.words and found.cure


def test_a_source_can_be_cut_into_windows() -> None:
    source = embedded_source(documents=1000, window=300)
    assert (source.documents, source.windows) == (1000, 4)
    assert Path(source.files[0].name).suffix == ".parquet"
