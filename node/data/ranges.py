"""A file over the network as a seekable stream, read in ranges, in bounded memory.

Each range read in sequence is twice as long as the one before, up to `MAX_RANGE`. So reading a
whole file takes few requests, and seeking in it (parquet) wastes few bytes. A range comes whole or
not at all, and `fetch` retries, so the reader never sees a broken connection.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

from dipaco.protocol.errors import Unavailable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MIN_RANGE = 1 << 18  # bytes of the first request, and of those after a jump
MAX_RANGE = 1 << 22

Fetch = Callable[[int, int], bytes]
"""Returns the bytes from the first offset to before the second; raises Unavailable."""


def open_ranges(name: str, size: int, fetch: Fetch) -> BinaryIO:
    """Return a stream over the `size` bytes that `fetch` returns; `name` is for messages."""
    return io.BufferedReader(_Ranges(name, size, fetch), io.DEFAULT_BUFFER_SIZE)


class _Ranges(io.RawIOBase):
    def __init__(self, name: str, size: int, fetch: Fetch) -> None:
        self._name, self._size, self._fetch = name, size, fetch
        self._place = 0
        self._held, self._held_from = b"", 0
        self._ahead = MIN_RANGE

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: WriteableBuffer) -> int:
        target = memoryview(buffer)
        if not 0 <= self._place - self._held_from < len(self._held):
            self._hold(len(target))
        part = self._held[self._place - self._held_from :][: len(target)]
        target[: len(part)] = part
        self._place += len(part)
        return len(part)

    def _hold(self, wanted: int) -> None:
        goes_on = self._held and self._place == self._held_from + len(self._held)
        self._ahead = min(self._ahead * 2, MAX_RANGE) if goes_on else MIN_RANGE
        start = self._place
        stop = min(self._size, start + min(max(wanted, self._ahead), MAX_RANGE))
        self._held, self._held_from = b"", start  # frees the old range before the new one comes
        if start >= stop:
            return
        data = self._fetch(start, stop)
        if len(data) != stop - start:
            raise Unavailable(
                f"source.files: {self._name}: {len(data)} bytes came for a range of "
                f"{stop - start} at {start}"
            )
        self._held = data
