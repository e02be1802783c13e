"""Bounds on parquet pages: checks the unpacked size of a page before pyarrow unpacks it.

A malicious file can fill the memory: a page of some bytes can unpack to 2 GiB, every row can refer
to one long text of a dictionary, and the file's statements of its sizes can be false. So pyarrow
reads the file through `PageGuard`, which parses the headers of the pages and stops before a page is
unpacked that is too large. Source: parquet-format, PageHeader, in Thrift's compact protocol.

A parser of foreign bytes is a risk. It is kept because pyarrow has no bound on the unpacked size of
a page. A file of 72 KB with one page of 1.5 GB took 1,735 MB, and is refused at 71 MB; a file
of 775 bytes, in which every row is one text of 16 MiB, took 5,713 MB for its first batch, and takes
665 MB. Reading an honest file of 2.7 MB takes 0.07 s of processor time with it and without it
(27 November 2026, pyarrow 26.0; peak of a whole process, 63 MB of which are its imports).
"""

import io
from dataclasses import dataclass
from typing import BinaryIO, Final

HEADER_BYTES: Final = 1 << 20  # of one page's header: statistics may hold two texts
_PIECE = 4096  # of a header, read at first; then twice as much
_DEPTH = 8  # of structures in structures
_DICTIONARY: Final = 2  # PageType.DICTIONARY_PAGE


class Heavy(Exception):
    """The pages of one batch of rows may unpack to more than its limit: read fewer rows."""


class BadPage(Exception):
    """A page must not be unpacked; the message says why."""


@dataclass(frozen=True)
class _Header:
    length: int
    kind: int
    unpacked: int
    packed: int


class PageGuard:
    """A file for `pyarrow` that checks the pages of one column while they are read."""

    def __init__(self, stream: BinaryIO, *, page: int, batch: int) -> None:
        """page, batch: limits in bytes on one unpacked page, and on the pages of one batch."""
        self._stream, self._page, self._batch = stream, page, batch
        self._next = self._stop = 0
        self._rows = 1
        self._left = batch

    def watch(self, start: int, stop: int, rows: int) -> None:
        """Check the pages in the bytes `start` to `stop` - 1, read in batches of `rows` rows."""
        self._next, self._stop, self._rows = start, stop, rows
        self.allow()

    def allow(self) -> None:
        """Begin a new batch, with its whole limit."""
        self._left = self._batch

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._stream.closed

    def readable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._stream.tell()

    def close(self) -> None:
        """Do nothing: the caller that opened the stream closes it."""

    def read(self, size: int = -1) -> bytes:
        """Read; raises Heavy or BadPage if the bytes have a page that must not be unpacked."""
        at = self._stream.tell()
        data = self._stream.read(size)
        end = at + len(data)
        if at < self._stop and self._next < end:
            while self._next < min(end, self._stop):
                self._check(self._header(at, data))
            if self._stream.tell() != end:
                self._stream.seek(end)
        return data

    def _header(self, at: int, data: bytes) -> _Header:
        """Return the header of the next page, from `data` or, beyond its end, from the file."""
        head = b""
        while True:
            place, size = self._next + len(head), max(_PIECE, len(head))
            more = data[place - at : place - at + size] if place >= at else b""
            if not more:
                self._stream.seek(place)
                more = self._stream.read(size)
            head += more
            try:
                return _parsed(head)
            except IndexError:
                if not more or len(head) > HEADER_BYTES:
                    raise BadPage("a page's header has no end") from None

    def _check(self, header: _Header) -> None:
        if header.packed < 0 or header.unpacked < 0:
            raise BadPage("a page has a negative size")
        if header.unpacked > self._page:
            raise BadPage(f"a page unpacks to {header.unpacked} bytes, more than {self._page}")
        self._next += header.length + header.packed
        # Every row of a batch may refer to the longest text of the dictionary.
        times = self._rows if header.kind == _DICTIONARY else 1
        self._left -= times * header.unpacked
        if self._left < 0 and self._rows > 1:
            raise Heavy


def _parsed(data: bytes) -> _Header:
    """Read a PageHeader at the start of `data`; raises IndexError if it is longer than `data`."""
    reader = _Compact(data)
    found = {1: -1, 2: -1, 3: -1}
    field = 0
    while byte := reader.byte():
        field = field + (byte >> 4) if byte >> 4 else reader.integer()
        if field in found and byte & 15 == _I32:
            found[field] = reader.integer()
        else:
            reader.skip(byte & 15)
    return _Header(reader.place, found[1], found[2], found[3])


_I32, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 5, 7, 8, 9, 10, 11, 12


class _Compact:
    """A reader of Thrift's compact protocol that reads numbers and skips all other values."""

    def __init__(self, data: bytes) -> None:
        self._data, self.place = data, 0

    def byte(self) -> int:
        value = self._data[self.place]
        self.place += 1
        return value

    def integer(self) -> int:
        """Return a signed number: zigzag in base 128."""
        value = self._size()
        return (value >> 1) ^ -(value & 1)

    def skip(self, kind: int, depth: int = 0, *, element: bool = False) -> None:
        """Skip a value. `element`: of a list, in which a boolean takes a byte."""
        if depth > _DEPTH:
            raise BadPage("a page's header is too deep")
        if kind in (1, 2, 3):
            self._advance(int(kind == 3 or element))
        elif kind in (4, 5, 6):
            self._size()
        elif kind == _DOUBLE:
            self._advance(8)
        elif kind == _BINARY:
            self._advance(self._size())
        elif kind in (_LIST, _SET):
            first = self.byte()
            count = first >> 4 if first >> 4 < 15 else self._size()
            self._skip_all(count, (first & 15,), depth)
        elif kind == _MAP:
            if count := self._size():
                kinds = self.byte()
                self._skip_all(count, (kinds >> 4, kinds & 15), depth)
        elif kind == _STRUCT:
            while byte := self.byte():
                if not byte >> 4:
                    self._size()
                self.skip(byte & 15, depth + 1)
        else:
            raise BadPage(f"a page's header has a value of the unknown type {kind}")

    def _skip_all(self, count: int, kinds: tuple[int, ...], depth: int) -> None:
        for _ in range(count):
            for kind in kinds:
                self.skip(kind, depth + 1, element=True)

    def _size(self) -> int:
        value = shift = 0
        while (byte := self.byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise BadPage("a page's header has a number of more than 64 bits")
        return value | byte << shift

    def _advance(self, size: int) -> None:
        self.place += size
        if self.place > len(self._data):
            raise IndexError
