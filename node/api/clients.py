"""The clients of the local API: their seats.

Any program of the same user may connect. One that leaves its connections open, or asks without end,
takes no seat from the others: a client process has seats of its own number, connections that wait
for a request make room for new ones, and some seats are kept for a single question, so that
`status` and `stop` get through.
"""

import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

import trio

from dipaco.node.network.seats import Limits, Seat, Seats
from dipaco.protocol.errors import Unavailable

MAX_CLIENTS = 128  # connections at once, of some 4,096 descriptors: fewer where those are few
MAX_OF_ONE = 8  # of one process: a browser opens 6
KEPT = 4  # of all, for connections that ask one short question
IDLE_LEAST = 1.0  # s without a request, after which a connection makes room for a new one

_OF_LINUX: Final = struct.Struct("3i")  # pid, uid, gid
_OF_MACOS: Final = struct.Struct("i")
_LOCAL_PEERPID = 2  # of SOL_LOCAL, which is 0 (macOS, sys/un.h)


@dataclass(eq=False)
class Client:
    """One connection that has a seat."""

    name: str
    """The process; empty if the system does not tell it."""
    seat: Seat
    end: Callable[[], None]
    """Closes the connection."""
    brief: bool
    """It has a kept seat: it may ask for the status or the end, once."""
    waiting: float | None
    """Since when the connection waits for a whole request; None while one is answered."""
    known: bool = False
    """Whether it has shown the token, or needs none."""


class Clients:
    """All connections of the local API."""

    def __init__(self, most: int = MAX_CLIENTS) -> None:
        """Have `most` seats."""
        limits = Limits(in_all=most, per_prefix=most, per_peer=MAX_OF_ONE, kept=KEPT)
        self._seats = Seats("connections", limits)
        self._seated: list[Client] = []

    def take(self, name: str, now: float, end: Callable[[], None]) -> Client:
        """Give a seat to a new connection of the process `name`, until it `leave`s.

        end   closes the connection at once, when it has to make room for another one.

        Raises Unavailable if there is no seat, not even of the kept ones.
        """
        seat, brief = self._seat_of(name, now)
        client = Client(name, seat, end, brief, now)
        self._seated.append(client)
        return client

    def leave(self, client: Client) -> None:
        """Give the seat back; nothing happens if it was taken away."""
        self._seats.leave(client.seat)
        if client in self._seated:
            self._seated.remove(client)

    def _seat_of(self, name: str, now: float) -> tuple[Seat, bool]:
        try:
            return self._seats.take(name, ""), False
        except Unavailable:
            if self._make_room(name, now):  # the seat of the one that ended, beside the kept ones
                return self._seats.take(name, "", known=True), False
            return self._seats.take(name, "", known=True), True

    def _make_room(self, name: str, now: float) -> bool:
        """End a connection that waits for a request, if there is one; return whether one ended.

        A process that has all its seats ends its own. Else the process with the most connections
        loses the one that has waited longest.
        """
        counts = Counter(client.name for client in self._seated)
        own = bool(name) and counts[name] >= MAX_OF_ONE
        waiting = [
            (counts[client.name], now - client.waiting, client)
            for client in self._seated
            if client.waiting is not None and not client.brief
            if client.name == name or not own
        ]
        idle = [each for each in waiting if each[1] >= IDLE_LEAST]
        if not idle:
            return False
        _, _, last = max(idle, key=itemgetter(0, 1))
        last.end()
        self.leave(last)
        return True


def process_of(stream: trio.SocketStream) -> str:
    """Return the number of the process at the other end; empty if the system does not tell it.

    It tells it of unix sockets alone.
    """
    if stream.socket.family != socket.AF_UNIX:
        return ""
    try:
        if sys.platform == "darwin":
            raw = stream.getsockopt(0, _LOCAL_PEERPID, _OF_MACOS.size)
            return str(_OF_MACOS.unpack(raw)[0])
        raw = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _OF_LINUX.size)
        return str(_OF_LINUX.unpack(raw)[0])
    except OSError:
        return ""
