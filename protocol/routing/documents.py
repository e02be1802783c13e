"""The document rule: the part of a document that the router reads, and which documents take part.

Fitting, sharding and serving all use it. The router reads the ids of the *head*: the first
`prefix_bytes` bytes of the text, tokenised by themselves. So nobody has to tokenise a whole
document to find its path. Source: docs/method.md, 4.3.
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
    """Return the token ids that decide the route: the first `prefix` of the head."""
    if len(head) < prefix:
        raise ValueError(f"{len(head)} tokens where the prefix has {prefix}")
    return head[:prefix]


def prefix_of_prompt(head: Sequence[int], prefix: int, end_of_text: int) -> list[int]:
    """Return `prefix` token ids that decide the route of a prompt, which may have fewer.

    A shorter head is repeated, as a short shard is (2.2), since the route depends only on how often
    each token occurs. An empty head is replaced by an end of text. Source: docs/method.md, 2.5(c).
    """
    whole = list(head[:prefix]) or [end_of_text]
    return (whole * prefix)[:prefix]


def estimated_tokens(head_tokens: int, head_bytes: int, text_bytes: int, max_tokens: int) -> int:
    """Estimate the number of ids of a text of `text_bytes` bytes from its head's tokens per byte.

    Rounded to the nearest; exact where the head is the whole text.
    """
    return min(max_tokens, rdiv(head_tokens * text_bytes, head_bytes))
