"""What we change in libp2p, and what would tell us that a new version no longer fits.

Rules of this file: real hosts on loopback, real time but for one jump of it; the hashes are of
libp2p 0.8.1's own source, so a bump that touches one of these functions fails here and is looked
at; beside each stands the behaviour that the change is for, which fails without it.
"""

import ast
import hashlib
import importlib
import inspect
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from libp2p.io.trio import TrioTCPStream
from libp2p.security.noise.io import NoiseTransportReadWriter
from trio.testing import MockClock, wait_all_tasks_blocked

from dipaco.node.network import door
from dipaco.node.network import host as host_module
from dipaco.node.network.host import HostTransport, open_host
from dipaco.node.network.transport import Stream
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.wire.address import Address
from tests.node.network.peers import KEYS, PEERS
from tests.node.network.test_transport_contract import ECHO, QUIET, echo, ends, receive_all, until

LISTEN = (Address.parse("/ip4/127.0.0.1/tcp/0"),)
SINK = "/test/sink/1"

SOURCES = {
    "stream_muxer.yamux.yamux:YamuxStream.write": "d87f74dfb53a",
    "stream_muxer.yamux.yamux:Yamux._write_frame": "16ff969cdd0d",
    "stream_muxer.yamux.yamux:Yamux.close": "d80b27e69ccd",
    "stream_muxer.yamux.yamux:Yamux.__init__": "3b11a2a71ca4",
    "stream_muxer.yamux.yamux:Yamux.start": "bd1a114758a6",
    "stream_muxer.yamux.yamux:Yamux.handle_incoming": "ad15ff6943fe",
    "stream_muxer.yamux.yamux:Yamux._cleanup_on_error": "4fed61a999a3",
    "stream_muxer.yamux.yamux:Yamux._finalize_stream_locked": "95b60e924211",
    "stream_muxer.yamux.yamux:Yamux.read_stream": "d07c99299384",
    "stream_muxer.yamux.yamux:Yamux.open_stream": "f3e0ef79ec21",
    "stream_muxer.yamux.yamux:Yamux._measure_rtt_loop": "86222ce6e358",
    "stream_muxer.yamux.yamux:YamuxStream.__init__": "ab24c0709285",
    "stream_muxer.yamux.yamux:YamuxStream.read": "ca585f2199fd",
    "stream_muxer.yamux.yamux:YamuxStream.close": "158b994f8f0d",
    "stream_muxer.yamux.yamux:YamuxStream.reset": "8e40f901761d",
    "stream_muxer.yamux.yamux:YamuxStream._auto_tune_and_send_window_update": "6ebcbd822fe7",
    "stream_muxer.muxer_multistream:MuxerMultistream.new_conn": "91d21f40f524",
    "protocol_muxer.multiselect:Multiselect.negotiate": "e870e3fe41c8",
    "protocol_muxer.multiselect_communicator:MultiselectCommunicator.read": "c99c62a961c7",
    "pubsub.pubsub:Pubsub.continuously_read_stream": "ac0c4ad87ca3",
    "io.trio:TrioTCPStream.read": "c606ac89ec9d",
    "transport.tcp.tcp:TCP.dial": "e5659d040a9a",
    "network.swarm:Swarm._do_handle_inbound_connection": "c22fdfd5289f",
    "network.swarm:Swarm._handle_inbound_connection": "0800fdf9770e",
    "network.swarm:Swarm.set_resource_manager": "ba5593b3f671",
    "network.swarm:Swarm._dial_addr_single_attempt": "54e3f8e1ea5b",
    "host.basic_host:BasicHost._swarm_stream_handler": "cec985884b1b",
    "network.connection.swarm_connection:SwarmConn._handle_muxed_stream": "fb51f8a3e37c",
    "pubsub.gossipsub:GossipSub.handle_rpc": "bb6f7311e295",
    "pubsub.gossipsub:GossipSub.handle_graft": "12206b0c497a",
    "pubsub.gossipsub:GossipSub.handle_prune": "c61235b1862b",
    "pubsub.gossipsub:GossipSub._do_px": "4b102fbb716d",
    "pubsub.gossipsub:GossipSub.handle_ihave": "f6e76650441d",
    "pubsub.gossipsub:GossipSub.handle_iwant": "cae61a447ac5",
    "pubsub.gossipsub:GossipSub.remove_peer": "bc0ead5b37c8",
    "pubsub.gossipsub:GossipSub.publish": "b978282af462",
    "pubsub.gossipsub:GossipSub.emit_prune": "9f01c4c85e82",
    "pubsub.gossipsub:GossipSub.send_recent_messages": "10e4dc4bd29e",
    "pubsub.pubsub:Pubsub.stream_handler": "4be06aba2f44",
    "pubsub.pubsub:Pubsub.handle_subscription": "c200deee0f0a",
    "pubsub.pubsub:Pubsub._handle_dead_peer": "10026d998d30",
    "pubsub.pubsub:Pubsub._forget_all_subscriptions": "5e83d2f0d145",
    "host.basic_host:BasicHost.__init__": "6a81506e92fb",
    "host.basic_host:BasicHost._should_identify_peer": "f3dba8677edd",
    "host.basic_host:BasicHost._schedule_identify": "d24ee6400132",
    "network.swarm:Swarm.upgrade_inbound_raw_conn": "e24c4285f494",
    "network.swarm:Swarm.add_conn": "d469d71b3ed1",
    "pubsub.mcache:MessageCache.put": "bb1f48334200",
    "tools.timed_cache.last_seen_cache:LastSeenCache.add": "138510ba1dfe",
    "pubsub.mcache:MessageCache.shift": "18c141f7edfa",
    "pubsub.gossipsub:GossipSub._check_equivocation": "4fc307cdaab3",
    "pubsub.pubsub:Pubsub.push_msg": "1531483ab4d7",
    "pubsub.pubsub:Pubsub._next_seqno": "518c47aeb8ac",
}


def source_of(place: str) -> str:
    """Return a method's source as it stands in the file, whatever replaced it since."""
    module, _, name = place.partition(":")
    text = inspect.getsource(importlib.import_module(f"libp2p.{module}"))
    class_name, method = name.split(".")
    for top in ast.parse(text).body:
        if isinstance(top, ast.ClassDef) and top.name == class_name:
            for node in top.body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == method:
                    lines = text.splitlines(keepends=True)
                    return "".join(lines[node.lineno - 1 : node.end_lineno])
    raise AssertionError(f"libp2p has no {place} any more")


@pytest.mark.parametrize("place", SOURCES)
def test_the_function_that_is_changed_or_relied_on_is_still_the_same(place: str) -> None:
    assert hashlib.sha256(source_of(place).encode()).hexdigest()[:12] == SOURCES[place]


@asynccontextmanager
async def two() -> AsyncIterator[tuple[HostTransport, HostTransport]]:
    """Two connected hosts that serve echo."""
    async with open_host(KEYS[0], listen=LISTEN) as one, open_host(KEYS[1], listen=LISTEN) as other:
        for node in (one, other):
            node.serve(ECHO, echo)
        await one.dial(other.me, other.addresses)
        await until(lambda: other.peers())
        yield one, other


async def is_served(here: HostTransport, there: HostTransport) -> bool:
    stream = await here.open(there.me, ECHO)
    await stream.send(b"hello")
    answer = await stream.receive(100)
    await stream.close()
    return answer == b"hello"


async def test_bulk_needs_one_noise_message_and_one_system_call_per_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: Counter[str] = Counter()

    def counting(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def count(self: Any, *arguments: Any) -> Any:
            calls[name] += 1
            return original(self, *arguments)

        monkeypatch.setattr(owner, name, count)

    counting(NoiseTransportReadWriter, "encrypt")
    counting(trio.SocketStream, "receive_some")
    done = trio.Event()
    size = 16 << 20

    async def sink(stream: Stream) -> None:
        assert len(await receive_all(stream, size)) == size
        done.set()

    async with two() as (one, other):
        other.serve(SINK, sink)
        stream = await one.open(other.me, SINK)
        calls.clear()
        for _ in range(size >> 20):
            await stream.send(bytes(1 << 20))
        with trio.fail_after(30):
            await done.wait()
    assert calls["encrypt"] < 550  # 257 frames and the window updates; 800 without
    assert calls["receive_some"] < 900  # 1600 without


async def test_a_subscriber_that_lags_loses_nothing_up_to_a_thousand_messages() -> None:
    async with open_host(KEYS[0]) as alone:
        subscription = await alone._pubsub.subscribe("news")
        for number in range(100):
            await alone.publish("news", b"%d" % number)
        with trio.fail_after(10):
            got = [(await subscription.get()).data for _ in range(100)]  # 32 without
        assert sorted(map(int, got)) == list(range(100))


async def test_a_reader_may_pause_longer_than_five_seconds(mock_clock: MockClock) -> None:
    mock_clock.rate = 1.0
    size = 4 << 20
    got = bytearray()

    async def pause(stream: Stream) -> None:
        got.extend(await stream.receive(1000))
        await wait_all_tasks_blocked(QUIET)  # the writer too: no window is left
        mock_clock.jump(6.0)  # without the change the writer gives up after 5
        await wait_all_tasks_blocked(QUIET)
        while data := await stream.receive(1 << 20):
            got.extend(data)

    async with two() as (one, other):
        other.serve(SINK, pause)
        stream = await one.open(other.me, SINK)
        await stream.send(bytes(size))
        await stream.close()
        await until(lambda: len(got) == size)


async def test_cancelled_writes_leave_the_connection_whole() -> None:
    async def sink(stream: Stream) -> None:
        while await stream.receive(1 << 20):
            pass

    chance = random.Random(1)
    async with two() as (one, other):
        other.serve(SINK, sink)
        for _ in range(20):
            stream = await one.open(other.me, SINK)
            for _ in range(50):  # dead after 5 without the change
                with trio.move_on_after(chance.uniform(0, 0.0006)):
                    await stream.send(bytes(3000))
            await stream.reset()
        with trio.fail_after(10):
            assert await is_served(one, other)


async def test_inbound_slots_are_given_back() -> None:
    async with open_host(KEYS[0], listen=LISTEN) as hub, open_host(KEYS[1]) as guest:
        hub.serve(ECHO, echo)
        limiter = hub._net._inbound_limiter = trio.CapacityLimiter(4)
        for _ in range(8):  # the fifth is refused without the change
            await guest.dial(hub.me, hub.addresses)
            assert await is_served(guest, hub)
            await guest.hang_up(hub.me)
        await until(lambda: limiter.borrowed_tokens == 0)


async def test_dials_to_a_silent_port_cost_their_limit_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = Address("ip4", "127.0.0.1", silent.getsockname()[1])
        async with two() as (one, other):
            monkeypatch.setattr(host_module, "DIAL_TIMEOUT", 0.05)  # not for the dial of `two`
            assert one._net._resource_manager is None  # it loses a place per dial like these
            with pytest.raises(Unavailable, match=r"no answer within 0\.05 s at 127\.0\.0\.1:"):
                for _ in range(20):
                    await one.dial(PEERS[9], [place])
            assert await is_served(one, other)


async def _raw_stream(node: HostTransport) -> Any:
    """Open a stream without negotiating a protocol."""
    (connection,) = node._net.get_connections()
    return await connection.muxed_conn.open_stream()


HELLO = b"\x13/multistream/1.0.0\n"
NEGOTIATIONS = {
    "not text": HELLO + b"\x03\xff\xfe\n",
    "empty": HELLO + b"\x01\n",
    "no multistream": b"\x00" * 100,
    "endless": HELLO + b"\xff\xff\xff\xff\x7f" + b"x" * 1000,
    "gossip garbage": HELLO
    + b"\x0d/meshsub/1.1.0\n"[:0]
    + b"\x0f/meshsub/1.1.0\n"
    + b"\x05\xff\xff\xff\xff\xff",
    "gossip huge": HELLO + b"\x0f/meshsub/1.1.0\n" + b"\xff\xff\xff\xff\x7f",
}


@pytest.mark.parametrize("words", NEGOTIATIONS.values(), ids=NEGOTIATIONS.keys())
async def test_a_stream_that_fails_to_negotiate_takes_nobody_down(words: bytes) -> None:
    async with two() as (victim, offender), open_host(KEYS[2]) as honest:
        await honest.dial(victim.me, victim.addresses)
        stream = await _raw_stream(offender)
        await stream.write(words)
        await wait_all_tasks_blocked(QUIET)  # the victim has read them
        with trio.fail_after(10):
            assert await is_served(honest, victim)
            assert await is_served(offender, victim)


@pytest.mark.usefixtures("fed_bugs")
async def test_a_bug_in_a_handler_costs_that_peer_its_connection_alone() -> None:
    async def buggy(stream: Stream) -> None:
        await stream.receive(1)
        raise KeyError("a bug")

    async with two() as (victim, one), open_host(KEYS[2]) as other:
        victim.serve("/test/bug/1", buggy)
        await other.dial(victim.me, victim.addresses)
        stream = await one.open(victim.me, "/test/bug/1")
        await stream.send(b"x")
        with trio.fail_after(10):
            assert await ends(stream)
            assert await is_served(other, victim)
            await until(lambda: not one.peers())
            await one.dial(victim.me, victim.addresses)
            assert await is_served(one, victim)


async def test_a_peer_holds_no_more_than_its_share_of_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(door, "STREAMS", 5)
    serving = 0

    async def hold(stream: Stream) -> None:
        nonlocal serving
        serving += 1
        await stream.receive(1)
        serving -= 1

    async with two() as (victim, greedy):
        victim.serve(SINK, hold)
        for _ in range(12):
            try:
                await greedy.open(victim.me, SINK)
            except Unavailable:
                break
        await wait_all_tasks_blocked(QUIET)
        assert 0 < serving <= 5


async def test_gossip_keeps_no_bodies() -> None:
    async with two() as (one, other):
        await one.subscribe("news")
        channel = await other.subscribe("news")
        await until(lambda: one._pubsub.peer_topics.get("news"))
        await one.publish("news", bytes(1000))
        with trio.fail_after(10):
            await channel.receive()
        router: Any = other._pubsub.router
        assert len(router.equivocation_detection) == 0


async def test_a_raising_validator_does_not_end_gossip() -> None:
    def fail(*_: Any) -> bool:
        raise KeyError("a bug")

    async with two() as (one, other):
        await other._pubsub.subscribe("cursed")
        other._pubsub.set_topic_validator("cursed", fail, False)
        await one.subscribe("news")
        channel = await other.subscribe("news")
        await until(lambda: len(one._pubsub.peer_topics) == 2)
        await one.publish("cursed", b"boom")
        await one.publish("news", b"still here")
        with trio.fail_after(10):
            assert (await channel.receive())[1] == b"still here"


async def test_a_restarted_author_is_not_taken_for_a_repeater() -> None:
    got: list[bytes] = []
    async with open_host(KEYS[1], listen=LISTEN) as reader, trio.open_nursery() as nursery:
        channel = await reader.subscribe("news")

        @nursery.start_soon
        async def _() -> None:
            async for _author, data in channel:
                got.append(data)

        for life in range(2):
            async with open_host(KEYS[0]) as author:
                await author.subscribe("news")
                await author.dial(reader.me, reader.addresses)
                await until(lambda: author._pubsub.peer_topics.get("news"))
                for number in range(25):
                    await author.publish("news", b"%d.%d" % (life, number))
                expected = 25 * (life + 1)
                await until(lambda: len(got) == expected)  # noqa: B023 - awaited in place
        nursery.cancel_scope.cancel()


async def test_hanging_up_does_not_wait_for_a_writer_that_is_stuck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with two() as (one, frozen):
        (connection,) = frozen._net.get_connections()
        read = TrioTCPStream.read
        stopped = trio.Event()

        async def read_unless_frozen(self: Any, n: int | None = None) -> bytes:
            if stopped.is_set() and self.stream.socket.getsockname()[1] == port:
                await trio.sleep_forever()
            return await read(self, n)

        port = frozen.addresses[0].port
        assert connection is not None
        monkeypatch.setattr(TrioTCPStream, "read", read_unless_frozen)
        frozen.serve(SINK, echo)
        streams = [await one.open(frozen.me, SINK) for _ in range(40)]
        stopped.set()

        async def write(stream: Stream) -> None:
            with pytest.raises(Unavailable):
                for _ in range(10):
                    await stream.send(bytes(256 * 1024))

        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(write, stream)
            await wait_all_tasks_blocked(QUIET)  # no writer gets any further
            before = trio.current_time()
            await one.hang_up(frozen.me)
            assert trio.current_time() - before < 2.5  # over 18 s without
            assert one.peers() == frozenset()
