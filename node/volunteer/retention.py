"""Which blobs a volunteer keeps: those of its next lease, and those that peers may ask it for.

Pure: the ledger's fold says which states are current. Whatever else came with a lease goes when
that lease is done.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from dipaco.node.kinds.table import work_of
from dipaco.node.runs.record import RunRecord
from dipaco.protocol.run.modules import ModuleDigest, ModuleId
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.kinds import Lease, Result
from dipaco.protocol.work.run_state import RunState

Has = Callable[[Digest], bool]
"""Says whether a blob is in this node's store."""


def blobs_needed(record: RunRecord, me: PeerId | None, has: Has) -> set[Digest]:
    """Return those of a run that this node works for, as far as the ledger tells.

    The states that each path is used, trained and still to be evaluated with, which peers fetch,
    too; the newest version of every module that is here, from which the next one is made; and the
    moments of the paths that this node trained last, until a later round has taken them in.
    """
    view, needed = record.state, set[Digest]()
    for path in range(view.topology.paths) if view.seeded else ():
        version = view.path_version(path)
        for used in {version, view.kept_version(path)}:
            needed |= {digest for _, digest in view.path_states(path, used)}
        if view.contributors.get(path) == me and version < record.rounds.last:
            needed |= {digest for _, digest in view.path_moments(path, version + 1)}
    for version, path in record.rounds.due_evaluations():
        needed |= {digest for _, digest in view.path_states(path, version)}
    for module in view.states:
        needed |= set(_newest(view, module, has))
    return needed | {entry.sheet.digest for entry in view.sheets()}


def _newest(view: RunState, module: ModuleId, has: Has) -> Iterator[Digest]:
    """Yield the newest state of a module that is here, and the packed update that made it."""
    states, steps = view.states[module], view.quantised.get(module, {})
    for version in range(len(states) - 1, -1, -1):
        if has(states[version]):
            yield states[version]
            if version in steps:
                yield steps[version].update
            return


@dataclass(frozen=True)
class HandedIn:
    """The moments of an accepted result, which the scheduler fetches afterwards."""

    upto: int
    """The version of the path up to which they may be asked for: what follows begins with them."""
    moments: tuple[ModuleDigest, ...]


def handed_in(lease: Lease, result: Result, view: RunState) -> HandedIn:
    """Return the moments of a result; its round may have ended before, when they were lost."""
    work = work_of(lease)
    return HandedIn(max(work.round, view.path_version(work.path)), result.handed_over_later)


def not_handed_over(held: Mapping[int, HandedIn], view: RunState) -> dict[int, HandedIn]:
    """Return those of the moments, by path, that the scheduler may still fetch."""
    return {
        path: each
        for path, each in held.items()
        if view.last_round(path, view.path_version(path) + 1)
        <= each.upto
        < view.manifest.training.rounds
    }


def done_with(lease: Lease, result: Result | None, view: RunState) -> set[Digest]:
    """Return the blobs that came with a lease: inputs, results, and the way to the inputs."""
    blobs = lease.inputs | (result.digests if result else set())
    for each in lease.modules if view.seeded else ():
        for update, before in view.back_from(ModuleId(each.module), lease.base_version):
            blobs |= {update, before}
    return blobs
