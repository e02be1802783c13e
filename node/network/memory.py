"""A transport in memory, for tests on virtual time: the second implementation of `transport`.

Owns streams with a bounded window, connections, topics, and faults on demand: cut a link, freeze
a peer (its bytes stop, nothing closes), kill it (everything closes). No sockets, no threads.
"""

import contextlib
import ipaddress
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import trio

from dipaco.node.network.caps import URGENT, Caps, is_near
from dipaco.node.network.door import MOST_CONNECTIONS, Door
from dipaco.node.network.guard import Guard
from dipaco.node.network.seats import Network, Seat
from dipaco.node.network.transport import (
    HUNG_UP,
    TOPIC_PENDING,
    Handler,
    PeerCallback,
    Traffic,
    log_ended,
)
from dipaco.protocol.errors import DipacoError, Unavailable, WrongPlace
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.identity import PeerId, short_peer

log = logging.getLogger(__name__)

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)  # where nodes are unless a test says otherwise
WINDOW = 256 * 1024  # bytes sent and not yet received; yamux begins with the same
DIAL_TIMEOUT = 8.0  # s for an address that does not answer, as in `host`
OPEN_TIMEOUT = 10.0  # s for a peer that does not answer to open a stream, as in libp2p


class _Pipe:
    """Bytes in one direction."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.closed = False  # by the sender: buffered bytes can still be received
        self.broken = False
        self._changed = trio.Event()

    def wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def wait(self) -> None:
        await self._changed.wait()


class MemoryStream:
    """One end of a stream; see `transport.Stream`."""

    def __init__(self, node: "MemoryTransport", peer: PeerId, inward: _Pipe, outward: _Pipe):
        self._node = node
        self._peer = peer
        self.inward = inward
        self.outward = outward

    @property
    def peer(self) -> PeerId:
        return self._peer

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        pipe, rest = self.outward, memoryview(data)
        caps, counts = self._node.caps, self._counts
        while rest:
            if pipe.broken or pipe.closed:
                raise Unavailable(f"the stream to {short_peer(self._peer)} is gone")
            free = WINDOW - len(pipe.buffer)
            if free <= 0 or self._node.network.stalled(self._node.me, self._peer):
                await pipe.wait()
                continue
            count = min(free, len(rest))
            if counts and caps.up.rate is not None:
                count = min(count, caps.up.piece)
                await caps.up.turn(urgent=len(data) <= URGENT)
                if pipe.broken or pipe.closed:
                    continue
            if counts:
                caps.up.carry(count)
            pipe.buffer += rest[:count]
            self._node.traffic.count(self._peer, sent=count)
            rest = rest[count:]
            pipe.wake()

    async def receive(self, most: int) -> bytes:
        await trio.lowlevel.checkpoint()
        pipe, down = self.inward, self._node.caps.down
        if self._counts and down.rate is not None:
            await down.turn(urgent=False)
            most = min(most, down.piece)
        while True:
            if pipe.broken:
                raise Unavailable(f"the stream from {short_peer(self._peer)} is gone")
            if not self._node.network.stalled(self._node.me, self._peer):
                if pipe.buffer:
                    data = bytes(pipe.buffer[:most])
                    del pipe.buffer[:most]
                    pipe.wake()
                    self._node.traffic.count(self._peer, received=len(data))
                    if self._counts:
                        down.carry(len(data))
                    return data
                if pipe.closed:
                    return b""
            await pipe.wait()

    @property
    def _counts(self) -> bool:
        """Whether the bytes of this stream are under the caps."""
        ip = self._node.remote_ip(self._peer)
        return self._node.caps.counts(ip is None or is_near(ip))

    async def close(self) -> None:
        self.outward.closed = True
        self.outward.wake()
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        self.inward.broken = self.outward.broken = True
        self.inward.wake()
        self.outward.wake()

    def lose(self) -> None:
        """End the stream with its connection: sends fail, receives see a clean end."""
        self.outward.broken = True
        self.inward.closed = True
        self.inward.wake()
        self.outward.wake()


class MemoryTransport:
    """One node of a `MemoryNetwork`; see `transport.Transport`."""

    def __init__(
        self,
        network: "MemoryNetwork",
        me: PeerId,
        place: Address,
        nursery: trio.Nursery,
        door: Door,
    ) -> None:
        self.caps = Caps()
        self.network = network
        self.place = place
        self.traffic = Traffic()
        self.trouble = ""  # a PeerID has one node here
        self.handlers: dict[str, Handler] = {}
        self.callbacks: list[PeerCallback] = []
        self.topics: dict[str, trio.MemorySendChannel[tuple[PeerId, bytes]]] = {}
        self.banned: Callable[[PeerId], bool] = lambda peer: False
        self.guard = Guard(self._end)
        self.door = door
        self._me = me
        self._nursery = nursery

    @property
    def me(self) -> PeerId:
        return self._me

    @property
    def addresses(self) -> tuple[Address, ...]:
        return (self.place.with_peer(self._me),)

    async def dial(self, peer: PeerId, addresses: Sequence[Address]) -> None:
        await trio.lowlevel.checkpoint()
        if self.banned(peer):
            raise Unavailable(f"{short_peer(peer)} is banned for what it sent")
        if peer in self.peers():
            return
        cause = Unavailable("no address known")
        for address in addresses:
            place = address.without_peer
            node = self.network.at(place)
            if node is None:
                cause = Unavailable(f"connection refused at {place}")
            elif self.network.unreachable(self._me, node.me):
                await trio.sleep(DIAL_TIMEOUT)
                cause = Unavailable(f"no answer within {DIAL_TIMEOUT:g} s at {place}")
            elif node.me != peer:
                cause = WrongPlace(f"another peer answers at {place}")
            else:
                self.network.connect(self._me, peer)
                return
        raise cause

    async def open(self, peer: PeerId, protocol: str) -> MemoryStream:
        await trio.lowlevel.checkpoint()
        if peer not in self.peers():
            raise Unavailable(f"not connected to {short_peer(peer)}")
        if self.network.stalled(self._me, peer):
            await trio.sleep(OPEN_TIMEOUT)
            raise Unavailable(f"{short_peer(peer)} opened no stream in {OPEN_TIMEOUT:g} s")
        node = self.network.nodes[peer]
        if protocol not in node.handlers:
            raise Unavailable(f"{short_peer(peer)} does not serve {protocol}")
        there, back = _Pipe(), _Pipe()
        ours = MemoryStream(self, peer, inward=back, outward=there)
        theirs = MemoryStream(node, self._me, inward=there, outward=back)
        self.network.links[frozenset((self._me, peer))] += [ours, theirs]
        seat = node.door.open(self._me, self.place.host)
        node.start(node.handlers[protocol], theirs, seat)
        return ours

    def start(self, handler: Handler, stream: MemoryStream, seat: Seat) -> None:
        """Serve an inbound stream."""
        self._nursery.start_soon(self._guard, handler, stream, seat)

    async def _guard(self, handler: Handler, stream: MemoryStream, seat: Seat) -> None:
        try:
            await self.guard.attempt("serving a stream", stream.peer, handler, stream)
            await stream.close()
        except DipacoError as error:
            log.debug("peer=%s stream ended: %s", short_peer(stream.peer), error)
            await stream.reset()
        finally:
            self.door.close(seat)

    def _end(self, peer: PeerId, why: str) -> None:
        self._nursery.start_soon(self.hang_up, peer, why)

    def serve(self, protocol: str, handler: Handler) -> None:
        self.handlers[protocol] = handler

    def peers(self) -> frozenset[PeerId]:
        return frozenset(self.network.neighbours(self._me))

    def remote_ip(self, peer: PeerId) -> str | None:
        return self.network.nodes[peer].place.host if peer in self.peers() else None

    def watch(self, callback: PeerCallback) -> None:
        self.callbacks.append(callback)

    def gate(self, banned: Callable[[PeerId], bool]) -> None:
        self.banned = banned

    def favour(self, known: Callable[[PeerId], bool]) -> None:
        self.door.favour(known)

    async def hang_up(self, peer: PeerId, why: str = HUNG_UP) -> None:
        if peer in self.peers():
            log_ended(peer, why)
        self.network.disconnect(self._me, peer)
        await trio.lowlevel.checkpoint()

    async def publish(self, topic: str, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        for node in self.network.reached(self._me, topic):
            with contextlib.suppress(trio.WouldBlock):  # a slow reader loses messages
                node.topics[topic].send_nowait((self._me, data))

    async def subscribe(self, topic: str) -> "trio.MemoryReceiveChannel[tuple[PeerId, bytes]]":
        sender, receiver = trio.open_memory_channel[tuple[PeerId, bytes]](TOPIC_PENDING)
        self.topics[topic] = sender
        await trio.lowlevel.checkpoint()
        return receiver


class MemoryNetwork:
    """All nodes, the links between them, and the faults."""

    def __init__(self) -> None:
        self.nodes: dict[PeerId, MemoryTransport] = {}
        self.links: dict[frozenset[PeerId], list[MemoryStream]] = {}
        self.frozen: set[PeerId] = set()
        self.cuts: set[frozenset[PeerId]] = set()
        self._ports = itertools.count(4001)

    @contextlib.asynccontextmanager
    async def join(
        self,
        me: PeerId,
        *,
        ip: str = "127.0.0.1",
        port: int | None = None,
        most: int = MOST_CONNECTIONS,
        exempt: Sequence[Network] = LOOPBACK,
    ) -> AsyncIterator[MemoryTransport]:
        """Run a node; give a port to return to the same address after a restart.

        most, exempt   as in `host.open_host`.
        """
        port = next(self._ports) if port is None else port
        async with trio.open_nursery() as nursery:
            place = Address(kind="ip6" if ":" in ip else "ip4", host=ip, port=port)
            node = MemoryTransport(self, me, place, nursery, Door(most=most, exempt=exempt))
            self.nodes[me] = node
            try:
                yield node
            finally:
                self.kill(me)
                nursery.cancel_scope.cancel()

    def at(self, place: Address) -> MemoryTransport | None:
        """Return the node that listens at an address (without its peer), if there is one."""
        return next((node for node in self.nodes.values() if node.place == place), None)

    def stalled(self, one: PeerId, other: PeerId) -> bool:
        """Return whether bytes between the two do not move."""
        return one in self.frozen or other in self.frozen

    def unreachable(self, one: PeerId, other: PeerId) -> bool:
        """Return whether a dial would get no answer."""
        return self.stalled(one, other) or frozenset((one, other)) in self.cuts

    def neighbours(self, peer: PeerId) -> Iterator[PeerId]:
        """Yield the peers connected to `peer`."""
        for link in self.links:
            if peer in link:
                yield from link - {peer}

    def reached(self, author: PeerId, topic: str) -> list[MemoryTransport]:
        """Return the subscribers that a message spreads to, from neighbour to neighbour."""
        seen, edge = {author}, [author]
        while edge:
            peer = edge.pop()
            for near in self.neighbours(peer):
                subscribed = topic in self.nodes[near].topics
                if subscribed and near not in seen and not self.stalled(peer, near):
                    seen.add(near)
                    edge.append(near)
        return [self.nodes[peer] for peer in seen - {author}]

    def connect(self, one: PeerId, other: PeerId) -> None:
        """Connect `one`, which dials, to `other`, unless either has banned or no place for it."""
        link = frozenset((one, other))
        if link in self.links:
            return
        self.links[link] = []
        self._tell(one, other, True)
        self._enter(one, other, invited=True)
        self._enter(other, one, invited=False)
        if self.nodes[one].banned(other) or self.nodes[other].banned(one):
            self.disconnect(one, other)

    def _enter(self, host: PeerId, guest: PeerId, *, invited: bool) -> None:
        """Note the link at the door of `host`, and end the one that has to go for it."""
        ip = self.nodes[guest].place.host
        if surplus := self.nodes[host].door.enter(guest, guest, ip, invited=invited):
            log_ended(surplus[1], surplus[2])
            self.disconnect(host, surplus[1])

    def disconnect(self, one: PeerId, other: PeerId) -> None:
        """Close the link between the two; both notice, even when one is frozen."""
        streams = self.links.pop(frozenset((one, other)), None)
        if streams is None:
            return
        for stream in streams:
            stream.lose()
        for node, peer in ((one, other), (other, one)):
            self.nodes[node].door.leave(peer)
        self._tell(one, other, False)

    def _tell(self, one: PeerId, other: PeerId, connected: bool) -> None:
        for watcher, peer in ((one, other), (other, one)):
            node = self.nodes[watcher]
            for callback in node.callbacks:
                node.guard.call("noting a connection", peer, callback, peer, connected)

    def cut(self, one: PeerId, other: PeerId) -> None:
        """Drop the link and answer no dial between the two until `mend`."""
        self.cuts.add(frozenset((one, other)))
        self.disconnect(one, other)

    def mend(self, one: PeerId, other: PeerId) -> None:
        """Undo `cut`."""
        self.cuts.discard(frozenset((one, other)))

    def freeze(self, peer: PeerId) -> None:
        """Stop the bytes of `peer`, as SIGSTOP or a power cut does; no connection closes."""
        self.frozen.add(peer)

    def thaw(self, peer: PeerId) -> None:
        """Undo `freeze`."""
        self.frozen.discard(peer)
        for streams in self.links.values():
            for stream in streams:
                stream.inward.wake()
                stream.outward.wake()

    def kill(self, peer: PeerId) -> None:
        """Close all of its connections and stop listening."""
        for other in list(self.neighbours(peer)):
            self.disconnect(peer, other)
        self.nodes.pop(peer, None)
