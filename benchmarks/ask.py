"""The CPU time that a scheduler's event loop spends on one `ask`, and on what each result brings.

A run of 16 x 16 paths with 1,000 peers, each of an IP prefix of its own, after 500 rounds and after
50: the fold of its ledger is in memory, all but a few have proven themselves, and the newest
evaluations are not there yet.
"""

import time
from collections.abc import Callable
from statistics import median

from benchmarks.measure import Result, versus
from dipaco.node.kinds.changes import LeaseEnded, TrainingDiscarded
from dipaco.node.kinds.state import SchedulingState
from dipaco.node.scheduler.retention import BlobsNeeded
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

ROUNDS, EARLY, EXPERTS, PEERS, TURNS = 500, 50, 16, 1000, 101
ASK_MS, SMALL_MS = 1.0, 0.1  # a loop that answers 1,000 peers, each every 10 s, is busy for 10 %
GROWTH = 1.5  # of a cost that does not depend on the rounds that are gone, and noise
SPEC = sha256(b"spec")


def run() -> list[Result]:
    """Time asks that are granted and that are not, outer steps that are due, and blobs."""
    late, early = Load(ROUNDS), Load(EARLY)
    granted, before = late.grant(), early.grant()
    waiting, waited = late.wait(), early.wait()
    steps, blobs = late.steps(), late.blobs()
    return [
        _result("an ask that is granted, 256 paths, 1,000 peers, 500 rounds", granted, ASK_MS),
        _result("an ask of one of 488 peers that wait", waiting, ASK_MS),
        _result("a heartbeat", late.beat(), SMALL_MS),
        _result("the outer steps that are due", steps, SMALL_MS),
        _result("the blobs that a scheduler keeps, after a result", blobs, SMALL_MS),
        _growth("an ask that is granted, after 500 rounds / after 50", granted, before),
        _growth("an ask that waits, after 500 rounds / after 50", waiting, waited),
    ]


class Load:
    """A schedule and its peers, in CPU milliseconds."""

    def __init__(self, rounds: int) -> None:
        self.schedule = _near_the_end(rounds)
        for number in range(PEERS):
            self.schedule.standing.trained(_peer(number), 0.0)
        self._numbers = iter(range(1 << 30))

    def grant(self) -> list[float]:
        """Time asks while there is work."""
        return [self._ask() for _ in range(TURNS)]

    def wait(self) -> list[float]:
        """Time asks when all training and all evaluations are leased and the others wait."""
        for _ in range(PEERS - TURNS):
            self._ask()
        assert len(self.schedule.grants) == 2 * EXPERTS**2
        assert len(self.schedule.queue) == PEERS - 2 * EXPERTS**2
        for _ in range(2 * EXPERTS**2):
            next(self._numbers)  # those that hold a lease
        return [self._ask() for _ in range(TURNS)]

    def beat(self) -> list[float]:
        """Time heartbeats."""
        found = []
        for token, grant in tuple(self.schedule.grants.items())[:TURNS]:
            start = time.process_time()
            self.schedule.heartbeat(grant.peer, token, progress=1, now=1.0, prefix="a")
            found.append(1000 * (time.process_time() - start))
        return found

    def steps(self) -> list[float]:
        """Time looks for outer steps; none is due."""
        return _times(lambda: list(self.schedule.due_steps()))

    def blobs(self) -> list[float]:
        """Time looks at the blobs that are needed, each after another lease has ended."""
        needed = BlobsNeeded(self.schedule)
        found: list[float] = []
        needed.now()
        for token in tuple(self.schedule.grants)[:TURNS]:
            ended = LeaseEnded(token, "done")
            self.schedule.apply(ended)
            needed.changed(ended)
            needed.changed(TrainingDiscarded(path=len(found), round=1))
            start = time.process_time()
            needed.now()
            found.append(1000 * (time.process_time() - start))
        return found

    def _ask(self) -> float:
        number = next(self._numbers)
        token, who = number.to_bytes(TOKEN_BYTES, "big"), number % PEERS
        start = time.process_time()
        changes, _ = self.schedule.ask(
            _peer(who), SPEC, token=token, now=0.0, prefix=f"10.{who}.0.0/24"
        )
        for change in changes:
            self.schedule.apply(change)
        return 1000 * (time.process_time() - start)


def _times(work: Callable[[], object]) -> list[float]:
    taken = []
    for _ in range(TURNS):
        start = time.process_time()
        work()
        taken.append(1000 * (time.process_time() - start))
    return taken


def _growth(name: str, late: list[float], early: list[float]) -> Result:
    found = versus(name, late, early, "ms CPU")
    found["mark"], found["better"] = GROWTH, "lower"
    return found


def _result(name: str, taken: list[float], limit: float) -> Result:
    return Result(
        name=name,
        ours=median(taken),
        peer=limit,
        ratio=median(taken) / limit,
        unit="ms CPU",
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
        routing=Routing(sample=512, featurizer="bag-sign-v1", dimension=64),
        training=Training(
            seed_steps=2,
            rounds=2 * ROUNDS,
            inner_steps=2,
            batch=2,
            inner=Adam(warmup=1),
            outer=Nesterov(),
            inner_state="carry",
            deltas="f32",
            updates="f32",
        ),
        schedule=Scheduling(schedulers=(_peer(0),), members=()),
        seed=0,
    )


def _near_the_end(rounds: int) -> Schedule:
    """Return the schedule after so many rounds; the last one has no evaluation yet."""
    manifest = _manifest()
    view = RunState(manifest)
    view.apply(SpecAdopted(epoch=0, spec=SPEC))
    top = manifest.topology
    view.apply(_seeded(manifest))
    for version in range(1, rounds + 1):
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
    decisions = Rounds(view, lambda spec: weights)
    return Schedule(SchedulingState(run_id(manifest), decisions, view))


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
