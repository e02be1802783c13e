"""Answers that wait until peers read them: how many bytes, of one stream and of all.

A peer that asks and does not read costs memory. So room is taken before an answer is made, for the
longest that the request may have; what is not needed is given back, the rest once it is sent.
"""

from collections import Counter
from collections.abc import Callable

import trio

from dipaco.node.condition import Condition
from dipaco.protocol.wire.identity import PeerId

FRAMES = 64  # that wait for a stream; a peer that fills it with refusals does not read
FREE = 1024  # bytes of an answer that needs no room: 32 of them per peer are little
IN_ALL = 32 << 20  # bytes for strangers, of one protocol; known peers are few, and have their own
SHARE = 4  # a prefix of strangers has one part of so many
SLOW = 10.0  # s for one frame, after which its stream may have to go; 1.1 MB at 1 Mbit/s take 9
LOOK = 1.0  # s between two looks for such a stream
NO_ROOM = "it takes the answers that it asked for too slowly, and their room is needed"


class Outbox:
    """The frames that wait for one stream."""

    def __init__(self, stock: "Stock", peer: PeerId, group: str, of_line: int) -> None:
        """group: who shares with it; empty: it is a known peer. of_line: bytes."""
        self._stock, self.peer, self.group, self._of_line = stock, peer, group, of_line
        self._sender, self._receiver = trio.open_memory_channel[tuple[bytes, int]](FRAMES)
        self._turn = trio.Lock()
        self._closed = False
        self._sending = 0
        self.held = 0
        """Bytes for which room is taken."""
        self.began: float | None = None
        """When the frame that is being sent was begun."""
        stock.outboxes.add(self)

    async def take(self, count: int) -> None:
        """Wait for room for `count` bytes and take it; a single answer fits in any case."""
        if not count:
            return
        async with self._turn:  # in the order of the requests
            while not self._fits(count):
                if not self.held:  # it is the others that leave no room
                    self._stock.push_out(self.group, count)
                with trio.move_on_after(LOOK):
                    await self._stock.freed.wait()
            self.held += count

    def give_back(self, count: int) -> None:
        """Give room back."""
        if count and not self._closed:
            self.held -= count
            self._stock.freed.notify()

    async def send(self, data: bytes, room: int = 0) -> None:
        """Have a frame sent, and its room given back then; raises as a memory channel does."""
        await self._sender.send((data, room))

    def send_nowait(self, data: bytes) -> None:
        """Have a frame sent; raises WouldBlock when too many wait."""
        self._sender.send_nowait((data, 0))

    async def next(self) -> bytes:
        """Return the next frame; raises EndOfChannel or ClosedResourceError at the end."""
        data, room = await self._receiver.receive()
        self.began, self._sending = trio.current_time(), room
        return data

    def sent(self) -> None:
        """Note that the frame was sent."""
        self.began = None
        self.give_back(self._sending)

    def close(self) -> None:
        """Drop all that waits."""
        self._sender.close()
        self._receiver.close()
        self._stock.outboxes.discard(self)
        self._closed, self.held, self.began = True, 0, None
        self._stock.freed.notify()

    def _fits(self, count: int) -> bool:
        fits = not self.held or self.held + count <= self._of_line
        return fits and (not self.group or self._stock.fits(self.group, count))


class Stock:
    """The room of all streams of one protocol.

    most   bytes for strangers.
    end    begins to hang up on a peer.
    """

    def __init__(self, most: int, end: Callable[[PeerId, str], None]) -> None:
        self.most, self._end = most, end
        self.outboxes: set[Outbox] = set()
        self.freed = Condition()

    @property
    def used(self) -> int:
        """Bytes taken by strangers."""
        return sum(each.held for each in self.outboxes if each.group)

    def fits(self, group: str, count: int) -> bool:
        """Return whether a group may take `count` bytes more."""
        own = sum(each.held for each in self.outboxes if each.group == group)
        share = not own or own + count <= self.most // SHARE
        return share and self.used + count <= self.most

    def push_out(self, group: str, count: int) -> None:
        """Begin to end the slowest stream that keeps `count` bytes from a group, if one is slow.

        It is one of the group that holds most; of `group` itself while only its share is taken.
        """
        crowded = self.used + count > self.most
        now, held = trio.current_time(), Counter[str]()
        for each in self.outboxes:
            if each.group:
                held[each.group] += each.held
        slow = [
            each
            for each in self.outboxes
            if (each.group if crowded else each.group == group)
            and each.began is not None
            and now - each.began > SLOW
        ]
        if slow:
            worst = max(slow, key=lambda each: (held[each.group], now - (each.began or now)))
            worst.began = now  # it is asked to go once
            self._end(worst.peer, NO_ROOM)
