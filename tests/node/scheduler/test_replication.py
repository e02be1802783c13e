"""A scheduler that takes over from keepers in memory; its own ledger is a real store."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from dipaco.node.network.rpc import Rpc
from dipaco.node.runs.store import RunStore
from dipaco.node.scheduler.replication import Replication
from dipaco.node.storage.journal import Journal
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.signed import open_signed, sign
from dipaco.protocol.work.calls import AskCosign, AskKeep, AskPromise, ReadTail
from dipaco.protocol.work.ledger import LedgerRecord, TermBegun
from tests.protocol.work.keepers import (
    KEEPERS,
    MANIFEST,
    RUN,
    SCHEDULERS,
    Holder,
    acceptance,
    extended,
    head_of,
)
from tests.values import key, peer

TAIL = extended((), term=0, count=2)
"""Records that keepers signed, of which nobody has a certificate."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    journal = Journal.open(tmp_path / "journal.sqlite")
    made = RunStore(journal, peer(SCHEDULERS[1]))
    made.offer("manifest", encode(sign(MANIFEST, key("owner"))))
    made.keep(RUN)
    yield made
    journal.close()


@dataclass
class Line:
    """The line of the second scheduler to the keepers."""

    keepers: dict[PeerId, Holder]

    async def call(self, keeper: PeerId, ask: object, *kinds: type, timeout: float) -> object:
        holder = self.keepers[keeper]
        if isinstance(ask, ReadTail):
            asker = peer(SCHEDULERS[1])
            return holder.keeper.tail_part(holder.state, holder.final, asker, ask)
        assert isinstance(ask, AskPromise | AskCosign | AskKeep)
        return holder.ask(SCHEDULERS[1], ask)


async def test_a_term_that_goes_on_from_records_that_are_not_final_yet_begins(
    store: RunStore,
) -> None:
    kept = acceptance(0, 1)
    ask = AskKeep(run=RUN, term=0, acceptances=(kept,))
    holders = {peer(name): Holder(name) for name in KEEPERS}
    for holder in holders.values():
        holder.cosign(TAIL)
        holder.ask(SCHEDULERS[0], ask)
    record = store.runs[RUN]
    line = cast(Rpc, Line(holders))
    replication = Replication(record, store, line, key(SCHEDULERS[1]), peer(SCHEDULERS[1]))
    assert await replication.begin(1) == (kept,)
    assert (replication.term, replication.before, record.length) == (1, 0, len(TAIL) + 1)
    assert record.digests[: len(TAIL)] == [each.body_digest for each in TAIL]
    last = open_signed(store.read_records(RUN, 2, 1 << 20)[0], LedgerRecord)
    assert isinstance(last.entry, TermBegun) and last.previous == head_of(TAIL).digest
