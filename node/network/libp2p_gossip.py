"""Gossip that no peer can fill: libp2p's services, which see bounded messages alone.

libp2p 0.8.1 keeps a table entry for each topic that a peer names, dials the peers that a PRUNE
names, and starts a task for each message. Here a peer's message is cut down before libp2p handles
it: to topics of ours, without peers, records and extensions. What is left is paced per peer: a
flood waits in its sender's own window.
"""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from libp2p.abc import IHost, INetStream
from libp2p.io.exceptions import IncompleteReadError
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.mcache import MessageCache
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.pubsub_notifee import PubsubNotifee
from libp2p.tools.anyio_service import background_trio_service
from libp2p.tools.timed_cache.last_seen_cache import LastSeenCache
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from dipaco.node.network.allowance import Allowance
from dipaco.node.network.shims import translated
from dipaco.protocol.errors import RemoteProtocolError, Unavailable

log = logging.getLogger(__name__)

RPC_BYTES = 64 * 1024  # of one message of the gossip protocol; an announcement has up to 4 KiB
RPC_ITEMS = 1024  # in one message, of every sort together
MESSAGE_BYTES = 4096  # of a payload, the largest announcement
NAME_BYTES = 128  # of a topic's name, an author, a message's number, a key or a signature
TOPICS = 16  # that a peer may subscribe to; ours is one
LONGEST_BACKOFF = 3600  # s that a PRUNE may ask for
WANTED = 64  # messages of one offer that are asked for; what is missed is pulled
# s between two repairs of the router's neighbours, which also offer the latest messages to others.
# A message goes to neighbours at once, a new peer becomes one at once, and anti-entropy brings what
# is missed all the same: so this only has to be well below the time between two records. Each one
# wakes an idle computer.
HEARTBEAT = 10
CACHED = 512  # messages that are kept for those that missed them, for 2 heartbeats at most
SEEN = 16_384  # messages whose numbers are remembered, at most 120 s
PENDING_FOR_PEER = 16  # messages that wait for a peer that has not subscribed yet
RATE = 50.0  # items per second of one peer, at their costs; 32 nodes exchange 4 messages per second
RESERVE = 1000.0
COSTS = {"subscriptions": 10.0, "iwant": 5.0}  # an answer each; any other item costs 1


class _Cache(MessageCache):
    """Drops the oldest messages when there are too many."""

    def put(self, msg: Any) -> None:
        super().put(msg)
        for entries in reversed(self.history):
            while entries and len(self.msgs) > CACHED:
                self.msgs.pop(entries.pop(0).mid, None)


class _Seen(LastSeenCache):
    """Forgets the oldest numbers when there are too many."""

    def add(self, key: bytes) -> bool:
        new = super().add(key)
        with self.lock:
            while len(self.cache) > SEEN:
                del self.cache[next(iter(self.cache))]
        return new


class BoundedGossip(GossipSub):
    """The router: which peers get and send the messages of a topic."""

    def __init__(self) -> None:
        super().__init__(
            protocols=[PROTOCOL_ID_V11],
            degree=6,
            degree_low=4,
            degree_high=12,
            gossip_window=1,  # heartbeats in which a message is offered; also to a new peer
            gossip_history=2,  # in which it is kept for those who ask then
            heartbeat_interval=HEARTBEAT,  # default 120 s
            adaptive_gossip_enabled=False,  # else the heartbeat becomes 30-60 s
            spam_protection_enabled=False,  # else > 10 messages/s per forwarder vanish
            eclipse_protection_enabled=False,
            max_pending_messages_per_peer=PENDING_FOR_PEER,
        )
        self.mcache = _Cache(self.mcache.window_size, self.mcache.history_size)

    def _check_equivocation(self, msg: Any) -> bool:
        """Keep no message to compare others with: libp2p keeps 1000 whole ones."""
        return True

    async def _do_px(self, px_peers: Any) -> None:
        """Dial none of the peers that a PRUNE names: they need not be peers, nor want it."""

    async def emit_prune(self, topic: str, to_peer: ID, do_px: bool, is_unsubscribe: bool) -> None:
        """Send a PRUNE that names no peers."""
        await super().emit_prune(topic, to_peer, False, is_unsubscribe)

    async def publish(self, msg_forwarder: ID, pubsub_msg: Any) -> None:
        """Forward a message, and keep no time of it: libp2p keeps each for ever."""
        await super().publish(msg_forwarder, pubsub_msg)
        self.recent_message_deliveries.clear()

    async def handle_iwant(self, iwant_msg: Any, sender_peer_id: ID) -> None:
        """Answer with one message at a time, so that no answer is larger than `RPC_BYTES`."""
        for number in iwant_msg.messageIDs:
            single = rpc_pb2.ControlIWant(messageIDs=[number])
            await super().handle_iwant(single, sender_peer_id)

    def remove_peer(self, peer_id: ID) -> None:
        """Forget a peer that left, its waiting times included."""
        super().remove_peer(peer_id)
        for waiting in self.back_off.values():
            waiting.pop(peer_id, None)


class BoundedPubsub(Pubsub):
    """The service that reads gossip streams."""

    def __init__(self, host: IHost, router: BoundedGossip) -> None:
        super().__init__(
            host,
            router,
            strict_signing=True,
            max_subscriptions_per_peer=TOPICS,
            max_subscriptions_per_rpc=RPC_ITEMS,
        )
        self.counter = time.time_ns()  # else a restarted node repeats its sequence numbers
        self.seen_messages.stop()
        self.seen_messages = _Seen(self.seen_messages.ttl, self.seen_messages.sweep_interval)
        self._allowances: dict[ID, Allowance] = {}

    async def continuously_read_stream(self, stream: INetStream) -> None:
        """Take a peer's messages at its pace, one after the other, until the stream ends."""
        peer = stream.muxed_conn.peer_id
        try:
            while self.manager.is_running:
                data = await read_varint_prefixed_bytes_limited(stream, RPC_BYTES)
                rpc = rpc_pb2.RPC()
                rpc.ParseFromString(data)
                await self._pace(peer, cost_of(rpc))
                await self._take(peer, bounded(rpc, self.topic_ids))
        except (StreamError, RawConnError, IncompleteReadError) as error:
            log.debug("gossip from %s ended: %s", peer, error)
        finally:
            if not self._peer_is_connected(peer):
                self._forget(peer)

    async def _pace(self, peer: ID, cost: float) -> None:
        now = trio.current_time()
        allowance = self._allowances.setdefault(peer, Allowance(RATE, RESERVE, now=now))
        await trio.sleep(allowance.owe(cost, now=now))

    async def _take(self, peer: ID, rpc: Any) -> None:
        for message in rpc.publish:
            await self.push_msg(peer, message)
        for subscription in rpc.subscriptions:
            self.handle_subscription(peer, subscription)
        if rpc.HasField("control"):
            await self.router.handle_rpc(rpc, peer)

    async def push_msg(self, msg_forwarder: ID, msg: Any) -> None:
        """Handle a message; a validator or a key that raises would end the service."""
        try:
            with translated(f"gossip from {msg_forwarder}"):
                await super().push_msg(msg_forwarder, msg)
        except Unavailable as error:
            log.debug("%s", error)

    def _handle_dead_peer(self, peer_id: ID) -> None:
        super()._handle_dead_peer(peer_id)
        if not self._peer_is_connected(peer_id):
            self._forget(peer_id)

    def _forget(self, peer: ID) -> None:
        """Drop all that is kept of a peer, also of one to which we never wrote."""
        self._allowances.pop(peer, None)
        if peer not in self.peers:
            self._forget_all_subscriptions(peer)
            self.router.remove_peer(peer)


def cost_of(rpc: Any) -> float:
    """Return the units that a message takes; raises RemoteProtocolError if it has too many items.

    What is left out later costs as well: it had to be read.
    """
    control = rpc.control
    numbers = sum(len(each.messageIDs) for each in control.iwant)
    items = {
        "publish": len(rpc.publish),
        "subscriptions": len(rpc.subscriptions),
        "iwant": len(control.iwant) + numbers,
        "ihave": len(control.ihave) + sum(len(each.messageIDs) for each in control.ihave) // 8,
        "control": len(control.graft) + len(control.prune) + len(control.idontwant),
    }
    if sum(items.values()) > RPC_ITEMS:
        raise RemoteProtocolError(f"sent more than {RPC_ITEMS} items in a gossip message")
    return 1.0 + sum(COSTS.get(sort, 1.0) * count for sort, count in items.items())


def bounded(rpc: Any, topics: Any) -> Any:
    """Return the part of a peer's message that concerns this node.

    topics   those that this node subscribes to. A subscription of the peer to another one is kept:
             this node may join it later.
    """
    control = rpc.control
    kept = rpc_pb2.RPC(
        publish=[each for each in rpc.publish if _is_in_bounds(each, topics)],
        subscriptions=[each for each in rpc.subscriptions if len(each.topicid) <= NAME_BYTES],
    )
    if rpc.HasField("control"):
        kept.control.CopyFrom(
            rpc_pb2.ControlMessage(
                ihave=[_offer(each) for each in control.ihave if each.topicID in topics],
                iwant=control.iwant,
                graft=[each for each in control.graft if each.topicID in topics],
                prune=[
                    rpc_pb2.ControlPrune(
                        topicID=each.topicID, backoff=min(each.backoff, LONGEST_BACKOFF)
                    )
                    for each in control.prune
                    if each.topicID in topics
                ],
            )
        )
    return kept


def _offer(ihave: Any) -> Any:
    """Return an offer of messages without those that this node would not ask for."""
    numbers = [each for each in ihave.messageIDs[:WANTED] if len(each) <= NAME_BYTES]
    return rpc_pb2.ControlIHave(topicID=ihave.topicID, messageIDs=numbers)


def _is_in_bounds(message: Any, topics: Any) -> bool:
    names = (message.from_id, message.seqno, message.key, message.signature)
    return (
        len(message.topicIDs) == 1
        and message.topicIDs[0] in topics
        and len(message.data) <= MESSAGE_BYTES
        and all(len(name) <= NAME_BYTES for name in names)
    )


class _LastOneGone(PubsubNotifee):
    """Keeps gossip with a peer while the connection stands over which it goes.

    libp2p's own ends it with any connection to the peer.
    """

    def __init__(self, pubsub: Pubsub, original: PubsubNotifee) -> None:
        super().__init__(original.initiator_peers_queue, original.dead_peers_queue)
        self._pubsub = pubsub

    async def disconnected(self, network: Any, conn: Any) -> None:
        stream = self._pubsub.peers.get(conn.muxed_conn.peer_id)
        if stream is None or stream.muxed_conn is conn.muxed_conn or stream.muxed_conn.is_closed:
            await super().disconnected(network, conn)


@asynccontextmanager
async def gossip(host: IHost) -> AsyncIterator[Pubsub]:
    """Run pubsub; start it before the first connection, else connections hang."""
    router = BoundedGossip()
    pubsub = BoundedPubsub(host, router)
    net: Any = host.get_network()
    for original in [each for each in net.notifees if isinstance(each, PubsubNotifee)]:
        net.remove_notifee(original)
        net.register_notifee(_LastOneGone(pubsub, original))
    async with background_trio_service(pubsub), background_trio_service(router):
        await pubsub.wait_until_ready()
        yield pubsub
