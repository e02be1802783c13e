"""The word of a run's owner that a term begins: which counts, and what goes.

In a run with keepers it ends their part: a quorum of them is gone for good. From then on a record
is final when its scheduler has signed it.

The records beyond the head that the owner names are given up, and whoever has the word gives them
up. So the ledger of a run whose scheduler is gone for good goes on, in one chain, by another one of
its manifest.
"""

from collections.abc import Sequence
from functools import partial

from dipaco.node.runs.record import RunRecord
from dipaco.protocol.errors import Refusal, RemoteProtocolError, Unavailable
from dipaco.protocol.wire.digest import short
from dipaco.protocol.wire.signed import Signed, open_signed
from dipaco.protocol.work.authority import scheduler_of_term
from dipaco.protocol.work.ledger import LedgerRecord, TermBegun
from dipaco.protocol.work.terms import OwnersGrant


def check_grant(record: RunRecord, signed: Signed, grant: OwnersGrant) -> None:
    """Raise RemoteProtocolError unless the run's owner signed it, Refusal if it is not wanted."""
    if signed.signer != record.manifest.owner:
        raise RemoteProtocolError(
            f"term {grant.term} of run {short(record.run)} is granted by {signed.signer}, who is "
            "not its owner"
        )
    known = max(record.term, record.granted.term if record.granted else 0)
    if grant.term <= known:
        raise Refusal(f"run {short(record.run)} knows term {known} already")


def stays_until(record: RunRecord) -> int:
    """Return the number of records of a run's ledger that the owner's word leaves.

    All of them where there is no word, or its term has begun here. None where another chain than
    the one that is to go on is here.
    """
    grant = record.granted
    if grant is None or record.term >= grant.term or record.length < grant.head.length:
        return record.length
    length = grant.head.length
    goes_on = not length or record.digests[length - 1] == grant.head.digest
    return length if goes_on else 0


def needs_certificate(record: RunRecord, first: int) -> bool:
    """Return whether records from number `first` on are final by a quorum of keepers alone."""
    if not record.manifest.schedule.named_keepers:
        return False
    return record.granted is None or first < record.granted.head.length


def check_owners_word(record: RunRecord, fresh: Sequence[Signed]) -> None:
    """Raise for records of a peer that may not know the owner's word, or of one that knows more.

    Neither is at fault, so the records need not continue the chain that is here; who signed them
    is checked. Raises Refusal for records that the owner has given up, Unavailable for a term that
    his word may let begin: it is not here yet.
    """
    grant = record.granted
    looked_at = fresh[:1] if grant is None else fresh
    opened = [open_signed(each, LedgerRecord) for each in looked_at]
    if not all(map(partial(_by_scheduler, record), looked_at, opened)):
        return
    if grant is not None:
        _check_not_given_up(record, grant, opened)
    elif opened and not needs_certificate(record, opened[0].seq):
        first, head = opened[0], record.chain_head
        if first.term > head.term and (first.seq, first.previous) != (head.length, head.digest):
            raise Unavailable(
                f"the ledger of run {short(record.run)} has another chain in term {first.term}: "
                "the owner's word is not here yet"
            )


def _by_scheduler(record: RunRecord, signed: Signed, opened: LedgerRecord) -> bool:
    schedulers = record.manifest.schedule.schedulers
    return signed.signer == scheduler_of_term(schedulers, opened.term)


def _check_not_given_up(
    record: RunRecord, grant: OwnersGrant, opened: Sequence[LedgerRecord]
) -> None:
    for each in opened:
        if isinstance(each.entry, TermBegun) and each.seq >= grant.head.length:
            raise Refusal(f"run {short(record.run)} goes on without keepers, says its owner")
        if each.term >= grant.term:
            return
        if each.seq >= grant.head.length:
            raise Refusal(
                f"the owner of run {short(record.run)} has given up record {each.seq} of "
                f"term {each.term}"
            )
