"""What strangers can make a store hold: real SQLite and signatures, no network."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dipaco.node.runs import admission as admission_module
from dipaco.node.runs import strangers
from dipaco.node.runs.chain import contradict
from dipaco.node.runs.store import RunStore
from dipaco.node.runs.strangers import MAX_OF_OWNER, MAX_OF_PREFIX, MAX_RUNS, Stored, spare
from dipaco.node.storage.journal import MAX_PROOF, Journal
from dipaco.protocol.errors import Refusal, RemoteProtocolError, SignerFault
from dipaco.protocol.routing.recipe import recipe_of, unfitted_spec
from dipaco.protocol.routing.spec import spec_digest
from dipaco.protocol.routing.verdict import Outcome, Receipt, Verdict
from dipaco.protocol.run.manifest import Manifest, Scheduling, run_id
from dipaco.protocol.wire.canonical import Wire, decode, encode
from dipaco.protocol.wire.digest import Digest, sha256
from dipaco.protocol.wire.messages import Item
from dipaco.protocol.wire.signed import Signed, sign
from dipaco.protocol.work.kinds import Evaluated, Evaluation
from dipaco.protocol.work.ledger import Entry, LedgerRecord, SpecAdopted
from dipaco.protocol.work.terms import NO_RECORD
from tests.values import digest, key, manifest, peer


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal.open(tmp_path / "journal.sqlite")
    yield opened
    opened.close()


def of(owner: str, number: int = 0) -> Manifest:
    return manifest(
        name=f"run{number}",
        owner=peer(owner),
        schedule=Scheduling(schedulers=(peer(owner),), members=()),
    )


def signed(value: Wire, name: str) -> bytes:
    return encode(sign(value, key(name)))


def ledger(run: Digest, *entries: Entry, by: str) -> tuple[bytes, ...]:
    records, previous = [], NO_RECORD
    for seq, entry in enumerate(entries):
        made = sign(LedgerRecord(run=run, term=0, seq=seq, previous=previous, entry=entry), key(by))
        records.append(encode(made))
        previous = made.body_digest
    return tuple(records)


def item(kind: str, run: Digest, data: bytes = b"", seq: int = 0) -> Item:
    return Item(kind=kind, run=run, digest=sha256(data), seq=seq)


# ---------------------------------------------------------------------- two ledgers

RUN = run_id(of("mallory"))
ONE = ledger(RUN, SpecAdopted(epoch=0, spec=digest("one")), by="mallory")
OTHER = ledger(RUN, SpecAdopted(epoch=0, spec=digest("other")), by="mallory")
ABSURD = Evaluated(
    path=0, version=9, peer=peer("anna"), evaluation=Evaluation(documents=1, tokens=2, nll=3.0)
)


def with_run(journal: Journal, me: str = "anna") -> RunStore:
    store = RunStore(journal, peer(me))
    if RUN not in store.runs:
        store.offer("manifest", signed(of("mallory"), "mallory"))
    return store


def test_a_strangers_run_with_two_ledgers_is_dropped_for_good_with_a_proof(
    journal: Journal,
) -> None:
    store = with_run(journal)
    store.follow([RUN])
    store.offer_ledger(RUN, ONE)
    with pytest.raises(SignerFault) as raised:
        store.offer_ledger(RUN, OTHER)
    assert raised.value.signer == peer("mallory")
    data = signed(of("mallory"), "mallory")
    for each in (store, RunStore(journal, peer("anna"))):
        assert RUN not in each.runs and each.inventory() == ()
        assert not each.lacks(item("manifest", RUN, data), peer("bert"))
        with pytest.raises(Refusal, match="signed two ledgers"):
            each.offer("manifest", data)
    (proof,) = journal.proofs()
    records = [decode(record, Signed, limit=MAX_PROOF) for record in (proof.one, proof.other)]
    assert contradict(records[0], records[1], RUN, peer("mallory"))
    assert not contradict(records[0], records[0], RUN, peer("mallory"))


@pytest.mark.parametrize("whose", ["two", "absurd"])
def test_a_run_that_this_node_works_for_goes_on_with_its_ledger_and_the_fault_is_remembered(
    journal: Journal, whose: str
) -> None:
    store = with_run(journal)
    store.keep(RUN)
    store.offer_ledger(RUN, ONE)
    absurd = ledger(RUN, SpecAdopted(epoch=0, spec=digest("one")), ABSURD, by="mallory")
    for _ in range(3):
        with pytest.raises(SignerFault):
            store.offer_ledger(RUN, OTHER if whose == "two" else absurd)
    for each in (store, RunStore(journal, peer("anna"))):
        record = each.runs[RUN]
        assert record.length == 1 and record.state.spec == digest("one")
        assert record.fault and ("two ledgers" in record.fault) == (whose == "two")
    assert len(journal.proofs()) == 1


def test_the_messenger_answers_for_what_the_bytes_themselves_show(journal: Journal) -> None:
    store = with_run(journal)
    store.keep(RUN)
    longer = ledger(
        RUN,
        SpecAdopted(epoch=0, spec=digest("one")),
        SpecAdopted(epoch=1, spec=digest("two")),
        by="mallory",
    )
    others = ledger(RUN, SpecAdopted(epoch=0, spec=digest("one")), by="bert")
    unsigned = bytearray(ONE[0])
    unsigned[-1] ^= 1
    for records, first in [(longer[1:], 0), (others, 0), ((bytes(unsigned),), 0), (ONE, 1)]:
        with pytest.raises(RemoteProtocolError):
            store.offer_ledger(RUN, records, first=first)
    with pytest.raises(RemoteProtocolError, match="under another run"):
        store.offer("manifest", signed(of("bert"), "bert"), run=RUN)
    assert store.runs[RUN].length == 0 and not journal.proofs()


# ---------------------------------------------------------------------- what is wanted


def test_of_a_strangers_run_the_manifest_alone_is_wanted_until_it_is_followed_or_kept(
    journal: Journal,
) -> None:
    store = with_run(journal)
    details = [item("spec", RUN), item("receipt", RUN), item("ledger", RUN, seq=9)]
    assert not any(store.lacks(each, peer("bert")) for each in details)
    store.follow([RUN])
    assert all(store.lacks(each, peer("bert")) for each in details)
    store.offer_ledger(RUN, ONE)
    store.follow([])
    assert store.runs[RUN].length == 0 == journal.ledger_length(RUN)
    assert not any(store.lacks(each, peer("bert")) for each in details)
    store.keep(RUN)
    again = RunStore(journal)
    assert all(each.lacks(details[2], peer("bert")) for each in (store, again))


def test_a_followed_ledger_is_fetched_up_to_its_bound(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = with_run(journal)
    store.follow([RUN])
    store.offer_ledger(RUN, ONE)
    monkeypatch.setattr(strangers, "MAX_DETAILS", store.runs[RUN].bytes)
    assert not store.lacks(item("ledger", RUN, seq=9), peer("bert"))


def test_the_inventory_is_made_once_between_two_changes(journal: Journal) -> None:
    store = with_run(journal)
    before = store.inventory()
    assert store.inventory() is before
    store.offer("manifest", signed(of("bert"), "bert"))
    assert store.inventory() is not before and len(store.inventory()) == 2


# ---------------------------------------------------------------------- room


def stored(number: int, owner: str, **facts: object) -> Stored:
    return Stored(run=digest(f"run {number}"), owner=peer(owner), bytes=1000, **facts)  # type: ignore[arg-type]


def test_one_owner_and_one_prefix_push_out_their_own_runs_alone() -> None:
    honest = [stored(number, f"owner {number}") for number in range(50)]
    lazy = [stored(100 + number, "mallory") for number in range(MAX_OF_OWNER)]
    assert spare([*honest, *lazy], stored(999, "mallory")) == [lazy[0].run]
    sybils = [stored(200 + n, f"sybil {n}", origin="6.6.6.0/24") for n in range(MAX_OF_PREFIX)]
    gone = spare([*honest, *sybils], stored(999, "sybil", origin="6.6.6.0/24"))
    assert gone == [sybils[0].run]
    assert spare([*honest, *sybils], stored(999, "bert", origin="7.7.7.0/24")) == []


def test_the_least_useful_goes_first_when_all_places_or_bytes_are_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = [stored(0, "a", useful=1), stored(1, "b", useful=2)]
    held += [stored(number, f"owner {number}") for number in range(2, MAX_RUNS)]
    assert spare(held, stored(999, "new")) == [held[2].run]
    monkeypatch.setattr(strangers, "MAX_BYTES", 3000)
    assert spare(held[:4], stored(999, "new")) == [held[2].run, held[3].run]


def test_a_manifest_that_made_room_comes_again_from_its_scheduler_alone_and_once(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers, "MAX_RUNS", 1)
    store = RunStore(journal)
    for owner in ("bert", "cara"):
        store.offer("manifest", signed(of(owner), owner))
    gone = item("manifest", run_id(of("bert")), signed(of("bert"), "bert"))
    assert not store.lacks(gone, peer("mallory")) and store.lacks(gone, peer("bert"))
    for owner in ("bert", "cara"):
        store.offer("manifest", signed(of(owner), owner))
    assert not store.lacks(gone, peer("bert"))


def test_a_manifest_of_a_stranger_has_a_largest_size(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = signed(of("bert"), "bert")
    monkeypatch.setattr(strangers, "MAX_MANIFEST", len(data) - 1)
    store = RunStore(journal)
    with pytest.raises(Refusal, match="has a manifest of"):
        store.offer("manifest", data)
    store.publish("manifest", sign(of("bert"), key("bert")))


# ---------------------------------------------------------------------- receipts


def receipt(name: str, spec: str = "spec", outcome: Outcome = Outcome.VERIFIED) -> bytes:
    verdict = Verdict(outcome=outcome, stage="spec", reason="because")
    value = Receipt(manifest=RUN, spec=digest(spec), verdict=verdict, software="test 1")
    return signed(value, name)


def test_one_signer_has_few_receipts_and_none_of_a_known_peer_makes_room_for_them(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission_module, "MAX_RECEIPTS", 12)
    store = with_run(journal)
    for number in range(20):
        try:
            store.offer("receipt", receipt("sybil", f"spec {number}"))
        except Refusal:
            assert number >= 8
    assert len(store.runs[RUN].receipts) == 8
    store.offer("receipt", receipt("sybil", "spec 0", Outcome.REFUTED))
    with pytest.raises(Refusal, match="gave a receipt before"):
        store.offer("receipt", receipt("sybil", "spec 0", Outcome.UNVERIFIABLE))
    for name in ("sybil2", "sybil3", "sybil4"):
        store.offer("receipt", receipt(name))
    with pytest.raises(Refusal, match="has 12 receipts already"):
        store.offer("receipt", receipt("sybil5"))
    store.offer("receipt", receipt("mallory"))  # the run's own scheduler
    signers = [signer for signer, _ in store.runs[RUN].receipts.values()]
    assert peer("mallory") in signers and len(signers) == 12
    assert len(RunStore(journal).runs[RUN].receipts) == 12


# ---------------------------------------------------------------------- the disk


def test_an_hour_of_a_thousand_identities_leaves_the_journal_below_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that gossip would pull of it, at a smaller scale: each bound by 16, each value as is."""
    for name in ("MAX_RUNS", "MAX_OF_PREFIX"):
        monkeypatch.setattr(strangers, name, getattr(strangers, name) // 16)
    journal = Journal.open(tmp_path / "journal.sqlite")
    journal._db.execute("PRAGMA synchronous = OFF")
    store = RunStore(journal, peer("anna"))
    for number in range(240):
        owner = f"sybil {number % 64}"
        value = of(owner, number)
        run, data = run_id(value), signed(value, owner)
        spec = unfitted_spec(recipe_of(value))
        records = ledger(run, SpecAdopted(epoch=0, spec=spec_digest(spec)), by=owner)
        if store.lacks(item("manifest", run, data), peer(owner)):
            store.offer("manifest", data, run=run, origin=f"6.6.{number % 8}.0/24")
        for kind in ("spec", "receipt", "ledger"):
            assert not store.lacks(item(kind, run, records[0], seq=1), peer(owner))
    journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = (tmp_path / "journal.sqlite").stat().st_size
    assert len(store.runs) == strangers.MAX_RUNS
    # Every manifest here has less than a page of SQLite; its pages are used again.
    assert size < 64 * 1024 + 4096 * 3 * strangers.MAX_RUNS
    journal.close()
