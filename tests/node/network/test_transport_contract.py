"""What every transport promises, held for libp2p on loopback and for the one in memory.

Rules of this file: each test runs on both; waits are for events, with a limit that only a broken
transport reaches; nothing here knows which one it has.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from dipaco.node.network.host import open_host
from dipaco.node.network.memory import MemoryNetwork
from dipaco.node.network.transport import Stream, Transport
from dipaco.protocol.errors import RemoteProtocolError, Unavailable
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.identity import PeerId
from tests.node.network.peers import KEYS, PEERS

ECHO = "/test/echo/1"
LISTEN = Address.parse("/ip4/127.0.0.1/tcp/0")
LIMIT = 20.0  # s, of real time on libp2p
QUIET = 0.005  # s without a step of any task: below libp2p's own polls of 10 ms

Nodes = Callable[[int], AbstractAsyncContextManager[list[Transport]]]


@asynccontextmanager
async def _libp2p(count: int) -> AsyncIterator[list[Transport]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(open_host(key, listen=[LISTEN])) for key in KEYS[:count]
        ]


@asynccontextmanager
async def _memory(count: int) -> AsyncIterator[list[Transport]]:
    network = MemoryNetwork()
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(network.join(peer)) for peer in PEERS[:count]]


@pytest.fixture(params=[_libp2p, _memory], ids=["libp2p", "memory"])
def nodes(request: pytest.FixtureRequest) -> Nodes:
    factory: Nodes = request.param
    return factory


async def echo(stream: Stream) -> None:
    while data := await stream.receive(1 << 20):
        await stream.send(data)


async def until(condition: Callable[[], object]) -> None:
    """Wait until `condition()` holds; look again whenever all tasks wait for something."""
    with trio.fail_after(LIMIT):
        while not condition():
            await wait_all_tasks_blocked(QUIET)


async def receive_all(stream: Stream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += await stream.receive(1 << 20)
    return data


async def test_a_connection_serves_both_ways_whoever_dialled(nodes: Nodes) -> None:
    async with nodes(2) as (one, other):
        one.serve(ECHO, echo)
        other.serve(ECHO, echo)
        await one.dial(other.me, other.addresses)
        await until(lambda: other.peers())
        for here, there in ((one, other), (other, one)):
            stream = await here.open(there.me, ECHO)
            assert stream.peer == there.me
            await stream.send(b"hello")
            assert await stream.receive(100) == b"hello"
            await stream.close()


async def test_addresses_are_full_and_a_peer_is_dialled_by_them(nodes: Nodes) -> None:
    async with nodes(2) as (one, other):
        assert all(address.peer == one.me for address in one.addresses)
        await other.dial(one.me, [address.without_peer for address in one.addresses])
        assert other.peers() == {one.me}


async def test_a_second_dial_changes_nothing(nodes: Nodes) -> None:
    async with nodes(2) as (one, other):
        seen: list[tuple[PeerId, bool]] = []
        one.watch(lambda peer, connected: seen.append((peer, connected)))
        await one.dial(other.me, other.addresses)
        await one.dial(other.me, other.addresses)
        assert seen == [(other.me, True)]


async def test_a_stream_carries_megabytes_unharmed_while_the_reader_pauses(nodes: Nodes) -> None:
    data = bytes(range(256)) * (3 << 12)  # 3 MiB, beyond every window
    async with nodes(2) as (one, other), trio.open_nursery() as nursery:
        got = bytearray()
        ended = trio.Event()

        async def slow(stream: Stream) -> None:
            await wait_all_tasks_blocked(QUIET)  # the sender too: no window is left
            while part := await stream.receive(100_000):
                assert len(part) <= 100_000
                got.extend(part)
            ended.set()

        other.serve(ECHO, slow)
        await one.dial(other.me, other.addresses)
        stream = await one.open(other.me, ECHO)
        await stream.send(data)
        await stream.close()
        with trio.fail_after(LIMIT):
            await ended.wait()
        assert bytes(got) == data
        assert one.traffic.sent == other.traffic.received == len(data)
        assert one.traffic.by_peer[other.me] == (len(data), 0)
        nursery.cancel_scope.cancel()


async def ends(stream: Stream) -> bool:
    """Return whether nothing more comes: as a clean end, or as an error."""
    try:
        return await stream.receive(10) == b""
    except Unavailable:
        return True


async def test_a_reset_ends_the_stream_at_both_ends(nodes: Nodes) -> None:
    async with nodes(2) as (one, other):
        outcome: list[bool] = []
        begun = trio.Event()

        async def note(stream: Stream) -> None:
            await stream.receive(10)
            begun.set()
            outcome.append(await ends(stream))

        other.serve(ECHO, note)
        await one.dial(other.me, other.addresses)
        stream = await one.open(other.me, ECHO)
        await stream.send(b"x")
        await begun.wait()
        await stream.reset()
        await until(lambda: outcome == [True])
        with pytest.raises(Unavailable):
            await stream.send(b"more")


@pytest.mark.parametrize("error", [Unavailable("away"), RemoteProtocolError("garbage")])
async def test_a_raising_handler_resets_its_stream_and_no_more(
    nodes: Nodes, error: Exception
) -> None:
    async with nodes(2) as (one, other):

        async def fail(stream: Stream) -> None:
            await stream.receive(10)
            raise error

        other.serve("/test/fail/1", fail)
        other.serve(ECHO, echo)
        await one.dial(other.me, other.addresses)
        failing = await one.open(other.me, "/test/fail/1")
        await failing.send(b"x")
        with trio.fail_after(LIMIT):
            assert await ends(failing)
        stream = await one.open(other.me, ECHO)
        await stream.send(b"still here")
        assert await stream.receive(100) == b"still here"


async def test_opening_never_dials(nodes: Nodes) -> None:
    async with nodes(2) as (one, other):
        with pytest.raises(Unavailable, match="not connected"):
            await one.open(other.me, ECHO)
        await one.dial(other.me, other.addresses)
        with pytest.raises(Unavailable, match=ECHO):
            await one.open(other.me, ECHO)


async def test_watchers_and_the_other_end_learn_of_a_hang_up(nodes: Nodes) -> None:
    async with nodes(2) as (one, other):
        seen: list[tuple[PeerId, bool]] = []
        other.watch(lambda peer, connected: seen.append((peer, connected)))
        other.serve(ECHO, echo)
        await one.dial(other.me, other.addresses)
        stream = await one.open(other.me, ECHO)
        await one.hang_up(other.me)
        assert one.peers() == frozenset()
        await until(lambda: other.peers() == frozenset())
        assert seen == [(one.me, True), (one.me, False)]
        with pytest.raises(Unavailable):
            await stream.send(b"too late")
        await one.hang_up(other.me)  # nothing left: no error
        await one.dial(other.me, other.addresses)
        assert one.peers() == {other.me}


async def test_a_dial_says_why_it_failed_and_tries_every_address(nodes: Nodes) -> None:
    async with nodes(3) as (one, other, third):
        nobody = Address.parse("/ip4/127.0.0.1/tcp/1")
        with pytest.raises(Unavailable, match="connection refused at "):
            await one.dial(other.me, [nobody])
        with pytest.raises(Unavailable, match="another peer answers at "):
            await one.dial(other.me, third.addresses)
        with pytest.raises(Unavailable, match="no address known"):
            await one.dial(other.me, [])
        assert one.peers() == frozenset()
        await one.dial(other.me, [nobody, *other.addresses])
        assert one.peers() == {other.me}


async def test_the_ip_of_a_connected_peer_is_known(nodes: Nodes) -> None:
    async with nodes(2) as (one, other):
        assert one.remote_ip(other.me) is None
        await one.dial(other.me, other.addresses)
        await until(lambda: other.peers())
        assert one.remote_ip(other.me) == other.remote_ip(one.me) == "127.0.0.1"


async def test_a_banned_peer_is_neither_dialled_nor_kept(nodes: Nodes) -> None:
    async with nodes(2) as (one, other):
        one.gate(lambda peer: peer == other.me)
        with pytest.raises(Unavailable, match="banned"):
            await one.dial(other.me, other.addresses)
        await other.dial(one.me, one.addresses)
        await until(lambda: not other.peers() and not one.peers())


async def test_a_message_reaches_all_subscribers_but_its_author(nodes: Nodes) -> None:
    async with nodes(3) as (hub, one, other):
        for node in (one, other):
            await node.dial(hub.me, hub.addresses)
        channels = [await node.subscribe("news") for node in (hub, one, other)]
        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(_repeat, one, b"first"))
                for channel in (channels[0], channels[2]):
                    assert await channel.receive() == (one.me, b"first")
                nursery.cancel_scope.cancel()
        with pytest.raises(trio.WouldBlock):
            channels[1].receive_nowait()


async def _repeat(node: Transport, data: bytes) -> None:
    """Publish until the mesh stands: best effort is all that is promised before."""
    while True:
        await node.publish("news", data)
        await wait_all_tasks_blocked(QUIET)
