"""A summed held-out loss in the units that people compare. Pure."""

import math
from collections.abc import Iterable

from msgspec import UNSET

from dipaco.protocol.work.kinds import Evaluation

MOST_NATS = 700.0  # per token: exp of more is no float


def perplexity(nll: float, tokens: int) -> float | None:
    """Return exp(nll / tokens); None if nothing was scored, since JSON has no infinity.

    It depends on the vocabulary: the same model of text has another one per other tokens.
    """
    return math.exp(min(nll / tokens, MOST_NATS)) if tokens else None


def bits_per_byte(nll: float, text_bytes: int | None) -> float | None:
    """Return the bits that the model needs for a byte of the text; None if there is no byte.

    nll          nats, summed over tokens that stand for `text_bytes` bytes of UTF-8; None: the
                 bytes are not known.
    """
    return nll / math.log(2) / text_bytes if text_bytes else None


def stated_bytes(found: Evaluation) -> int | None:
    """Return the bytes of text that an evaluation's tokens stand for; None if it does not say."""
    return None if found.bytes is UNSET else found.bytes


def sum_if_known(counts: Iterable[int | None]) -> int | None:
    """Return the sum of counts; None if one of them is not known."""
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total


def vocabulary_text(vocabulary: int) -> str:
    """Return the words without which a perplexity says nothing: `vocabulary 4,096`."""
    return f"vocabulary {vocabulary:,}"


def bits_text(found: float | None) -> str:
    """Return bits per byte of a table; a dash if they are not known."""
    return "-" if found is None else f"{found:.3f}"
