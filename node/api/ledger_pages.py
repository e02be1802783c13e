"""The ledger of a run as the API tells it: its summary, its losses by round, its records in pages.

Every answer has a bound: what a peer or a long run puts into a ledger makes no page larger.
"""

from collections.abc import Callable, Iterator
from typing import Final

from dipaco.node.api.evaluations import evaluation_view
from dipaco.node.api.values import LedgerView, LossView, RecordPage, RecordView
from dipaco.node.runs.chain import RECORD
from dipaco.node.runs.record import RunRecord
from dipaco.node.storage.journal import SavedRecord
from dipaco.protocol.numbers import count
from dipaco.protocol.wire.canonical import decode
from dipaco.protocol.wire.identity import short_peer
from dipaco.protocol.wire.signed import Signed, open_signed
from dipaco.protocol.work.kinds import Evaluated, MomentsReplaced, Scored, Seeded
from dipaco.protocol.work.ledger import (
    Entry,
    LedgerRecord,
    ModuleUpdated,
    RoundMissed,
    SpecAdopted,
    TermBegun,
    TermGranted,
)

MAX_LOSSES: Final = 1 << 16  # values of an answer: 64 paths at 1,000 versions, some 600 kB
PAGE_BYTES: Final = 1 << 20  # of records that are decoded for one page: some milliseconds
NAMED_PATHS: Final = 8  # of a record, before the rest is counted
NO_LEDGER: Final = LedgerView(
    run="", records=0, head="", versions={}, states={}, evaluations=(), finished=False
)


def ledger_view(record: RunRecord) -> LedgerView:
    """Return the summary of a ledger."""
    state = record.state
    return LedgerView(
        run=record.run.hex(),
        records=record.length,
        head=record.head.hex(),
        versions={m: state.version(m) for m in state.states},
        states={
            m: {version: digest.hex() for version, digest in enumerate(states)}
            for m, states in state.states.items()
        },
        evaluations=tuple(
            evaluation_view(e.path, e.version, e.peer, e.evaluation)
            for _, e in sorted(state.evaluations.items())
        ),
        finished=record.rounds.finished,
    )


def loss_view(record: RunRecord, most: int) -> LossView:
    """Return the held-out losses at no more than `most` versions: the newest, and even steps back.

    A run of many paths gets fewer versions, so that there are `MAX_LOSSES` values at most.
    """
    found, paths = record.state.evaluations, record.manifest.paths
    newest = max((version for version, _ in found), default=-1)
    most = max(1, min(most, MAX_LOSSES // paths))
    step = max(1, -(-(newest + 1) // most))
    versions = tuple(reversed(range(newest, -1, -step)))
    return LossView(
        run=record.run.hex(),
        records=record.length,
        versions=versions,
        overall=tuple(_overall(record, version) for version in versions),
        paths=tuple(
            tuple(_mean(found.get((version, path))) for version in versions)
            for path in range(paths)
        ),
    )


def _mean(*found: Evaluated | None) -> float | None:
    """Return nats per token of evaluations together; None if one is missing, or has no token."""
    if not found or None in found:
        return None
    given = [each.evaluation for each in found if each]
    tokens = sum(each.tokens for each in given)
    return sum(each.nll for each in given) / tokens if tokens else None


def _overall(record: RunRecord, version: int) -> float | None:
    evaluations = record.state.evaluations
    return _mean(*(evaluations.get((version, path)) for path in record.rounds.live_at(version)))


def record_page(
    record: RunRecord,
    first: int | None,
    most: int,
    read: Callable[[int, int], list[SavedRecord]],
) -> RecordPage:
    """Return records from number `first` on, or the last ones.

    read   returns the saved records from a number on, at most so many.
    """
    begin = max(0, record.length - most) if first is None else first
    found, size = list[RecordView](), 0
    for saved in read(begin, most):
        size += len(saved.data)
        if found and size > PAGE_BYTES:
            break
        found.append(_record_view(saved))
    return RecordPage(run=record.run.hex(), total=record.length, records=tuple(found))


def _record_view(saved: SavedRecord) -> RecordView:
    signed = decode(saved.data, Signed, limit=RECORD)
    record = open_signed(signed, LedgerRecord)
    return RecordView(
        number=record.seq,
        term=record.term,
        signer=signed.signer,
        digest=saved.digest.hex(),
        kind=type(record.entry).__name__,
        text=entry_text(record.entry),
        digests=tuple(_digests(record.entry)),
    )


def entry_text(entry: Entry) -> str:
    """Say what a record of the ledger tells."""
    match entry:
        case SpecAdopted():
            return f"the router of epoch {entry.epoch} is adopted"
        case Seeded():
            return f"the seed model by {short_peer(entry.peer)} is version 0 of every module"
        case ModuleUpdated():
            return (
                f"module {entry.module} has version {entry.version}, by results of "
                f"{_paths([each.path for each in entry.contributions])}"
            )
        case RoundMissed():
            return f"path {entry.path} missed round {entry.round}"
        case Evaluated():
            return (
                f"path {entry.path} at version {entry.version} has held-out loss "
                f"{_loss(entry)}, as {short_peer(entry.peer)} reports"
            )
        case Scored():
            return (
                f"scores of window {entry.window} by path {entry.path}, "
                f"as {short_peer(entry.peer)} reports"
            )
        case MomentsReplaced():
            return f"the moments of path {entry.path} round {entry.round} were made anew"
        case TermBegun():
            return f"a term begins with {count(len(entry.promises), 'promise')} of keepers"
        case TermGranted():
            return "a term begins by the word of the run's owner"


def _loss(entry: Evaluated) -> str:
    mean = _mean(entry)
    return "of no token" if mean is None else f"{mean:.4f}"


def _paths(paths: list[int]) -> str:
    named, more = paths[:NAMED_PATHS], len(paths) - NAMED_PATHS
    text = ", ".join(map(str, named))
    return f"{'path' if len(paths) == 1 else 'paths'} {text}" + (
        f" and {more} more" if more > 0 else ""
    )


def _digests(entry: Entry) -> Iterator[str]:
    """Yield the digests of what an entry makes, hex."""
    match entry:
        case SpecAdopted():
            yield entry.spec.hex()
        case ModuleUpdated():
            yield entry.state.hex()
        case Scored():
            yield entry.sheet.digest.hex()
