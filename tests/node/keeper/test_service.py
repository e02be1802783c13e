"""A keeper's shell: it saves before it answers, and answers nobody who may not ask."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dipaco.node.keeper.service import KeeperService, KeptRun
from dipaco.node.network.exchange import Exchange
from dipaco.node.network.memory import MemoryNetwork
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.rpc import Rpc
from dipaco.node.runs.store import RunStore
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import DiskFull, Home
from dipaco.node.storage.journal import Journal
from dipaco.protocol.errors import RemoteProtocolError, Unavailable
from dipaco.protocol.run.manifest import run_id
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.signed import open_signed, sign
from dipaco.protocol.work.calls import (
    AskCosign,
    AskHead,
    AskHold,
    AskPromise,
    Behind,
    CosignedHead,
    HeadIs,
    Holding,
    Promised,
    Wanted,
)
from dipaco.protocol.work.ledger import SpecAdopted
from dipaco.protocol.work.relearning import Forgotten
from dipaco.protocol.work.terms import NO_HEAD, Cosigned, Promise
from tests.kept import certificate, head, kept_chain, kept_manifest, seeded_of
from tests.values import digest, key, peer

VALUE = kept_manifest(schedulers=("scheduler", "second"))
RUN = run_id(VALUE)
CHAIN = kept_chain(VALUE, SpecAdopted(epoch=0, spec=digest("spec")), seeded_of(VALUE))
FIRST, SECOND = peer("scheduler"), peer("second")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal.open(tmp_path / "journal.sqlite")
    yield opened
    opened.close()


def kept_run(journal: Journal, *, votes: bool = True) -> KeptRun:
    """Return the run as a keeper has it at its start."""
    store = RunStore(journal, peer("kim"))
    if RUN not in store.runs:
        store.offer("manifest", encode(sign(VALUE, key("owner"))))
        store.keep(RUN)
    kept = KeptRun(store.runs[RUN], key("kim"), journal, store)
    if votes and kept.forgot:
        kept.remember(0)
    return kept


def promise(kept: KeptRun, term: int = 1) -> Promised | Behind:
    ask = AskPromise(run=RUN, term=term)
    asker = (FIRST, SECOND)[term % 2]
    return kept.answer(lambda state, final: kept.machine.promise(state, final, asker, ask), term)


def cosign(kept: KeptRun, upto: int = 2, *, final: int = 0) -> CosignedHead | Behind:
    proof = certificate(RUN, ("ken", "kim"), head(CHAIN[:final])) if final else ()
    ask = AskCosign(
        run=RUN, records=tuple(CHAIN[:upto]), head=head(CHAIN[:upto]), certificate=proof
    )
    return kept.answer(lambda state, ledger: kept.machine.cosign(state, ledger, FIRST, ask), 0)


def test_what_a_keeper_promised_and_signed_outlives_it(journal: Journal) -> None:
    signed = cosign(kept_run(journal))
    assert isinstance(signed, CosignedHead)
    assert open_signed(signed.cosigned, Cosigned).head == head(CHAIN)
    again = kept_run(journal)
    assert again.head == head(CHAIN) and again.record.length == 0  # none of it is final
    given = promise(again)
    assert isinstance(given, Promised)
    assert open_signed(given.promise, Promise).head == head(CHAIN)
    third = kept_run(journal)
    assert isinstance(cosign(third), Behind)  # it promised a higher term
    assert promise(third) == given  # the answer may have been lost


def test_a_tail_that_is_certified_goes_into_the_store(journal: Journal) -> None:
    kept = kept_run(journal)
    cosign(kept, 1)
    cosign(kept, 2, final=1)
    assert kept.record.length == 1 and len(kept.state.tail) == 1
    again = kept_run(journal)
    assert again.record.length == 1 and again.head == head(CHAIN)
    assert journal.tail(RUN) == [encode(CHAIN[1])]


def test_a_full_disk_means_no_answer_and_no_change(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = kept_run(journal)
    cosign(kept, 1)
    before = kept.state

    def full(*_values: object) -> None:
        raise DiskFull("no space left on the disk")

    monkeypatch.setattr(journal, "save_tail", full)
    with pytest.raises(DiskFull):
        cosign(kept, 2, final=1)
    assert kept.state is before and kept.record.length == 0
    monkeypatch.undo()
    assert isinstance(cosign(kept, 2, final=1), CosignedHead)


def test_a_keeper_that_forgot_what_it_signed_answers_nothing(journal: Journal) -> None:
    kept = kept_run(journal, votes=False)
    for ask in (promise, cosign):
        with pytest.raises(Unavailable, match="has yet to learn"):
            ask(kept)
    kept.forgotten = Forgotten(4)
    told = promise(kept, 3)
    assert isinstance(told, Behind) and told.term == 4 and journal.promised(RUN) == (0, b"")
    kept.remember(4)
    assert isinstance(promise(kept, 3), Behind) and not kept_run(journal, votes=False).forgot


async def test_only_a_runs_schedulers_have_blobs_held_and_only_for_a_run_that_is_kept(
    tmp_path: Path, journal: Journal
) -> None:
    async with MemoryNetwork().join(peer("kim")) as transport:
        reputation = Reputation(transport)
        rpc, blobs = Rpc(transport, reputation), BlobStore(Home.at(tmp_path / "home").blobs)
        store = RunStore(journal, peer("kim"))
        store.offer("manifest", encode(sign(VALUE, key("owner"))))
        store.keep(RUN)
        service = KeeperService(
            key("kim"),
            journal,
            store,
            blobs,
            Exchange(transport, rpc, reputation, blobs),
            lambda run: False,
        )
        here = blobs.write(b"a state")
        wanted = (Wanted(blob=here, length=7), Wanted(blob=digest("elsewhere"), length=7))
        ask = AskHold(run=RUN, blobs=wanted, holders=())
        with pytest.raises(Unavailable, match="does not keep"):
            await service._hold(FIRST, ask)
        assert await service._head(peer("mallory"), AskHead(run=RUN)) == HeadIs(
            term=0, head=NO_HEAD, scheduling=False, votes=False
        )
        service.keep(store.runs[RUN])
        with pytest.raises(RemoteProtocolError, match="no scheduler"):
            await service._hold(peer("mallory"), ask)
        assert await service._hold(SECOND, ask) == Holding(blobs=(here,))


ASKS: dict[str, Callable[[KeptRun], object]] = {
    "promise": lambda kept: kept.answer(
        lambda state, final: kept.machine.promise(
            state, final, peer("mallory"), AskPromise(run=RUN, term=1)
        ),
        1,
    ),
    "another scheduler's term": lambda kept: kept.answer(
        lambda state, final: kept.machine.promise(state, final, FIRST, AskPromise(run=RUN, term=1)),
        1,
    ),
    "another run": lambda kept: kept.answer(
        lambda state, final: kept.machine.promise(
            state, final, SECOND, AskPromise(run=run_id(kept_manifest()), term=1)
        ),
        1,
    ),
}


@pytest.mark.parametrize("what", ASKS)
def test_whoever_asks_for_what_is_not_its_own_answers_for_it(journal: Journal, what: str) -> None:
    kept = kept_run(journal)
    with pytest.raises(RemoteProtocolError):
        ASKS[what](kept)
    assert kept.state.promised_term == 0
