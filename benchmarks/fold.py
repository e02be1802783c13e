"""What the ledger's fold and the decisions from it cost a node: a run of 16 x 16 paths.

The time of one thread, medians; a look is at the state before the last outer steps of a round, of
which all paths but every 17th have a result. Marks: the design's, in milliseconds, and for the
whole fold that a record costs no more at the end of a run than at its beginning.
"""

import time
from collections.abc import Callable, Iterator
from statistics import median

from benchmarks.ask import _blob, _evaluated, _manifest, _peer
from benchmarks.measure import Result
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleDigest
from dipaco.protocol.work.kinds import Seeded
from dipaco.protocol.work.ledger import Contribution, Entry, ModuleUpdated, SpecAdopted
from dipaco.protocol.work.rounds import Rounds
from dipaco.protocol.work.run_state import RunState

VERSIONS, TURNS, CALLS = 12, 9, 50
LOOK_MS = 0.1
SPEC = _blob("spec")


def run() -> list[Result]:
    """Return the costs of a record, of a look at what is due, and of a path's moments."""
    manifest = _manifest()
    state, seconds = RunState(manifest), []
    for version in range(VERSIONS):
        entries = list(_entries(manifest, version))
        start = time.thread_time()
        for entry in entries:
            state.apply(entry)
        seconds.append((time.thread_time() - start) / len(entries))
    weights = (1,) * manifest.paths
    rounds = Rounds(state, lambda spec: weights)
    arrived = {(path, VERSIONS) for path in range(manifest.paths) if path % 17}
    looks: dict[str, Callable[[], object]] = {
        "outer steps that are due": lambda: next(rounds.due_steps(arrived), None),
        "evaluations that are due, the first": lambda: next(rounds.due_evaluations(), None),
        "the newest version of all paths": lambda: rounds.done,
        "the moments of a path": lambda: state.path_moments(17, VERSIONS),
    }
    third = VERSIONS // 3
    early, late = median(seconds[1 : 1 + third]), median(seconds[-third:])
    return [
        *(_result(name, _times(look), LOOK_MS) for name, look in looks.items()),
        _result("a record, late / early in a run", [1000 * late], 1000 * early, mark=1.5),
    ]


def _entries(manifest: Manifest, version: int) -> Iterator[Entry]:
    top = manifest.topology
    if not version:
        yield SpecAdopted(epoch=0, spec=SPEC)
        named = ((m, _blob(f"{top.counterpart(m)} 0")) for m in top.modules)
        states = tuple(ModuleDigest(module=m, digest=digest) for m, digest in named)
        yield Seeded(peer=_peer(0), states=states)
        return
    for module in top.modules:
        blob = _blob(f"{module} {version}")
        given = tuple(
            Contribution(path=path, peer=_peer(path), delta=blob, weight=1, moments=blob)
            for path in top.paths_through(module)
        )
        yield ModuleUpdated(
            module=module, version=version, contributions=given, state=blob, momentum=blob
        )
    yield from (_evaluated(version - 1, path) for path in range(top.paths))


def _times(work: Callable[[], object]) -> list[float]:
    taken = []
    for _ in range(TURNS):
        start = time.thread_time()
        for _ in range(CALLS):
            work()
        taken.append(1000 * (time.thread_time() - start) / CALLS)
    return taken


def _result(name: str, taken: list[float], limit: float, mark: float = 1.0) -> Result:
    return Result(
        name=f"{name}, 16 x 16 paths",
        ours=median(taken),
        peer=limit,
        ratio=median(taken) / limit,
        unit="ms",
        samples={"ours": taken},
        mark=mark,
        better="lower",
    )
