"""Several pulls of one ledger at once.

Rules of this file: memory transport, virtual time, real run stores and signatures; a ledger of more
parts than one, that of a run with as many paths as a grid may have.
"""

import random
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.network import gossip as gossip_module
from dipaco.node.network.gossip import SYNC, SYNC_LIMIT, Gossip
from dipaco.node.network.memory import MemoryNetwork, MemoryTransport
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.rpc import Rpc
from dipaco.node.runs.store import RunStore
from dipaco.node.storage.journal import Journal
from dipaco.protocol.run.manifest import Routing, run_id
from dipaco.protocol.run.model_shape import Grid, Level
from dipaco.protocol.run.modules import ModuleDigest
from dipaco.protocol.run.source import Source
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import (
    LEDGER_PART,
    AskInventory,
    Inventory,
    Item,
    LedgerPart,
    ReadLedger,
)
from dipaco.protocol.wire.signed import sign
from dipaco.protocol.work.kinds import Evaluated, Evaluation, Seeded
from dipaco.protocol.work.ledger import Entry, LedgerRecord, SpecAdopted
from dipaco.protocol.work.terms import FIRST_TERM, NO_RECORD
from tests.node.network.peers import PEERS
from tests.values import digest, key, manifest, peer

WIDE = manifest(
    source=Source(kind="synthetic", revision="1", files=(), documents=4000, window=4000),
    routing=Routing(sample=2048, dimension=64),
    grid=Grid(
        levels=(Level(experts=32, blocks=1), Level(experts=32, blocks=1)), path_specific_blocks=()
    ),
)
RUN = run_id(WIDE)


def _entries() -> Iterator[Entry]:
    yield SpecAdopted(epoch=0, spec=digest("spec"))
    yield Seeded(
        peer=peer("anna"),
        states=tuple(
            ModuleDigest(module=m, digest=digest(WIDE.topology.counterpart(m)))
            for m in WIDE.topology.modules
        ),
    )
    for path in range(WIDE.topology.paths):
        found = Evaluation(documents=1, tokens=2, nll=3.0)
        yield Evaluated(path=path, version=0, peer=peer("anna"), evaluation=found)


@cache
def ledger() -> tuple[bytes, ...]:
    records, previous = [], NO_RECORD
    for seq, entry in enumerate(_entries()):
        made = LedgerRecord(run=RUN, term=FIRST_TERM, seq=seq, previous=previous, entry=entry)
        signed = sign(made, key("scheduler"))
        records.append(encode(signed))
        previous = signed.body_digest
    return tuple(records)


class Node:
    """A peer that holds the first `length` records."""

    def __init__(self, transport: MemoryTransport, journal: Journal, length: int) -> None:
        self.me = transport.me
        self.transport = transport
        self.reputation = Reputation(transport)
        self.run_store = RunStore(journal)
        self.run_store.offer("manifest", encode(sign(WIDE, key("owner"))))
        self.run_store.keep(RUN)
        self.run_store.offer_ledger(RUN, ledger()[:length])
        self.gossip = Gossip(
            transport, self.reputation, self.run_store, chance=random.Random(self.me)
        )

    @property
    def length(self) -> int:
        return self.run_store.runs[RUN].length


class Swarm:
    """Nodes with journals in a folder."""

    def __init__(self, folder: Path, nursery: trio.Nursery, journals: ExitStack) -> None:
        self.network = MemoryNetwork()
        self._folder, self._nursery, self._journals = folder, nursery, journals

    async def join(self, name: PeerId, length: int) -> Node:
        journal = Journal.open(self._folder / f"{name}.sqlite")
        self._journals.callback(journal.close)
        node: Node = await self._nursery.start(self._run, name, journal, length)
        return node

    async def _run(
        self,
        name: PeerId,
        journal: Journal,
        length: int,
        task_status: "trio.TaskStatus[Node]",  # type: ignore[name-defined]
    ) -> None:
        async with self.network.join(name) as transport:
            node = Node(transport, journal, length)
            async with trio.open_nursery() as nursery:
                await nursery.start(node.gossip.run)
                task_status.started(node)


@pytest.mark.parametrize("first", ["shorter", "longer"])
async def test_two_honest_peers_with_heads_of_their_own_fill_a_ledger_and_get_no_strike(
    autojump_clock: MockClock, tmp_path: Path, first: str
) -> None:
    assert sum(map(len, ledger())) > LEDGER_PART
    whole, part = len(ledger()), len(ledger()) - 3
    lengths = {"shorter": (part, whole), "longer": (whole, part)}[first]
    with ExitStack() as journals:
        async with trio.open_nursery() as nursery:
            swarm = Swarm(tmp_path, nursery, journals)
            young = await swarm.join(PEERS[0], 0)
            peers = [
                await swarm.join(name, length)
                for name, length in zip(PEERS[1:3], lengths, strict=True)
            ]
            for other in peers:
                await young.transport.dial(other.me, other.transport.addresses)
            await trio.sleep(1)  # less than until the next comparison
            assert young.length == whole
            assert [young.reputation.strikes(other.me) for other in peers] == [0, 0]
            assert young.transport.peers() == {other.me for other in peers}
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("behind", [0, 2])
async def test_a_silent_peer_holds_up_a_ledger_no_longer_than_patience_lasts(
    autojump_clock: MockClock, tmp_path: Path, behind: int
) -> None:
    """The silent peer takes a part of the ledger's way, then answers only after a minute."""
    whole = len(ledger())
    with ExitStack() as journals:
        async with trio.open_nursery() as nursery:
            swarm = Swarm(tmp_path, nursery, journals)
            young = await swarm.join(PEERS[0], behind)
            raw = await nursery.start(_silent, swarm.network)
            await young.transport.dial(PEERS[1], raw.addresses)
            await trio.sleep(1)
            honest = await swarm.join(PEERS[2], whole)
            await young.transport.dial(honest.me, honest.transport.addresses)
            await trio.sleep(gossip_module.PATIENCE + gossip_module.PAUSE[1])
            assert young.length == whole
            await trio.sleep(60)  # the silent one's answer comes, with records held long since
            assert young.reputation.strikes(PEERS[1]) == 0
            nursery.cancel_scope.cancel()


async def _silent(network: MemoryNetwork, task_status: "trio.TaskStatus[MemoryTransport]") -> None:  # type: ignore[name-defined]
    async with network.join(PEERS[1]) as raw, trio.open_nursery() as nursery:
        rpc = Rpc(raw, Reputation(raw), protocol=SYNC, limit=SYNC_LIMIT)

        async def list_head(_peer: PeerId, _ask: AskInventory) -> Inventory:
            head = Item(kind="ledger", run=RUN, digest=digest("its head"), seq=len(ledger()))
            return Inventory(same=False, items=(head,))

        async def wait(_peer: PeerId, ask: ReadLedger) -> LedgerPart:
            await trio.sleep(50)
            return LedgerPart(records=ledger()[ask.first : ask.first + 3])

        rpc.handle(AskInventory, list_head)
        rpc.handle(ReadLedger, wait)
        await nursery.start(rpc.run)
        task_status.started(raw)


async def test_a_peer_that_answers_with_records_held_already_is_struck_and_asked_no_more(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    with ExitStack() as journals:
        async with trio.open_nursery() as nursery:
            swarm = Swarm(tmp_path, nursery, journals)
            young = await swarm.join(PEERS[0], 5)
            async with swarm.network.join(PEERS[1]) as raw:
                rpc = Rpc(raw, Reputation(raw), protocol=SYNC, limit=SYNC_LIMIT)
                asked = 0

                async def repeat(_peer: PeerId, _ask: ReadLedger) -> LedgerPart:
                    nonlocal asked
                    asked += 1
                    return LedgerPart(records=ledger()[:5])

                async def list_head(_peer: PeerId, _ask: AskInventory) -> Inventory:
                    head = Item(kind="ledger", run=RUN, digest=digest("its head"), seq=9)
                    return Inventory(same=False, items=(head,))

                rpc.handle(AskInventory, list_head)
                rpc.handle(ReadLedger, repeat)
                await nursery.start(rpc.run)
                await raw.dial(young.me, young.transport.addresses)
                await trio.sleep(1)
                assert (asked, young.reputation.strikes(PEERS[1])) == (1, 1)
                nursery.cancel_scope.cancel()
