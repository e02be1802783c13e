"""The bytes of text that token ids stand for: losses of two vocabularies compare per byte alone.

An id stands for the same number of bytes wherever it occurs, so the bytes of a part of a document
are a sum over its ids. Source: docs/method.md, 2.5.
"""

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dipaco.node.data.pretokens import BYTE_LETTERS

if TYPE_CHECKING:
    import tokenizers

_LETTERS = frozenset(BYTE_LETTERS.values())
_SPACE: Final = "▁"  # of SentencePiece's pieces
_LONE_BYTE: Final = re.compile(r"<0x[0-9A-Fa-f]{2}>")
"""The piece of one byte of a character that a vocabulary lacks."""

IdBytes = NDArray[np.integer]
"""By token id, the bytes of text that it stands for, (vocabulary,)."""


def text_bytes(per_id: IdBytes, ids: NDArray[np.integer]) -> int:
    """Return the UTF-8 bytes of text that these ids, (n,), stand for.

    A character that is cut between two ids counts in each with the bytes that are there.
    """
    return int(per_id[ids].sum(dtype=np.int64))


def bytes_per_id(tokenizer: "tokenizers.Tokenizer", vocabulary: int) -> IdBytes:
    """Return the bytes that each id, 0 to `vocabulary` - 1, stands for: 0 for one without a token.

    They follow from the token's spelling alone, so none has more bytes than the tokenizer's file.
    """
    counts = np.zeros(vocabulary, dtype=np.int64)
    bytes_of = _byte_level if _is_byte_level(tokenizer) else _Spelled(tokenizer)
    for piece, id_ in tokenizer.get_vocab(with_added_tokens=True).items():
        counts[id_] = bytes_of(piece)
    return counts


def _byte_level(piece: str) -> int:
    """Return the bytes of a piece that is spelled in GPT-2's letters, one for each byte."""
    return sum(1 if each in _LETTERS else len(each.encode()) for each in piece)


class _Spelled:
    """Returns the bytes of a piece that is spelled in the characters of its text."""

    def __init__(self, tokenizer: "tokenizers.Tokenizer") -> None:
        model, stated = tokenizer.model, _stated(tokenizer)
        falls_back = "ByteFallback" in stated or getattr(model, "byte_fallback", False)
        self._lone_byte = _LONE_BYTE if falls_back else None
        self._space = _SPACE if _SPACE in stated else " "
        self._prefix = getattr(model, "continuing_subword_prefix", None) or ""
        self._suffix = getattr(model, "end_of_word_suffix", None) or ""

    def __call__(self, piece: str) -> int:
        if self._lone_byte and self._lone_byte.fullmatch(piece):
            return 1
        text = piece.removeprefix(self._prefix).removesuffix(self._suffix)
        return len(text.replace(self._space, " ").encode())


def _is_byte_level(tokenizer: "tokenizers.Tokenizer") -> bool:
    return "ByteLevel" in _stated(tokenizer)


def _stated(tokenizer: "tokenizers.Tokenizer") -> frozenset[str]:
    """Return every text in the settings of what turns text into pieces, and pieces into text."""
    parts = (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder)
    settings = [json.loads(part.__getstate__()) for part in parts if part is not None]
    return frozenset(_texts(settings))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
