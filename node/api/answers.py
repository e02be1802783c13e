"""The values that clients of the local API get, made so that the node's peers lose no time by it.

Values are made, and files read, for one client after the other, and take at most a fifth of the
daemon's time each. All clients that watch the status get the same bytes, which are made at most
once a second.
"""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
from msgspec.structs import replace

from dipaco.node.api.connection import as_json
from dipaco.node.api.handler import Handler
from dipaco.node.api.values import PageView
from dipaco.node.status.document import Memory, Status

REST = 4.0  # s of the loop for all else, for each second in which values are made for clients
TICK = 1.0  # s between two looks at the status, of all that watch it
REPEAT = 15.0  # s after which a status is sent again though nothing changed but the time

T = TypeVar("T")


class Answers:
    """Makes the answers of one daemon."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.page: PageView | None = None
        """Where the page is; None: the API has no port."""
        self._turn, self._free_at = trio.Lock(), 0.0
        self._reading, self._read_at = trio.Lock(), 0.0
        self._looked_at = self._changed_at = -REPEAT
        self._shown: Status | None = None
        self._number, self._status = 0, b""

    async def made(self, make: Callable[[], T]) -> T:
        """Return what `make` returns; clients wait in a row, so that all else gets its turn."""
        async with self._turn:
            await trio.sleep_until(self._free_at)
            return self._timed(make)

    async def read(self, look: Callable[[], Awaitable[T]]) -> T:
        """Return what `look` reads from the disk, in a thread: for one client after the other.

        Decoding in a thread keeps the loop waiting, too, so that it gets its share of the time.
        """
        async with self._reading:
            await trio.sleep_until(self._read_at)
            begun = trio.current_time()
            try:
                return await look()
            finally:
                now = trio.current_time()
                self._read_at = now + REST * (now - begun)

    async def watched(self) -> tuple[int, bytes]:
        """Return the status as JSON and its number, which grows with each change."""
        async with self._turn:
            if trio.current_time() >= self._looked_at + TICK:
                await trio.sleep_until(self._free_at)
                self._timed(self._look)
        return self._number, self._status

    def _look(self) -> None:
        now, found = trio.current_time(), self.handler.status()
        timeless = replace(found, time=0.0, uptime_s=0.0, memory=Memory(daemon=0, peak=0, worker=0))
        if timeless != self._shown or now >= self._changed_at + REPEAT:
            self._shown, self._changed_at = timeless, now
            self._number, self._status = self._number + 1, as_json(found)
        self._looked_at = now

    def _timed(self, make: Callable[[], T]) -> T:
        begun = time.thread_time()  # not the clock: on a busy machine that counts others' work
        try:
            return make()
        finally:
            spent = time.thread_time() - begun
            self._free_at = trio.current_time() + REST * spent
