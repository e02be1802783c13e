"""What a node takes in and hands on: real SQLite, real signatures, no network."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dipaco.node import catalogue as catalogue_module
from dipaco.node.catalogue import Catalogue
from dipaco.node.storage.files import DiskFull
from dipaco.node.storage.journal import Journal
from dipaco.protocol.canonical import Wire, decode, encode
from dipaco.protocol.course import Voices
from dipaco.protocol.errors import Refusal, RemoteProtocolError, Unavailable
from dipaco.protocol.lease import Evaluated, Evaluation, Seeded
from dipaco.protocol.ledger import FIRST_TERM, NO_RECORD, LedgerRecord, SpecAdopted
from dipaco.protocol.manifest import run_id
from dipaco.protocol.messages import Item
from dipaco.protocol.modules import ModuleDigest
from dipaco.protocol.routing.recipe import recipe_of, unfitted_spec
from dipaco.protocol.signed import Signed, sign
from dipaco.protocol.spec import spec_digest
from dipaco.protocol.verdict import Outcome, Receipt, Verdict
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
def catalogue(journal: Journal) -> Catalogue:
    made = Catalogue(journal)
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
    modules = manifest().topology.modules
    return Seeded(
        peer=peer("anna"),
        states=tuple(ModuleDigest(module=m, digest=digest(m)) for m in modules),
    )


def test_a_manifest_not_signed_by_its_owner_is_refused(journal: Journal) -> None:
    with pytest.raises(RemoteProtocolError, match="its owner is"):
        Catalogue(journal).offer("manifest", signed(manifest(), "mallory"))


def test_a_spec_not_signed_by_a_scheduler_of_its_run_is_refused(catalogue: Catalogue) -> None:
    with pytest.raises(RemoteProtocolError, match="does not schedule it"):
        catalogue.offer("spec", signed(SPEC, "mallory"))
    catalogue.offer("spec", signed(SPEC, "scheduler"))
    assert catalogue.runs[RUN].specs[spec_digest(SPEC)].author == peer("scheduler")


def test_a_value_of_an_unknown_run_can_come_again_later(journal: Journal) -> None:
    empty = Catalogue(journal)
    for kind, data in (("spec", signed(SPEC, "scheduler")), ("receipt", receipt("anna"))):
        with pytest.raises(Unavailable, match="not known yet"):
            empty.offer(kind, data)
    with pytest.raises(Unavailable, match="not known yet"):
        empty.offer_ledger(RUN, ())
    assert empty.inventory() == ()


def test_a_value_under_the_name_of_another_kind_is_refused(catalogue: Catalogue) -> None:
    with pytest.raises(RemoteProtocolError):
        catalogue.offer("manifest", receipt("anna"))
    with pytest.raises(RemoteProtocolError, match="no value is of kind"):
        catalogue.offer("rumour", receipt("anna"))


def test_garbage_and_a_bent_signature_are_refused(catalogue: Catalogue) -> None:
    bent = bytearray(receipt("anna"))
    bent[-1] ^= 1
    for data in (b"", b"garbage", bytes(bent)):
        with pytest.raises(RemoteProtocolError):
            catalogue.offer("receipt", data)


def test_the_same_verdict_of_two_peers_is_two_receipts(catalogue: Catalogue) -> None:
    for name in ("anna", "bert", "anna"):
        catalogue.offer("receipt", receipt(name))
    assert [item.kind for item in catalogue.inventory()] == ["receipt", "receipt", "manifest"]
    for item in catalogue.inventory():
        data = catalogue.read(item.kind, item.run, item.digest)
        assert data in (receipt("anna"), receipt("bert"), signed(manifest(), "owner"))


def test_one_spec_too_many_is_refused_without_blame(catalogue: Catalogue) -> None:
    catalogue.offer("spec", signed(SPEC, "scheduler"))
    for epoch in range(1, 8):
        other = msgspec.structs.replace(SPEC, epoch=epoch)
        catalogue.offer("spec", signed(other, "scheduler"))
    with pytest.raises(Refusal, match="one too many"):
        catalogue.offer("spec", signed(msgspec.structs.replace(SPEC, epoch=8), "scheduler"))


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
    catalogue: Catalogue,
) -> None:
    records = chain(SpecAdopted(epoch=0, spec=spec_digest(SPEC)), seeded())
    catalogue.offer_ledger(RUN, tuple(records[:1]))
    catalogue.offer_ledger(RUN, tuple(records))  # the first one again
    catalogue.offer_ledger(RUN, tuple(records))
    record = catalogue.runs[RUN]
    assert record.length == 2 and record.view.seeded
    assert catalogue.read_ledger(RUN, 0, 1 << 20) == tuple(records)
    assert catalogue.read_ledger(RUN, 1, 1 << 20) == (records[1],)
    assert catalogue.read_ledger(RUN, 0, len(records[0])) == (records[0],)


def test_a_ledger_of_another_hand_or_with_a_gap_is_refused(catalogue: Catalogue) -> None:
    adopted = SpecAdopted(epoch=0, spec=spec_digest(SPEC))
    with pytest.raises(RemoteProtocolError, match="does not keep this ledger"):
        catalogue.offer_ledger(RUN, tuple(chain(adopted, by="mallory")))
    with pytest.raises(RemoteProtocolError, match="not record 0"):
        catalogue.offer_ledger(RUN, tuple(chain(adopted, seeded())[1:]))


def test_a_batch_with_an_entry_that_cannot_follow_leaves_nothing_behind(
    catalogue: Catalogue, journal: Journal
) -> None:
    adopted = SpecAdopted(epoch=0, spec=spec_digest(SPEC))
    absurd = evaluated(5)
    with pytest.raises(RemoteProtocolError, match="does not exist"):
        catalogue.offer_ledger(RUN, tuple(chain(adopted, seeded(), absurd)))
    assert catalogue.runs[RUN].length == 0 == journal.ledger_length(RUN)
    assert catalogue.runs[RUN].view.spec is None
    catalogue.offer_ledger(RUN, tuple(chain(adopted, seeded())))
    assert catalogue.runs[RUN].length == 2


def test_strangers_receipts_are_bounded_and_never_keep_out_our_own(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue_module, "MAX_RECEIPTS", 3)
    for name in ("sybil1", "sybil2", "sybil3"):
        catalogue.offer("receipt", receipt(name))
    with pytest.raises(Refusal, match="has 3 receipts already"):
        catalogue.offer("receipt", receipt("sybil4"))
    catalogue.publish("receipt", decode(receipt("me"), Signed, limit=4096))
    assert catalogue.runs[RUN].said[spec_digest(SPEC)][peer("me")] is Outcome.VERIFIED


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_who_both_verified_and_refuted_a_spec_counts_as_refuting_it(
    catalogue: Catalogue, journal: Journal, order: tuple[int, int]
) -> None:
    both = [receipt("anna"), receipt("anna", Outcome.REFUTED)]
    for each in order:
        catalogue.offer("receipt", both[each])
    catalogue.offer("receipt", receipt("bert"))
    catalogue.offer("spec", signed(SPEC, "scheduler"))
    record = catalogue.runs[RUN]
    assert record.voices(peer("me"), record.newest()) == Voices()  # nothing is adopted yet
    catalogue.append(RUN, SpecAdopted(epoch=0, spec=spec_digest(SPEC)), key("scheduler"))
    assert record.voices(peer("me"), record.newest()) == Voices(verified=1, refuted=1)
    assert record.voices(peer("bert"), record.newest()) == Voices(verified=0, refuted=1)
    assert Catalogue(journal).runs[RUN].said == record.said


def test_a_restart_finds_everything_as_it_was(catalogue: Catalogue, journal: Journal) -> None:
    catalogue.offer("spec", signed(SPEC, "scheduler"))
    catalogue.offer("receipt", receipt("anna"))
    catalogue.append(RUN, SpecAdopted(epoch=0, spec=spec_digest(SPEC)), key("scheduler"))
    catalogue.append(RUN, seeded(), key("scheduler"))
    again = Catalogue(journal)
    assert again.inventory() == catalogue.inventory()
    assert again.runs[RUN].view.states == catalogue.runs[RUN].view.states
    assert entries_of(again, RUN) == [SpecAdopted(epoch=0, spec=spec_digest(SPEC)), seeded()]
    again.append(
        RUN,
        evaluated(0),
        key("scheduler"),
    )
    assert again.runs[RUN].length == 3


def test_what_could_not_be_saved_is_not_held_and_can_come_again(
    catalogue: Catalogue, journal: Journal
) -> None:
    ((pages,),) = journal._db.execute("PRAGMA page_count").fetchall()
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    before = catalogue.inventory()
    given = {"spec": signed(SPEC, "scheduler"), "receipt": receipt("anna")}
    with pytest.raises(DiskFull):
        for number in range(100):
            catalogue.offer("receipt", receipt(f"peer {number}"))
            before = catalogue.inventory()
    with pytest.raises(DiskFull):
        catalogue.offer("spec", given["spec"])
    assert catalogue.inventory() == before
    assert not catalogue.runs[RUN].specs
    journal._db.execute("PRAGMA max_page_count = 1000000")
    for kind, data in given.items():
        catalogue.offer(kind, data)
        (item, *_) = catalogue.inventory()
        assert catalogue.read(kind, RUN, item.digest) == data


def test_a_ledger_that_was_not_saved_after_all_is_taken_back(
    catalogue: Catalogue, journal: Journal
) -> None:
    catalogue.offer("spec", signed(SPEC, "scheduler"))
    adopted = SpecAdopted(epoch=0, spec=spec_digest(SPEC))
    with pytest.raises(DiskFull), journal.saving():
        catalogue.append(RUN, adopted, key("scheduler"))
        raise DiskFull("as a commit says it")
    catalogue.reread(RUN)
    assert (catalogue.runs[RUN].length, catalogue.runs[RUN].view.spec) == (0, None)
    catalogue.append(RUN, adopted, key("scheduler"))
    assert catalogue.runs[RUN].length == 1


async def test_what_this_node_adds_is_announced_and_what_peers_bring_is_not(
    catalogue: Catalogue,
) -> None:
    catalogue.offer("spec", signed(SPEC, "scheduler"))
    for _ in range(2):
        catalogue.publish("receipt", decode(receipt("me"), Signed, limit=4096))
    catalogue.append(RUN, SpecAdopted(epoch=0, spec=spec_digest(SPEC)), key("scheduler"))
    receipts, _ = catalogue.announcements.receive_nowait()
    ledger, _ = catalogue.announcements.receive_nowait()
    assert receipts.kind == "receipt"
    assert ledger == Item(kind="ledger", run=RUN, digest=catalogue.runs[RUN].head, seq=1)
    assert catalogue.announcements.statistics().current_buffer_used == 0
