"""Which blobs a scheduler keeps: what a next step, a lease, an evaluation or a user still reads."""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, KeysView
from itertools import takewhile

from dipaco.node.kinds.changes import (
    Change,
    Grant,
    LeaseEnded,
    MomentsArrived,
    MomentsPending,
    Recorded,
    TrainingAccepted,
    TrainingDiscarded,
)
from dipaco.node.kinds.state import SchedulingState
from dipaco.node.runs.record import RunRecord
from dipaco.node.scheduler.journaled import saved_changes
from dipaco.node.scheduler.schedule import Schedule
from dipaco.node.storage.journal import Journal
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.kinds import Evaluated, MomentsReplaced
from dipaco.protocol.work.ledger import ModuleUpdated
from dipaco.protocol.work.rounds import Rounds, base_version
from dipaco.protocol.work.run_state import RunState

Part = Hashable
"""What needs blobs: `RUN`, a module, a path by its number, or a lease by its token."""
RUN = "the run"


def blobs_needed(schedule: Schedule) -> set[Digest]:
    """Return them all; whatever else of the run is in the store can go."""
    return set().union(*(_needed_by(schedule, part) for part in _parts(schedule)))


class BlobsNeeded:
    """The same, brought up to date change by change: the cost is that of what has changed."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._by: dict[Part, frozenset[Digest]] = {}
        self._times = Counter[Digest]()
        """How many parts need each blob."""
        self._stale: set[Part] = set(_parts(schedule))

    def changed(self, change: Change) -> None:
        """Note that a change was made."""
        paths = self._schedule.ledger.topology.paths_through
        match change:
            case Grant(lease=lease):
                self._stale.add(lease.token)
            case LeaseEnded(token=token):
                self._stale.add(token)
            case TrainingAccepted(path=path, result=result):
                self._stale |= {path, result.token}
            case TrainingDiscarded(path=path) | MomentsPending(place=(path, _)):
                self._stale.add(path)
            case MomentsArrived(place=(path, _)):
                self._stale.add(path)
            case Recorded(entry=ModuleUpdated(module=module)):
                self._stale |= {ModuleId(module), *paths(ModuleId(module))}
            case Recorded(entry=Evaluated(path=path) | MomentsReplaced(path=path)):
                self._stale.add(path)
            case Recorded():
                self._stale.update(self._by.keys(), _parts(self._schedule))

    def now(self) -> KeysView[Digest]:
        """Return the blobs that are needed."""
        for part in self._stale:
            before = self._by.pop(part, frozenset())
            after = frozenset(_needed_by(self._schedule, part))
            if after:
                self._by[part] = after
            self._times.update(after - before)
            for digest in before - after:
                self._times[digest] -= 1
                if not self._times[digest]:
                    del self._times[digest]
        self._stale.clear()
        return self._times.keys()


def _parts(schedule: Schedule) -> Iterator[Part]:
    yield RUN
    yield from schedule.ledger.states
    yield from range(schedule.manifest.paths)
    yield from schedule.grants


def _needed_by(schedule: Schedule, part: Part) -> set[Digest]:
    view = schedule.ledger
    match part:
        case int():
            return _of_path(schedule, part)
        case bytes():
            grant = schedule.grants.get(part)
            return grant.lease.inputs if grant else set()
        case str() if part != RUN:
            return _of_module(view, ModuleId(part))
        case _:
            # A warm start stays: nobody else can make it again, or repeat the seed phase without.
            start = {state.digest for state in view.manifest.start}
            return {view.manifest.tokenizer.sha256} | start | _evidence(view)


def _of_module(view: RunState, module: ModuleId) -> set[Digest]:
    """Return its newest state and momentum, and the updates that lead there."""
    if module not in view.states:
        return set()
    momentum = view.momenta.get(module)
    return {view.states[module][-1], *([momentum] if momentum else ())} | _updates(view, module)


def _of_path(schedule: Schedule, path: int) -> set[Digest]:
    """Return what is used, trained, evaluated and waited for of a path."""
    view, rounds, state = schedule.ledger, schedule.rounds, schedule.state
    needed: set[Digest] = set()
    if view.seeded and rounds.weights_at(rounds.last)[path]:
        needed |= _digests(view.path_states(path, view.kept_version(path)))
        if view.path_version(path) < rounds.last:
            needed |= _to_train(view, path) | _to_train_again(schedule, path)
    for round_ in state.accepted_rounds(path):
        needed |= state.accepted[path, round_].result.digests
    for round_ in state.pending.rounds(path):
        needed |= _inputs(view, path, round_)
        pending = state.pending.get((path, round_))
        needed |= {each.digest for each in pending.moments} if pending else set()
    for version in _to_evaluate(view, rounds, path):
        needed |= _digests(view.path_states(path, version))
    return needed


def _to_evaluate(view: RunState, rounds: Rounds, path: int) -> Iterator[int]:
    """Yield the versions of a path that wait for their evaluation."""
    manifest, newest = view.manifest, view.path_version(path)
    for epoch in range(manifest.epoch_of(rounds.last) + 1):
        if not rounds.weights_at(manifest.first_version(epoch))[path]:
            continue
        for version in range(view.first_unevaluated(path, epoch), newest + 1):
            if manifest.epoch_of(version) == epoch and (version, path) not in view.evaluations:
                yield version


def _inputs(view: RunState, path: int, round_: int) -> set[Digest]:
    """Return the states and moments that a path's training in a round begins with."""
    states = view.path_states(path, base_version(round_))
    return _digests(states) | _digests(view.path_moments(path, round_))


def _digests(named: Iterable[tuple[ModuleId, Digest]]) -> set[Digest]:
    return {digest for _, digest in named}


def _updates(view: RunState, module: ModuleId) -> set[Digest]:
    """Those that lead to the newest version, and what the last of them left out."""
    residual = view.residual(module)
    newest = view.back_from(module, view.version(module))
    return {update for update, _ in newest} | ({residual} if residual else set())


def _to_train(view: RunState, path: int) -> set[Digest]:
    """Return the states and moments of the path's next round, until all its modules took it in.

    Its delta may be lost after some of them did: the path is then trained again from there.
    """
    version = view.path_version(path)
    begins = _inputs(view, path, version + 1)
    for module in view.topology.path_modules[path]:
        after = view.moments.get((path, module), {})
        for round_ in takewhile(lambda each: each > version, reversed(after)):
            begins.add(after[round_])
    return begins


def _to_train_again(schedule: Schedule, path: int) -> set[Digest]:
    """Return the inputs of the path's last round, until a result of the next one counts.

    Should the moments be lost that the next round begins with, the last one is trained again.
    """
    version = schedule.ledger.path_version(path)
    done = schedule.ledger.last_round(path, version + 1)
    accepted = (path, version + 1) in schedule.state.accepted
    if done < 1 or accepted or not schedule.ledger.path_moments(path, done + 1):
        return set()
    return _inputs(schedule.ledger, path, done)


def _evidence(view: RunState) -> set[Digest]:
    """What anybody needs to derive the next router, or to score again, at any time."""
    reshard = view.manifest.routing.reshard
    if reshard is None:
        return set()
    sheets = {each.sheet.digest for each in view.sheets()}
    at = reshard.after_round
    return sheets | {states[at] for states in view.states.values() if len(states) > at}


def blobs_needed_at_start(record: RunRecord, journal: Journal) -> set[Digest]:
    """Return those of a run that this node schedules, as the journal has it."""
    schedule = Schedule(SchedulingState(record.run, record.rounds, record.state))
    for change in saved_changes(record.run, journal, 0.0):
        schedule.apply(change)
    schedule.forget_taken_in()
    for pending in schedule.restored(0.0):
        schedule.apply(pending)
    return blobs_needed(schedule)
