"""CBOR as a tree of places: where each item begins, where its content begins, and where it ends.

A mutator cuts and joins bytes by it, so a value keeps its form but for the one change. The reader
knows canonical CBOR alone: it is given seeds, which are valid.
"""

from collections.abc import Iterator
from dataclasses import dataclass

UINT, NINT, BYTES, TEXT, ARRAY, MAP, TAG, SIMPLE = range(8)
"""The major types."""


@dataclass(frozen=True, slots=True)
class Item:
    """One item in `data[start:end]`."""

    major: int
    start: int
    body: int
    """The offset after the head."""
    end: int
    value: int
    """The argument in the head: a number, a length, or a count of entries."""
    parts: tuple["Item", ...] = ()
    """The items of an array; the keys and values of a map, in turn."""


def head_at(data: bytes, start: int) -> Item:
    """Return the item that begins at `start` without its content: its end is that of its head."""
    major, info = data[start] >> 5, data[start] & 31
    width = 0 if info < 24 else 1 << (info - 24)
    body = start + 1 + width
    value = int.from_bytes(data[start + 1 : body], "big") if width else info
    return Item(major, start, body, body, value)


_SIZES = [0] * 256
"""Bytes of an item, by its first one; 0: look further."""
for _head in range(256):
    _major, _info = _head >> 5, _head & 31
    _width = 1 << max(0, _info - 24) if 24 <= _info < 28 else 0
    if _major in (UINT, NINT, SIMPLE) and _info < 28:
        _SIZES[_head] = 1 + _width
    elif _info < 24 and (_major in (BYTES, TEXT) or _head in (ARRAY << 5, MAP << 5)):
        _SIZES[_head] = 1 + _info


def end_of(data: bytes, start: int) -> int:
    """Return where the item at `start` ends, without making anything of it.

    Raises IndexError for one that ends too early.
    """
    due = 1
    while due:
        head = data[start]
        due -= 1
        if size := _SIZES[head]:
            start += size
            continue
        item = head_at(data, start)
        start = item.body + (item.value if item.major in (BYTES, TEXT) else 0)
        due += {ARRAY: item.value, MAP: 2 * item.value, TAG: 1}.get(item.major, 0)
    if start > len(data):
        raise IndexError
    return start


def read(data: bytes, start: int = 0) -> Item:
    """Return the item that begins at `start`."""
    item = head_at(data, start)
    major, body, value = item.major, item.body, item.value
    if major in (BYTES, TEXT):
        return Item(major, start, body, body + value, value)
    parts, end = [], body
    for _ in range({ARRAY: value, MAP: 2 * value}.get(major, 0)):
        parts.append(read(data, end))
        end = parts[-1].end
    return Item(major, start, body, end, value, tuple(parts))


def walk(item: Item) -> Iterator[Item]:
    """Yield an item and all items in it."""
    yield item
    for part in item.parts:
        yield from walk(part)


def head(major: int, value: int, width: int | None = None) -> bytes:
    """Return an item's head; `width`: bytes of the argument, other than the shortest."""
    if width is None:
        if value < 24:
            return bytes([major << 5 | value])
        width = next(size for size in (1, 2, 4, 8) if value < 1 << 8 * size)
    info = 23 + width.bit_length()
    return bytes([major << 5 | info]) + value.to_bytes(width, "big")


def number(value: int) -> bytes:
    """Return an integer of at most 64 bits and a sign."""
    return head(UINT, value) if value >= 0 else head(NINT, -1 - value)


def text(value: str) -> bytes:
    """Return a text."""
    data = value.encode()
    return head(TEXT, len(data)) + data


def blob(value: bytes) -> bytes:
    """Return a byte string."""
    return head(BYTES, len(value)) + value
