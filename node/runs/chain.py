"""The next records of a ledger, and whose fault it is where they do not continue it: pure.

A peer answers for what can be seen in the bytes that it hands on: signatures, form, numbers. Two
records that contradict each other are their signer's fault: each half of the network may hold one
of them in good faith.
"""

from collections.abc import Sequence

from dipaco.node.storage.journal import SavedRecord
from dipaco.protocol.errors import RemoteProtocolError, SignerFault
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.digest import Digest, short
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.signed import Signed, open_signed, signed_bytes
from dipaco.protocol.work.ledger import LedgerRecord

RECORD = signed_bytes(LedgerRecord)  # the most bytes of a signed record


class LedgerFault(SignerFault):
    """A scheduler signed two ledgers, or an entry that cannot follow the others."""

    def __init__(self, reason: str, signer: PeerId, one: bytes, other: bytes) -> None:
        """Take both records, encoded; `one` is empty where the other is wrong by itself."""
        super().__init__(reason, signer)
        self.one, self.other = one, other


def envelopes_of(records: Sequence[bytes], first: int | None) -> list[Signed]:
    """Decode a part of a ledger; raises RemoteProtocolError.

    first   the number that was asked for; None: any.
    """
    envelopes = [decode(record, Signed, limit=RECORD) for record in records]
    if envelopes and first is not None:
        begins = open_signed(envelopes[0], LedgerRecord).seq
        if begins != first:
            raise RemoteProtocolError(f"record {first} was asked for, and {begins} came")
    return envelopes


def find_contradiction(
    run: Digest, scheduler: PeerId, held: Sequence[SavedRecord], envelopes: Sequence[Signed]
) -> None:
    """Raise LedgerFault for the first record that contradicts one of the ledger that is held.

    held   from the record before the first of `envelopes` on, or from record 0.
    """
    by_seq = {saved.seq: saved for saved in held}
    first = open_signed(envelopes[0], LedgerRecord).seq
    for seq, envelope in enumerate(envelopes, first):
        if seq in by_seq and by_seq[seq].digest == envelope.body_digest:
            continue
        before = by_seq.get(seq) or by_seq.get(seq - 1)
        if before is not None:
            _compare(run, scheduler, before, envelope)
        return


def _compare(run: Digest, scheduler: PeerId, held: SavedRecord, envelope: Signed) -> None:
    if contradict(decode(held.data, Signed, limit=RECORD), envelope, run, scheduler):
        raise LedgerFault(
            f"the scheduler of run {short(run)} signed two ledgers",
            scheduler,
            held.data,
            encode(envelope),
        )


def contradict(one: Signed, other: Signed, run: Digest, scheduler: PeerId) -> bool:
    """Return whether two records prove that `scheduler` signed two ledgers of a run.

    Both have one number and differ, or the later one names another record before it. Raises
    RemoteProtocolError for a wrong signature.
    """
    a, b = open_signed(one, LedgerRecord), open_signed(other, LedgerRecord)
    signed = {one.signer, other.signer} == {scheduler} and {a.run, b.run} == {run}
    if not signed or a.term != b.term:
        return False
    if a.seq == b.seq:
        return one.body_digest != other.body_digest
    return b.seq == a.seq + 1 and b.previous != one.body_digest
