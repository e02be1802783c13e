"""The loop that keeps a node connected.

Rules of this file: memory transport, virtual time; directories are real ones; chance is seeded.
"""

import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.network.addresses import sign_records
from dipaco.node.network.dialer import LONGEST, Dialer
from dipaco.node.network.directory import Directory
from dipaco.node.network.memory import DIAL_TIMEOUT, MemoryNetwork, MemoryTransport
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.rpc import Rpc
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import PeerRecord
from dipaco.protocol.wire.signed import Signed, sign
from tests.node.network.peers import KEY_OF, PEERS
from tests.node.network.test_directory import Shelf

if TYPE_CHECKING:
    from trio_typing import TaskStatus


def address(peer: PeerId) -> Address:
    return Address("ip4", "127.0.0.1", 5000 + PEERS.index(peer), peer=peer)


class Node:
    def __init__(
        self, transport: MemoryTransport, seeds: list[Address], store: Shelf, low: int, high: int
    ) -> None:
        self.transport = transport
        self.me = transport.me
        self.reputation = Reputation(transport)
        self.rpc = Rpc(transport, self.reputation)
        self.store = store
        self.dialled: list[float] = []
        self.dialer = Dialer(
            transport,
            self.rpc,
            self.reputation,
            store,
            seeds=seeds,
            records=self.records,
            low=low,
            high=high,
            chance=random.Random(self.me),
        )

    def records(self) -> tuple[Signed, ...]:
        key = KEY_OF[self.me]
        return sign_records(key, self.transport.addresses, roles=(), runs=(), sequence=1)


class Swarm:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.network = MemoryNetwork()
        self._nursery = nursery
        self._scopes: dict[PeerId, trio.CancelScope] = {}

    async def join(
        self,
        peer: PeerId,
        *seeds: PeerId,
        store: Shelf | None = None,
        directory: bool = False,
        low: int = 16,
        high: int = 48,
    ) -> Node:
        def make(transport: MemoryTransport) -> Node:
            return Node(transport, list(map(address, seeds)), store or Shelf(), low, high)

        node: Node = await self._nursery.start(self._run, peer, make, directory)
        return node

    async def _run(
        self,
        peer: PeerId,
        make: Callable[[MemoryTransport], Node],
        directory: bool,
        task_status: "TaskStatus[Node]",
    ) -> None:
        with trio.CancelScope() as scope:
            self._scopes[peer] = scope
            port = 5000 + PEERS.index(peer)
            async with (
                self.network.join(peer, port=port) as transport,
                trio.open_nursery() as nursery,
            ):
                node = make(transport)
                if directory:
                    await nursery.start(Directory(transport, node.rpc, Shelf()).run)
                await nursery.start(node.rpc.run)
                await nursery.start(node.dialer.run)
                task_status.started(node)

    async def leave(self, node: Node) -> None:
        self._scopes[node.me].cancel()
        await trio.sleep(0.1)


@asynccontextmanager
async def swarms() -> AsyncIterator[Swarm]:
    async with trio.open_nursery() as nursery:
        yield Swarm(nursery)
        nursery.cancel_scope.cancel()


async def test_a_node_finds_all_others_through_one_seed(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        seed = await swarm.join(PEERS[0], directory=True)
        nodes = [await swarm.join(peer, seed.me) for peer in PEERS[1:6]]
        await trio.sleep(150)
        everyone = {node.me for node in (seed, *nodes)}
        for node in nodes:
            assert node.transport.peers() == everyone - {node.me}
            assert node.dialer.reason() is None
            assert node.dialer.observed == "127.0.0.1"


async def test_no_more_than_low_connections_are_dialled(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        seed = await swarm.join(PEERS[0], directory=True)
        for peer in PEERS[1:12]:
            await swarm.join(peer, seed.me, low=0)
        await trio.sleep(1)
        node = await swarm.join(PEERS[12], seed.me, low=4)
        await trio.sleep(300)
        assert len(node.transport.peers()) == 4


async def test_a_node_above_high_connections_hangs_up_on_some_but_never_a_seed(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        seed = await swarm.join(PEERS[0])
        node = await swarm.join(PEERS[1], seed.me, high=3)
        for peer in PEERS[2:8]:
            await swarm.join(peer, node.me, low=0)
            await trio.sleep(0.2)
        # those that are hung up on dial again for ever, as they must: look between
        for _ in range(20):
            await trio.sleep(0.7)
            assert len(node.transport.peers()) <= 4
            assert seed.me in node.transport.peers()


async def test_a_seed_that_is_away_is_dialled_for_ever_and_ever_less_often(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with swarms() as swarm:
        node = await swarm.join(PEERS[1], PEERS[0])
        await trio.sleep(0.5)
        reason = node.dialer.reason()
        assert reason is not None
        assert reason.startswith(
            "no seed answers (1 tried; last: connection refused at /ip4/127.0.0.1/tcp/5000), "
        )
        await trio.sleep(7200)
        assert node.dialer._candidates[PEERS[0]].cause.startswith("connection refused")
        back = trio.current_time()
        seed = await swarm.join(PEERS[0])
        while not node.transport.peers():
            await trio.sleep(0.1)
        assert trio.current_time() - back <= 1.25 * LONGEST
        assert node.transport.peers() == {seed.me}
        complaints = [r for r in caplog.records if "cannot reach seed" in r.message]
        assert len(complaints) == 1  # one line per cause, not one per try


async def test_after_half_a_minute_away_a_seed_is_found_within_seconds(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        seed = await swarm.join(PEERS[0])
        node = await swarm.join(PEERS[1], seed.me)
        await trio.sleep(10)
        assert node.transport.peers() == {seed.me}
        await swarm.leave(seed)
        await trio.sleep(30)
        await swarm.join(PEERS[0])
        await trio.sleep(7)
        assert node.transport.peers() == {seed.me}


async def test_the_reason_names_a_seed_that_is_silent(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        seed = await swarm.join(PEERS[0])
        swarm.network.freeze(seed.me)
        node = await swarm.join(PEERS[1], seed.me)
        assert node.dialer.reason() == "dialling 1 peer"
        await trio.sleep(DIAL_TIMEOUT + 0.1)
        assert "no answer within 8 s at " in (node.dialer.reason() or "")


async def test_without_any_seed_the_reason_says_how_to_name_one(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        node = await swarm.join(PEERS[0])
        assert node.dialer.reason() == "no seed is known: name one with --bootstrap"


async def test_a_node_never_dials_itself(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        node = await swarm.join(PEERS[0], PEERS[0])
        await trio.sleep(60)
        assert node.dialer.reason() == "no seed is known: name one with --bootstrap"


async def test_peers_are_remembered_and_found_again_without_the_seed(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        seed = await swarm.join(PEERS[0], directory=True)
        one = await swarm.join(PEERS[1], seed.me)
        other = await swarm.join(PEERS[2], seed.me)
        await trio.sleep(200)
        await swarm.leave(seed)
        await swarm.leave(other)
        await trio.sleep(60)
        assert one.transport.peers() == frozenset()
        back = await swarm.join(PEERS[2], seed.me, store=other.store)
        await trio.sleep(30)
        assert back.transport.peers() == {one.me}


async def test_a_damaged_memory_is_dropped(autojump_clock: MockClock) -> None:
    forged = sign(
        PeerRecord(peer=PEERS[5], addresses=("/ip4/1.1.1.1/tcp/1",), roles=(), runs=(), sequence=1),
        KEY_OF[PEERS[6]],
    )
    async with swarms() as swarm:
        node = await swarm.join(PEERS[0], store=Shelf(forged))
        await trio.sleep(1)
        assert node.dialer.reason() == "no seed is known: name one with --bootstrap"


@pytest.mark.parametrize("text", ["/dns4/a..b/tcp/1", "/ip4/1.1.1.1/tcp/0", "/ip4/1.1.1.1"])
async def test_an_address_that_nobody_can_dial_makes_no_candidate(
    autojump_clock: MockClock, text: str
) -> None:
    record = PeerRecord(peer=PEERS[5], addresses=(text,), roles=(), runs=(), sequence=1)
    async with swarms() as swarm:
        node = await swarm.join(PEERS[0], store=Shelf(sign(record, KEY_OF[PEERS[5]])))
        await trio.sleep(1)
        assert node.dialer.reason() == "no seed is known: name one with --bootstrap"


async def test_a_banned_seed_is_not_dialled_until_its_time_is_over(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        seed = await swarm.join(PEERS[0])
        node = await swarm.join(PEERS[1], seed.me)
        await trio.sleep(1)
        for _ in range(3):
            await node.reputation.blame(seed.me, "garbage")
        await trio.sleep(300)
        assert node.transport.peers() == frozenset()
        await trio.sleep(400)
        assert node.transport.peers() == {seed.me}


def test_a_seed_without_its_peer_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="names no peer"):
        Dialer(
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            Shelf(),
            seeds=[address(PEERS[0]).without_peer],
            records=tuple,
        )
