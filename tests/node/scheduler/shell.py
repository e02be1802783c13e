"""A schedule with its shell's order of things: changes first, then the reply. No clock, no disk."""

from typing import Any

from msgspec.structs import replace

from dipaco.node.kinds.changes import Change, Recorded
from dipaco.node.kinds.state import SchedulingState
from dipaco.node.kinds.table import kind_of, work_of
from dipaco.node.scheduler.schedule import Schedule
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleDigest
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.calls import Fallen, Granted, NoLease, Stands
from dipaco.protocol.work.kinds import (
    EvaluateLease,
    EvaluateResult,
    Evaluation,
    Lease,
    Result,
    ScoreLease,
    ScoreResult,
    SeedLease,
    SeedResult,
    Sheet,
    TrainLease,
    TrainResult,
)
from dipaco.protocol.work.rounds import Rounds, Weights
from dipaco.protocol.work.run_state import RunState
from tests.values import digest, peer

SPEC, NEXT = digest("spec"), digest("next")
RUN = digest("run")
TTL = 20.0
ANNA, BERT, CARA = peer("anna"), peer("bert"), peer("cara")
FIGURES: dict[str, Any] = {
    "tokens": 2 * 2 * 48,
    "seconds": 1.0,
    "loss_first": 3.0,
    "loss_last": 2.0,
}


class Shell:
    """A schedule, the fold of its ledger, and all changes so far."""

    def __init__(self, run: Manifest, weights: Weights) -> None:
        self.ledger = RunState(run)
        self.weights = {SPEC: weights}
        """By router spec; a spec is published before it is adopted."""
        self.tokens = 0
        self.log: list[Change] = []
        self.restart()
        self.make(self.schedule.adopt(SPEC))

    def restart(self) -> None:
        """Begin a schedule anew on the ledger as it is."""
        rounds = Rounds(self.ledger, self.weights.get)
        self.schedule = Schedule(SchedulingState(RUN, rounds, self.ledger))

    def make(self, changes: tuple[Change, ...]) -> None:
        for change in changes:
            if isinstance(change, Recorded):
                self.ledger.apply(change.entry)
            self.schedule.apply(change)
            self.log.append(change)

    def ask(
        self, who: PeerId, now: float = 0.0, spec: Digest | None = None, *, prefix: str = ""
    ) -> Lease | NoLease:
        self.tokens += 1
        token = self.tokens.to_bytes(16, "big")
        newest = spec or self.ledger.spec or SPEC
        changes, reply = self.schedule.ask(who, newest, token=token, now=now, prefix=prefix)
        self.make(changes)
        return reply.lease if isinstance(reply, Granted) else reply

    def lease(self, who: PeerId, now: float = 0.0, *, prefix: str = "") -> Lease:
        lease = self.ask(who, now, prefix=prefix)
        assert not isinstance(lease, NoLease), lease
        return lease

    def train_lease(self, who: PeerId, now: float = 0.0) -> TrainLease:
        lease = self.ask(who, now)
        assert isinstance(lease, TrainLease), lease
        return lease

    def score_lease(self, who: PeerId, now: float = 0.0) -> ScoreLease:
        lease = self.ask(who, now)
        assert isinstance(lease, ScoreLease), lease
        return lease

    def submit(self, who: PeerId, lease: Lease, now: float = 0.0) -> Stands | Fallen:
        return self.hand_in(who, result(lease), now)

    def hand_in(self, who: PeerId, handed_in: Result, now: float = 0.0) -> Stands | Fallen:
        changes, reply = self.schedule.submit(who, handed_in, now=now)
        self.make(changes)
        return reply

    def beat(
        self, who: PeerId, lease: Lease, *, now: float, progress: int = 0, prefix: str = ""
    ) -> Stands | Fallen:
        return self.schedule.heartbeat(who, lease.token, progress=progress, now=now, prefix=prefix)

    def hand_back(self, who: PeerId, lease: Lease, reason: str, now: float = 0.0) -> None:
        self.make(self.schedule.hand_back(who, lease.token, reason, now=now))

    def step(self) -> int:
        due = list(self.schedule.due_steps())
        for each in due:
            paths = "".join(str(c.path) for c in each.contributions)
            state = digest(f"{each.module} {each.version} from {paths}")
            self.make(self.schedule.stepped(each, state=state, momentum=digest("momentum")))
        return len(due)

    def arrive(self) -> None:
        """All pending moments are here."""
        for place in self.schedule.state.pending:
            self.make(self.schedule.moments_arrived(place))

    def seed(self, who: PeerId = ANNA) -> None:
        assert self.submit(who, self.lease(who)) == Stands()


def result(lease: Lease, sheet: str = "honest", documents: int = 20) -> Result:
    """Return what an honest volunteer hands in."""
    names = [each.module for each in lease.modules] or ["stem", "L1.E0", "L2.E0"]
    work = work_of(lease)
    place = f"{kind_of(lease).name} {work.path} {work.round}"
    blobs = tuple(ModuleDigest(module=m, digest=digest(f"{place} {m}")) for m in names)
    match lease:
        case SeedLease():
            return SeedResult(token=lease.token, states=blobs, **FIGURES)
        case TrainLease():
            return TrainResult(
                token=lease.token,
                deltas=blobs,
                moments=tuple(
                    ModuleDigest(module=m, digest=digest(f"moments {place} {m}")) for m in names
                ),
                **FIGURES,
            )
        case EvaluateLease():
            return evaluation(lease, 30.0)
        case ScoreLease():
            scores = digest(f"{sheet} {lease.path} {lease.window}")
            return ScoreResult(token=lease.token, sheet=Sheet(digest=scores, documents=documents))


def train_result(lease: TrainLease, **changes: object) -> TrainResult:
    """Return what an honest volunteer hands in for a path; `changes` replace fields."""
    honest = result(lease)
    assert isinstance(honest, TrainResult)
    return replace(honest, **changes)


def evaluation(lease: EvaluateLease, nll: float) -> EvaluateResult:
    """Return an evaluation of one document of ten tokens."""
    return EvaluateResult(token=lease.token, evaluation=Evaluation(documents=1, tokens=10, nll=nll))


def moments_of(lease: TrainLease, round_: int) -> tuple[ModuleDigest, ...]:
    """Return the moments that `result` hands in for a lease's path after a round."""
    return tuple(
        ModuleDigest(
            module=m.module, digest=digest(f"moments train {lease.path} {round_} {m.module}")
        )
        for m in lease.modules
    )
