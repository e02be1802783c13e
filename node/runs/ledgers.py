"""The ledgers of all runs, in the journal: read in parts, and taken in record by record.

A record is saved before its run's fold keeps it. Where that fails, the fold goes back to where the
journal ends.
"""

import logging

from dipaco.node.runs.certificates import (
    Certificate,
    check_final,
    final_part,
    keep_certificate,
    newest_certificate,
)
from dipaco.node.runs.chain import RECORD, LedgerFault, envelopes_of, find_contradiction
from dipaco.node.runs.grants import check_owners_word, needs_certificate, stays_until
from dipaco.node.runs.record import RunRecord
from dipaco.node.storage.journal import Journal
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.digest import Digest, short
from dipaco.protocol.wire.messages import MAX_RECORDS, LedgerPart
from dipaco.protocol.wire.signed import Signed, open_signed
from dipaco.protocol.work.ledger import LedgerRecord

log = logging.getLogger(__name__)


class Ledgers:
    """What the journal has of ledgers, and how it grows."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def read(self, run: Digest, first: int, limit: int) -> tuple[bytes, ...]:
        """Return the signed records from number `first` on, at most `limit` bytes."""
        part: list[bytes] = []
        for saved in self._journal.ledger(run, first, MAX_RECORDS):
            limit -= len(saved.data)
            if limit < 0:
                break
            part.append(saved.data)
        return tuple(part)

    def part(self, record: RunRecord, first: int, limit: int) -> LedgerPart:
        """Return a part from number `first` on as peers get it, at most `limit` bytes.

        In a run with keepers it ends at a head that is final, and has its certificate; not so what
        comes after the owner's word that the run goes on without them.
        """
        if needs_certificate(record, first):
            return final_part(self._journal, record.run, first)
        return LedgerPart(records=self.read(record.run, first, limit))

    def certificate(self, run: Digest) -> Certificate:
        """Return the certificate of a ledger's head; empty without records or keepers."""
        return newest_certificate(self._journal, run)

    def take_in(
        self,
        record: RunRecord,
        records: tuple[bytes, ...],
        *,
        first: int | None,
        certificate: Certificate,
    ) -> bool:
        """Take in consecutive records; returns whether any is new.

        first         the number that was asked for; None: any.
        certificate   of the head at which they end, in a run with keepers.

        Raises RemoteProtocolError, SignerFault (a `LedgerFault` has what proves it), Refusal for
        records that the owner has given up, Unavailable where his word may not be here yet.
        """
        envelopes = envelopes_of(records, first)
        fresh = self._not_held(record, envelopes)
        if fresh:
            check_final(record, envelopes, certificate)
        self._append(record, fresh, certificate)
        record.ledger_bytes += sum(map(len, records[len(records) - len(fresh) :]))
        return bool(fresh)

    def replay(self, record: RunRecord) -> None:
        """Bring a ledger's fold to where the journal ends."""
        record.restart()
        saved = self._journal.ledger(record.run)
        record.ledger_bytes = sum(len(each.data) for each in saved)
        envelopes = [decode(each.data, Signed, limit=RECORD) for each in saved]
        for signed, entry in zip(envelopes, record.check(envelopes), strict=True):
            record.advance(signed, entry)

    def give_up(self, record: RunRecord) -> None:
        """Drop the records that the run's owner has given up."""
        if (stays := stays_until(record)) < record.length:
            log.warning("run %s: its owner gave up records from %d on", short(record.run), stays)
            self._journal.cut_ledger(record.run, stays)
            self.replay(record)

    def _not_held(self, record: RunRecord, envelopes: list[Signed]) -> list[Signed]:
        """Drop the records that another peer brought while this answer was on its way."""
        if not envelopes:
            return []
        first = open_signed(envelopes[0], LedgerRecord).seq
        held = self._journal.ledger(record.run, max(0, first - 1), len(envelopes) + 1)
        find_contradiction(record.run, record.scheduler, held, envelopes)
        have = {saved.seq: saved.digest for saved in held}
        known = 0
        while known < len(envelopes) and (have.get(first + known) == envelopes[known].body_digest):
            known += 1
        return envelopes[known:]

    def _append(self, record: RunRecord, fresh: list[Signed], certificate: Certificate) -> None:
        self.give_up(record)  # what came before the owner's word could be held against it
        check_owners_word(record, fresh)
        opened = record.check(fresh)
        saved = False
        try:
            with self._journal.saving():
                for signed, entry in zip(fresh, opened, strict=True):
                    _advance(record, signed, entry)
                    data = encode(signed)
                    self._journal.append_ledger(record.run, entry.seq, signed.body_digest, data)
                if fresh and certificate:
                    keep_certificate(self._journal, record.run, record.length, certificate)
            saved = True
        finally:
            if not saved:  # an entry that cannot follow, a full disk: nothing was taken in
                self.replay(record)


def _advance(record: RunRecord, signed: Signed, entry: LedgerRecord) -> None:
    """Take in the next record; raises LedgerFault if its entry cannot follow."""
    try:
        record.advance(signed, entry)
    except RemoteProtocolError as error:
        raise LedgerFault(str(error), record.scheduler, b"", encode(signed)) from error
