"""The document rule: which part of a document the router sees, which documents take part at all.

One place for fitting, sharding and serving alike. The router sees the ids of the *head*, the first
`prefix_bytes` bytes of the text, tokenised by itself: so nobody has to tokenise a whole document
to learn its path. Source: docs/method.md, 4.3.
"""

from collections.abc import Sequence

from dipaco.protocol.routing.integers import rdiv


def cut(text: bytes, max_bytes: int) -> bytes:
    """Return the longest prefix of UTF-8 `text` of at most `max_bytes` that splits no character."""
    if len(text) <= max_bytes:
        return text
    end = max_bytes
    while end and text[end] & 0xC0 == 0x80:  # a continuation byte: its character began earlier
        end -= 1
    return text[:end]


def is_eligible(head: Sequence[int], min_tokens: int) -> bool:
    """Return whether a document takes part, by the ids of its head."""
    return len(head) >= min_tokens


def prefix_of(head: Sequence[int], prefix: int) -> Sequence[int]:
    """Return the token ids that decide the route: the first `prefix` of the head's."""
    if len(head) < prefix:
        raise ValueError(f"{len(head)} tokens where the prefix has {prefix}")
    return head[:prefix]


def prefix_of_prompt(head: Sequence[int], prefix: int, end_of_text: int) -> list[int]:
    """Return `prefix` token ids that decide the route of a prompt, which may be too short for it.

    A shorter head is repeated, as a short shard is (2.2): what counts is how often each token
    stands in it, and an end of text stands for an empty one. Source: docs/method.md, 2.5(c).
    """
    whole = list(head[:prefix]) or [end_of_text]
    return (whole * prefix)[:prefix]


def estimated_tokens(head_tokens: int, head_bytes: int, text_bytes: int, max_tokens: int) -> int:
    """Return about how many ids a text of `text_bytes` has, at its head's tokens per byte.

    Rounded to the nearest; exact where the head is the whole text.
    """
    return min(max_tokens, rdiv(head_tokens * text_bytes, head_bytes))
