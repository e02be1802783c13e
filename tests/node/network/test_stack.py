"""The services together over libp2p, as the daemon runs them.

Rules of this file: real hosts on loopback, real time and threads; waits are for events.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from dipaco.node.network.exchange import Exchange
from dipaco.node.network.host import HostTransport, open_host
from dipaco.node.network.liveness import Liveness
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.rpc import CONTROL, Rpc
from dipaco.node.network.transport import Stream
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.wire.messages import Ping, Pong
from tests.node.network.breaches import BREACHES
from tests.node.network.peers import KEYS
from tests.node.network.test_shims import LISTEN
from tests.node.network.test_transport_contract import until

DATA = bytes(range(251)) * 80_000  # 20 MB: beyond a small blob, so chunks are large


class Node:
    def __init__(self, transport: HostTransport, folder: Path) -> None:
        self.transport = transport
        self.me = transport.me
        self.reputation = Reputation(transport)
        self.rpc = Rpc(transport, self.reputation)
        self.liveness = Liveness(transport, self.rpc)
        self.blobs = BlobStore(folder)
        self.exchange = Exchange(transport, self.rpc, self.reputation, self.blobs)

    async def ping(self, peer: "Node") -> None:
        await self.rpc.call(peer.me, Ping(), Pong, timeout=10)


@asynccontextmanager
async def nodes(tmp_path: Path, which: Iterable[int]) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        found = []
        for number in which:
            transport = await stack.enter_async_context(open_host(KEYS[number], listen=LISTEN))
            nursery = await stack.enter_async_context(trio.open_nursery())
            node = Node(transport, tmp_path / str(number))
            for service in (node.rpc, node.liveness, node.exchange):
                await nursery.start(service.run)
            stack.callback(nursery.cancel_scope.cancel)
            found.append(node)
        yield found


async def test_a_node_that_only_dialled_out_is_called_and_fetched_from(tmp_path: Path) -> None:
    async with nodes(tmp_path, [0, 1]) as (hub, guest):
        await guest.transport.dial(hub.me, hub.transport.addresses)
        await hub.ping(guest)
        await guest.ping(hub)
        digest = guest.blobs.write(DATA)
        with trio.fail_after(30):
            await hub.exchange.fetch(digest, length=len(DATA))
        assert hub.blobs.read(digest, len(DATA)) == DATA
        assert hub.transport.traffic.by_peer[guest.me][1] > len(DATA)


async def test_simultaneous_dials_leave_both_callable(tmp_path: Path) -> None:
    async with nodes(tmp_path, [0, 1]) as (one, other):
        async with trio.open_nursery() as nursery:
            for here, there in ((one, other), (other, one)):
                nursery.start_soon(here.transport.dial, there.me, there.transport.addresses)
        for _ in range(3):
            await one.ping(other)
            await other.ping(one)


async def test_a_node_that_returns_under_its_name_is_callable_again(tmp_path: Path) -> None:
    async with nodes(tmp_path, [1]) as (stays,):
        for number in (0, 0, 2, 2):  # one that opens the stream, one that waits for it
            async with nodes(tmp_path, [number]) as (returns,):
                await returns.transport.dial(stays.me, stays.transport.addresses)
                await returns.ping(stays)
                await stays.ping(returns)
            with pytest.raises(Unavailable):
                await stays.ping(returns)


@pytest.mark.parametrize("breach", ["garbage", "oversized", "not canonical"])
async def test_a_peer_that_breaks_the_protocol_is_hung_up_and_another_is_served(
    tmp_path: Path, breach: str
) -> None:
    async def offend(stream: Stream) -> None:
        await stream.send(BREACHES[breach])
        await stream.receive(1)

    async with nodes(tmp_path, [0, 1]) as (hub, honest), open_host(KEYS[2]) as offender:
        offender.serve(CONTROL, offend)
        await honest.transport.dial(hub.me, hub.transport.addresses)
        await offender.dial(hub.me, hub.transport.addresses)
        await until(lambda: hub.reputation.strikes(offender.me) == 1)
        await until(lambda: hub.transport.peers() == {honest.me})
        await until(lambda: not offender.peers())
        await honest.ping(hub)
