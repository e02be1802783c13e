"""Rules of this file: tokenizers of the kinds in use, made with the library; the bytes of a text
are counted by Python."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from dipaco.node.data.embedded_tokenizer import embedded_tokenizer, embedded_tokenizer_path
from dipaco.node.data.text_bytes import bytes_per_id, text_bytes
from dipaco.node.data.tokenizers import TextEncoder, checked_tokenizer
from dipaco.protocol.run.source import Tokenizer
from dipaco.protocol.wire.digest import sha256

TEXTS = (
    "Plain words, and  double spaces.\n\ttabs",
    "汉语是世界上最古老的语言之一。我们学习它。",
    "an emoji 😀 and a family 👨‍👩‍👧 of them, naïve café",
    "\ufffd, said the text itself: \ue000 \U0010fffd",
)


@cache
def embedded() -> TextEncoder:
    path = embedded_tokenizer_path(embedded_tokenizer().sha256)
    assert path is not None
    return checked_tokenizer(path.read_bytes(), embedded_tokenizer())


def checked(made: tokenizers.Tokenizer) -> TextEncoder:
    data = made.to_str().encode()
    largest = max(made.get_vocab().values())
    pinned = Tokenizer(sha256=sha256(data), size=len(data), vocabulary=largest + 3, end_of_text=0)
    return checked_tokenizer(data, pinned)


@cache
def sentence_piece(*, old: bool) -> TextEncoder:
    """Return a tokenizer as Llama's: `old` is that of its first versions.

    A character that the vocabulary lacks is spelled byte by byte.
    """
    words = ["<s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁▁", "语", "é"]
    words += [*map(chr, range(0x21, 0x7F)), "an", "▁an", "ai", "or", "▁w", "▁wor"]
    merges = [("▁", "▁"), ("a", "n"), ("▁", "an"), ("a", "i"), ("o", "r"), ("▁", "w"), ("▁w", "or")]
    ids = {word: id_ for id_, word in enumerate(words)}
    made = tokenizers.Tokenizer(
        models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    if old:
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace()
    blank, end = decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)
    made.decoder = decoders.Sequence([blank, decoders.ByteFallback(), decoders.Fuse(), end])
    made.add_special_tokens(["<s>"])
    return checked(made)


def gpt2(*, decoder: bool, space: bool = False) -> TextEncoder:
    """Return a byte-level tokenizer of single bytes and one merge."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {word: id_ for id_, word in enumerate(["<end>", *letters, "an"])}
    made = tokenizers.Tokenizer(models.BPE(ids, [("a", "n")]))
    level = pre_tokenizers.ByteLevel(add_prefix_space=space)
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), level])
    if decoder:
        made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<end>"])
    return checked(made)


BYTE_LEVEL: dict[str, Callable[[], TextEncoder]] = {
    "packaged": embedded,
    "gpt2": lambda: gpt2(decoder=True),
    "without a decoder": lambda: gpt2(decoder=False),
}
SPACED: dict[str, Callable[[], TextEncoder]] = {
    "a space before": lambda: gpt2(decoder=True, space=True),
    "llama": lambda: sentence_piece(old=True),
    "metaspace": lambda: sentence_piece(old=False),
}
"""Tokenizers that begin every text with a space of their own."""


@pytest.mark.parametrize("name", [*BYTE_LEVEL, *SPACED])
@pytest.mark.parametrize("text", TEXTS)
def test_the_ids_of_a_text_stand_for_all_its_bytes(name: str, text: str) -> None:
    encoder = (BYTE_LEVEL | SPACED)[name]()
    ids = np.array(encoder.encode([text])[0])
    own = 1 if name in SPACED else 0
    assert text_bytes(encoder.bytes_per_id, ids) == len(text.encode()) + own


@pytest.mark.parametrize("name", ["packaged", "gpt2"])
@pytest.mark.parametrize("text", TEXTS)
def test_every_cut_of_a_text_is_right_to_the_byte(name: str, text: str) -> None:
    encoder = BYTE_LEVEL[name]()
    ids = np.array(encoder.encode([text])[0])
    for cut in range(len(ids) + 1):
        parts = [text_bytes(encoder.bytes_per_id, part) for part in (ids[:cut], ids[cut:])]
        assert sum(parts) == len(text.encode())
        # What the library decodes has U+FFFD for the bytes of a cut character, 3 at most.
        whole = encoder.decode(ids[:cut].tolist()).removesuffix("\ufffd")
        assert 0 <= parts[0] - len(whole.encode()) <= 3


def test_a_character_spelled_in_bytes_counts_once_for_each() -> None:
    encoder = sentence_piece(old=True)
    ids = np.array(encoder.encode(["😀"])[0])
    assert encoder.bytes_per_id[ids].tolist() == [1, 1, 1, 1, 1]  # a space, then the emoji
    ids = np.array(encoder.encode(["wor an  语é"])[0])
    assert encoder.bytes_per_id[ids].tolist() == [4, 3, 2, 3, 2]


def test_a_part_of_a_word_counts_without_its_mark() -> None:
    words = {"[UNK]": 0, "the": 1, "##ing": 2, "é": 3, "▁": 4, "<0x41>": 5}
    made = tokenizers.Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    # An unknown word counts as its token; the mark of a space and a byte are ordinary text here.
    assert bytes_per_id(made, 8).tolist() == [5, 3, 3, 2, 3, 6, 0, 0]


def test_no_id_has_more_bytes_than_the_tokenizers_file() -> None:
    words = {"a": 0, "汉" * 50: 1, "\x00" * 100: 2}
    made = tokenizers.Tokenizer(models.WordLevel(words, unk_token="a"))
    made.decoder = decoders.Replace("a", "x" * 10_000)
    counts = bytes_per_id(made, 3)
    assert counts.tolist() == [1, 150, 100] and counts.sum() < len(made.to_str().encode())
