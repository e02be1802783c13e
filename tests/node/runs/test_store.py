"""What a node takes in and hands on: real SQLite, real signatures, no network."""

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import msgspec
import pytest

from dipaco.node.runs import admission as admission_module
from dipaco.node.runs import strangers as strangers_module
from dipaco.node.runs.ledgers import Ledgers
from dipaco.node.runs.record import RunRecord
from dipaco.node.runs.store import RunStore
from dipaco.node.runs.strangers import MAX_OF_OWNER
from dipaco.node.storage.files import DiskFull
from dipaco.node.storage.journal import Journal, SignedKind
from dipaco.protocol.errors import (
    ConfigError,
    Refusal,
    RemoteProtocolError,
    SignerFault,
    Unavailable,
)
from dipaco.protocol.routing.decision import ReceiptTally
from dipaco.protocol.routing.recipe import recipe_of, unfitted_spec
from dipaco.protocol.routing.spec import spec_digest
from dipaco.protocol.routing.verdict import Outcome, Receipt, Verdict
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.run.modules import ModuleDigest
from dipaco.protocol.run.topology import topology
from dipaco.protocol.wire.canonical import Wire, decode, encode
from dipaco.protocol.wire.digest import short
from dipaco.protocol.wire.messages import AskHave, Item
from dipaco.protocol.wire.signed import Signed, sign
from dipaco.protocol.work.kinds import Evaluated, Evaluation, Seeded
from dipaco.protocol.work.ledger import LedgerRecord, SpecAdopted
from dipaco.protocol.work.terms import FIRST_TERM, NO_RECORD
from tests.ledgers import entries_of
from tests.values import digest, key, manifest, peer

RUN = run_id(manifest())
SPEC = unfitted_spec(recipe_of(manifest()))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal.open(tmp_path / "journal.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def run_store(journal: Journal) -> RunStore:
    made = RunStore(journal)
    made.offer("manifest", signed(manifest(), "owner"))
    return made


def signed(value: Wire, name: str) -> bytes:
    return encode(sign(value, key(name)))


def receipt(name: str, outcome: Outcome = Outcome.VERIFIED) -> bytes:
    verdict = Verdict(outcome=outcome, stage="spec", reason="equal in every byte")
    return signed(
        Receipt(manifest=RUN, spec=spec_digest(SPEC), verdict=verdict, software="test 1"), name
    )


def seeded() -> Seeded:
    top = manifest().topology
    return Seeded(
        peer=peer("anna"),
        states=tuple(
            ModuleDigest(module=m, digest=digest(top.counterpart(m))) for m in top.modules
        ),
    )


def test_a_manifest_not_signed_by_its_owner_is_refused(journal: Journal) -> None:
    with pytest.raises(RemoteProtocolError, match="its owner is"):
        RunStore(journal).offer("manifest", signed(manifest(), "mallory"))


def test_a_spec_not_signed_by_a_scheduler_of_its_run_is_refused(run_store: RunStore) -> None:
    with pytest.raises(RemoteProtocolError, match="does not schedule it"):
        run_store.offer("spec", signed(SPEC, "mallory"))
    run_store.offer("spec", signed(SPEC, "scheduler"))
    assert run_store.runs[RUN].specs[spec_digest(SPEC)].author == peer("scheduler")


def test_a_value_of_an_unknown_run_can_come_again_later(journal: Journal) -> None:
    empty = RunStore(journal)
    for kind, data in (("spec", signed(SPEC, "scheduler")), ("receipt", receipt("anna"))):
        with pytest.raises(Unavailable, match="not known yet"):
            empty.offer(kind, data)
    with pytest.raises(Unavailable, match="not known yet"):
        empty.offer_ledger(RUN, ())
    assert empty.inventory() == ()


def test_a_value_under_the_name_of_another_kind_is_refused(run_store: RunStore) -> None:
    with pytest.raises(RemoteProtocolError):
        run_store.offer("manifest", receipt("anna"))
    with pytest.raises(RemoteProtocolError, match="no value is of kind"):
        run_store.offer("rumour", receipt("anna"))


def test_garbage_and_a_bent_signature_are_refused(run_store: RunStore) -> None:
    bent = bytearray(receipt("anna"))
    bent[-1] ^= 1
    for data in (b"", b"garbage", bytes(bent)):
        with pytest.raises(RemoteProtocolError):
            run_store.offer("receipt", data)


def test_the_same_verdict_of_two_peers_is_two_receipts(run_store: RunStore) -> None:
    for name in ("anna", "bert", "anna"):
        run_store.offer("receipt", receipt(name))
    assert [item.kind for item in run_store.inventory()] == ["receipt", "receipt", "manifest"]
    for item in run_store.inventory():
        data = run_store.read(item.kind, item.run, item.digest)
        assert data in (receipt("anna"), receipt("bert"), signed(manifest(), "owner"))


def test_one_spec_too_many_is_refused_without_blame(run_store: RunStore) -> None:
    run_store.offer("spec", signed(SPEC, "scheduler"))
    for epoch in range(1, 8):
        other = msgspec.structs.replace(SPEC, epoch=epoch)
        run_store.offer("spec", signed(other, "scheduler"))
    with pytest.raises(Refusal, match="one too many"):
        run_store.offer("spec", signed(msgspec.structs.replace(SPEC, epoch=8), "scheduler"))


def evaluated(version: int) -> Evaluated:
    found = Evaluation(documents=1, tokens=2, nll=3.0)
    return Evaluated(path=0, version=version, peer=peer("anna"), evaluation=found)


def chain(*entries: SpecAdopted | Seeded | Evaluated, by: str = "scheduler") -> list[bytes]:
    records, previous = [], NO_RECORD
    for seq, entry in enumerate(entries):
        record = LedgerRecord(run=RUN, term=FIRST_TERM, seq=seq, previous=previous, entry=entry)
        made = sign(record, key(by))
        records.append(encode(made))
        previous = made.body_digest
    return records


def test_a_ledger_is_taken_in_record_by_record_and_again_without_harm(
    run_store: RunStore,
) -> None:
    records = chain(SpecAdopted(epoch=0, spec=spec_digest(SPEC)), seeded())
    run_store.offer_ledger(RUN, tuple(records[:1]))
    run_store.offer_ledger(RUN, tuple(records))  # the first one again
    run_store.offer_ledger(RUN, tuple(records))
    record = run_store.runs[RUN]
    assert record.length == 2 and record.state.seeded
    assert run_store.read_ledger(RUN, 0, 1 << 20) == tuple(records)
    assert run_store.read_ledger(RUN, 1, 1 << 20) == (records[1],)
    assert run_store.read_ledger(RUN, 0, len(records[0])) == (records[0],)


def test_a_ledger_of_another_hand_or_with_a_gap_is_refused(run_store: RunStore) -> None:
    adopted = SpecAdopted(epoch=0, spec=spec_digest(SPEC))
    with pytest.raises(RemoteProtocolError, match="is not the scheduler of term 0"):
        run_store.offer_ledger(RUN, tuple(chain(adopted, by="mallory")))
    with pytest.raises(RemoteProtocolError, match="not record 0"):
        run_store.offer_ledger(RUN, tuple(chain(adopted, seeded())[1:]))


def test_a_part_that_lies_wholly_behind_the_ledgers_end_changes_nothing(
    run_store: RunStore,
) -> None:
    records = chain(SpecAdopted(epoch=0, spec=spec_digest(SPEC)), seeded(), evaluated(0))
    run_store.offer_ledger(RUN, tuple(records))
    for part in (records[:1], records[1:2], records[:2]):
        run_store.offer_ledger(RUN, tuple(part))
    assert run_store.runs[RUN].length == 3


def test_another_ledger_of_the_same_scheduler_is_refused_without_blame(
    run_store: RunStore,
) -> None:
    adopted = SpecAdopted(epoch=0, spec=spec_digest(SPEC))
    other = chain(SpecAdopted(epoch=0, spec=digest("another spec")), seeded(), evaluated(0))
    run_store.keep(RUN)
    run_store.offer_ledger(RUN, tuple(chain(adopted, seeded())))
    for part in (other, other[1:], other[2:]):
        with pytest.raises(SignerFault, match="signed two ledgers") as raised:
            run_store.offer_ledger(RUN, tuple(part))
        assert raised.value.signer == peer("scheduler")
    with pytest.raises(RemoteProtocolError, match="is not the scheduler of term 0"):
        run_store.offer_ledger(RUN, tuple(chain(adopted, evaluated(0), by="mallory")[1:]))
    assert run_store.runs[RUN].length == 2


def test_a_batch_with_an_entry_that_cannot_follow_leaves_nothing_behind(
    run_store: RunStore, journal: Journal
) -> None:
    adopted = SpecAdopted(epoch=0, spec=spec_digest(SPEC))
    absurd = evaluated(5)
    run_store.keep(RUN)
    with pytest.raises(SignerFault, match="does not exist"):
        run_store.offer_ledger(RUN, tuple(chain(adopted, seeded(), absurd)))
    assert run_store.runs[RUN].length == 0 == journal.ledger_length(RUN)
    assert run_store.runs[RUN].state.spec is None
    run_store.offer_ledger(RUN, tuple(chain(adopted, seeded())))
    assert run_store.runs[RUN].length == 2


def test_strangers_receipts_are_bounded_and_never_keep_out_our_own(
    run_store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission_module, "MAX_RECEIPTS", 3)
    for name in ("sybil1", "sybil2", "sybil3"):
        run_store.offer("receipt", receipt(name))
    with pytest.raises(Refusal, match="has 3 receipts already"):
        run_store.offer("receipt", receipt("sybil4"))
    run_store.publish("receipt", decode(receipt("me"), Signed, limit=4096))
    assert run_store.runs[RUN].said[spec_digest(SPEC)][peer("me")] is Outcome.VERIFIED


def test_a_receipt_that_makes_room_for_our_own_is_not_offered_any_more(
    run_store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission_module, "MAX_RECEIPTS", 3)
    for name in ("sybil1", "sybil2", "sybil3"):
        run_store.offer("receipt", receipt(name))
    run_store.publish("receipt", decode(receipt("me"), Signed, limit=4096))
    items = run_store.inventory()
    assert [item.kind for item in items] == ["receipt"] * 3 + ["manifest"]
    assert None not in [run_store.read(item.kind, item.run, item.digest) for item in items]
    assert len(run_store.runs[RUN].receipts) == 3


@pytest.mark.parametrize("kind", ["manifest", "spec", "receipt"])
def test_a_journal_whose_values_are_of_another_version_is_named_with_the_cure(
    journal: Journal, kind: SignedKind
) -> None:
    made = RunStore(journal)
    made.offer("manifest", signed(manifest(), "owner"))
    old = encode(sign(AskHave(blob=digest("blob")), key("owner")))  # another shape under the name
    journal.save_signed(kind, RUN, digest("old"), old)
    journal.save_verdict(RUN, digest("spec"), b"")  # this node works for the run
    named = r"journal\.sqlite was made by another version .* move it away; its runs"
    with pytest.raises(ConfigError, match=named) as raised:
        RunStore(journal)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["manifest", "spec", "receipt"])
def test_a_strangers_run_that_is_refused_now_is_dropped_and_ends_no_node(
    journal: Journal, kind: SignedKind, caplog: pytest.LogCaptureFixture
) -> None:
    made, other = RunStore(journal), manifest(name="other")
    made.offer("manifest", signed(manifest(), "owner"))
    made.offer("manifest", signed(other, "owner"))
    old = encode(sign(AskHave(blob=digest("blob")), key("owner")))
    journal.save_signed(kind, RUN, digest("old"), old)
    assert list(RunStore(journal, peer("me")).runs) == [run_id(other)]
    (line,) = caplog.messages
    assert line.startswith(f"run {short(RUN)} is dropped") and "\n" not in line
    assert list(RunStore(journal, peer("me")).runs) == [run_id(other)]
    assert len(caplog.messages) == 1


def test_a_bug_that_a_saved_value_meets_drops_that_run_alone(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, fed_bugs: list[logging.LogRecord]
) -> None:
    made, other = RunStore(journal), manifest(name="other")
    made.offer("manifest", signed(manifest(), "owner"))
    made.offer("manifest", signed(other, "owner"))
    replay = Ledgers.replay

    def failing(ledgers: Ledgers, record: RunRecord) -> None:
        if record.run == RUN:
            raise ZeroDivisionError
        replay(ledgers, record)

    monkeypatch.setattr(Ledgers, "replay", failing)
    assert list(RunStore(journal, peer("me")).runs) == [run_id(other)]
    (report,) = fed_bugs
    assert report.exc_info and report.getMessage().startswith("a bug of this node, while taking in")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_who_both_verified_and_refuted_a_spec_counts_as_refuting_it(
    run_store: RunStore, journal: Journal, order: tuple[int, int]
) -> None:
    both = [receipt("anna"), receipt("anna", Outcome.REFUTED)]
    run_store.offer("receipt", both[order[0]])
    with nullcontext() if order == (0, 1) else pytest.raises(Refusal, match="a receipt before"):
        run_store.offer("receipt", both[order[1]])
    run_store.offer("receipt", receipt("bert"))
    run_store.offer("spec", signed(SPEC, "scheduler"))
    record = run_store.runs[RUN]
    assert record.tally(peer("me"), record.newest()) == ReceiptTally()  # nothing is adopted yet
    run_store.append(RUN, SpecAdopted(epoch=0, spec=spec_digest(SPEC)), key("scheduler"))
    assert record.tally(peer("me"), record.newest()) == ReceiptTally(verified=1, refuted=1)
    assert record.tally(peer("bert"), record.newest()) == ReceiptTally(verified=0, refuted=1)
    assert RunStore(journal).runs[RUN].said == record.said


def test_a_restart_finds_everything_as_it_was(run_store: RunStore, journal: Journal) -> None:
    run_store.offer("spec", signed(SPEC, "scheduler"))
    run_store.offer("receipt", receipt("anna"))
    run_store.append(RUN, SpecAdopted(epoch=0, spec=spec_digest(SPEC)), key("scheduler"))
    run_store.append(RUN, seeded(), key("scheduler"))
    again = RunStore(journal)
    assert again.inventory() == run_store.inventory()
    assert again.runs[RUN].state.states == run_store.runs[RUN].state.states
    assert entries_of(again, RUN) == [SpecAdopted(epoch=0, spec=spec_digest(SPEC)), seeded()]
    again.append(
        RUN,
        evaluated(0),
        key("scheduler"),
    )
    assert again.runs[RUN].length == 3


def test_what_could_not_be_saved_is_not_held_and_can_come_again(
    run_store: RunStore, journal: Journal
) -> None:
    ((pages,),) = journal._db.execute("PRAGMA page_count").fetchall()
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    before = run_store.inventory()
    given = {"spec": signed(SPEC, "scheduler"), "receipt": receipt("anna")}
    with pytest.raises(DiskFull):
        for number in range(100):
            run_store.offer("receipt", receipt(f"peer {number}"))
            before = run_store.inventory()
    with pytest.raises(DiskFull):
        run_store.offer("spec", given["spec"])
    assert run_store.inventory() == before
    assert not run_store.runs[RUN].specs
    journal._db.execute("PRAGMA max_page_count = 1000000")
    for kind, data in given.items():
        run_store.offer(kind, data)
        (item, *_) = run_store.inventory()
        assert run_store.read(kind, RUN, item.digest) == data


def test_a_ledger_that_was_not_saved_after_all_is_taken_back(
    run_store: RunStore, journal: Journal
) -> None:
    run_store.offer("spec", signed(SPEC, "scheduler"))
    adopted = SpecAdopted(epoch=0, spec=spec_digest(SPEC))
    with pytest.raises(DiskFull), journal.saving():
        run_store.append(RUN, adopted, key("scheduler"))
        raise DiskFull("as a commit says it")
    run_store.reread(RUN)
    assert (run_store.runs[RUN].length, run_store.runs[RUN].state.spec) == (0, None)
    run_store.append(RUN, adopted, key("scheduler"))
    assert run_store.runs[RUN].length == 1


async def test_what_this_node_adds_is_announced_and_what_peers_bring_is_not(
    run_store: RunStore,
) -> None:
    run_store.offer("spec", signed(SPEC, "scheduler"))
    for _ in range(2):
        run_store.publish("receipt", decode(receipt("me"), Signed, limit=4096))
    run_store.append(RUN, SpecAdopted(epoch=0, spec=spec_digest(SPEC)), key("scheduler"))
    receipts, _ = run_store.announcements.receive_nowait()
    ledger, _ = run_store.announcements.receive_nowait()
    assert receipts.kind == "receipt"
    assert ledger == Item(kind="ledger", run=RUN, digest=run_store.runs[RUN].head, seq=1)
    assert run_store.announcements.statistics().current_buffer_used == 0


# ---------------------------------------------------------------------- runs of strangers


def stranger(number: int) -> Manifest:
    return manifest(name=f"run{number}", owner=peer("mallory"))


def strangers(store: RunStore, numbers: range) -> None:
    for number in numbers:
        store.offer("manifest", signed(stranger(number), "mallory"))


def names(store: RunStore) -> set[str]:
    return {record.manifest.name for record in store.runs.values()}


def rows(journal: Journal) -> int:
    tables = ("signed", "ledger", "verdicts", "leases", "results")
    return sum(journal._rows(f"SELECT count(*) FROM {table}", ())[0][0] for table in tables)


def test_strangers_runs_make_room_for_newer_ones_in_memory_and_in_the_journal(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers_module, "MAX_RUNS", 4)
    store = RunStore(journal)
    strangers(store, range(4))
    first = run_id(stranger(0))
    spec = unfitted_spec(recipe_of(stranger(0)))
    store.offer("spec", signed(spec, "scheduler"))
    assert rows(journal) == 5
    strangers(store, range(4, 10))
    assert names(store) == {"run6", "run7", "run8", "run9"}
    assert rows(journal) == 4 and len(store.inventory()) == 4
    assert store.read("spec", first, spec_digest(spec)) is None
    assert names(RunStore(journal)) == names(store)
    with pytest.raises(Unavailable, match="not known yet"):
        store.offer("spec", signed(spec, "scheduler"))


def test_the_run_that_peers_offered_least_recently_goes_first(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers_module, "MAX_RUNS", 3)
    store = RunStore(journal)
    strangers(store, range(3))
    store.note_listing(peer("anna"), {run_id(stranger(0)), run_id(stranger(7))})
    strangers(store, range(3, 5))
    assert names(store) == {"run0", "run3", "run4"}
    # The one that its own scheduler offers stays longest, however many others come.
    store.note_listing(peer("scheduler"), {run_id(stranger(0))})
    strangers(store, range(5, 50))
    assert names(store) == {"run0", "run48", "run49"}


def test_no_run_that_this_node_put_here_or_works_for_makes_room(
    run_store: RunStore, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    strangers(run_store, range(2))
    monkeypatch.setattr(strangers_module, "MAX_RUNS", 2)
    journal.save_verdict(RUN, spec_digest(SPEC), b"any")  # of an earlier start
    again = RunStore(journal)
    again.keep(run_id(stranger(0)))
    strangers(again, range(2, 20))
    own = [manifest(name=f"own{number}") for number in range(5)]
    for each in own:
        again.publish("manifest", sign(each, key("owner")))
    strangers(again, range(20, 40))
    assert names(again) == {"tiny", "run0", "run38", "run39", *(each.name for each in own)}
    assert again.own == {run_id(each) for each in own}


def test_the_operators_own_run_is_taken_in_at_a_start_that_finds_the_store_full(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(journal)
    strangers(store, range(6))
    monkeypatch.setattr(strangers_module, "MAX_RUNS", 2)
    again = RunStore(journal)
    again.publish("manifest", sign(manifest(), key("owner")))
    again.publish("manifest", sign(stranger(3), key("mallory")))
    assert {RUN, run_id(stranger(3))} == again.own
    strangers(again, range(6, 8))
    assert {"tiny", "run3", "run6", "run7"} == names(again)


def test_a_run_makes_no_room_for_one_that_cannot_be_saved(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers_module, "MAX_RUNS", 2)
    store = RunStore(journal)
    strangers(store, range(2))
    before = store.inventory()

    def full(*_: object) -> bool:
        raise DiskFull("no space left")

    with monkeypatch.context() as disk, pytest.raises(DiskFull):
        disk.setattr(journal, "save_signed", full)
        strangers(store, range(2, 3))
    assert store.inventory() == before and rows(journal) == 2
    strangers(store, range(2, 3))
    assert names(store) == {"run1", "run2"}


def test_a_strangers_manifest_that_names_this_node_as_scheduler_is_not_wanted(
    journal: Journal,
) -> None:
    store = RunStore(journal, peer("scheduler"))
    with pytest.raises(Refusal, match="names this node as its scheduler"):
        store.offer("manifest", signed(manifest(), "owner"))
    store.publish("manifest", sign(manifest(), key("owner")))
    assert store.own == {RUN}


def test_nothing_is_built_for_a_run_that_has_only_a_manifest(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(*_: object) -> None:
        raise AssertionError("a topology was built")

    monkeypatch.setattr("dipaco.protocol.run.manifest.topology", built)
    store = RunStore(journal)
    strangers(store, range(3))
    start = tuple(
        ModuleDigest(module=name, digest=digest(name)) for name in ("stem", "L1.E0", "L2.E0")
    )
    store.offer("manifest", signed(manifest(name="warm", start=start), "owner"))
    store = RunStore(journal)
    store.note_listing(peer("anna"), set(store.runs))
    assert not any(record.over for record in store.runs.values())


def test_strangers_manifests_are_kept_and_read_again_without_a_topology(journal: Journal) -> None:
    store = RunStore(journal)
    topology.cache_clear()
    for number in range(MAX_OF_OWNER):
        store.offer("manifest", signed(manifest(seed=number), "owner"))
    again = RunStore(journal)
    assert len(again.runs) == MAX_OF_OWNER and not any(
        record.over for record in again.runs.values()
    )
    assert len(again.inventory()) == MAX_OF_OWNER
    assert topology.cache_info().misses == 0
