"""A slow link in user space: TCP to an address, with limited rate and delay in both directions.

It passes bytes on unchanged, so that its users see only the delay. One `Link` is one household's
line: all connections through it share its two directions. Each direction sends one part after the
other at the line's rate, and every part arrives `delay` later. The bytes in the line are bounded.
"""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

PART_BYTES = 16 << 10  # 1.3 ms at 100 Mbit/s: the resolution of the line
HOST = "127.0.0.1"


@dataclass
class Direction:
    """One direction of a line."""

    rate: float
    """Bytes per second."""
    delay: float
    """Seconds from one end to the other, besides the time of sending."""
    bytes: int = 0
    """Bytes carried so far."""
    _free: float = field(default=-math.inf, init=False)

    async def take(self, count: int) -> float:
        """Wait until `count` bytes are sent; returns the time of their arrival, on trio's clock."""
        self._free = max(self._free, trio.current_time()) + count / self.rate
        left = self._free
        await trio.sleep_until(left)
        self.bytes += count
        return left + self.delay


@dataclass
class Link:
    """A line to `port` on this machine; dial `address` in its place."""

    port: int
    up: Direction
    """From the dialling side to the port."""
    down: Direction
    entrance: int = 0
    """The port to dial."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Link"]:
        """Accept connections while the block runs."""
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host=HOST)
            self.entrance = listeners[0].socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, self._carry, listeners)
            yield self
            nursery.cancel_scope.cancel()

    async def _carry(self, near: trio.SocketStream) -> None:
        try:
            far = await trio.open_tcp_stream(HOST, self.port)
        except OSError:
            return  # no process listens: the caller sees its connection end
        async with far, trio.open_nursery() as nursery:
            nursery.start_soon(_one_way, near, far, self.up)
            nursery.start_soon(_one_way, far, near, self.down)


async def _one_way(
    source: trio.SocketStream, target: trio.SocketStream, direction: Direction
) -> None:
    in_flight = 1 + math.ceil(direction.rate * direction.delay / PART_BYTES)
    send, receive = trio.open_memory_channel[tuple[float, bytes]](in_flight)

    async def arrive() -> None:
        async for when, part in receive:
            await trio.sleep_until(when)
            await target.send_all(part)
        await target.send_eof()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(arrive)
            async with send:
                while part := await source.receive_some(PART_BYTES):
                    await send.send((await direction.take(len(part)), part))
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        await target.aclose()  # one end was closed: close the other too
