"""Digests: SHA-256 of whole values, the tagged hash `H`, and little-endian parts.

Source of `tagged`: docs/method.md, 4.1.
"""

import hashlib
import struct
from typing import Annotated, NewType

import msgspec

DIGEST_BYTES = 32

Digest = NewType("Digest", bytes)
"""32 bytes of SHA-256. A type of its own, so that a key or a token cannot pass for one."""

DigestField = Annotated[Digest, msgspec.Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
"""A `Digest` inside a wire value: its length is checked."""


def sha256(data: bytes | bytearray | memoryview) -> Digest:
    """Return the plain SHA-256 of `data`."""
    return Digest(hashlib.sha256(data).digest())


def u32(value: int) -> bytes:
    """Return `value` (0 to 2^32 - 1) as 4 bytes, little-endian."""
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    """Return `value` (0 to 2^64 - 1) as 8 bytes, little-endian."""
    return struct.pack("<Q", value)


def tagged(tag: str, *parts: bytes | bytearray | memoryview) -> Digest:
    """Return H(tag, parts): SHA-256 over `u32(length) || bytes` of the ASCII tag and each part.

    The lengths separate inputs that concatenation would confuse; the tag separates hashes of
    different purposes.
    """
    running = hashlib.sha256(_framed(tag.encode("ascii")))
    for part in parts:
        running.update(u32(len(part)))
        running.update(part)
    return Digest(running.digest())


class TaggedU64:
    """H(tag, part, u64 n) for many n; the bytes before n are encoded once."""

    def __init__(self, tag: str, part: bytes) -> None:
        self._begin = _framed(tag.encode("ascii")) + _framed(part) + u32(8)

    def __call__(self, value: int) -> Digest:
        """Return the digest for one n."""
        return Digest(hashlib.sha256(self._begin + u64(value)).digest())


def _framed(part: bytes) -> bytes:
    return u32(len(part)) + part


def short(digest: bytes) -> str:
    """Return the short form for logs and people: the first 4 bytes in hex."""
    return digest[:4].hex()
