"""The seam under the network: peers, streams and topics, without a word of libp2p.

Two implementations pass one contract suite: `host` (libp2p) and `memory` (virtual time). Both
translate every error once: `Unavailable` when a peer or connection is away, `RemoteProtocolError`
when a peer breaks the protocol. Everything above is written against this module alone.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.identity import PeerId

TOPIC_PENDING = 1024  # messages of one topic that wait for our reader; more are dropped, and pulled


class Stream(Protocol):
    """Bytes both ways between two peers; one sender and one receiver at a time.

    A send or receive that is cancelled leaves the stream unusable: reset it. Put deadlines round
    events instead.
    """

    @property
    def peer(self) -> PeerId:
        """Who is at the other end, proven by the handshake."""

    async def send(self, data: bytes) -> None:
        """Send all of `data`; waits while the peer does not read; raises Unavailable."""

    async def receive(self, most: int) -> bytes:
        """Return 1 to `most` bytes, b"" at the end; raises Unavailable.

        A peer that was killed or has reset the stream may read as a clean end: only lengths and
        digests prove that all arrived.
        """

    async def close(self) -> None:
        """Say that nothing more is sent, and stop receiving."""

    async def reset(self) -> None:
        """Drop the stream at once in both directions; never raises."""


Handler = Callable[[Stream], Awaitable[None]]
"""Serves one inbound stream. It is closed when the handler returns, reset when it raises."""

PeerCallback = Callable[[PeerId, bool], None]
"""Called with True when the first connection to a peer stands, False when the last is gone.

Synchronous, so that no event is lost or reordered: change a table, set an event, start a task.
"""


class Transport(Protocol):
    """A node's place in the network."""

    @property
    def me(self) -> PeerId:
        """The PeerID of this node's key."""

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where this node is reached; each names this node as its peer."""

    @property
    def traffic(self) -> "Traffic":
        """Payload bytes of all streams."""

    async def dial(self, peer: PeerId, addresses: Sequence[Address]) -> None:
        """Connect to `peer` at the first address that answers; nothing if already connected.

        Whom the addresses themselves name as their peer has no effect.
        Raises Unavailable with the cause, in words that fit "no seed answers (...)".
        """

    async def open(self, peer: PeerId, protocol: str) -> Stream:
        """Open a stream over a reputation connection; never dials. Raises Unavailable."""

    def serve(self, protocol: str, handler: Handler) -> None:
        """Let `handler` serve the streams that peers open for `protocol`."""

    def peers(self) -> frozenset[PeerId]:
        """Return those connected now."""

    def remote_ip(self, peer: PeerId) -> str | None:
        """Return the IP address at the other end of a connection to `peer`, if there is one."""

    def watch(self, callback: PeerCallback) -> None:
        """Have `callback` told of every coming and going from now on."""

    def gate(self, banned: Callable[[PeerId], bool]) -> None:
        """Neither dial peers for whom `banned` is true nor keep them when they come."""

    async def hang_up(self, peer: PeerId) -> None:
        """Close every connection to `peer` at once, frozen or not; never raises."""

    async def publish(self, topic: str, data: bytes) -> None:
        """Hand `data` (at most a few KB) to all subscribers, best effort."""

    async def subscribe(self, topic: str) -> "trio.MemoryReceiveChannel[tuple[PeerId, bytes]]":
        """Return what others publish on `topic`, each with its author; call once per topic."""


class Traffic:
    """Payload bytes of streams, in all and per peer; headers and gossip are not counted."""

    MAX_PEERS = 4096  # the longest silent is forgotten; its bytes stay in the totals

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
