"""Which part of a document the router sees, and which documents take part at all.

One place for fitting, sharding and serving alike. Source: docs/method.md, 4.3.
"""

from collections.abc import Sequence


def cut(text: bytes, max_bytes: int) -> bytes:
    """Return the longest prefix of UTF-8 `text` of at most `max_bytes` that splits no character."""
    if len(text) <= max_bytes:
        return text
    end = max_bytes
    while end and text[end] & 0xC0 == 0x80:  # a continuation byte: its character began earlier
        end -= 1
    return text[:end]


def is_eligible(tokens: Sequence[int], min_tokens: int) -> bool:
    """Return whether a document of these token ids, cut and tokenised whole, takes part."""
    return len(tokens) >= min_tokens


def prefix_of(tokens: Sequence[int], prefix: int) -> Sequence[int]:
    """Return the token ids that decide the route: the first `prefix` of them."""
    if len(tokens) < prefix:
        raise ValueError(f"{len(tokens)} tokens where the prefix has {prefix}")
    return tokens[:prefix]
