"""What a keeper had promised, signed and kept when its journal was last written."""

from dipaco.node.runs.record import RunRecord
from dipaco.node.storage.journal import Journal
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.canonical import decode
from dipaco.protocol.wire.signed import Signed, open_signed
from dipaco.protocol.work.calls import Acceptance
from dipaco.protocol.work.keeping import KeeperState, KeptAcceptance
from dipaco.protocol.work.tail import TailRecord
from dipaco.protocol.work.terms import Promise


def restored_state(record: RunRecord, journal: Journal) -> KeeperState:
    """Return the state of a run that this node keeps; raises ConfigError if it cannot be read."""
    term, promise = journal.promised(record.run)
    try:
        tail = tuple(TailRecord.of(decode(data, Signed)) for data in journal.tail(record.run))
        kept = [_opened(each.data) for each in journal.acceptances(record.run)]
        return KeeperState(
            promised_term=term,
            promise=decode(promise, Promise) if promise else None,
            tail=tail,
            acceptances={each.acceptance.place: each for each in kept},
        )
    except RemoteProtocolError as error:
        raise journal.foreign(error) from error


def _opened(data: bytes) -> KeptAcceptance:
    signed = decode(data, Signed)
    return KeptAcceptance(signed, open_signed(signed, Acceptance))
