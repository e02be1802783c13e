"""Rules of this file: one honest chain, and chains that differ from it in one thing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.run.manifest import Scheduling
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.signed import Signed, sign
from dipaco.protocol.work.ledger import Entry, LedgerRecord, SpecAdopted, append_checked
from dipaco.protocol.work.terms import FIRST_TERM, NO_RECORD, Head
from tests.values import digest, key, manifest, peer

RUN = digest("run")
MANIFEST = manifest(schedule=Scheduling(schedulers=(peer("scheduler"), peer("second"))))
ENTRIES: list[Entry] = [SpecAdopted(epoch=0, spec=digest(f"spec {i}")) for i in range(6)]


def chain(
    entries: list[Entry], who: str = "scheduler", run: Digest = RUN, term: int = FIRST_TERM
) -> list[Signed]:
    signed: list[Signed] = []
    for seq, entry in enumerate(entries):
        previous = signed[-1].body_digest if signed else NO_RECORD
        record = LedgerRecord(run=run, term=term, seq=seq, previous=previous, entry=entry)
        signed.append(sign(record, key(who)))
    return signed


CHAIN = chain(ENTRIES)


def check(records: list[Signed], seq: int = 0, previous: Digest = NO_RECORD) -> list[LedgerRecord]:
    head = Head(term=FIRST_TERM, length=seq, digest=previous)
    digests = [record.body_digest for record in CHAIN]
    return append_checked(
        records, run=RUN, manifest=MANIFEST, head=head, digest_of=digests.__getitem__
    )


@given(st.integers(0, 6), st.integers(0, 6))
def test_an_honest_chain_is_taken_in_pieces_of_any_length(one: int, other: int) -> None:
    first, last = sorted((one, other))
    head = CHAIN[first - 1].body_digest if first else NO_RECORD
    taken = check(CHAIN[first:last], seq=first, previous=head)
    assert [record.entry for record in taken] == ENTRIES[first:last]


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (CHAIN[1:], "not record 0"),
        (CHAIN[:2] + CHAIN[3:], "not record 2"),
        (CHAIN[:2] + CHAIN[1:], "not record 2"),
        (list(reversed(CHAIN)), "not record 0"),
        (CHAIN[:3] + chain(ENTRIES[1:])[3:], "not record 3"),
        (chain(ENTRIES, who="stranger"), "is not the scheduler of term 0"),
        (CHAIN[:3] + chain(ENTRIES, who="stranger")[3:], "is not the scheduler of term 0"),
        (chain(ENTRIES, who="second"), "is not the scheduler of term 0"),
        (CHAIN[:3] + chain(ENTRIES, who="second")[3:], "is not the scheduler of term 0"),
        (chain(ENTRIES, run=digest("another")), "another run"),
        (
            chain(ENTRIES, term=2),
            "is of term 2, the chain of 0",
        ),  # the scheduler's own, but never begun
        ([replace(CHAIN[0], body=CHAIN[1].body)], "signature"),
        ([sign(ENTRIES[0], key("scheduler"))], "signature"),  # signed as another type
    ],
)
def test_what_is_not_the_chains_next_record_is_refused(records: list[Signed], words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        check(records)


def test_two_records_of_one_number_cannot_both_continue_a_chain() -> None:
    fork = chain([*ENTRIES[:5], SpecAdopted(epoch=9, spec=RUN)])
    head = CHAIN[-1].body_digest
    assert fork[5].body_digest != head
    after = LedgerRecord(
        run=RUN, term=FIRST_TERM, seq=6, previous=fork[5].body_digest, entry=ENTRIES[0]
    )
    with pytest.raises(RemoteProtocolError, match="not record 6"):
        check([sign(after, key("scheduler"))], seq=6, previous=head)
