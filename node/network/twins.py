"""Two processes with one key: how both learn of it, and which of them goes on.

A PeerID tells which key a node has, and a copied home has the same one. So each process draws a
name, and the two ends of a new connection tell each other theirs. A peer that already holds a live
connection from another process of that PeerID keeps it and ends the new one; it tells both. The one
that was first goes on, also over short breaks of the other's: it is asked before the new one goes.
"""

import logging
import os
from typing import Protocol

import trio

from dipaco.node.network.allowance import Allowances
from dipaco.node.network.framing import frame, receive_exactly, receive_frame
from dipaco.node.network.paced import Paced
from dipaco.node.network.transport import Stream
from dipaco.protocol.errors import RemoteProtocolError, Unavailable
from dipaco.protocol.wire.address import ip_text
from dipaco.protocol.wire.canonical import PROTOCOL_VERSION
from dipaco.protocol.wire.identity import PeerId, short_peer

log = logging.getLogger(__name__)

HELLO = f"/dipaco/hello/{PROTOCOL_VERSION}"
"""The dialler sends its name (16 bytes); the listener its own, and a byte: 1 stands, 0 ends."""
TWIN = f"/dipaco/twin/{PROTOCOL_VERSION}"
"""A frame with the IP address of the other process, empty for the one that must go; 1 byte back."""
NAME_BYTES = 16
STANDS, ENDS = b"\1", b"\0"
LONGEST_IP = 64  # bytes
HELLO_TIMEOUT = 10.0  # s
ALIVE_TIMEOUT = 5.0  # s in which a process answers that another one has come
NOTICES = 60.0  # a minute from one peer; a copied home dials again every few seconds
MOST_REFUSERS = 64  # peers that are remembered for turning this process away
CURE = "stop one of the two, or remove identity.key in one home so that it gets a key of its own"
TURNED_AWAY = f"another node runs with this node's key and was first: {CURE}"

Link = object
"""A connection, as the transport knows it."""


class Links(Protocol):
    """The connections of a transport."""

    async def open_on(self, link: Link, protocol: str) -> Stream:
        """Open a stream over this very connection; raises Unavailable."""

    def beside(self, link: Link) -> list[Link]:
        """Return the other live connections to the same peer."""

    def ip_of(self, link: Link) -> str:
        """Return the IP address at the other end, or an empty text."""

    async def end(self, link: Link) -> None:
        """Close one connection; never raises."""


class Twins:
    """Knows the process at the other end of each connection."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._me = os.urandom(NAME_BYTES)
        self._names: dict[Link, bytes] = {}
        self._greeted: set[Link] = set()
        """The connections whose dialler has said, or is saying, which process it is."""
        self._notices = Allowances(NOTICES, seconds=60.0, keys=MOST_REFUSERS)
        self._judged: dict[Link, trio.Event] = {}
        self._paced = Paced(log)
        self.refused_by: set[PeerId] = set()
        """The peers that turn this process away, since another one with its key was first."""

    def gone(self, link: Link) -> None:
        """Forget a connection that has ended."""
        self._names.pop(link, None)
        self._greeted.discard(link)
        if (event := self._judged.pop(link, None)) is not None:
            event.set()

    async def admitted(self, link: Link) -> None:
        """Return once the streams of `link` may be served; raises Unavailable if they may not.

        Only a second connection to a peer waits: until the process behind it is known.
        """
        if link not in self._names and self._links.beside(link):
            with trio.move_on_after(HELLO_TIMEOUT):
                await self._judged.setdefault(link, trio.Event()).wait()
                if link not in self._names:
                    raise Unavailable("another process with its key was here first")

    async def greet(self, link: Link) -> None:
        """Introduce this process on a connection that it dialled; raises Unavailable."""
        stream = await self._links.open_on(link, HELLO)
        try:
            await stream.send(self._me)
            answer = await _within(HELLO_TIMEOUT, stream, NAME_BYTES + 1)
        finally:
            await stream.reset()
        if answer[NAME_BYTES:] != STANDS:
            self._turned_away(stream)
            await self._links.end(link)
            return
        self.refused_by.discard(stream.peer)
        if not await self._stands(link, answer[:NAME_BYTES]):
            await self._tell(link, "")
            await self._links.end(link)

    async def answer_greeting(self, link: Link, stream: Stream) -> None:
        """Answer the dialler of a connection, once; raises Unavailable."""
        if link in self._greeted or link in self._names:
            raise Unavailable("its connection has been greeted")
        self._greeted.add(link)
        name = await _within(HELLO_TIMEOUT, stream, NAME_BYTES)
        stands = await self._stands(link, name)
        await stream.send(self._me + (STANDS if stands else ENDS))
        if not stands:
            with trio.move_on_after(ALIVE_TIMEOUT):  # the dialler ends it when it has read this
                await stream.receive(1)
            await self._links.end(link)

    async def answer_notice(self, stream: Stream) -> None:
        """Take the news of another process with our key; raises Unavailable."""
        now = trio.current_time()
        if self._notices.wait(stream.peer, now):
            raise Unavailable("it has told of more processes than can be")
        self._notices.spend(stream.peer, now)
        place = _ip_of(await receive_frame(stream, LONGEST_IP))
        await stream.send(STANDS)
        if place is None:
            self._turned_away(stream)
        else:
            who = short_peer(stream.peer)
            self._paced.say(
                "kept",
                f"another node runs with this node's key, at {place}: peer={who} turns it away and "
                f"goes on with this one; {CURE}",
            )

    def _turned_away(self, stream: Stream) -> None:
        self.refused_by.add(stream.peer)
        if len(self.refused_by) > MOST_REFUSERS:
            self.refused_by.discard(next(each for each in self.refused_by if each != stream.peer))
        self._paced.say("turned away", f"{TURNED_AWAY} (says peer={short_peer(stream.peer)})")

    async def _stands(self, link: Link, name: bytes) -> bool:
        """Note the process behind `link`; returns whether no other one of its peer is there."""
        try:
            for other in self._links.beside(link):
                if self._names.get(other, name) == name:
                    continue
                if await self._tell(other, self._links.ip_of(link)):
                    return False
                await self._links.end(other)  # it has gone without a sign: the new one replaces it
            self._names[link] = name
            return True
        finally:
            if (event := self._judged.pop(link, None)) is not None:
                event.set()

    async def _tell(self, link: Link, ip: str) -> bool:
        """Tell the process behind `link` of another one; returns whether it is alive."""
        try:
            with trio.move_on_after(ALIVE_TIMEOUT):
                stream = await self._links.open_on(link, TWIN)
                try:
                    await stream.send(frame(ip.encode()[:LONGEST_IP]))
                    await receive_exactly(stream, 1)
                    return True
                finally:
                    await stream.reset()
        except Unavailable as error:
            log.debug("a connection is dead: %s", error)
        return False


async def _within(seconds: float, stream: Stream, count: int) -> bytes:
    """Return the next `count` bytes; raises Unavailable when they take too long."""
    with trio.move_on_after(seconds):
        return await receive_exactly(stream, count)
    raise Unavailable(f"{short_peer(stream.peer)} did not say which process it is")


def _ip_of(data: bytes) -> str | None:
    """Return the address in a notice, None for an empty one; raises RemoteProtocolError."""
    if not data:
        return None
    try:
        return ip_text(data.decode("ascii"))
    except ValueError:
        raise RemoteProtocolError("tells of another node at no IP address") from None
