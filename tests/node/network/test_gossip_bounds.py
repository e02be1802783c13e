"""What a peer's gossip can make this node keep, send, dial or do.

Rules of this file: cutting down is pure; floods and reflections go between real hosts on loopback,
from an offender that writes messages of its own making.
"""

from functools import partial
from typing import Any

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.peer.peerstore import create_signed_peer_record
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils import encode_varint_prefixed
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from dipaco.node.network import libp2p_gossip as gossip
from dipaco.node.network.host import HostTransport, open_host
from dipaco.protocol.errors import RemoteProtocolError
from tests.node.network.peers import KEYS
from tests.node.network.test_shims import is_served, two
from tests.node.network.test_transport_contract import ECHO, echo, until

NEWS = "news"


def _control(**parts: Any) -> Any:
    return rpc_pb2.RPC(control=rpc_pb2.ControlMessage(**parts))


def _message(**changes: Any) -> Any:
    fields = {"data": b"x", "topicIDs": [NEWS], "from_id": bytes(38), "seqno": bytes(8)}
    return rpc_pb2.Message(**fields | changes)


def test_what_concerns_us_is_kept() -> None:
    rpc = _control(
        ihave=[rpc_pb2.ControlIHave(topicID=NEWS, messageIDs=[b"a"])],
        iwant=[rpc_pb2.ControlIWant(messageIDs=[b"a"])],
        graft=[rpc_pb2.ControlGraft(topicID=NEWS)],
        prune=[rpc_pb2.ControlPrune(topicID=NEWS, backoff=60)],
    )
    rpc.publish.append(_message())
    rpc.subscriptions.append(rpc_pb2.RPC.SubOpts(subscribe=True, topicid="later"))
    assert gossip.bounded(rpc, {NEWS}) == rpc


@pytest.mark.parametrize(
    "rpc",
    [
        _control(graft=[rpc_pb2.ControlGraft(topicID="other")]),
        _control(prune=[rpc_pb2.ControlPrune(topicID="other", backoff=60)]),
        _control(ihave=[rpc_pb2.ControlIHave(topicID="other", messageIDs=[b"a"])]),
        _control(idontwant=[rpc_pb2.ControlIDontWant(messageIDs=[b"a"])]),
        rpc_pb2.RPC(senderRecord=b"a record"),
        rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid="t" * 129)]),
        rpc_pb2.RPC(publish=[_message(topicIDs=["other"])]),
        rpc_pb2.RPC(publish=[_message(topicIDs=[NEWS, "other"])]),
        rpc_pb2.RPC(publish=[_message(topicIDs=[])]),
        rpc_pb2.RPC(publish=[_message(data=bytes(gossip.MESSAGE_BYTES + 1))]),
        *(
            rpc_pb2.RPC(publish=[_message(**{name: bytes(gossip.NAME_BYTES + 1)})])
            for name in ("from_id", "seqno", "key", "signature")
        ),
    ],
)
def test_what_does_not_concern_us_is_left_out(rpc: Any) -> None:
    assert not gossip.bounded(rpc, {NEWS}).ListFields() or not (
        gossip.bounded(rpc, {NEWS}).control.ListFields()
    )
    assert not gossip.bounded(rpc, {NEWS}).publish
    assert not gossip.bounded(rpc, {NEWS}).subscriptions


def test_a_prune_names_no_peers_and_no_long_time() -> None:
    prune = rpc_pb2.ControlPrune(topicID=NEWS, backoff=1 << 60)
    prune.peers.add(peerID=b"somebody")
    (kept,) = gossip.bounded(_control(prune=[prune]), {NEWS}).control.prune
    assert (list(kept.peers), kept.backoff) == ([], gossip.LONGEST_BACKOFF)


def test_an_offer_is_taken_up_to_a_number_of_messages() -> None:
    numbers = [bytes(gossip.NAME_BYTES + 1)] + [b"%d" % each for each in range(100)]
    offer = rpc_pb2.ControlIHave(topicID=NEWS, messageIDs=numbers)
    (kept,) = gossip.bounded(_control(ihave=[offer]), {NEWS}).control.ihave
    assert list(kept.messageIDs) == numbers[1 : gossip.WANTED]


@pytest.mark.parametrize(
    "rpc",
    [
        rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts()] * 1025),
        _control(graft=[rpc_pb2.ControlGraft()] * 500, prune=[rpc_pb2.ControlPrune()] * 525),
        _control(iwant=[rpc_pb2.ControlIWant(messageIDs=[b""] * 1025)]),
        _control(ihave=[rpc_pb2.ControlIHave(messageIDs=[b""] * 8 * 1025)]),
    ],
)
def test_a_message_of_too_many_items_breaks_the_protocol(rpc: Any) -> None:
    assert len(rpc.SerializeToString()) <= gossip.RPC_BYTES
    with pytest.raises(RemoteProtocolError, match="more than 1024 items in a gossip message"):
        gossip.cost_of(rpc)


def test_what_makes_this_node_answer_costs_more() -> None:
    subscription = rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts()])
    wish = _control(iwant=[rpc_pb2.ControlIWant(messageIDs=[b"a", b"b"])])
    assert gossip.cost_of(subscription) > gossip.cost_of(rpc_pb2.RPC(publish=[_message()]))
    assert gossip.cost_of(wish) > gossip.cost_of(_control(graft=[rpc_pb2.ControlGraft()]))


def test_caches_of_messages_and_numbers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip, "CACHED", 3)
    monkeypatch.setattr(gossip, "SEEN", 3)
    cache, seen = gossip._Cache(3, 5), gossip._Seen(120)
    for number in range(5):
        cache.put(_message(seqno=b"%d" % number))
        cache.shift() if number == 1 else None
        seen.add(b"%d" % number)
    assert [message.seqno for message in cache.msgs.values()] == [b"2", b"3", b"4"]
    assert len(cache.window(NEWS)) == 3
    assert list(seen.cache) == [b"2", b"3", b"4"]
    seen.stop()


async def _stream(offender: HostTransport, victim: HostTransport) -> Any:
    return await offender._host.new_stream(ID.from_string(victim.me), [PROTOCOL_ID_V11])


async def _send(stream: Any, rpc: Any) -> None:
    await stream.write(encode_varint_prefixed(rpc.SerializeToString()))


async def test_a_prune_with_peers_makes_nobody_dial() -> None:
    knocks = 0

    async def count(stream: trio.SocketStream) -> None:
        nonlocal knocks
        knocks += 1
        await stream.aclose()

    async with two() as (offender, victim), trio.open_nursery() as nursery:
        await victim.subscribe(NEWS)
        serve = partial(trio.serve_tcp, host="127.0.0.1")
        (third,) = await nursery.start(serve, count, 0)
        port = third.socket.getsockname()[1]
        pair = create_new_key_pair(bytes(32))
        someone = ID.from_pubkey(pair.public_key)
        place = Multiaddr(f"/ip4/127.0.0.1/tcp/{port}")
        record = create_signed_peer_record(someone, [place], pair.private_key)
        prune = rpc_pb2.ControlPrune(topicID=NEWS, backoff=60)
        prune.peers.add(peerID=someone.to_bytes(), signedPeerRecord=record.marshal_envelope())
        router: Any = victim._pubsub.router
        await _send(await _stream(offender, victim), _control(prune=[prune]))
        await until(lambda: router.back_off.get(NEWS))  # it has been handled
        await router._do_px(prune.peers)  # and what it would have called does nothing
        assert await is_served(offender, victim)
        assert knocks == 0  # 16 for 30 peers before
        assert someone not in victim._host.get_peerstore().peer_ids()
        nursery.cancel_scope.cancel()


async def test_tables_hold_nothing_of_foreign_topics_nor_of_peers_that_left() -> None:
    async with two() as (offender, victim):
        await victim.subscribe(NEWS)
        router: Any = victim._pubsub.router
        stream = await _stream(offender, victim)
        names = [f"topic {number}" for number in range(100)]
        await _send(
            stream,
            _control(
                graft=[rpc_pb2.ControlGraft(topicID=name) for name in names],
                prune=[rpc_pb2.ControlPrune(topicID=name, backoff=9) for name in (*names, NEWS)],
                ihave=[rpc_pb2.ControlIHave(topicID=name, messageIDs=[b"a"]) for name in names],
            ),
        )
        wanted = [rpc_pb2.RPC.SubOpts(subscribe=True, topicid=name) for name in names[:40]]
        await _send(stream, rpc_pb2.RPC(subscriptions=wanted))
        await until(lambda: victim._pubsub.peer_topics)
        assert set(router.back_off) == {NEWS}
        assert len(victim._pubsub.peer_topics) <= gossip.TOPICS
        assert set(map(len, router.ihave_message_limits.values())) <= {0, 1}
        await offender.hang_up(victim.me)
        await until(lambda: not victim._pubsub.peer_topics)
        await until(lambda: not any(router.back_off.values()))
        assert not router.graft_flood_tracking and not router.ihave_message_limits
        assert not router.peer_protocol and not router.dont_send_message_ids
        assert not victim._pubsub._allowances  # type: ignore[attr-defined]


async def test_a_flood_waits_and_an_honest_message_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gossip, "RESERVE", 20.0)
    monkeypatch.setattr(gossip, "RATE", 0.1)
    async with two() as (offender, victim), open_host(KEYS[2]) as honest:
        honest.serve(ECHO, echo)
        channel = await victim.subscribe(NEWS)
        await honest.dial(victim.me, victim.addresses)
        await honest.subscribe(NEWS)
        await until(lambda: victim.me in {str(p) for p in honest._pubsub.peer_topics.get(NEWS, ())})
        stream = await _stream(offender, victim)
        taken = 0
        bounded = gossip.bounded

        def counting(rpc: Any, topics: Any) -> Any:
            nonlocal taken
            taken += any(graft.topicID == "flood" for graft in rpc.control.graft)
            return bounded(rpc, topics)

        monkeypatch.setattr(gossip, "bounded", counting)
        for _ in range(200):
            await _send(stream, _control(graft=[rpc_pb2.ControlGraft(topicID="flood")]))
        await honest.publish(NEWS, b"still here")
        with trio.fail_after(10):
            assert await channel.receive() == (honest.me, b"still here")
        assert taken <= 10


async def test_a_message_that_is_too_long_costs_its_sender_the_stream() -> None:
    async with two() as (offender, victim):
        stream = await _stream(offender, victim)
        await stream.write(encode_varint_prefixed(bytes(gossip.RPC_BYTES + 1)))
        with trio.fail_after(10), pytest.raises(Exception, match=r".*"):
            while await stream.read(10):
                pass
        assert await is_served(offender, victim)


async def test_nobody_is_asked_who_it_is_and_no_record_of_a_peer_is_kept() -> None:
    async with two() as (one, other):
        await until(lambda: one._pubsub.peers)
        await one._pubsub.subscribe(NEWS)  # an RPC of libp2p's carries a record of its sender
        await until(lambda: other._pubsub.peer_topics.get(NEWS))
        for node in (one, other):
            host: Any = node._host
            assert not [name for name in host.multiselect.handlers if name.startswith("/ipfs/")]
            assert host.get_peerstore().peer_ids() == [host.get_id()]
            assert not host._identify_inflight and not host._identified_peers
