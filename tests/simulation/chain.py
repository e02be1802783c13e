"""A node's copy of the ledger: the real fold, and its records on the simulated disk."""

from dipaco.node.runs.record import RunRecord
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.signed import Signed
from dipaco.protocol.work.ledger import LedgerRecord
from dipaco.protocol.work.rounds import Rounds
from tests.simulation import toy
from tests.simulation.disk import Disk, Write
from tests.simulation.oracle import Oracle

PART = 16  # records of one message, at most
LEDGER = "ledger"


class Chain:
    """The ledger of one node."""

    def __init__(self, run: Digest, manifest: Manifest, disk: Disk, oracle: Oracle) -> None:
        self._disk, self._oracle = disk, oracle
        self.record = RunRecord(run, manifest)
        weights = toy.weights(manifest.paths)
        self.record.rounds = Rounds(self.record.state, lambda _: weights)
        self.records: list[Signed] = []
        self.reread()

    def reread(self) -> None:
        """Go back to what is on the disk."""
        self.record.restart()
        self.records.clear()
        saved = self._disk.rows(LEDGER)
        records = [decode(saved[seq,], Signed) for seq in range(len(saved))]
        self.note_final(self.take(records), records)

    def part(self, first: int) -> tuple[Signed, ...]:
        """Return records from a number on, as many as a message holds."""
        return tuple(self.records[first : first + PART])

    def take(self, records: list[Signed]) -> list[LedgerRecord]:
        """Take in the next records, in memory; raises RemoteProtocolError."""
        opened = self.record.check(records)
        for signed, record in zip(records, opened, strict=True):
            self.record.advance(signed, record)
            self.records.append(signed)
        return opened

    def offer(self, first: int, records: tuple[Signed, ...]) -> None:
        """Take in and save what a peer sent; what is held already changes nothing."""
        fresh = list(records[max(0, len(self.records) - first) :])
        if not fresh or first > len(self.records):
            return
        writes = [write_of(len(self.records) + i, each) for i, each in enumerate(fresh)]
        self._disk.commit(writes)
        self.note_final(self.take(fresh), fresh)

    def note_final(self, opened: list[LedgerRecord], records: list[Signed]) -> None:
        """Tell the oracle of records that are saved, and final."""
        for record, signed in zip(opened, records, strict=True):
            self._oracle.final(record, signed.body_digest)


def write_of(seq: int, signed: Signed) -> Write:
    """Return the write that saves a record."""
    return LEDGER, (seq,), encode(signed)
