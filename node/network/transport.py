"""The interface of a transport: peers, streams and topics, independent of libp2p.

Two implementations pass one contract suite: `host` (libp2p) and `memory` (virtual time). Both
translate every error once: `Unavailable` when a peer or connection is away, `RemoteProtocolError`
when a peer breaks the protocol. All code above the transport uses this module alone.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from dipaco.node.network.caps import Caps
from dipaco.node.network.guard import Guard
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.identity import PeerId, short_peer

log = logging.getLogger(__name__)

HUNG_UP = "hung up"
"""The reason in the log of an end that needs no other."""
TOPIC_PENDING = (
    1024  # messages of a topic that wait for our reader; the rest is dropped, and pulled
)


class Stream(Protocol):
    """Bytes both ways between two peers; one sender and one receiver at a time.

    A cancelled send or receive leaves the stream unusable: reset it. Put deadlines on waits for
    events instead.
    """

    @property
    def peer(self) -> PeerId:
        """The peer at the other end, proven by the handshake."""

    async def send(self, data: bytes) -> None:
        """Send all of `data`; waits while the peer does not read; raises Unavailable."""

    async def receive(self, most: int) -> bytes:
        """Return 1 to `most` bytes, b"" at the end; raises Unavailable.

        A peer that was killed or has reset the stream may read as a clean end: only lengths and
        digests prove that all arrived.
        """

    async def close(self) -> None:
        """Tell the peer that nothing more is sent, and stop receiving."""

    async def reset(self) -> None:
        """Drop the stream at once in both directions; never raises."""


Handler = Callable[[Stream], Awaitable[None]]
"""Serves one inbound stream. It is closed when the handler returns, reset when it raises."""

PeerCallback = Callable[[PeerId, bool], None]
"""Called with True when the first connection to a peer is made, False when the last one is gone.

It is synchronous, so that no event is lost or reordered: change a table, set an event or start a
task in it. It runs under the guard.
"""


class Transport(Protocol):
    """A node's connections to its peers."""

    @property
    def me(self) -> PeerId:
        """The PeerID of this node's key."""

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The addresses at which this node is reached; each names this node as its peer."""

    @property
    def trouble(self) -> str:
        """Why peers turn this node away, in words; empty when they do not."""

    @property
    def traffic(self) -> "Traffic":
        """Payload bytes of all streams."""

    @property
    def caps(self) -> Caps:
        """The caps on the bytes of all connections, which are counted there."""

    @property
    def guard(self) -> Guard:
        """Runs what touches the values of peers; every part of the node uses this one."""

    async def dial(self, peer: PeerId, addresses: Sequence[Address]) -> None:
        """Connect to `peer` at the first address that answers; nothing if already connected.

        A peer that the addresses themselves name has no effect. Raises Unavailable with the last
        cause, in words that fit "no seed answers (...)"; WrongPlace if somebody else answers.
        """

    async def open(self, peer: PeerId, protocol: str) -> Stream:
        """Open a stream over an existing connection; never dials. Raises Unavailable."""

    def serve(self, protocol: str, handler: Handler) -> None:
        """Serve the streams that peers open for `protocol` with `handler`."""

    def peers(self) -> frozenset[PeerId]:
        """Return the peers that are connected now."""

    def remote_ip(self, peer: PeerId) -> str | None:
        """Return the IP address at the other end of a connection to `peer`, if there is one."""

    def watch(self, callback: PeerCallback) -> None:
        """Call `callback` at every connect and disconnect from now on."""

    def gate(self, banned: Callable[[PeerId], bool]) -> None:
        """Neither dial a peer for which `banned` is true, nor keep a connection that it makes."""

    def favour(self, known: Callable[[PeerId], bool]) -> None:
        """Keep some connections for peers for which `known` is true."""

    async def hang_up(self, peer: PeerId, why: str = HUNG_UP) -> None:
        """Close every connection to `peer` at once, even if it is frozen; never raises.

        why   for the log.
        """

    async def publish(self, topic: str, data: bytes) -> None:
        """Send `data` (at most a few KB) to all subscribers, best effort."""

    async def subscribe(self, topic: str) -> "trio.MemoryReceiveChannel[tuple[PeerId, bytes]]":
        """Return the messages of other peers on `topic`, with their authors; call once a topic."""


def log_ended(peer: PeerId, why: str | None) -> None:
    """Log the end of the last connection to `peer`; `why` is None if we did not end it."""
    log.debug("peer=%s connection ended: %s", short_peer(peer), why or "by the peer, or it broke")


class Traffic:
    """Payload bytes of streams, in all and per peer; headers and gossip are not counted."""

    MAX_PEERS = 4096  # the one silent for longest is forgotten; its bytes stay in the totals

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0
        self.by_peer: dict[PeerId, tuple[int, int]] = {}
        """Bytes sent and received."""

    def count(self, peer: PeerId, *, sent: int = 0, received: int = 0) -> None:
        """Add to the totals and to `peer`'s share."""
        self.sent += sent
        self.received += received
        before = self.by_peer.pop(peer, (0, 0))
        self.by_peer[peer] = (before[0] + sent, before[1] + received)
        if len(self.by_peer) > self.MAX_PEERS:
            del self.by_peer[next(iter(self.by_peer))]
