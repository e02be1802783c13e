"""Which blobs a scheduler keeps: what a next step, a lease, an evaluation or a user still reads."""

from itertools import takewhile

from dipaco.node.kinds.state import SchedulingState
from dipaco.node.runs.record import RunRecord
from dipaco.node.scheduler.journaled import saved_changes
from dipaco.node.scheduler.schedule import Schedule
from dipaco.node.storage.journal import Journal
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.run_state import RunState


def blobs_needed(schedule: Schedule) -> set[Digest]:
    """Return them all; whatever else of the run is in the store can go."""
    view, rounds = schedule.ledger, schedule.rounds
    needed = {states[-1] for states in view.states.values()}
    needed |= set(view.momenta.values())
    for module in view.states:
        needed |= _updates(view, module)
    for path in rounds.live_paths if view.seeded else ():
        needed |= {digest for _, digest in view.path_states(path, view.kept_version(path))}
        if view.path_version(path) < rounds.last:
            needed |= _to_train(view, path) | _to_train_again(schedule, path)
    needed.add(view.manifest.tokenizer.sha256)
    # A warm start stays: nobody else can make it again, or repeat the seed phase without it.
    needed |= {state.digest for state in view.manifest.start}
    for accepted in schedule.state.accepted.values():
        needed |= accepted.result.digests
    for grant in schedule.grants.values():
        needed |= grant.lease.inputs
    for place in schedule.state.pending:
        needed |= schedule.lease_again(place).inputs
        pending = schedule.state.pending.get(place)
        needed |= {each.digest for each in pending.moments} if pending else set()
    for version, path in rounds.due_evaluations():
        needed |= {digest for _, digest in view.path_states(path, version)}
    return needed | _evidence(view)


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
    begins = {digest for _, digest in view.path_states(path, version)}
    begins |= {digest for _, digest in view.path_moments(path, version + 1)}
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
    return schedule.lease_again((path, done)).inputs


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
