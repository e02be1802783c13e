"""What a peer's inventory and announcements can make this node ask for.

Rules of this file: as those of test_gossip.py; strangers answer by hand.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.network import gossip as gossip_module
from dipaco.node.network.gossip import HOLLOW, PAUSE, PULLED_PER_MINUTE, SYNC, SYNC_LIMIT, TOPIC
from dipaco.node.network.memory import MemoryTransport
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.rpc import Rpc
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import Digest, sha256
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import (
    Announcement,
    AskInventory,
    Inventory,
    Item,
    LedgerPart,
    ReadLedger,
    ReadValue,
    Value,
)
from tests.node.network.peers import PEERS
from tests.node.network.test_gossip import RUN, Node, Shelf, Swarm, swarms

if TYPE_CHECKING:
    from trio_typing import TaskStatus


def named(kind: str, number: int, run: Digest = RUN) -> Item:
    return Item(kind=kind, run=run, digest=sha256(b"%s %d" % (kind.encode(), number)), seq=0)


class Stranger:
    """A peer that names what it likes, and counts what it is asked."""

    def __init__(self, items: tuple[Item, ...]) -> None:
        self.items = items
        self.transport: MemoryTransport
        self.listed = 0
        self.asked: list[Item] = []
        self.answer: Callable[[Item], Awaitable[Value]] = self.nothing

    async def nothing(self, _item: Item) -> Value:
        return Value(data=None)

    async def list(self, _peer: PeerId, _ask: AskInventory) -> Inventory:
        self.listed += 1
        return Inventory(same=False, items=self.items)

    async def value(self, _peer: PeerId, ask: ReadValue) -> Value:
        self.asked.append(ask.item)
        return await self.answer(ask.item)

    async def run(self, swarm: Swarm, me: PeerId, task_status: "TaskStatus[None]") -> None:
        async with swarm.network.join(me) as self.transport, trio.open_nursery() as nursery:
            await self.transport.subscribe(TOPIC)
            rpc = Rpc(self.transport, Reputation(self.transport), protocol=SYNC, limit=SYNC_LIMIT)
            rpc.handle(AskInventory, self.list)
            rpc.handle(ReadValue, self.value)
            await nursery.start(rpc.run)
            task_status.started()

    async def meet(self, swarm: Swarm, node: Node, me: PeerId) -> None:
        await swarm._nursery.start(self.run, swarm, me)
        await self.transport.dial(node.me, node.transport.addresses)


async def test_a_hollow_inventory_costs_a_few_requests_and_no_strike(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        node = await swarm.join(PEERS[0])
        hollow = Stranger(tuple(named("receipt", n) for n in range(1000)))
        await hollow.meet(swarm, node, PEERS[5])
        await trio.sleep(1)
        assert len(hollow.asked) == HOLLOW  # 1000 before
        assert node.reputation.strikes(PEERS[5]) == 0
        honest = await swarm.join(PEERS[1], None, node)
        honest.shelf.put("spec", b"good spec")
        await trio.sleep(4 * PAUSE[1])
        assert node.shelf.values == honest.shelf.values


async def test_a_stranger_brings_so_many_values_a_minute(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        node = await swarm.join(PEERS[0])
        values = {named("receipt", n).digest: b"good %d" % n for n in range(1000)}
        values = {sha256(data): data for data in values.values()}
        items = tuple(Item(kind="receipt", run=RUN, digest=d, seq=0) for d in values)
        rich = Stranger(items)

        async def answer(item: Item) -> Value:
            return Value(data=values[item.digest])

        rich.answer = answer
        await rich.meet(swarm, node, PEERS[5])
        await trio.sleep(1)
        assert len(rich.asked) <= PULLED_PER_MINUTE + 10  # 1000 before
        await trio.sleep(3 * 60)
        assert len(node.shelf.values) == 1000


async def test_the_values_of_ones_own_run_come_first(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        node = await swarm.join(PEERS[0])
        own = sha256(b"own")
        node.shelf.kept.add(own)
        kinds = ("receipt", "spec", "manifest")
        foreign = [named(kind, n) for kind in kinds for n in range(9)]
        wanted = [named(kind, 100, own) for kind in kinds]
        stranger = Stranger((*foreign, *wanted))
        await stranger.meet(swarm, node, PEERS[5])
        await trio.sleep(1)
        assert stranger.asked[:3] == wanted[::-1]  # number 10, 20 and 30 before


async def test_announcements_that_lead_to_no_answer_leave_places_for_others(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        node = await swarm.join(PEERS[0])
        silent = Stranger(())

        async def never(_item: Item) -> Value:
            await trio.sleep(59)
            return Value(data=None)

        silent.answer = never
        await silent.meet(swarm, node, PEERS[5])
        await trio.sleep(1)
        for number in range(100):
            news = Announcement(item=named("receipt", number), size=9)
            await silent.transport.publish(TOPIC, encode(news))
        await trio.sleep(1)
        honest = await swarm.join(PEERS[1], None, node)
        await honest.gossip.announce(honest.shelf.put("spec", b"good spec"), 9)
        await trio.sleep(1)
        assert node.shelf.values == honest.shelf.values  # nothing for a minute before


async def test_strangers_that_list_nothing_are_not_compared_with_for_ever(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        node = await swarm.join(PEERS[0])
        honest = await swarm.join(PEERS[1], None, node)
        await trio.sleep(1)
        for peer in PEERS[5:8]:
            await Stranger(tuple(named("receipt", n) for n in range(9))).meet(swarm, node, peer)
        honest.shelf.put("spec", b"good spec")
        node.reputation.vouch({honest.me}.__contains__)
        for _ in range(20):
            node.gossip._compare_with_any()
            await trio.sleep(1)
        assert node.shelf.values == honest.shelf.values


async def test_the_loop_has_time_for_others_between_the_parts_of_a_ledger(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gossip_module, "SLICE", 2)
    taken: list[int] = []
    shelf = Shelf()

    def take(run: Digest, records: tuple[bytes, ...], **told: Any) -> None:
        taken.append(len(records))
        Shelf.offer_ledger(shelf, run, records, **told)

    shelf.offer_ledger = take  # type: ignore[method-assign]
    async with swarms() as swarm:
        node = await swarm.join(PEERS[0], shelf)
        honest = await swarm.join(PEERS[1])
        honest.shelf.append(*(b"good %d" % n for n in range(10)))

        async def whole(_peer: PeerId, ask: ReadLedger) -> LedgerPart:
            return LedgerPart(records=tuple(honest.shelf.ledgers[RUN][ask.first :]))

        honest.gossip._rpc.handle(ReadLedger, whole)
        await honest.transport.dial(node.me, node.transport.addresses)
        await trio.sleep(1)
        assert taken == [2] * 5
