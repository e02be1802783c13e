"""The owner's word that a term begins: what it gives up, and who believes it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from dipaco.node.network.keys import own_peer
from dipaco.node.runs.files import RunFile, sign_manifest
from dipaco.node.runs.store import RunStore
from dipaco.node.runs.takeover import grant_term
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal
from dipaco.protocol.errors import ConfigError, Refusal, RemoteProtocolError, Unavailable
from dipaco.protocol.run.manifest import run_id
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.signed import Signed, sign
from dipaco.protocol.work.kinds import Evaluated, Evaluation
from dipaco.protocol.work.ledger import LedgerRecord, SpecAdopted, TermBegun
from dipaco.protocol.work.terms import Head, OwnersGrant, Promise
from tests.kept import certificate, encoded, head, kept_chain, kept_manifest, seeded_of
from tests.values import digest, key, manifest, peer

PLAIN = manifest()
VALUE = replace(
    PLAIN,
    schedule=replace(PLAIN.schedule, schedulers=(peer("scheduler"), peer("second"))),
)
RUN = run_id(VALUE)
ADOPTED = SpecAdopted(epoch=0, spec=digest("spec"))


def evaluated(nll: float) -> Evaluated:
    found = Evaluation(documents=1, tokens=2, nll=nll)
    return Evaluated(path=0, version=0, peer=peer("anna"), evaluation=found)


CHAIN = kept_chain(VALUE, ADOPTED, seeded_of(VALUE), evaluated(3.0))
OTHER = kept_chain(VALUE, ADOPTED, seeded_of(VALUE), evaluated(4.0))


def grant(upto: Head, *, term: int = 1, by: str = "owner", run: bytes = RUN) -> bytes:
    return encode(sign(OwnersGrant(run=run, term=term, head=upto), key(by)))  # type: ignore[arg-type]


@pytest.fixture
def journals(tmp_path: Path) -> Iterator[list[Journal]]:
    opened = [Journal.open(tmp_path / f"{name}.sqlite") for name in ("one", "two")]
    yield opened
    for journal in opened:
        journal.close()


def store_of(journal: Journal, records: list[Signed], me: str = "anna") -> RunStore:
    store = RunStore(journal, peer(me))
    store.offer("manifest", encode(sign(VALUE, key("owner"))))
    store.keep(RUN)
    store.offer_ledger(RUN, encoded(records))
    return store


def test_the_scheduler_that_is_granted_a_term_goes_on_and_all_others_follow(
    journals: list[Journal],
) -> None:
    second = store_of(journals[0], CHAIN[:2], "second")
    anna = store_of(journals[1], CHAIN)
    word = grant(head(CHAIN[:2]))
    for store in (second, anna):
        store.offer("grant", word)
        assert store.runs[RUN].length == 2  # what the owner gave up is gone
    second.begin_granted(RUN, key("second"))
    second.append(RUN, evaluated(5.0), key("second"))
    assert second.runs[RUN].scheduler == peer("second")
    with pytest.raises(Refusal, match="has given up record 2"):
        anna.offer_ledger(RUN, encoded(CHAIN), first=0)  # from a peer that does not know
    anna.offer_ledger(RUN, second.read_ledger(RUN, 2, 1 << 20), first=2)
    assert anna.runs[RUN].digests == second.runs[RUN].digests
    again = RunStore(journals[1], peer("anna"))
    assert again.runs[RUN].digests == second.runs[RUN].digests


def test_nobody_is_to_blame_who_has_not_heard_the_owners_word(journals: list[Journal]) -> None:
    second = store_of(journals[0], CHAIN[:1], "second")
    anna = store_of(journals[1], CHAIN)
    second.offer("grant", grant(head(CHAIN[:1])))
    second.begin_granted(RUN, key("second"))
    second.append(RUN, seeded_of(VALUE), key("second"))
    second.append(RUN, evaluated(5.0), key("second"))
    with pytest.raises(Refusal, match="has given up record 2"):  # its own chain has other records
        second.offer_ledger(RUN, encoded(CHAIN[2:]), first=2)
    beyond = second.read_ledger(RUN, 3, 1 << 20)
    with pytest.raises(Unavailable, match="another chain in term 1: the owner's word is not here"):
        anna.offer_ledger(RUN, beyond, first=3)
    anna.offer("grant", grant(head(CHAIN[:1])))
    anna.offer_ledger(RUN, second.read_ledger(RUN, 1, 1 << 20), first=1)
    assert anna.runs[RUN].digests == second.runs[RUN].digests


def test_whoever_hands_on_records_that_no_scheduler_signed_is_to_blame(
    journals: list[Journal],
) -> None:
    second = store_of(journals[0], CHAIN[:1], "second")
    anna = store_of(journals[1], CHAIN)
    second.offer("grant", grant(head(CHAIN[:1])))
    second.begin_granted(RUN, key("second"))
    for store, term, seq in ((second, 0, 2), (anna, 1, 3)):
        entry = evaluated(7.0)
        forged = LedgerRecord(run=RUN, term=term, seq=seq, previous=digest("other"), entry=entry)
        signed = sign(forged, key("mallory"))
        with pytest.raises(RemoteProtocolError, match=f"not the scheduler of term {term}"):
            store.offer_ledger(RUN, encoded([signed]), first=seq)


def test_a_node_with_another_chain_reads_the_ledger_anew(journals: list[Journal]) -> None:
    second = store_of(journals[0], CHAIN, "second")
    anna = store_of(journals[1], OTHER)
    for store in (second, anna):
        store.offer("grant", grant(head(CHAIN)))
    assert anna.runs[RUN].length == 0
    second.begin_granted(RUN, key("second"))
    anna.offer_ledger(RUN, second.read_ledger(RUN, 0, 1 << 20), first=0)
    assert anna.runs[RUN].digests == second.runs[RUN].digests


def test_nobody_begins_a_granted_term_without_the_records_that_it_goes_on_from(
    journals: list[Journal],
) -> None:
    second = store_of(journals[0], CHAIN[:2], "second")
    second.offer("grant", grant(head(CHAIN)))
    with pytest.raises(Unavailable, match="waits for the others"):
        second.begin_granted(RUN, key("second"))
    second.offer_ledger(RUN, encoded(CHAIN))
    second.begin_granted(RUN, key("second"))
    assert second.runs[RUN].term == 1


def test_only_the_owner_grants_a_term_and_only_a_higher_one(journals: list[Journal]) -> None:
    store = store_of(journals[0], CHAIN)
    with pytest.raises(RemoteProtocolError, match="not its owner"):
        store.offer("grant", grant(head(CHAIN), by="mallory"))
    with pytest.raises(RemoteProtocolError):
        store.offer("grant", b"\xa0")
    store.offer("grant", grant(head(CHAIN), term=3))
    with pytest.raises(Refusal, match="knows term 3"):
        store.offer("grant", grant(head(CHAIN[:1]), term=2))
    with pytest.raises(Unavailable, match="not known"):
        store.offer("grant", grant(head(CHAIN), run=run_id(PLAIN)))
    assert store.runs[RUN].length == len(CHAIN)


KEPT = kept_manifest(schedulers=("scheduler", "second"))
KEPT_RUN = run_id(KEPT)
FINAL = kept_chain(KEPT, ADOPTED, seeded_of(KEPT), evaluated(3.0))


def kept_store(journal: Journal, upto: int, me: str = "anna") -> RunStore:
    """Return the store of a node that has the first final records of a run with keepers."""
    store = RunStore(journal, peer(me))
    store.offer("manifest", encode(sign(KEPT, key("owner"))))
    store.keep(KEPT_RUN)
    if upto:
        proof = certificate(KEPT_RUN, ("kim", "ken"), head(FINAL[:upto]))
        store.offer_ledger(KEPT_RUN, encoded(FINAL[:upto]), certificate=proof)
    return store


def test_with_its_owners_word_a_run_goes_on_without_keepers(journals: list[Journal]) -> None:
    second, anna = kept_store(journals[0], 2, "second"), kept_store(journals[1], 0)
    word = grant(head(FINAL[:2]), run=KEPT_RUN)
    second.offer("grant", word)
    second.begin_granted(KEPT_RUN, key("second"))
    second.append(KEPT_RUN, evaluated(5.0), key("second"))
    before, after = (second.read_part(KEPT_RUN, first, 1 << 20) for first in (0, 2))
    assert isinstance(before.certificate, tuple) and after.certificate is UNSET
    anna.offer_ledger(KEPT_RUN, before.records, first=0, certificate=before.certificate)
    with pytest.raises(Unavailable, match="does the owner"):  # the messenger may be honest
        anna.offer_ledger(KEPT_RUN, after.records, first=2)
    anna.offer("grant", word)
    with pytest.raises(RemoteProtocolError, match="without keepers"):
        anna.offer_ledger(KEPT_RUN, after.records, first=2, certificate=before.certificate)
    anna.offer_ledger(KEPT_RUN, after.records, first=2)
    again = RunStore(journals[1], peer("anna"))
    assert again.runs[KEPT_RUN].digests == second.runs[KEPT_RUN].digests
    assert not again.runs[KEPT_RUN].keepers


def test_a_quorum_that_comes_back_after_its_owners_word_decides_nothing(
    journals: list[Journal],
) -> None:
    anna = kept_store(journals[0], 2)
    anna.offer("grant", grant(head(FINAL[:2]), run=KEPT_RUN))
    proof = certificate(KEPT_RUN, ("kim", "ken"), head(FINAL))
    with pytest.raises(Refusal, match="has given up record 2"):
        anna.offer_ledger(KEPT_RUN, encoded(FINAL), first=0, certificate=proof)
    promises = tuple(
        sign(Promise(run=KEPT_RUN, term=3, keeper=peer(name), head=head(FINAL[:2])), key(name))
        for name in sorted(("kim", "ken"), key=peer)
    )
    begun = LedgerRecord(
        run=KEPT_RUN,
        term=3,
        seq=2,
        previous=FINAL[1].body_digest,
        entry=TermBegun(promises=promises),
    )
    with pytest.raises(Refusal, match="goes on without keepers"):
        anna.offer_ledger(KEPT_RUN, encoded([sign(begun, key("second"))]), first=2)
    assert anna.runs[KEPT_RUN].length == 2


def test_records_without_a_certificate_are_a_fault_where_no_term_begins(
    journals: list[Journal],
) -> None:
    anna = kept_store(journals[0], 2)
    with pytest.raises(RemoteProtocolError, match="without their certificate"):
        anna.offer_ledger(KEPT_RUN, encoded(FINAL[2:]), first=2)


def test_the_owner_grants_the_next_term_of_a_home_by_hand(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "home")
    journal = Journal.open(home.journal)
    store_of(journal, CHAIN, "second")
    journal.close()
    run: RunFile = sign_manifest(VALUE, key("owner"))
    with pytest.raises(ConfigError, match="--key"):
        grant_term(run, home.root, key("anna"), term=None, me=peer("second"))
    with pytest.raises(ConfigError, match=r"--term 2 for .*, --term 1 for "):
        grant_term(run, home.root, key("owner"), term=None, me=own_peer(home.root))
    made, scheduler = grant_term(run, home.root, key("owner"), term=None, me=peer("second"))
    assert (made.term, made.head, scheduler) == (1, head(CHAIN), peer("second"))
    journal = Journal.open(home.journal)
    again = RunStore(journal, peer("second"))
    again.begin_granted(RUN, key("second"))
    assert again.runs[RUN].term == 1
    journal.close()
    with pytest.raises(ConfigError, match="of term 1 already"):
        grant_term(run, home.root, key("owner"), term=1, me=peer("second"))


def test_a_run_with_keepers_needs_no_word_of_its_owner_while_there_may_be_a_quorum(
    tmp_path: Path,
) -> None:
    home = Home.at(tmp_path / "home")
    journal = Journal.open(home.journal)
    kept_store(journal, 2, "second")
    journal.close()
    run = sign_manifest(KEPT, key("owner"))
    with pytest.raises(ConfigError, match=r"has keepers.*--keepers-gone"):
        grant_term(run, home.root, key("owner"), term=None, me=peer("second"))
    made, scheduler = grant_term(
        run, home.root, key("owner"), term=None, me=peer("second"), keepers_gone=True
    )
    assert (made.term, made.head, scheduler) == (1, head(FINAL[:2]), peer("second"))
