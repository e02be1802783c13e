"""Which blobs a scheduler keeps: what a next step, a lease, an evaluation or a user still reads."""

from itertools import islice

from dipaco.node.scheduler.schedule import Schedule
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
        newest = view.path_version(path)
        # From the newest a round may be trained once more while some of its modules are ahead.
        for version in {newest, view.kept_version(path)}:
            needed |= {digest for _, digest in view.path_states(path, version)}
        if newest < rounds.last:
            needed |= _moments(view, path)
    needed.add(view.manifest.tokenizer.sha256)
    # A warm start stays: nobody else can make it again, or repeat the seed phase without it.
    needed |= {state.digest for state in view.manifest.start}
    for accepted in schedule.state.accepted.values():
        needed |= accepted.result.digests
    for grant in schedule.grants.values():
        needed |= grant.lease.inputs
    for place in schedule.state.pending:
        needed |= schedule.lease_again(place).inputs
    for version, path in rounds.due_evaluations():
        needed |= {digest for _, digest in view.path_states(path, version)}
    return needed | _evidence(view)


def _updates(view: RunState, module: ModuleId) -> set[Digest]:
    """Those that lead to the newest version, and what the last of them left out."""
    residual = view.residual(module)
    newest = view.back_from(module, view.version(module))
    return {update for update, _ in newest} | ({residual} if residual else set())


def _moments(view: RunState, path: int) -> set[Digest]:
    """Of every module the last two: the very last may be of a round that others have ahead."""
    needed: set[Digest] = set()
    for module in view.topology.path_modules[path]:
        needed |= set(islice(reversed(view.moments.get((path, module), {}).values()), 2))
    return needed


def _evidence(view: RunState) -> set[Digest]:
    """What anybody needs to derive the next router, or to score again, at any time."""
    reshard = view.manifest.routing.reshard
    if reshard is None:
        return set()
    sheets = {each.sheet.digest for each in view.sheets()}
    at = reshard.after_round
    return sheets | {states[at] for states in view.states.values() if len(states) > at}
