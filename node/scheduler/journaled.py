"""The changes of a schedule in the journal: how each is saved, and read back after a restart."""

from collections.abc import Iterable, Iterator

from dipaco.node.kinds.changes import (
    Change,
    Compared,
    Grant,
    LeaseEnded,
    MomentsArrived,
    MomentsPending,
    PlaceLeft,
    PlaceTaken,
    Recorded,
    TrainingAccepted,
    TrainingDiscarded,
)
from dipaco.node.runs.record import RunRecord
from dipaco.node.scheduler.deps import SchedulerDeps
from dipaco.node.storage.journal import Journal, SavedLease, SavedResult
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.signed import Signed, open_signed
from dipaco.protocol.work.calls import Acceptance
from dipaco.protocol.work.kinds import TrainResult, decode_lease


def save_change(change: Change, run: Digest, deps: SchedulerDeps) -> None:
    """Save one change of a run's schedule; an entry also goes into the ledger's fold.

    Raises DiskFull.
    """
    journal = deps.journal
    match change:
        case Grant(lease=lease, peer=peer):
            journal.save_lease(SavedLease(run, lease.token, peer, encode(lease)))
        case LeaseEnded(token=token):
            journal.drop_lease(token)
        case TrainingAccepted(path=path, round=round_, peer=peer, result=result):
            journal.save_result(SavedResult(run, round_, path, peer, encode(result)))
            journal.drop_lease(result.token)
        case TrainingDiscarded(path=path, round=round_):
            journal.drop_result(run, round_, path)
        case PlaceTaken(key=key, peer=peer):
            journal.save_place(run, key, peer)
        case PlaceLeft(key=key):
            journal.drop_place(run, key)
        case MomentsPending() | MomentsArrived():
            pass  # a restart looks at the blobs that are here
        case Compared():
            pass  # told by the log and the status
        case Recorded(entry=entry):
            deps.run_store.append(run, entry, deps.key)


def saved_changes(run: Digest, journal: Journal, now: float) -> Iterator[Change]:
    """Yield the leases, accepted results and places as the journal was last written.

    now   seconds on the scheduler's clock: leases are granted anew, their holders may return, and
          so may those that wait.
    Raises ConfigError for a value that this version cannot read.
    """
    try:
        for saved in journal.leases(run):
            yield Grant(decode_lease(saved.data), saved.peer, now, restored=True)
        for kept in journal.results(run):
            result = decode(kept.data, TrainResult)
            yield TrainingAccepted(kept.path, kept.round, kept.peer, result)
        for key, peer in journal.places(run):
            yield PlaceTaken(key, peer, now)
    except RemoteProtocolError as error:
        raise journal.foreign(error) from error


def take_over(record: RunRecord, journal: Journal, kept: Iterable[Signed], *, ours: bool) -> None:
    """Bring the journal to where a scheduler begins a term; raises DiskFull.

    kept   the acceptances that keepers keep: they replace our own of the same path and round,
           which were never told as counting.
    ours   whether the term before was ours, too: else our leases are of long ago, and their
           holders show those that still stand.
    """
    with journal.saving():
        for lease in () if ours else journal.leases(record.run):
            journal.drop_lease(lease.token)
        for signed in kept:
            accepted = open_signed(signed, Acceptance)
            path, round_ = accepted.place
            if record.state.path_version(path) < round_:
                data = encode(accepted.result)
                journal.drop_result(record.run, round_, path)
                journal.save_result(SavedResult(record.run, round_, path, accepted.peer, data))
                journal.drop_lease(accepted.result.token)
