"""Pings.

Rules of this file: memory transport, virtual time.
"""

import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.network.directory import LIFE
from dipaco.node.network.liveness import PAUSE, Liveness
from dipaco.node.network.memory import MemoryNetwork, MemoryTransport
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.rpc import Rpc
from dipaco.protocol.wire.identity import PeerId
from tests.node.network.peers import PEERS


class Node:
    def __init__(self, transport: MemoryTransport) -> None:
        self.transport = transport
        self.me = transport.me
        self.heard: list[tuple[float, PeerId]] = []
        self.rpc = Rpc(transport, Reputation(transport))
        self.liveness = Liveness(
            transport,
            self.rpc,
            heard=lambda peer: self.heard.append((trio.current_time(), peer)),
            chance=random.Random(PEERS.index(self.me)),
        )


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[MemoryNetwork, Node, Node]]:
    network = MemoryNetwork()
    async with (
        network.join(PEERS[0]) as one,
        network.join(PEERS[1]) as other,
        trio.open_nursery() as nursery,
    ):
        nodes = Node(one), Node(other)
        for node in nodes:
            await nursery.start(node.rpc.run)
            await nursery.start(node.liveness.run)
        await one.dial(other.me, other.addresses)
        yield network, *nodes
        nursery.cancel_scope.cancel()


async def test_peers_hear_of_each_other_twice_within_the_life_of_a_record_by_one_ping_a_pause(
    autojump_clock: MockClock,
) -> None:
    async with pair() as (_, one, other):
        await trio.sleep(6000)
        for node, peer in ((one, other), (other, one)):
            times = [time for time, whom in node.heard if whom == peer.me]
            assert max(b - a for a, b in itertools.pairwise(times)) <= LIFE / 2
            assert len(times) <= 6000 / PAUSE[0] + 2
            assert peer.me in node.liveness.round_trips


async def test_a_frozen_peer_is_hung_up_after_three_misses(autojump_clock: MockClock) -> None:
    async with pair() as (network, one, other):
        await trio.sleep(60)
        network.freeze(other.me)
        before = trio.current_time()
        while one.transport.peers():
            await trio.sleep(0.1)
        assert 40 < trio.current_time() - before < 70
        assert one.liveness.round_trips == {}


async def test_a_peer_that_is_busy_for_a_while_is_kept(autojump_clock: MockClock) -> None:
    async with pair() as (network, one, other):
        for _ in range(5):
            await trio.sleep(60)
            network.freeze(other.me)
            await trio.sleep(15)
            network.thaw(other.me)
        assert one.transport.peers() == {other.me}


async def test_a_peer_that_returns_is_pinged_again(autojump_clock: MockClock) -> None:
    async with pair() as (network, one, other):
        await trio.sleep(1)
        network.disconnect(one.me, other.me)
        await trio.sleep(1)
        assert one.liveness.round_trips == {}
        await one.transport.dial(other.me, other.transport.addresses)
        await trio.sleep(35)
        assert one.liveness.round_trips == {other.me: pytest.approx(0, abs=0.1)}
