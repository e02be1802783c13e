"""Rules of this file: real tokenizer files; small ones are made with the library itself."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from dipaco.node.data import tokenizers as module
from dipaco.node.data.embedded_tokenizer import embedded_tokenizer, embedded_tokenizer_path
from dipaco.node.data.tokenizers import (
    GOLDEN_IDS,
    TextDecoder,
    TextEncoder,
    checked_tokenizer,
    golden_digest,
    load_tokenizer,
    pin_tokenizer,
)
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.errors import ConfigError, LocalProtocolError, Refusal, Unavailable
from dipaco.protocol.run.source import Tokenizer
from dipaco.protocol.wire.digest import sha256

EMBEDDED = [670, 2110, 12, 266, 2110, 14]


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@cache
def embedded() -> TextEncoder:
    path = embedded_tokenizer_path(embedded_tokenizer().sha256)
    assert path is not None
    return checked_tokenizer(path.read_bytes(), embedded_tokenizer())


def word_level(*, truncate: bool = False) -> bytes:
    """Return a tokenizer file of five words that adds a special token, pads and cuts."""
    words = {"<|endoftext|>": 0, "a": 1, "b": 2, "c": 3, "[UNK]": 4}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    made.add_special_tokens(["<|endoftext|>"])
    if truncate:
        made.enable_truncation(2)
        made.enable_padding(length=10)
    return made.to_str().encode()


def pinned(data: bytes, *, vocabulary: int = 5, end_of_text: int = 0) -> Tokenizer:
    return Tokenizer(
        sha256=sha256(data), size=len(data), vocabulary=vocabulary, end_of_text=end_of_text
    )


def test_the_embedded_tokenizer_gives_the_ids_it_was_shipped_with(blobs: BlobStore) -> None:
    encoder = load_tokenizer(embedded_tokenizer(), blobs)
    assert encoder.encode(["The sea, the sea.", ""]) == [EMBEDDED, []]
    assert (encoder.vocabulary, encoder.end_of_text) == (4096, 0)


def test_a_batch_gives_what_its_texts_give_alone(blobs: BlobStore) -> None:
    encoder = load_tokenizer(embedded_tokenizer(), blobs)
    batch = ["one", "two words", "", "日本語 😀\x00", "long " * 500]
    assert encoder.encode(batch) == [encoder.encode([text])[0] for text in batch]


def test_no_text_can_spell_a_special_token(blobs: BlobStore) -> None:
    encoder = load_tokenizer(embedded_tokenizer(), blobs)
    assert encoder.end_of_text not in encoder.encode(["a<|endoftext|>b <|endoftext|>"])[0]


def test_a_tokenizer_is_found_in_the_blob_store(blobs: BlobStore) -> None:
    data = word_level()
    blobs.write(data)
    assert load_tokenizer(pinned(data), blobs).encode(["a c x b"]) == [[1, 3, 4, 2]]


def test_nothing_is_added_cut_or_padded_whatever_the_file_says(blobs: BlobStore) -> None:
    encoder = checked_tokenizer(word_level(truncate=True), pinned(word_level(truncate=True)))
    assert encoder.encode(["a b c a b c", "a"]) == [[1, 2, 3, 1, 2, 3], [1]]


def test_a_tokenizer_that_is_not_here_is_unavailable(blobs: BlobStore) -> None:
    with pytest.raises(Unavailable, match=r"tokenizer: the file of SHA-256 [0-9a-f]{8}"):
        load_tokenizer(pinned(word_level()), blobs)


def test_a_damaged_tokenizer_blob_is_unavailable(blobs: BlobStore) -> None:
    data = word_level()
    blobs.path(blobs.write(data)).write_bytes(data.replace(b"[UNK]", b"[unk]"))
    with pytest.raises(Unavailable, match=r"tokenizer: the file of SHA-256 .* is not here"):
        load_tokenizer(pinned(data), blobs)


def test_a_manifest_that_misstates_the_size_has_no_tokenizer(blobs: BlobStore) -> None:
    with pytest.raises(Unavailable, match="not the pinned"):
        load_tokenizer(replace(embedded_tokenizer(), size=300_000), blobs)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"\xff", b"[]", b'{"model": null}', json.dumps({"version": "1.0"}).encode()],
)
def test_a_file_that_is_no_tokenizer_is_refused(data: bytes) -> None:
    with pytest.raises(Refusal, match="not a file of the `tokenizers` library"):
        checked_tokenizer(data, replace(embedded_tokenizer(), sha256=sha256(data)))


def test_a_vocabulary_smaller_than_the_files_is_refused() -> None:
    data = word_level()
    checked_tokenizer(data, pinned(data, vocabulary=8))  # a padded table is fine
    with pytest.raises(Refusal, match=r"tokenizer\.vocabulary: .* ids up to 4, .* allows 3"):
        checked_tokenizer(data, pinned(data, vocabulary=4))


def test_a_tokenizer_that_draws_lots_is_refused() -> None:
    path = embedded_tokenizer_path(embedded_tokenizer().sha256)
    assert path is not None
    stated = json.loads(path.read_text())
    stated["model"]["dropout"] = 0.1
    data = json.dumps(stated).encode()
    with pytest.raises(Refusal, match="tokenizer: its model has a dropout"):
        checked_tokenizer(data, pinned(data, vocabulary=4096))


def test_an_end_of_text_that_is_no_token_is_refused() -> None:
    data = word_level()
    with pytest.raises(Refusal, match=r"tokenizer\.end_of_text"):
        checked_tokenizer(data, pinned(data, vocabulary=8, end_of_text=7))


def test_a_library_that_encodes_differently_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    path = embedded_tokenizer_path(embedded_tokenizer().sha256)
    assert path is not None
    checked_tokenizer(path.read_bytes(), embedded_tokenizer())
    monkeypatch.setattr(module, "GOLDEN_TEXT", module.GOLDEN_TEXT + " ")
    with pytest.raises(Unavailable, match="another version of the `tokenizers` library"):
        checked_tokenizer(path.read_bytes(), embedded_tokenizer())


def test_golden_ids_are_hashed_as_little_endian_words() -> None:
    assert golden_digest([1, 1 << 16]) == sha256(b"\x01\0\0\0\0\0\x01\0").hex()
    assert set(GOLDEN_IDS) == {embedded_tokenizer().sha256}


def test_pinning_a_file_gives_what_a_manifest_states(tmp_path: Path) -> None:
    path = embedded_tokenizer_path(embedded_tokenizer().sha256)
    assert path is not None
    assert pin_tokenizer(path) == (embedded_tokenizer(), path.read_bytes())
    with pytest.raises(ConfigError, match="no token '</s>'"):
        pin_tokenizer(path, end_of_text="</s>")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"bad\.json: tokenizer: not a file"):
        pin_tokenizer(tmp_path / "bad.json")


def test_a_fast_way_that_differs_from_the_library_is_noticed(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dipaco.node.data.pretokens._WORDS", re.compile(r"."))
    encoder = load_tokenizer(embedded_tokenizer(), blobs)
    assert encoder._words is not None
    with pytest.raises(LocalProtocolError, match="differ from the library's"):
        encoder.encode(["one two, three"])


CHARACTERS = st.characters(exclude_categories=["Cs"]) | st.sampled_from("é日😀👩‍🚀\x00")


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.text(CHARACTERS, max_size=30), st.text(CHARACTERS, max_size=5))
def test_text_comes_piece_by_piece_as_it_was_and_never_half_a_character(
    text: str, before: str
) -> None:
    encoder = embedded()
    known, ids = encoder.plainly([before, text])
    decoder = TextDecoder(encoder, known)
    pieces = [decoder.step(each) for each in ids]
    assert "".join(pieces) + decoder.rest() == text
    if "\ufffd" not in text:
        assert "".join(pieces) == text


def test_bytes_that_are_no_text_are_shown_as_such_and_not_waited_for() -> None:
    encoder = embedded()
    (half,) = (ids[:1] for ids in encoder.plainly(["日"]))
    word = encoder.plainly([" the"])[0]
    decoder = TextDecoder(encoder)
    said = "".join(decoder.step(each) for each in [*word, *half * 9, *word]) + decoder.rest()
    assert said.startswith(" the\ufffd") and said.endswith("\ufffd the")
    assert TextDecoder(encoder).step(half[0]) == ""
