"""Announcements and anti-entropy.

Rules of this file: memory transport, virtual time, a values in a dict that accepts what is
signed `good`; what a real values admits is tested where it lives.
"""

import random
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.network import gossip as gossip_module
from dipaco.node.network.gossip import LEDGER, SYNC, TOPIC, Gossip
from dipaco.node.network.memory import MemoryNetwork, MemoryTransport
from dipaco.node.network.reputation import STRIKES, Reputation
from dipaco.node.network.rpc import Rpc
from dipaco.protocol.errors import Refusal, RemoteProtocolError, Unavailable
from dipaco.protocol.wire.digest import Digest, sha256
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import (
    MAX_ITEMS,
    AskInventory,
    Inventory,
    Item,
    LedgerPart,
)
from dipaco.protocol.wire.signed import Signed
from tests.node.network.peers import PEERS

if TYPE_CHECKING:
    from trio_typing import TaskStatus

RUN = sha256(b"the run")


class Shelf:
    """A values: values that begin with `good` are valid, with `not yet` premature."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, Digest], bytes] = {}
        self.ledgers: dict[Digest, list[bytes]] = {}
        self.listings: dict[PeerId, frozenset[Digest]] = {}
        self.refused: set[Digest] = set()
        self.kept: set[Digest] = set()
        self.offered = 0
        self.wants: Callable[[bytes], bool] = lambda data: True

    def put(self, kind: str, data: bytes) -> Item:
        self.values[kind, sha256(data)] = data
        return Item(kind=kind, run=RUN, digest=sha256(data), seq=0)

    def append(self, *records: bytes) -> Item:
        ledger = self.ledgers.setdefault(RUN, [])
        ledger.extend(records)
        return Item(kind=LEDGER, run=RUN, digest=sha256(ledger[-1]), seq=len(ledger))

    def inventory(self) -> tuple[Item, ...]:
        values = [
            Item(kind=kind, run=RUN, digest=digest, seq=0) for kind, digest in reversed(self.values)
        ]
        ledgers = [
            Item(kind=LEDGER, run=run, digest=sha256(records[-1]), seq=len(records))
            for run, records in self.ledgers.items()
        ]
        return (*ledgers, *values)

    def lacks(self, item: Item, peer: PeerId) -> bool:
        if item.kind == LEDGER:
            return item.seq > self.length(item.run)
        return item.digest not in self.refused and (item.kind, item.digest) not in self.values

    def keeps(self, run: Digest) -> bool:
        return run in self.kept

    def length(self, run: Digest) -> int:
        return len(self.ledgers.get(run, ()))

    def refuse(self, digest: Digest) -> None:
        self.refused.add(digest)

    def read(self, kind: str, run: Digest, digest: Digest) -> bytes | None:
        return self.values.get((kind, digest))

    def read_ledger(self, run: Digest, first: int, limit: int) -> tuple[bytes, ...]:
        return tuple(self.ledgers.get(run, [])[first : first + 3])

    def read_part(self, run: Digest, first: int, limit: int) -> LedgerPart:
        return LedgerPart(records=self.read_ledger(run, first, limit))

    def offer(self, kind: str, data: bytes, *, run: Digest | None = None, origin: str = "") -> None:
        self.offered += 1
        if data.startswith(b"not yet"):
            raise Unavailable("its run is not known yet")
        if not data.startswith(b"good"):
            raise RemoteProtocolError("the signature is wrong")
        if not self.wants(data):
            raise Refusal("one too many")
        self.put(kind, data)

    def note_listing(self, peer: PeerId, runs: Collection[Digest]) -> None:
        self.listings[peer] = frozenset(runs)

    def note_offer(self, peer: PeerId, run: Digest) -> None:
        self.listings[peer] = self.listings.get(peer, frozenset()) | {run}

    def offer_ledger(
        self,
        run: Digest,
        records: tuple[bytes, ...],
        *,
        first: int | None = None,
        certificate: tuple[Signed, ...] = (),
    ) -> None:
        held = self.ledgers.get(run, [])
        fresh = [record for record in records if record not in held]
        for record in fresh:
            self.offer(LEDGER, record)
            del self.values[LEDGER, sha256(record)]
        if fresh:
            self.append(*fresh)


class Node:
    def __init__(self, transport: MemoryTransport, shelf: Shelf) -> None:
        self.transport = transport
        self.me = transport.me
        self.reputation = Reputation(transport)
        self.shelf = shelf
        self.gossip = Gossip(transport, self.reputation, shelf, chance=random.Random(transport.me))


class Swarm:
    """Nodes that join, leave and return with what they held."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.network = MemoryNetwork()
        self._nursery = nursery
        self._scopes: dict[PeerId, trio.CancelScope] = {}

    async def join(self, peer: PeerId, shelf: Shelf | None = None, *to: Node) -> Node:
        node: Node = await self._nursery.start(self._run, peer, shelf or Shelf())
        for other in to:
            await node.transport.dial(other.me, other.transport.addresses)
        return node

    async def _run(self, peer: PeerId, shelf: Shelf, task_status: "TaskStatus[Node]") -> None:
        with trio.CancelScope() as scope:
            self._scopes[peer] = scope
            async with self.network.join(peer) as transport, trio.open_nursery() as nursery:
                node = Node(transport, shelf)
                await nursery.start(node.gossip.run)
                task_status.started(node)

    async def leave(self, node: Node) -> None:
        self._scopes[node.me].cancel()
        await trio.sleep(0.1)


@asynccontextmanager
async def swarms() -> AsyncIterator[Swarm]:
    async with trio.open_nursery() as nursery:
        yield Swarm(nursery)
        nursery.cancel_scope.cancel()


async def test_a_late_joiner_gets_everything_on_connecting(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        old = await swarm.join(PEERS[0])
        for kind in ("receipt", "spec", "manifest"):
            old.shelf.put(kind, b"good " + kind.encode())
        old.shelf.append(*(b"good %d" % n for n in range(10)))
        young = await swarm.join(PEERS[1], None, old)
        await trio.sleep(1)
        assert young.shelf.values == old.shelf.values
        assert list(young.shelf.values) == list(reversed(old.shelf.values))  # manifest first
        assert young.shelf.ledgers == old.shelf.ledgers


async def test_an_announcement_brings_a_value_at_once(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        hub = await swarm.join(PEERS[0])
        others = [await swarm.join(peer, None, hub) for peer in PEERS[1:5]]
        await trio.sleep(1)
        before = trio.current_time()
        await hub.gossip.announce(hub.shelf.put("manifest", b"good news"), 9)
        while any(other.shelf.values != hub.shelf.values for other in others):
            await trio.sleep(0.01)
        assert trio.current_time() - before < 0.1
        await hub.gossip.announce(hub.shelf.append(b"good record"), 11)
        await trio.sleep(0.1)
        assert all(other.shelf.ledgers == hub.shelf.ledgers for other in others)


async def test_what_a_stranger_announced_comes_from_a_neighbour(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        hub = await swarm.join(PEERS[0])
        author = await swarm.join(PEERS[1], None, hub)
        far = await swarm.join(PEERS[2], None, hub)
        await trio.sleep(1)
        await author.gossip.announce(author.shelf.put("receipt", b"good"), 4)
        await trio.sleep(2)
        assert far.shelf.values == author.shelf.values


async def test_without_any_announcement_all_agree_within_half_a_minute(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        one = await swarm.join(PEERS[0])
        other = await swarm.join(PEERS[1], None, one)
        await trio.sleep(1)
        one.shelf.put("spec", b"good, and never announced")
        await trio.sleep(gossip_module.PAUSE[1] + 1)
        assert other.shelf.values == one.shelf.values


async def test_a_peers_runs_are_listed_once_all_that_it_holds_has_come(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with swarms() as swarm:
        seed, slow = await swarm.join(PEERS[0]), await swarm.join(PEERS[1])
        for old in (seed, slow):
            old.shelf.put("manifest", b"good manifest")
            old.shelf.append(*(b"good %d" % n for n in range(10)))
        read = slow.shelf.read_ledger

        def freezes(run: Digest, first: int, limit: int) -> tuple[bytes, ...]:
            swarm.network.freeze(slow.me)
            return read(run, first, limit)

        monkeypatch.setattr(slow.shelf, "read_ledger", freezes)
        young = await swarm.join(PEERS[2], None, slow)
        await trio.sleep(1)
        assert young.shelf.values and not young.shelf.ledgers
        await young.transport.dial(seed.me, seed.transport.addresses)
        await trio.sleep(5)
        monkeypatch.undo()
        swarm.network.thaw(slow.me)
        while seed.me not in young.shelf.listings:
            await trio.sleep(0.001)
        assert young.shelf.listings[seed.me] == {RUN}
        assert young.shelf.ledgers == seed.shelf.ledgers


async def test_both_sides_of_a_partition_heal(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        one = await swarm.join(PEERS[0])
        other = await swarm.join(PEERS[1], None, one)
        swarm.network.cut(one.me, other.me)
        one.shelf.put("receipt", b"good on one side")
        other.shelf.put("receipt", b"good on the other")
        await trio.sleep(60)
        assert one.shelf.values != other.shelf.values
        swarm.network.mend(one.me, other.me)
        await one.transport.dial(other.me, other.transport.addresses)
        await trio.sleep(1)
        assert one.shelf.values == other.shelf.values
        assert len(one.shelf.values) == 2


async def test_a_restarted_node_catches_up(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        stays = await swarm.join(PEERS[0])
        leaves = await swarm.join(PEERS[1], None, stays)
        stays.shelf.append(b"good 0", b"good 1")
        await trio.sleep(40)
        await swarm.leave(leaves)
        stays.shelf.append(b"good 2", b"good 3", b"good 4", b"good 5")
        back = await swarm.join(PEERS[1], leaves.shelf, stays)
        await trio.sleep(1)
        assert back.shelf.ledgers == stays.shelf.ledgers
        assert back.shelf.offered == 6  # two before, and only the four new ones since


async def test_what_is_spread_is_held_by_every_peer_when_it_returns(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        leaver = await swarm.join(PEERS[0])
        others = [await swarm.join(peer, None, leaver) for peer in PEERS[1:4]]
        await trio.sleep(1)
        before = trio.current_time()
        item = leaver.shelf.put("receipt", b"good bye")
        assert await leaver.gossip.spread(item, 8, within=5.0) == 3
        assert trio.current_time() - before < 1.0
        assert all(other.shelf.values == leaver.shelf.values for other in others)


async def test_a_peer_that_is_frozen_or_gone_holds_up_what_is_spread_no_longer_than_asked(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        leaver = await swarm.join(PEERS[0])
        listens = await swarm.join(PEERS[1], None, leaver)
        frozen = await swarm.join(PEERS[2], None, leaver)
        await trio.sleep(1)
        swarm.network.freeze(frozen.me)
        before = trio.current_time()
        item = leaver.shelf.put("receipt", b"good bye")
        assert await leaver.gossip.spread(item, 8, within=5.0) == 1
        assert 4.9 < trio.current_time() - before < 5.1
        assert listens.shelf.values == leaver.shelf.values
        await swarm.leave(listens)
        swarm.network.kill(frozen.me)
        await trio.sleep(1)
        assert await leaver.gossip.spread(item, 8, within=5.0) == 0


async def test_equal_inventories_are_not_sent(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        one = await swarm.join(PEERS[0])
        for number in range(200):
            one.shelf.put("receipt", b"good %d" % number)
        other = await swarm.join(PEERS[1], None, one)
        await trio.sleep(60)
        assert len(other.shelf.values) == 200
        before = one.transport.traffic.sent
        await trio.sleep(60)
        assert one.transport.traffic.sent - before < 2000  # a few digests and no list


async def test_inventories_hold_the_most_recent_of_each_kind(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        one = await swarm.join(PEERS[0])
        for number in range(MAX_ITEMS + 5):
            one.shelf.put("receipt", b"good %d" % number)
        one.shelf.put("manifest", b"good")
        items, _ = one.gossip._inventory()
        assert len(items) == MAX_ITEMS + 1
        kept = {item.digest for item in items}
        assert sha256(b"good 4") not in kept
        assert {sha256(b"good 5"), sha256(b"good %d" % (MAX_ITEMS + 4))} < kept


@pytest.mark.parametrize("how", ["compared", "announced"])
async def test_whoever_hands_on_a_false_value_is_hung_up(
    autojump_clock: MockClock, how: str
) -> None:
    async with swarms() as swarm:
        victim = await swarm.join(PEERS[0])
        honest = await swarm.join(PEERS[1], None, victim)
        forger = await swarm.join(PEERS[2])
        if how == "compared":
            forger.shelf.put("spec", b"forged")
        await forger.transport.dial(victim.me, victim.transport.addresses)
        await trio.sleep(1)
        if how == "announced":
            await forger.gossip.announce(forger.shelf.put("spec", b"forged"), 6)
            await trio.sleep(1)
        assert victim.reputation.strikes(forger.me) == 1
        assert forger.me not in victim.transport.peers()
        await honest.gossip.announce(honest.shelf.put("spec", b"good"), 4)
        await trio.sleep(1)
        assert victim.shelf.values == honest.shelf.values


@pytest.mark.parametrize("words", [b"", b"garbage", b"\xa0", bytes(5000)])
async def test_whoever_announces_garbage_is_hung_up(
    autojump_clock: MockClock, words: bytes
) -> None:
    async with swarms() as swarm:
        victim = await swarm.join(PEERS[0])
        offender = await swarm.join(PEERS[1], None, victim)
        await trio.sleep(1)
        await offender.transport.publish(TOPIC, words)
        await trio.sleep(1)
        assert victim.reputation.strikes(offender.me) == 1
        assert victim.transport.peers() == frozenset()


async def test_what_is_not_wanted_is_asked_for_once(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        one = await swarm.join(PEERS[0])
        other = await swarm.join(PEERS[1])
        other.shelf.wants = lambda data: False
        one.shelf.put("manifest", b"good, but not wanted")
        await one.transport.dial(other.me, other.transport.addresses)
        await trio.sleep(300)
        assert other.shelf.offered == 1
        assert other.reputation.strikes(one.me) == 0


async def test_what_cannot_be_judged_yet_is_asked_for_again(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        one = await swarm.join(PEERS[0])
        other = await swarm.join(PEERS[1])
        one.shelf.put("receipt", b"not yet")
        one.shelf.put("receipt", b"good")
        await one.transport.dial(other.me, other.transport.addresses)
        await trio.sleep(100)
        assert other.shelf.offered > 3
        assert sha256(b"good") in {digest for _, digest in other.shelf.values}


async def test_other_bytes_than_those_asked_for_cost_a_strike_and_hide_no_true_value(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        victim = await swarm.join(PEERS[0])
        liar = await swarm.join(PEERS[1])
        liar.shelf.values["spec", sha256(b"good truth")] = b"good, but something else"
        await liar.transport.dial(victim.me, victim.transport.addresses)
        await trio.sleep(1)
        assert victim.shelf.offered == 0 and victim.reputation.strikes(liar.me) == 1
        honest = await swarm.join(PEERS[2])
        honest.shelf.put("spec", b"good truth")
        await honest.transport.dial(victim.me, victim.transport.addresses)
        await trio.sleep(1)
        assert b"good truth" in victim.shelf.values.values()


async def test_a_kind_of_a_newer_version_is_left_alone(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        one = await swarm.join(PEERS[0])
        one.shelf.put("hologram", b"good in five years")
        other = await swarm.join(PEERS[1], None, one)
        await trio.sleep(60)
        assert other.shelf.offered == 0
        assert other.transport.peers() == {one.me}


async def test_a_listing_beyond_the_bound_costs_a_strike(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        victim = await swarm.join(PEERS[0])
        async with swarm.network.join(PEERS[1]) as raw, trio.open_nursery() as nursery:
            offender = Rpc(raw, Reputation(raw), protocol=SYNC, limit=1 << 22)
            items = tuple(
                Item(kind="receipt", run=RUN, digest=sha256(b"%d" % n), seq=0)
                for n in range(MAX_ITEMS + 1)
            )

            async def answer(_peer: PeerId, _ask: AskInventory) -> Inventory:
                return Inventory(same=False, items=items)

            offender.handle(AskInventory, answer)
            await nursery.start(offender.run)
            await raw.dial(victim.me, victim.transport.addresses)
            await trio.sleep(1)
            assert victim.reputation.strikes(PEERS[1]) == 1
            nursery.cancel_scope.cancel()


async def test_garbage_of_a_banned_author_that_others_hand_on_is_dropped_in_silence(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with swarms() as swarm:
        victim = await swarm.join(PEERS[0])
        async with swarm.network.join(PEERS[1]) as hub, swarm.network.join(PEERS[2]) as offender:
            await hub.subscribe(TOPIC)  # and judges nobody
            for other in (victim.transport, offender):
                await hub.dial(other.me, other.addresses)
            for _ in range(50):
                await offender.publish(TOPIC, b"garbage")
                await trio.sleep(0.1)
        blamed = [r for r in caplog.records if r.levelname == "WARNING"]
        assert len(blamed) == 2  # hung up, then banned
        assert victim.reputation.strikes(offender.me) == STRIKES
        assert victim.reputation.banned(offender.me)
