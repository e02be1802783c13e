"""Mutators: one change, or a few, in a valid input. The same random numbers make the same change.

`Cbor` knows the grammar of our values, `Text` that of lines and files, `Flat` leaves the length of
a blob as it is, since another length is refused unread. Nothing here is slow: an input takes some
microseconds, less than its decoding.
"""

import struct
from collections.abc import Callable, Sequence
from functools import cached_property
from random import Random
from typing import Protocol

from tests.fuzz import cbor
from tests.fuzz.cbor import ARRAY, BYTES, MAP, SIMPLE, TEXT, Item

EDGES = sorted(
    {0, 1, 23, 24, 255, 256, 65535, 65536, 1 << 20, 1 << 31, 1 << 32, 1 << 53, (1 << 64) - 1}
    | {(1 << bits) + more for bits in (7, 8, 15, 16, 20, 31, 32, 40, 53, 63) for more in (-1, 1)}
)
FLOATS = (0.0, -0.0, 1.0, 1.5, -1.0, 1e-300, 5e-324, 1e12, 1.1e12, 3600.1, 1e308, 1e38, 65504.0)
SPECIAL = (float("nan"), float("inf"), float("-inf"))
WORDS = (
    "",
    "a",
    "type",
    "\0",
    "\x1b[31m",
    "a\nb",
    "\u202e",
    "\u0130",
    "\ud7ff",
    "..",
    "/",
    "0" * 64,
)

ATOMS = (
    *map(cbor.number, EDGES),
    *(cbor.number(-1 - edge) for edge in EDGES),
    *(b"\xfb" + struct.pack(">d", value) for value in (*FLOATS, *SPECIAL)),
    *(b"\xfa" + struct.pack(">f", value) for value in (0.0, -0.0, 1.5, *SPECIAL)),
    *(b"\xf9" + struct.pack(">e", value) for value in (0.0, -0.0, 1.5, *SPECIAL)),
    b"\xfb\x7f\xf0\x00\x00\x00\x00\x00\x01",  # a signalling NaN
    b"\xf9\x7e\x01",  # a NaN with a payload
    *map(cbor.text, WORDS),
    *(cbor.blob(bytes(size)) for size in (0, 1, 16, 31, 32, 33, 64, 300)),
    b"\x61\xff",  # a text that is not UTF-8
    b"\x63\xed\xa0\x80",  # half a surrogate
    b"\x80",
    b"\xa0",
    b"\xf4",
    b"\xf5",
    b"\xf6",
    b"\xf7",  # undefined
    b"\xe0",  # a simple value
    b"\xf8\x20",
    b"\xf8\x00",  # a simple value in its long form
    b"\xff",  # the end of an indefinite length
    b"\x1c",  # a head that does not exist
    b"\x9f\xff",
    b"\xbf\xff",
    b"\x5f\x41\x00\xff",
    b"\x7f\x61a\xff",
    b"\xc2\x49" + b"\x01" + bytes(8),  # 2^64 as a big number
    b"\xc3\x40",
    b"\xc4\x82\x20\x01",
    b"\xc5\x82\x19\x40\x00\x03",
    b"\xc1\xfb\x7f\xf0\x00\x00\x00\x00\x00\x00",
    b"\xc0\x60",
    b"\xd8\x1c\xa0",  # shared references
    b"\xd8\x1d\x00",
    b"\xd8\x1e\x82\x01\x00",  # a fraction with 0 below
    b"\xd8\x23\x62[(",  # a regular expression
    b"\xd8\x24\x60",
    b"\xd8\x25\x40",
    b"\xd9\x01\x00\x80",
    b"\xd9\x01\x02\x80",
    b"\xd9\xd9\xf7\x80",
    b"\xa1\x80\x00",  # a map with a list as its key
    b"\xa2\x61a\x00\x61a\x00",  # a key that is there twice
    b"\xa1\x00\x00",
    b"\x9a\xff\xff\xff\xff",  # lengths that no bytes follow
    b"\xba\xff\xff\xff\xff",
    b"\x5a\xff\xff\xff\xff",
    b"\x7b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x81" * 15 + b"\x80",
    b"\x81" * 17 + b"\x80",
    b"\x81" * 400 + b"\x80",
    b"\xc1" * 300 + b"\x00",
)
"""Items that stand where another belongs."""


class Mutator(Protocol):
    """Makes inputs of seeds."""

    def mutated(self, seed: bytes, chance: Random) -> bytes:
        """Return `seed` with something changed."""

    def largest(self, seed: bytes, limit: int, chance: Random) -> bytes:
        """Return an input of about `limit` bytes, of a kind that could be costly."""


Change = Callable[[bytes, Random], bytes]


class Raw:
    """Changes bytes without a grammar."""

    def mutated(self, seed: bytes, chance: Random) -> bytes:
        """Return `seed` with some bytes changed, added, left out or repeated."""
        return chance.choice(_RAW)(seed, chance)

    def largest(self, seed: bytes, limit: int, chance: Random) -> bytes:
        """Return random bytes, or one byte again and again."""
        return chance.randbytes(limit) if chance.random() < 0.5 else seed[:1] * limit


def _flip(data: bytes, chance: Random) -> bytes:
    place = chance.randrange(len(data) or 1)
    return (
        data[:place]
        + bytes([(data[place : place + 1] or b"\0")[0] ^ 1 << chance.randrange(8)])
        + data[place + 1 :]
    )


def _other(data: bytes, chance: Random) -> bytes:
    place = chance.randrange(len(data) or 1)
    return data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]


def _cut(data: bytes, chance: Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _without(data: bytes, chance: Random) -> bytes:
    place = chance.randrange(len(data) + 1)
    return data[:place] + data[place + chance.randrange(1, 9) :]


def _with_more(data: bytes, chance: Random) -> bytes:
    place = chance.randrange(len(data) + 1)
    return data[:place] + chance.randbytes(chance.randrange(1, 9)) + data[place:]


def _repeated(data: bytes, chance: Random) -> bytes:
    start = chance.randrange(len(data) + 1)
    part = data[start : start + chance.choice((1, 4, 16, 64, 256))]
    return data[:start] + part * chance.choice((2, 2, 3, 20)) + data[start:]


_RAW: tuple[Change, ...] = (_flip, _other, _cut, _without, _with_more, _repeated)


class Cbor:
    """Changes one item of an encoded value, so that all else stays well formed.

    bounds   lengths and numbers at which the value's type draws a line.
    others   encoded values of other types, whose items are put into this one.
    """

    def __init__(self, bounds: Sequence[int] = (), others: Sequence[bytes] = ()) -> None:
        self._bounds = tuple(bounds) or (1, 16, 64)
        self._others = tuple(others)
        self._trees: dict[bytes, tuple[Item, ...]] = {}

    def mutated(self, seed: bytes, chance: Random) -> bytes:
        """Return `seed` with one item changed; now and then more than one, or raw bytes."""
        kind = chance.random()
        if kind < 0.1:
            return chance.choice(_RAW)(seed, chance)
        data = self._change(seed, self._items(seed), chance)
        if kind > 0.9:
            data = chance.choice(_RAW)(data, chance)
        return data

    def largest(self, seed: bytes, limit: int, chance: Random) -> bytes:
        """Return `seed` with a costly item in place of one of its own, or that item alone."""
        item = chance.choice(self._items(seed))
        if chance.random() < 0.3:
            return chance.choice(SHAPES)(max(64, limit))[:limit]
        new = chance.choice(SHAPES)(max(64, limit - len(seed) + item.end - item.start))
        return seed[: item.start] + new + seed[item.end :]

    def _items(self, seed: bytes) -> tuple[Item, ...]:
        if (found := self._trees.get(seed)) is None:
            found = self._trees[seed] = tuple(cbor.walk(cbor.read(seed)))
        return found

    def _change(self, data: bytes, items: Sequence[Item], chance: Random) -> bytes:
        item = items[int(chance.random() * len(items))]
        if item.parts and chance.random() < 0.6:
            return _entries(data, item, chance)
        kind = chance.random()
        if kind < 0.35:
            new = chance.choice(ATOMS)
        elif kind < 0.5:
            new = self._elsewhere(data, items, chance)
        elif kind < 0.85:
            new = self._at_a_bound(data, item, chance)
        else:
            new = _other_form(data, item, chance)
        return data[: item.start] + new + data[item.end :]

    def _elsewhere(self, data: bytes, items: Sequence[Item], chance: Random) -> bytes:
        """Return an item of this value, or of a value of another type."""
        if self._others and chance.random() < 0.5:
            data = chance.choice(self._others)
            items = self._items(data)
        item = items[int(chance.random() * len(items))]
        return data[item.start : item.end]

    def _at_a_bound(self, data: bytes, item: Item, chance: Random) -> bytes:
        """Return an item of the same type whose number or length is at, or beyond, a bound."""
        bound = max(0, chance.choice(self._bounds) + chance.choice((-1, 0, 0, 1, 1)))
        content = data[item.body : item.end]
        if item.major in (BYTES, TEXT):
            length = min(bound, 4096)
            return (
                cbor.head(item.major, length)
                + (content or b"a") * (length // (len(content) or 1))
                + (content or b"a")[: length % (len(content) or 1)]
            )
        if item.major == ARRAY and item.parts:
            first = data[item.parts[0].start : item.parts[0].end]
            count = min(bound, 1 + 8192 // len(first))
            return cbor.head(ARRAY, count) + first * count
        if item.major == SIMPLE:
            value = chance.choice((*FLOATS, *SPECIAL, float(bound)))
            return b"\xfb" + struct.pack(">d", value)
        return cbor.number(min(bound, (1 << 64) - 1) * chance.choice((1, 1, 1, -1)))


def _entries(data: bytes, item: Item, chance: Random) -> bytes:
    """Drop, double, reorder or exchange entries of a list or map."""
    step = 2 if item.major == MAP else 1
    parts = [
        data[item.parts[n].start : item.parts[n + step - 1].end]
        for n in range(0, len(item.parts), step)
    ]
    place, other = chance.randrange(len(parts)), chance.randrange(len(parts))
    match chance.randrange(5):
        case 0:
            del parts[place]
        case 1:
            parts.insert(other, parts[place])
        case 2:
            parts[place], parts[other] = parts[other], parts[place]
        case 3:
            parts.insert(
                place,
                (cbor.text(chance.choice(WORDS)) if step == 2 else b"") + chance.choice(ATOMS),
            )
        case 4 if step == 2:  # the value of one key under another
            a, b = item.parts[2 * place + 1], item.parts[2 * other + 1]
            key = item.parts[2 * place]
            parts[place] = data[key.start : key.end] + data[b.start : b.end]
            key = item.parts[2 * other]
            parts[other] = data[key.start : key.end] + data[a.start : a.end]
        case _:
            parts.reverse()
    return (
        data[: item.start] + cbor.head(item.major, len(parts)) + b"".join(parts) + data[item.end :]
    )


def _other_form(data: bytes, item: Item, chance: Random) -> bytes:
    """Return the item in a form that is not canonical, or wrapped into another."""
    whole, content = data[item.start : item.end], data[item.body : item.end]
    match chance.randrange(7):
        case 0:
            return b"\x81" + whole
        case 1:
            return bytes([0xC0 + chance.randrange(24)]) + whole
        case 2:
            return cbor.blob(whole)
        case 3:
            return b"\x81" * chance.randrange(1, 40) + whole
        case 4 if item.major in (BYTES, TEXT):
            return bytes([item.major << 5 | 31]) + whole + b"\xff"
        case 5 if item.major in (ARRAY, MAP):
            return bytes([item.major << 5 | 31]) + content + b"\xff"
    if item.major == SIMPLE:
        return (
            bytes([0xF8, data[item.start] & 31])
            if item.end == item.start + 1
            else b"\xf9" + content[:2]
        )
    return (
        cbor.head(item.major, item.value, chance.choice((2, 4, 8)) if item.value < 1 << 16 else 8)
        + content
    )


def _many(item: bytes) -> Callable[[int], bytes]:
    """Return a list of one item again and again, in so many bytes."""
    return lambda size: (
        cbor.head(ARRAY, (size - 9) // len(item), 8) + item * ((size - 9) // len(item))
    )


def _keyed(size: int) -> bytes:
    """Return a map of many keys, in the order of canonical CBOR."""
    count = (size - 9) // 6
    return cbor.head(MAP, count, 8) + b"".join(b"\x64%04x\0" % n for n in range(count))


def _long(major: int, unit: bytes) -> Callable[[int], bytes]:
    """Return one text or byte string of so many bytes."""
    return lambda size: (
        cbor.head(major, (size - 9) // len(unit) * len(unit), 8) + unit * ((size - 9) // len(unit))
    )


def _big(tag: bytes, size: int) -> bytes:
    """Return a tag round a number of so many bytes."""
    return tag + b"\xc2" + cbor.head(BYTES, size - 16, 8) + b"\xff" * (size - 16)


SHAPES: tuple[Callable[[int], bytes], ...] = (
    *map(_many, (b"\0", b"\x80", b"\xa0", b"\x60", b"\x40", b"\xf6", b"\x1b" + b"\xff" * 8)),
    *map(
        _many,
        (b"\xf9\x7e\0", b"\x61a", b"\xa1\x61a\x80", b"\x82\x81\x80\x80", b"\xc1\0", b"\x81\xa0"),
    ),
    *(_long(TEXT, unit) for unit in (b"a", b"\x1b", b"\xe2\x80\xae", b"\xf0\x9f\x98\x80", b" ")),
    _long(BYTES, b"\xff"),
    _keyed,
    lambda size: b"\x81" * (size - 1) + b"\x80",
    lambda size: b"\xa1\x61a" * (size // 3) + b"\0",
    lambda size: b"\xc1" * (size - 1) + b"\0",
    lambda size: b"\x9f" * (size // 2) + b"\xff" * (size // 2),
    lambda size: _big(b"", size),
    lambda size: _big(b"\xc4\x82\x20", size),
    lambda size: _big(b"\xc5\x82\x20", size),
    lambda size: _big(b"\xd8\x1e\x82\x01", size),
    lambda size: b"\xd8\x23" + _long(TEXT, b"(a*)*")(size),
    lambda size: b"\xd9\x01\x02" + _many(b"\x19\x01\0")(size),
)
"""Items of a given size that have been costly somewhere."""


class Text:
    """Changes text: characters, pieces of other seeds, and words of the grammar."""

    def __init__(self, words: Sequence[str | bytes]) -> None:
        self._words = tuple(word.encode() if isinstance(word, str) else word for word in words)

    def mutated(self, seed: bytes, chance: Random) -> bytes:
        """Return `seed` with one to three changes."""
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            place = chance.randrange(len(seed) + 1)
            match chance.randrange(8):
                case 0 | 1 | 2:
                    seed = chance.choice(_RAW)(seed, chance)
                case 3 | 4:
                    seed = seed[:place] + chance.choice(self._words) + seed[place:]
                case 5 if self._words:
                    old = chance.choice(self._words)
                    seed = seed.replace(old, chance.choice(self._words), 1)
                case 6:
                    lines = seed.splitlines(keepends=True)
                    chance.shuffle(lines)
                    seed = b"".join(lines[: chance.randrange(len(lines) + 1)])
                case _:
                    word = chance.choice(self._words)
                    seed = seed[:place] + word * chance.choice((2, 10, 100)) + seed[place:]
        return seed

    def largest(self, seed: bytes, limit: int, chance: Random) -> bytes:
        """Return a word, a line or the whole seed again and again, at some place of the seed."""
        again = chance.choice(
            (chance.choice(self._words), seed, chance.choice(seed.splitlines(True) or [b"a"]))
        )
        place = chance.randrange(len(seed) + 1)
        room = max(0, limit - len(seed))
        return seed[:place] + again * (room // (len(again) or 1)) + seed[place:]


class Flat:
    """Changes numbers of a blob and keeps its length, but for one in ten."""

    @cached_property
    def _numbers(self) -> tuple[bytes, ...]:
        floats = (*FLOATS, *SPECIAL, 3.4e38, 1e-45, -1e-3)
        found = [
            struct.pack(
                "<f", max(-3.4e38, min(3.4e38, v)) if v == v and abs(v) != float("inf") else v
            )
            for v in floats
        ]
        found += [struct.pack("<i", v) for v in (-1, 0, -2, 1 << 24, (1 << 24) + 1, -(1 << 31))]
        return (*found, b"\xff", b"\0", b"\x80", b"\x7f", b"\x00\x00", b"\x80\x7f", b"\xff\xff")

    def mutated(self, seed: bytes, chance: Random) -> bytes:
        """Return `seed` with up to three numbers changed."""
        if chance.random() < 0.1:
            return chance.choice(_RAW)(seed, chance)
        data = bytearray(seed)
        for _ in range(chance.choice((1, 1, 2, 3))):
            new = chance.choice(self._numbers)
            step = len(new)
            place = chance.randrange(max(1, len(data) // step)) * step
            data[place : place + step] = new[: len(data) - place]
        return bytes(data)

    def largest(self, seed: bytes, limit: int, chance: Random) -> bytes:
        """Return the seed with one number everywhere: its length is the only valid one."""
        new = chance.choice(self._numbers)
        return (new * (len(seed) // len(new) + 1))[: len(seed)]
