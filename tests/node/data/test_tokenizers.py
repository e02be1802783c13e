"""Rules of this file: real tokenizer files; small ones are made with the library itself."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from msgspec.structs import replace

from dipaco.node.data import tokenizers as module
from dipaco.node.data.embedded_tokenizer import embedded_tokenizer, embedded_tokenizer_path
from dipaco.node.data.tokenizers import (
    GOLDEN_IDS,
    GOLDEN_TEXT,
    BadText,
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


def made(
    model: tokenizers.models.Model, *, special: bool = False, split: bool = True, **parts: object
) -> bytes:
    """Return a tokenizer file; its end of text is an added token that is not special."""
    found = tokenizers.Tokenizer(model)
    if split:
        found.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    found.add_tokens([tokenizers.AddedToken("<|endoftext|>", special=special, normalized=False)])
    return json.dumps({**json.loads(found.to_str()), **parts}).encode()


def byte_level(*words: str) -> tokenizers.models.Model:
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    return tokenizers.models.BPE({w: at for at, w in enumerate([*letters, *words])}, [])


def unigram(*, unknown: int | None) -> tokenizers.models.Model:
    pieces = dict.fromkeys(["<unk>", *GOLDEN_TEXT.replace(" ", ""), "<|endoftext|>"])
    return tokenizers.models.Unigram([(piece, -1.0) for piece in pieces], unknown)


def words(unknown: str = "[UNK]") -> tokenizers.models.Model:
    names = dict.fromkeys(["<|endoftext|>", "a", "b", unknown])
    return tokenizers.models.WordLevel({name: at for at, name in enumerate(names)}, unknown)


def pinned_from(folder: Path, data: bytes) -> TextEncoder:
    (folder / "t.json").write_bytes(data)
    return checked_tokenizer(data, pin_tokenizer(folder / "t.json")[0])


@pytest.mark.parametrize("normalized", [True, False])
def test_a_text_that_spells_an_added_token_is_ordinary_text(
    tmp_path: Path, normalized: bool
) -> None:
    found = tokenizers.Tokenizer(byte_level())
    found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    names = ("<|endoftext|>", "<tool>", "ab")
    found.add_tokens([tokenizers.AddedToken(each, normalized=normalized) for each in names])
    encoder = pinned_from(tmp_path, found.to_str().encode())
    added = {encoder.tokenizer.token_to_id(each) for each in names}
    text = "ab<tool> a<|endoftext|>b<|endoftext|>"
    (ids,) = encoder.encode([text])
    assert not added & set(ids) and len(ids) == len(text)
    assert encoder.plainly([text]) == [ids]


@pytest.mark.parametrize("model", [unigram(unknown=0), words()], ids=["piece", "word"])
@pytest.mark.parametrize("split", [True, False])
def test_an_end_of_text_in_the_models_own_vocabulary_is_spelled_out(
    tmp_path: Path, model: tokenizers.models.Model, split: bool
) -> None:
    data = made(model, special=True, split=split)
    encoder = pinned_from(tmp_path, data)
    texts = ["<|endoftext|>", "a <|endoftext|> b", "a<|endoftext|><|endoftext|>", "<|<|endoftext|>"]
    assert not any(encoder.end_of_text in ids for ids in encoder.encode(texts))
    plain = tokenizers.Tokenizer.from_str(data.decode())
    same = "a < | e n d o f t e x t | > b"
    assert encoder.encode([same]) == [plain.encode(same).ids]


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (made(words("<|endoftext|>")), "<|endoftext|>"),
        (made(unigram(unknown=0)), "<unk>"),
        (made(byte_level()), "a"),
    ],
    ids=["unknown words get it", "unknown characters get it", "a character"],
)
def test_a_tokenizer_that_gives_a_text_the_end_of_text_is_refused(
    tmp_path: Path, data: bytes, end: str
) -> None:
    (tmp_path / "t.json").write_bytes(data)
    with pytest.raises(ConfigError, match=r"t\.json: tokenizer\.end_of_text: a text gets the id"):
        pin_tokenizer(tmp_path / "t.json", end_of_text=end)


NO_CHUNK = {"type": "FixedLength", "length": 0}
NO_MAP = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (made(tokenizers.models.Unigram([("a", -1.0)], None)), "no ids for a text.*: .*unk_id"),
        (made(unigram(unknown=None)), "no ids for a text.*: .*unk_id"),
        (made(tokenizers.models.WordLevel({"a": 0}, "[UNK]")), "no ids for a text.*: .*UNK"),
        (made(tokenizers.models.WordPiece({"a": 0}, unk_token="[UNK]")), "no ids for a text"),
        (made(byte_level(), pre_tokenizer=NO_CHUNK), "no ids for a text.*: chunk size"),
        (made(byte_level(), normalizer=NO_MAP), "not a file of the `tokenizers` library: Precomp"),
        (
            made(tokenizers.models.WordLevel({"[UNK]": 1 << 31}, "[UNK]")),
            "vocabulary: 2147483649 is not",
        ),
    ],
)
def test_a_tokenizer_that_fails_on_a_text_is_refused_in_one_line(
    tmp_path: Path, data: bytes, words: str
) -> None:
    with pytest.raises(ConfigError, match=rf"t\.json: tokenizer[.:].*{words}") as caught:
        pinned_from(tmp_path, data)
    assert "\n" not in str(caught.value)


def slow_pattern() -> bytes:
    """Return a tokenizer whose regular expression gives up on a text of many `a`."""
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}}
    return made(byte_level(), pre_tokenizer={**split, "behavior": "Isolated", "invert": False})


def test_a_text_that_the_library_fails_on_is_named(tmp_path: Path) -> None:
    encoder = pinned_from(tmp_path, slow_pattern())
    with pytest.raises(BadText, match=r"tokenizer: no ids for a text.*: Onig") as caught:
        encoder.encode(["good", "b", "a" * 40 + "b", "good"])
    assert caught.value.place == 2


def test_ids_that_the_library_fails_on_are_refused(tmp_path: Path) -> None:
    strip = {"type": "Strip", "content": "a", "start": 0, "stop": 5}
    encoder = pinned_from(tmp_path, made(byte_level(), decoder=strip))
    with pytest.raises(Refusal, match="tokenizer: no text for ids"):
        encoder.decode(encoder.encode(["a"])[0])


def test_an_interrupt_is_not_taken_for_an_error_of_the_library() -> None:
    for error in (KeyboardInterrupt, MemoryError):
        with pytest.raises(error), module.library_errors("no ids"):
            raise error
