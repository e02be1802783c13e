"""The time that a scheduler's event loop spends on one `ask`, and on one look at its blobs.

A run of 16 x 16 paths and 586 rounds near its end, its ledger's fold in memory: every other path is
leased, and the newest evaluations are not there yet.
"""

import time
from collections.abc import Callable
from statistics import median

from benchmarks.measure import Result
from dipaco.node.kinds.state import SchedulingState
from dipaco.node.scheduler.retention import blobs_needed
from dipaco.node.scheduler.schedule import Schedule
from dipaco.protocol.run.manifest import Manifest, Routing, Scheduling, run_id
from dipaco.protocol.run.model_shape import Grid, Level, Model
from dipaco.protocol.run.modules import ModuleDigest
from dipaco.protocol.run.source import Source, Tokenizer
from dipaco.protocol.run.training import Adam, Nesterov, Training
from dipaco.protocol.wire.digest import Digest, sha256
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.kinds import TOKEN_BYTES, Evaluated, Evaluation, Seeded
from dipaco.protocol.work.ledger import Contribution, ModuleUpdated, SpecAdopted
from dipaco.protocol.work.rounds import Rounds
from dipaco.protocol.work.run_state import RunState

ROUNDS, EXPERTS, TURNS = 586, 16, 21
ASK_MS, BLOBS_MS = 20.0, 20.0  # of a loop that answers 256 volunteers' heartbeats every 3 s
SPEC = sha256(b"spec")


def run() -> list[Result]:
    """Time asks that are granted, asks that are not, and looks at the blobs that are needed."""
    schedule = _near_the_end()
    names = iter(range(1 << 30))

    def ask() -> None:
        number = next(names)
        token = number.to_bytes(TOKEN_BYTES, "big")
        changes, _ = schedule.ask(_peer(number), SPEC, token=token, now=0.0)
        for change in changes:
            schedule.apply(change)

    def look() -> None:
        blobs_needed(schedule)

    granted = _times(ask)
    while len(schedule.grants) < 2 * EXPERTS**2:  # the training and the evaluation of all paths
        ask()
    return [
        _result("an ask that is granted, 16 x 16 paths, 586 rounds", granted, ASK_MS),
        _result("an ask when all work is leased", _times(ask), ASK_MS),
        _result("the blobs that a scheduler keeps", _times(look), BLOBS_MS),
    ]


def _times(work: Callable[[], None]) -> list[float]:
    taken = []
    for _ in range(TURNS):
        start = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - start))
    return taken


def _result(name: str, taken: list[float], limit: float) -> Result:
    return Result(
        name=name,
        ours=median(taken),
        peer=limit,
        ratio=median(taken) / limit,
        unit="ms",
        samples={"ours": taken},
        mark=1.0,
        better="lower",
    )


def _manifest() -> Manifest:
    return Manifest(
        name="large",
        owner=_peer(0),
        source=Source(kind="synthetic", revision="1", files=(), documents=4000, window=4000),
        tokenizer=Tokenizer(sha256=SPEC, size=1, vocabulary=4096, end_of_text=0),
        model=Model(d_model=16, heads=2, kv_heads=2, d_ff=32, context=48),
        grid=Grid(
            levels=(Level(experts=EXPERTS, blocks=1),) * 2,
            path_specific_blocks=(),
        ),
        routing=Routing(sample=512, dimension=64),
        training=Training(
            seed_steps=2,
            rounds=ROUNDS,
            inner_steps=2,
            batch=2,
            inner=Adam(warmup=1),
            outer=Nesterov(),
            inner_state="carry",
        ),
        schedule=Scheduling(schedulers=(_peer(0),), members=()),
        seed=0,
    )


def _near_the_end() -> Schedule:
    """Return the schedule when all modules stand at the version before the last."""
    manifest = _manifest()
    view = RunState(manifest)
    view.apply(SpecAdopted(epoch=0, spec=SPEC))
    top = manifest.topology
    view.apply(_seeded(manifest))
    for version in range(1, ROUNDS):
        for module in top.modules:
            blob = _blob(f"{module} {version}")
            given = tuple(
                Contribution(path=p, peer=_peer(p), delta=blob, weight=1, moments=blob)
                for p in top.paths_through(module)
            )
            view.apply(
                ModuleUpdated(
                    module=module, version=version, contributions=given, state=blob, momentum=blob
                )
            )
        for path in range(top.paths):
            view.apply(_evaluated(version - 1, path))
    weights = (1,) * top.paths
    rounds = Rounds(view, lambda spec: weights)
    return Schedule(SchedulingState(run_id(manifest), rounds, view))


def _seeded(manifest: Manifest) -> Seeded:
    top = manifest.topology
    return Seeded(
        peer=_peer(0),
        states=tuple(
            ModuleDigest(module=m, digest=_blob(f"{top.counterpart(m)} 0")) for m in top.modules
        ),
    )


def _evaluated(version: int, path: int) -> Evaluated:
    return Evaluated(
        path=path,
        version=version,
        peer=_peer(path),
        evaluation=Evaluation(documents=1, tokens=10, nll=30.0),
    )


def _blob(name: str) -> Digest:
    return sha256(name.encode())


def _peer(number: int) -> PeerId:
    return PeerId(f"12D3KooW{number:044d}".replace("0", "A"))
