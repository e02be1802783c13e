"""Text of ids as they come: a piece is given out once no further id can change it.

The library has `DecodeStream` for this. It raises an error where an id changes text that it gave
out, as a byte does that makes a run of byte tokens invalid (the ByteFallback decoder then turns the
whole run into U+FFFD), and it never gives out an incomplete character, not even at the end.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dipaco.node.data.tokenizers import TextEncoder

if TYPE_CHECKING:
    import tokenizers

REPLACEMENT = "\ufffd"
MOST_IDS = 512  # decoded at each step
KEPT_IDS = 64  # that stay when older ones are dropped, for decoders that look at neighbours
BREAKING = [f"<0x{byte:02X}>" for byte in range(0x80, 0x100)]
"""Byte tokens; behind whole characters each makes a run of them invalid, at least for now."""


class TextDecoder:
    """Decodes ids one at a time; all pieces together are the text of all ids.

    A character waits for all its bytes, and a run of byte tokens for its end, since one bad byte
    turns all of it into U+FFFD.
    """

    def __init__(self, encoder: TextEncoder, before: Sequence[int] = ()) -> None:
        """before: the ids before the text, which decide whether it begins with a space."""
        self._decode = encoder.decode
        bytes_ = (encoder.tokenizer.token_to_id(name) for name in BREAKING)
        self._breaking = [each for each in bytes_ if each is not None][:1]
        self._waits = rewrites(encoder.tokenizer)
        self._ids = list(before)
        self._shown = len(self._decode(self._ids))
        self._drop()

    def step(self, token: int) -> str:
        """Add the next id; return the text that is settled by it, which may be empty."""
        self._ids.append(token)
        if self._waits:
            return ""
        whole = settled = self._decode(self._ids)
        if self._breaking:
            settled = _common(whole, self._decode(self._ids + self._breaking))
        settled = settled.rstrip(REPLACEMENT)
        piece = settled[self._shown :]
        self._shown += len(piece)
        if settled == whole and len(self._ids) > MOST_IDS:
            self._drop()
        return piece

    def rest(self) -> str:
        """Return the text that was held back, complete or not."""
        whole = self._decode(self._ids)
        piece = whole[self._shown :]
        self._shown = len(whole)
        return piece

    def _drop(self) -> None:
        """Drop older ids, whose text is all out, as far as the text of the others stays the same.

        It would not where they begin inside a character. The first may lose its leading space.
        """
        whole, count = self._decode(self._ids), KEPT_IDS
        while count < len(self._ids):
            kept = self._ids[-count:]
            text = self._decode(kept)
            if whole.endswith(text):
                self._ids, self._shown = kept, len(text)
                return
            count += 1 if count < KEPT_IDS + 8 else count


def _common(one: str, other: str) -> str:
    """Return the longest beginning that two texts share."""
    if other.startswith(one):
        return one
    pairs = zip(one, other, strict=False)
    return one[: next((at for at, (a, b) in enumerate(pairs) if a != b), len(other))]


def rewrites(tokenizer: "tokenizers.Tokenizer") -> bool:
    """Return whether a tokenizer replaces more than single characters in text that it joined.

    Then an id may change any text before it.
    """
    if tokenizer.decoder is None:
        return False
    joined = False
    for part in json.loads(tokenizer.decoder.__getstate__()).get("decoders", ()):
        if joined and part["type"] == "Replace" and len(part["pattern"].get("String", "..")) > 1:
            return True
        joined = joined or part["type"] in ("Fuse", "ByteLevel")
    return False
