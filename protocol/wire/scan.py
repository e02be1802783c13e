"""One look at the raw bytes of a value, before a decoder builds anything of them.

The decoder makes objects of whatever it reads: a tag round a large number costs it seconds, and an
empty map of one byte takes 72 bytes of memory. So the bytes are scanned first, in one pass that
builds nothing and skips over texts: its time is linear in the number of items, and this number is
bounded by the type that is due (`largest.py`).
"""

from typing import Final

from dipaco.protocol.errors import RemoteProtocolError

_BYTES, _TEXT, _ARRAY, _MAP = range(2, 6)  # major types, RFC 8949 section 3.1
_TAG: Final = 6


def _whole() -> tuple[int, ...]:
    """Return by first byte the bytes of an item whose length it tells; 0: look further, or refuse.

    Numbers, short strings, false, true, null, and floats of 16, 32 and 64 bits.
    """
    lengths = [0] * 256
    for major in (0, 1):
        for info in range(24):
            lengths[major << 5 | info] = 1
        for power, info in enumerate(range(24, 28)):
            lengths[major << 5 | info] = 1 + (1 << power)
    for major in (_BYTES, _TEXT):
        for info in range(24):
            lengths[major << 5 | info] = 1 + info
    lengths[0xF4] = lengths[0xF5] = lengths[0xF6] = 1
    lengths[0xF9], lengths[0xFA], lengths[0xFB] = 3, 5, 9
    return tuple(lengths)


_WHOLE: Final = _whole()
_SHORT_STRINGS: Final = frozenset({0x58, 0x78})  # of 24 to 255 bytes: digests, PeerIDs
_FIRST_KEY, _LAST_KEY = _TEXT << 5, (_TEXT << 5) + 27


def scan(data: bytes, *, items: float, depth: int) -> int:
    """Check the form of one CBOR item and return the number of all items in it, itself included.

    items   the most that are allowed, keys and values of maps each counted.
    depth   the most arrays and maps that may be nested.

    Raises RemoteProtocolError for tags, indefinite lengths, reserved and unknown simple values,
    keys that are no text, bytes that end too early or go on, and too many or too deep items.
    """
    end, place, seen = len(data), 0, 1
    outer: list[tuple[int, bool]] = []
    left, is_map = 1, False  # items still due in the innermost array or map
    try:
        while True:
            while not left:
                if not outer:
                    return _ended(seen, place, end)
                left, is_map = outer.pop()
            head = data[place]
            if is_map and not left & 1 and not _FIRST_KEY <= head <= _LAST_KEY:
                raise RemoteProtocolError("a map has a key that is no text")
            left -= 1
            if length := _WHOLE[head]:
                place += length
                continue
            if head in _SHORT_STRINGS:
                place += 2 + data[place + 1]
                continue
            major, count, place = _head(data, place)
            if major <= _TEXT:
                place += count
                continue
            is_pairs = major == _MAP
            count <<= is_pairs
            seen += count  # before they are looked at: a claimed number costs nothing
            if seen > items:
                raise RemoteProtocolError(f"more than the {items} items that are allowed")
            outer.append((left, is_map))
            if len(outer) > depth:
                raise RemoteProtocolError(f"nested deeper than the {depth} levels allowed")
            left, is_map = count, is_pairs
    except IndexError:
        raise RemoteProtocolError("the bytes end too early") from None


def _ended(seen: int, place: int, end: int) -> int:
    if place > end:
        raise RemoteProtocolError("the bytes end too early")
    if place < end:
        raise RemoteProtocolError(f"{end - place} bytes after its end")
    return seen


def _head(data: bytes, place: int) -> tuple[int, int, int]:
    """Return major type, length or count, and the place after the head, of a string or list."""
    head = data[place]
    major, info = head >> 5, head & 31
    if major == _TAG:
        raise RemoteProtocolError("a tag, which no value has")
    if not _BYTES <= major <= _MAP:
        raise RemoteProtocolError("a simple value other than false, true, null and floats")
    if info < 24:
        return major, info, place + 1
    if info > 27:
        raise RemoteProtocolError("an indefinite or reserved length")
    after = place + 1 + (1 << info - 24)
    if after > len(data):
        raise IndexError
    return major, int.from_bytes(data[place + 1 : after], "big"), after
