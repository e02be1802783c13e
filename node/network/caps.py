"""Caps on the bytes of all connections: smooth on the wire, and small messages before blobs.

A transport takes its turn here before it hands bytes to a socket or takes some from one, and tells
how many went. What is near (this machine, the local network) is exempt unless the operator says
otherwise. A cap may change at any time.

Upwards whatever is longer than `URGENT` is sent in pieces of a twentieth of a second, and a shorter
message goes before all pieces that wait. Downwards the sender's bytes come in the order in which it
sent them; so that little stands in front of a small message, windows and socket buffers are kept
short, and a blob is fetched from fewer holders at once.
"""

import ipaddress
import math
from collections import deque
from collections.abc import Iterator

import trio

from dipaco.node.condition import Condition
from dipaco.node.network.allowance import Allowance
from dipaco.protocol.wire.address import ip_text

BURST_SECONDS = 0.1  # of the rate that may pass at once after a quiet time
PIECE_SECONDS = 0.05  # of the rate that pass as one piece: as long a small message waits
LEAST_PIECE = 4096  # bytes; smaller ones cost more in headers and calls than they gain
MOST_PIECE = 65_507  # bytes of a stream that fill one frame and one Noise message
URGENT = 2048  # bytes up to which a message goes first: pings, heartbeats, most calls
BUFFER_SECONDS = 0.1  # of the rate that the kernel may take in ahead of us, per connection
LEAST_BUFFER = 32 << 10  # bytes; with less a sender of large segments stops and goes
WINDOW_SECONDS = 0.2  # of the rate that a stream's sender may have under way: RTTs up to that
LEAST_WINDOW, MOST_WINDOW = 16 << 10, 256 << 10  # bytes; yamux begins every stream with the latter
ROUNDING = 1e-6  # s; a debt that is paid off within it counts as none, or its rest never ends
HOLDER_SECONDS = 2.0  # of the rate under way from all holders of one blob together


def is_near(ip: str | None) -> bool:
    """Return whether a peer at `ip` is on this machine or in its local network.

    An unknown address is not near, nor is one of a carrier's NAT (100.64/10): it costs volume.
    """
    return ip is not None and ipaddress.ip_address(ip_text(ip)).is_private


class Lane:
    """One direction of the wire."""

    def __init__(self) -> None:
        self.rate: float | None = None
        """Bytes per second; None: no cap."""
        self.carried = 0
        """Bytes that went this way since the start, those of exempt peers not included."""
        self._allowance = Allowance(1.0, 0.0, now=0.0)
        self._urgent, self._others = deque[object](), deque[object]()
        self._changed = Condition()

    def limit(self, rate: float | None) -> None:
        """Set the cap, bytes per second; None: none. What waits goes on at the new rate."""
        self.rate = rate
        if rate is not None:
            now = trio.current_time()
            self._allowance = Allowance(rate, rate * BURST_SECONDS, now=now)
        self._changed.notify()

    @property
    def piece(self) -> int:
        """The most bytes that go at once."""
        if self.rate is None:
            return MOST_PIECE
        return min(MOST_PIECE, max(LEAST_PIECE, int(self.rate * PIECE_SECONDS)))

    async def turn(self, *, urgent: bool) -> None:
        """Return when bytes may go; the caller tells of them by `carry`, with no await between.

        urgent   they go before all that is not.
        """
        await trio.lowlevel.checkpoint()
        ticket, queue = object(), self._urgent if urgent else self._others
        queue.append(ticket)
        try:
            while (pause := self._pause(ticket)) > 0:
                with trio.move_on_after(pause):
                    await self._changed.wait()
        finally:
            queue.remove(ticket)
            self._changed.notify()

    def _pause(self, ticket: object) -> float:
        """Return the seconds until `ticket` may go; inf while others are before it."""
        if self.rate is None:
            return 0.0
        first = (self._urgent or self._others)[0]
        if first is not ticket:
            return math.inf
        pause = self._allowance.owe(0.0, now=trio.current_time())
        return pause if pause > ROUNDING else 0.0

    def carry(self, size: int) -> None:
        """Note bytes that go now."""
        self.carried += size
        if self.rate is not None:
            self._allowance.owe(size, now=trio.current_time())


class Caps:
    """Both directions of one node."""

    def __init__(self) -> None:
        self.up, self.down = Lane(), Lane()
        self.limit_lan = False

    def set(self, *, up: float | None, down: float | None, limit_lan: bool) -> None:
        """Set the caps, bytes per second; None: none.

        limit_lan   whether peers of this machine and the local network count as well.
        """
        self.limit_lan = limit_lan
        self.up.limit(up)
        self.down.limit(down)

    @property
    def carried(self) -> int:
        """Bytes both ways since the start, those of exempt peers not included."""
        return self.up.carried + self.down.carried

    def counts(self, near: bool) -> bool:
        """Return whether the bytes of a peer count that is `near`, or is not."""
        return self.limit_lan or not near

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield `data` in the pieces in which it is sent."""
        if self.up.rate is None or len(data) <= self.up.piece:
            yield data
            return
        piece = self.up.piece
        for start in range(0, len(data), piece):
            yield data[start : start + piece]

    def window(self, near: bool) -> int | None:
        """Return the bytes that a peer may have under way in a stream; None: as many as usual."""
        if self.down.rate is None or not self.counts(near):
            return None
        return min(MOST_WINDOW, max(LEAST_WINDOW, int(self.down.rate * WINDOW_SECONDS)))

    @property
    def buffer(self) -> int:
        """Bytes that the kernel may take in ahead of us, of a connection under a cap."""
        return max(LEAST_BUFFER, int((self.down.rate or 0.0) * BUFFER_SECONDS))

    def holders(self, most: int) -> int:
        """Return how many holders of a blob send at once; `most` without a cap.

        Each of them begins with a whole window.
        """
        if self.down.rate is None:
            return most
        return max(1, min(most, int(self.down.rate * HOLDER_SECONDS / MOST_WINDOW)))
