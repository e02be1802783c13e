"""Certificates of a run with keepers: what makes a part of its ledger final, and which are kept.

A part of such a ledger is taken in whole or not at all: it ends at a head that a quorum of the
run's keepers has signed. So that every part is small, a node keeps the certificate of its newest
head, and of enough heads before it that a part of at most `LEDGER_PART` bytes and `MAX_FINAL`
records leads from each to the next.
"""

from collections.abc import Sequence

from dipaco.node.runs.grants import needs_certificate
from dipaco.node.runs.record import RunRecord
from dipaco.node.storage.journal import Journal
from dipaco.node.storage.keeper_tables import SavedCertificate
from dipaco.protocol.errors import RemoteProtocolError, Unavailable
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.messages import LEDGER_PART, LedgerPart
from dipaco.protocol.wire.signed import Signed, open_signed
from dipaco.protocol.work.ledger import LedgerRecord
from dipaco.protocol.work.terms import Head, check_certificate

MAX_FINAL = 128  # records of a part of such a run: 13 ms to verify, without a pause

Certificate = tuple[Signed, ...]


def check_final(record: RunRecord, envelopes: Sequence[Signed], certificate: Certificate) -> None:
    """Check that a part of a ledger ends at a head that its certificate makes final.

    A run without keepers has no certificates, nor has what came after its owner's word. Raises
    RemoteProtocolError, and Unavailable where that word may not be here yet.
    """
    first = open_signed(envelopes[0], LedgerRecord)
    if not needs_certificate(record, first.seq):
        if certificate:
            raise RemoteProtocolError("sends a certificate for a run without keepers")
        return
    if len(envelopes) > MAX_FINAL:
        raise RemoteProtocolError(f"sends {len(envelopes)} records, at most {MAX_FINAL}")
    if not certificate and first.term > record.term:
        raise Unavailable("these records have no certificate: does the owner let the term begin?")
    if not certificate:
        raise RemoteProtocolError("sends records of a run with keepers without their certificate")
    final = check_certificate(record.manifest, record.run, certificate)
    if head_of(envelopes[-1]) != final:
        raise RemoteProtocolError("the records do not end where their certificate is")


def head_of(last: Signed) -> Head:
    """Return the head of a ledger whose last record is `last`; raises RemoteProtocolError."""
    record = open_signed(last, LedgerRecord)
    return Head(term=record.term, length=record.seq + 1, digest=last.body_digest)


def keep_certificate(journal: Journal, run: Digest, length: int, certificate: Certificate) -> None:
    """Save the certificate of the newest head, and drop the last one where no part needs it.

    Raises DiskFull.
    """
    kept = [0, *(each.length for each in journal.certificates(run))]
    if len(kept) > 1 and _fits(journal, run, kept[-2], length):
        journal.drop_certificate(run, kept[-1])
    data = encode(LedgerPart(records=(), certificate=certificate))
    journal.save_certificate(run, SavedCertificate(length, data))


def newest_certificate(journal: Journal, run: Digest) -> Certificate:
    """Return the certificate of the newest head; empty without one."""
    kept = journal.certificates(run)
    return _opened(kept[-1]) if kept else ()


def final_part(journal: Journal, run: Digest, first: int) -> LedgerPart:
    """Return the records from number `first` on to a head that is final, and its certificate."""
    records, total = [], 0
    for saved in journal.ledger(run, first, MAX_FINAL):
        total += len(saved.data)
        if total > LEDGER_PART:
            break
        records.append(saved.data)
    kept = [c for c in journal.certificates(run, first) if c.length <= first + len(records)]
    if not kept:
        return LedgerPart(records=())
    ends = kept[-1].length - first
    return LedgerPart(records=tuple(records[:ends]), certificate=_opened(kept[-1]))


def _fits(journal: Journal, run: Digest, start: int, end: int) -> bool:
    """Return whether the records from number `start` on, `end` of the ledger, are one part."""
    if end - start > MAX_FINAL:
        return False
    return sum(len(each.data) for each in journal.ledger(run, start)) <= LEDGER_PART


def _opened(saved: SavedCertificate) -> Certificate:
    part = decode(saved.data, LedgerPart)
    assert isinstance(part.certificate, tuple)
    return part.certificate
