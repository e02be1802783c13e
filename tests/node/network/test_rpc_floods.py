"""What calls may cost: bytes that wait for a peer to read, and requests per second.

Rules of this file: memory transport, virtual time; the hub has the smallest PeerID, so that an
offender serves the hub's own stream and writes to it whatever it likes.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.network import call_budget, outbox
from dipaco.node.network import rpc as rpc_module
from dipaco.node.network.framing import frame
from dipaco.node.network.gossip import SYNC, SYNC_LIMIT
from dipaco.node.network.memory import MemoryNetwork, MemoryTransport
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.rpc import Rpc
from dipaco.node.network.transport import Stream
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import sha256
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import (
    AskInventory,
    Inventory,
    Item,
    ReadValue,
    Reply,
    Request,
    Value,
)
from tests.node.network.peers import PEERS

ITEM = Item(kind="spec", run=sha256(b"run"), digest=sha256(b"spec"), seq=0)
ASK = ReadValue(item=ITEM)
SPEC = Value(data=bytes(1 << 20))
Act = Callable[[Stream], Awaitable[None]]


class Hub:
    """A node that serves values of 1 MiB and empty inventories, and counts the calls."""

    def __init__(self, transport: MemoryTransport) -> None:
        self.transport = transport
        self.reputation = Reputation(transport)
        self.rpc = Rpc(transport, self.reputation, protocol=SYNC, limit=SYNC_LIMIT)
        self.rpc.handle(ReadValue, self.read)
        self.rpc.handle(AskInventory, self.list)
        self.asked: list[PeerId] = []

    async def read(self, peer: PeerId, _ask: ReadValue) -> Value:
        self.asked.append(peer)
        return SPEC

    async def list(self, peer: PeerId, _ask: AskInventory) -> Inventory:
        self.asked.append(peer)
        return Inventory(same=True, items=())


class Swarm:
    """A hub, honest nodes, and offenders that do what they are told on the hub's stream."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.network, self._nursery = MemoryNetwork(), nursery
        self.hub: Hub
        self.ends: list[trio.Event] = []

    async def join(self, peer: PeerId, ip: str = "9.9.9.9") -> Hub:
        transport: MemoryTransport = await self._nursery.start(self._join, peer, ip)
        node = Hub(transport)
        await self._nursery.start(node.rpc.run)
        return node

    async def offend(self, peer: PeerId, act: Act, ip: str = "9.9.9.9") -> MemoryTransport:
        transport: MemoryTransport = await self._nursery.start(self._join, peer, ip)
        transport.serve(SYNC, act)
        await self.meet(transport)
        return transport

    async def meet(self, transport: MemoryTransport) -> None:
        await transport.dial(self.hub.transport.me, self.hub.transport.addresses)

    async def _join(self, peer: PeerId, ip: str, task_status: object) -> None:
        async with self.network.join(peer, ip=ip) as transport:
            task_status.started(transport)  # type: ignore[attr-defined]
            await trio.sleep_forever()


@asynccontextmanager
async def swarms() -> AsyncIterator[Swarm]:
    async with trio.open_nursery() as nursery:
        swarm = Swarm(nursery)
        swarm.hub = await swarm.join(PEERS[0], "7.7.7.7")
        yield swarm
        nursery.cancel_scope.cancel()


def asking(count: int, ask: ReadValue | AskInventory, *, read: bool) -> Act:
    kind, body = type(ask).__name__, encode(ask)

    async def act(stream: Stream) -> None:
        async with trio.open_nursery() as nursery:
            if read:
                nursery.start_soon(_swallow, stream)
            for number in range(count):
                await stream.send(frame(encode(Request(id=number, kind=kind, body=body))))
            await trio.sleep_forever()

    return act


async def _swallow(stream: Stream) -> None:
    while await stream.receive(1 << 20):
        pass


async def test_for_a_peer_that_does_not_read_two_answers_wait_and_it_is_hung_up(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        mute = await swarm.offend(PEERS[9], asking(rpc_module.SERVED, ASK, read=False))
        await trio.sleep(5)
        assert len(swarm.hub.asked) <= rpc_module.LINE  # 32 before, with 32 MiB of answers
        assert mute.peers()
        await trio.sleep(rpc_module.STALL)
        assert not mute.peers()
        assert swarm.hub.reputation.strikes(PEERS[9]) == 0


async def test_a_peer_that_reads_slowly_gets_all_that_it_asked_for(
    autojump_clock: MockClock,
) -> None:
    count, got = 16, 0

    async def act(stream: Stream) -> None:
        nonlocal got
        await asking_soon(stream)
        while data := await stream.receive(16 << 10):  # 1 Mbit/s
            got += len(data)
            await trio.sleep(len(data) / 125_000)

    async def asking_soon(stream: Stream) -> None:
        for number in range(count):
            body = encode(ASK)
            await stream.send(frame(encode(Request(id=number, kind="ReadValue", body=body))))

    async with swarms() as swarm:
        slow = await swarm.offend(PEERS[9], act)
        await trio.sleep(count * 9 + 10)
        assert got > count << 20
        assert slow.peers()


async def test_strangers_that_do_not_read_have_a_share_of_memory_and_others_are_served(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "SLOW", 4.0)
    async with swarms() as swarm:
        swarm.hub.rpc._stock.most = most = 8 << 20
        for peer in PEERS[9:29]:
            await swarm.offend(peer, asking(4, ASK, read=False))
        await trio.sleep(2)
        assert 0 < swarm.hub.rpc._stock.used <= most
        assert len(swarm.hub.asked) <= most >> 20  # 80 before
        honest = await swarm.join(PEERS[8], "8.8.8.8")
        await swarm.meet(honest.transport)
        answer = await honest.rpc.call(PEERS[0], ASK, Value, timeout=10)
        assert answer == SPEC


async def test_room_is_given_back_whatever_becomes_of_an_answer(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        honest = await swarm.join(PEERS[8])
        await swarm.meet(honest.transport)
        for _ in range(3):
            assert await honest.rpc.call(PEERS[0], ASK, Value, timeout=10) == SPEC
        mute = await swarm.offend(PEERS[9], asking(8, ASK, read=False))
        await trio.sleep(1)
        await mute.hang_up(PEERS[0])
        await trio.sleep(1)
        assert swarm.hub.rpc._stock.used == 0
        assert len(swarm.hub.rpc._stock.outboxes) == 1


async def test_a_flood_of_calls_waits_at_its_own_end_and_others_do_not(
    autojump_clock: MockClock,
) -> None:
    ask = AskInventory(summary=sha256(b""))
    async with swarms() as swarm:
        await swarm.offend(PEERS[9], asking(10_000, ask, read=True))
        honest = await swarm.join(PEERS[8])  # of the same prefix
        await swarm.meet(honest.transport)
        for _ in range(10):
            await trio.sleep(1)
            asked = trio.current_time()
            await honest.rpc.call(PEERS[0], ask, Inventory, timeout=10)
            assert trio.current_time() - asked < 0.5
        rate, reserve = call_budget.PEER
        flood = swarm.hub.asked.count(PEERS[9])
        assert flood <= reserve + 11 * rate  # 10,000 before


async def test_answers_that_nobody_asked_for_wait_too(autojump_clock: MockClock) -> None:
    sent = 0

    async def act(stream: Stream) -> None:
        nonlocal sent
        for number in range(1000):
            await stream.send(frame(encode(Reply(id=number, body=bytes(1 << 20)))))
            sent += 1

    async with swarms() as swarm:
        await swarm.offend(PEERS[9], act)
        await trio.sleep(10)
        rate, reserve = call_budget.PEER
        assert sent <= (reserve + 10 * rate) / 64 + 1  # 1000 before


async def test_an_honest_start_of_a_large_run_does_not_wait(autojump_clock: MockClock) -> None:
    ask = AskInventory(summary=sha256(b""))
    async with swarms() as swarm:
        honest = await swarm.join(PEERS[8])
        await swarm.meet(honest.transport)

        async def call() -> None:
            await honest.rpc.call(PEERS[0], ask, Inventory, timeout=5)

        async with trio.open_nursery() as nursery:
            for _ in range(1100):
                nursery.start_soon(call)
        assert trio.current_time() < 1


def test_budgets_are_bounded_and_known_peers_share_with_nobody() -> None:
    known = {PEERS[1]}
    budget = call_budget.CallBudget(known.__contains__, lambda peer: "9.9.9.0/24", now=0.0)
    for number in range(call_budget.MAX_KEYS + 9):
        wait = budget.spend(PeerId(f"peer {number}"), now=0.0, calls=10)
    assert len(budget) == call_budget.MAX_KEYS
    assert wait > 1
    assert budget.spend(PEERS[1], now=0.0) == 0
    assert budget.spend(PEERS[1], size=call_budget.UNIT * 9_000, now=0.0) > 1
