"""A node's copy of the ledger: the real fold, and its records on the simulated disk."""

from dipaco.node.runs.grants import check_grant, check_owners_word, stays_until
from dipaco.node.runs.record import RunRecord
from dipaco.protocol.errors import Refusal, RemoteProtocolError, Unavailable
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.signed import Signed, open_signed
from dipaco.protocol.work.ledger import LedgerRecord
from dipaco.protocol.work.rounds import Rounds
from dipaco.protocol.work.tail import Final
from dipaco.protocol.work.terms import OwnersGrant, check_certificate
from tests.simulation import toy
from tests.simulation.calls import Part
from tests.simulation.disk import Disk, Write
from tests.simulation.oracle import Oracle

PART = 16  # records of one message, at most
LEDGER, CERTIFICATE, GRANT = "ledger", "certificate", "grant"


class Chain:
    """The final ledger of one node."""

    def __init__(self, run: Digest, manifest: Manifest, disk: Disk, oracle: Oracle) -> None:
        self._run, self._manifest = run, manifest
        self._disk, self._oracle = disk, oracle
        self.record = RunRecord(run, manifest)
        weights = toy.weights(manifest.paths)
        self.record.rounds = Rounds(self.record.state, lambda _: weights)
        self.records: list[Signed] = []
        self.opened: list[LedgerRecord] = []
        """The same, opened."""
        self.certificate: tuple[Signed, ...] = ()
        """Of the last record, in a run with keepers."""
        self.grant: Signed | None = None
        """The owner's word that another scheduler goes on, in a run without keepers."""
        self.reread()

    def reread(self) -> None:
        """Go back to what is on the disk."""
        self.record.restart()
        granted = self._disk.rows(GRANT).get(())
        self.grant = decode(granted, Signed) if granted else None
        self.record.granted = open_signed(self.grant, OwnersGrant) if self.grant else None
        self.records.clear()
        self.opened.clear()
        saved = self._disk.rows(LEDGER)
        records = [decode(saved[seq,], Signed) for seq in range(len(saved))]
        self.note_final(self.take(records), records)
        signed = self._disk.rows(CERTIFICATE)
        self.certificate = tuple(decode(signed[key], Signed) for key in sorted(signed))

    @property
    def final(self) -> Final:
        """Return the ledger as the machines of keepers and candidates take it."""
        record = self.record
        return Final(record.chain_head, record.digests.__getitem__, record.state)

    def part(self, first: int) -> Part:
        """Return records from a number on, as many as a message holds, up to the certified head."""
        last = len(self.records) if self.certificate else first + PART
        return Part(first, tuple(self.records[first:last]), self.certificate, self.grant)

    def heed(self, signed: Signed | None) -> None:
        """Take in the owner's word, and give up the records that it gives up; raises DiskFull."""
        if signed is None or self.grant is not None:  # a universe has one
            return
        grant = open_signed(signed, OwnersGrant)
        try:
            check_grant(self.record, signed, grant)
        except Refusal:  # the term has begun here
            return
        self.record.granted = grant
        stays, have = stays_until(self.record), len(self.records)
        gone: list[Write] = [(LEDGER, (seq,), None) for seq in range(stays, have)]
        try:
            self._disk.commit([(GRANT, (), encode(signed)), *gone])
        finally:
            self.reread()

    def take(self, records: list[Signed]) -> list[LedgerRecord]:
        """Take in the next records, in memory; raises RemoteProtocolError."""
        opened = self.record.check(records)
        for signed, record in zip(records, opened, strict=True):
            self.record.advance(signed, record)
            self.records.append(signed)
            self.opened.append(record)
        return opened

    def offer(self, part: Part) -> int:
        """Take in and save what a peer sent; returns the number of records that are new.

        Raises RemoteProtocolError for what an honest peer does not send.
        """
        self.heed(part.grant)
        have = len(self.records)
        fresh = list(part.records[max(0, have - part.first) :])
        if not fresh or part.first > have:
            return 0
        if self._manifest.schedule.named_keepers:
            head = check_certificate(self._manifest, self._run, part.certificate)
            if (head.length, head.digest) != (have + len(fresh), fresh[-1].body_digest):
                raise RemoteProtocolError("the certificate is not of the last record")
        self.append(fresh, part.certificate)
        return len(self.records) - have

    def append(self, fresh: list[Signed], certificate: tuple[Signed, ...]) -> None:
        """Save and take in the next records, which are final; raises DiskFull."""
        have = len(self.records)
        try:
            check_owners_word(self.record, fresh)
        except (Refusal, Unavailable):  # whoever sends them may not know, or knows more
            return
        self.record.check(fresh)
        writes = [write_of(have + i, each) for i, each in enumerate(fresh)]
        writes += [(CERTIFICATE, (i,), encode(each)) for i, each in enumerate(certificate)]
        self._disk.commit(writes)
        self.certificate = certificate
        self.note_final(self.take(fresh), fresh)

    def note_final(self, opened: list[LedgerRecord], records: list[Signed]) -> None:
        """Tell the oracle of records that are saved, and final."""
        for record, signed in zip(opened, records, strict=True):
            self._oracle.final(record, signed.body_digest)


def write_of(seq: int, signed: Signed) -> Write:
    """Return the write that saves a record."""
    return LEDGER, (seq,), encode(signed)
