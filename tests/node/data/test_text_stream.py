"""Streamed text is held against the library's `decode` of all ids, for every kind of decoder."""

from collections.abc import Callable, Sequence
from functools import cache

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from dipaco.node.data import text_stream
from dipaco.node.data.text_stream import TextDecoder
from dipaco.node.data.tokenizers import TextEncoder
from dipaco.protocol.run.source import Tokenizer
from dipaco.protocol.wire.digest import sha256
from tests.node.data.test_tokenizers import embedded

PIECES = ["a", "▁a", "▁", "▁▁", "the", "</w>", "a</w>", "##a", "'", ".", "日", "\ufffd", "<pad>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = {word: place for place, word in enumerate([*BYTES, *PIECES])}
LLAMA = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]


def of_words(decoder: decoders.Decoder | None) -> TextEncoder:
    """Return a tokenizer of `WORDS`; an id is decoded by `decoder`."""
    made = tokenizers.Tokenizer(models.BPE(WORDS, [], byte_fallback=True))
    if decoder is not None:
        made.decoder = decoder
    pinned = Tokenizer(sha256=sha256(b""), size=1, vocabulary=len(WORDS), end_of_text=0)
    return TextEncoder(made, pinned)


KINDS: dict[str, Callable[[], TextEncoder]] = {
    "byte-level": embedded,
    "byte fallback": lambda: of_words(decoders.Sequence(LLAMA)),
    "llama 2": lambda: of_words(decoders.Sequence([*LLAMA, decoders.Strip(" ", 1, 0)])),
    "metaspace": lambda: of_words(decoders.Metaspace()),
    "metaspace always": lambda: of_words(decoders.Metaspace(prepend_scheme="always", split=False)),
    "word piece": lambda: of_words(decoders.WordPiece(prefix="##", cleanup=True)),
    "end of word": lambda: of_words(decoders.BPEDecoder()),
    "ctc": lambda: of_words(decoders.CTC()),
    "fuse": lambda: of_words(decoders.Fuse()),
    "rewrites": lambda: of_words(decoders.Sequence([*LLAMA, decoders.Replace("aa", "the")])),
    "none": lambda: of_words(None),
}


@cache
def made(kind: str) -> TextEncoder:
    return KINDS[kind]()


IDS = st.lists(
    st.integers(0, len(WORDS) + 3)
    | st.integers(len(BYTES), len(WORDS) - 1)
    | st.sampled_from(list("日€😀".encode())),
    max_size=40,
)


def streamed(encoder: TextEncoder, ids: Sequence[int], before: Sequence[int] = ()) -> list[str]:
    """Return the piece of every id, and the rest."""
    decoder = TextDecoder(encoder, before)
    return [*map(decoder.step, ids), decoder.rest()]


@pytest.mark.parametrize("kind", KINDS)
@settings(derandomize=True, deadline=None, max_examples=60)
@given(ids=IDS, before=st.lists(st.sampled_from(range(len(BYTES), len(WORDS))), max_size=4))
def test_the_pieces_are_the_text_of_all_ids(kind: str, ids: list[int], before: list[int]) -> None:
    encoder = made(kind)
    if kind == "rewrites":
        before = []  # their text may change
    known, whole = encoder.decode(before), encoder.decode([*before, *ids])
    assert "".join(streamed(encoder, ids, before)) == whole[len(known) :]


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_text_is_decoded_a_window_at_a_time(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_stream, "MOST_IDS", 24)
    monkeypatch.setattr(text_stream, "KEPT_IDS", 6)
    encoder = made(kind)
    one = [*"日€".encode(), *(WORDS[each] for each in ("▁a", "##a", "▁", "a</w>", "the", "."))]
    ids, decoder = one * 20, TextDecoder(encoder)
    pieces = [decoder.step(each) for each in ids]
    assert "".join([*pieces, decoder.rest()]) == encoder.decode(ids)
    assert len(decoder._ids) <= 24 + len(one) or kind == "rewrites"


@pytest.mark.parametrize("kind", ["byte-level", "byte fallback", "llama 2"])
def test_a_long_prompt_may_begin_the_window_inside_a_character(kind: str) -> None:
    encoder = made(kind)
    prompt, text = encoder.plainly(["日本語" * 40, "日ᚠ"])
    assert "".join(streamed(encoder, text, prompt)) == "日ᚠ"


def test_a_run_of_byte_tokens_waits_for_its_end_and_one_bad_byte_ruins_it_all() -> None:
    encoder = made("byte fallback")
    run, end = list("日€ก".encode()), WORDS["▁a"]
    assert streamed(encoder, [end, *run, end]) == [" a", *[""] * 9, "日€ก a", ""]
    assert streamed(encoder, run)[-1] == "日€ก"
    assert "".join(streamed(encoder, [*run, 0xFF, end])) == "\ufffd" * 10 + " a"


CHARACTERS = st.characters(exclude_categories=["Cs"]) | st.sampled_from("é日😀👩‍🚀\x00")


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.text(CHARACTERS, max_size=30), st.text(CHARACTERS, max_size=5))
def test_text_comes_piece_by_piece_as_it_was_and_never_half_a_character(
    text: str, before: str
) -> None:
    encoder = embedded()
    known, ids = encoder.plainly([before, text])
    pieces = streamed(encoder, ids, known)
    assert "".join(pieces) == text
    if not text.endswith("\ufffd"):
        assert pieces[-1] == ""


def test_bytes_that_are_no_text_are_shown_as_such_once_text_follows() -> None:
    encoder = embedded()
    (half,) = (ids[:1] for ids in encoder.plainly(["日"]))
    (word,) = encoder.plainly([" the"])
    assert streamed(encoder, [*word, *half * 2, *word]) == [" the", "", "", "\ufffd\ufffd the", ""]
    assert streamed(encoder, half) == ["", "\ufffd"]
