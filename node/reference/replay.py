"""A run's history, trained again in one process: `dipaco-node reference --ledger`.

The single-process run is told by the ledger alone who missed which round, and comes to everything
else by itself, its outer steps by its own results. Then record after record is held against what
it came to: every contribution's delta and moments, every state and momentum, evaluations, score
sheets, routers. On the hardware that trained the run all are the same, to the bit.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from msgspec import UNSET

from dipaco.node.jobs.settings import WorkerSettings
from dipaco.node.jobs.values import Answer, Derive, Job, OuterStep, PerformLease, Stepped
from dipaco.node.reference.run import (
    OnProgress,
    ReferenceResult,
    ReferenceRun,
    derive_spec,
)
from dipaco.node.worker.performer import Performer
from dipaco.protocol.routing.spec import spec_digest
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleDigest, ModuleId, digest_of
from dipaco.protocol.wire.digest import Digest, short
from dipaco.protocol.wire.identity import short_peer
from dipaco.protocol.work.kinds import (
    Evaluated,
    MomentsReplaced,
    Scored,
    ScoreLease,
    ScoreResult,
    Seeded,
    Sheet,
    TrainLease,
    TrainResult,
)
from dipaco.protocol.work.ledger import (
    Contribution,
    Entry,
    LedgerRecord,
    ModuleUpdated,
    RoundMissed,
    SpecAdopted,
    TermBegun,
    TermGranted,
)


@dataclass(frozen=True)
class Replayed:
    """What came of it."""

    result: ReferenceResult
    same: int
    """The records, from the first on, that say what came out here."""
    difference: str
    """How the next one differs; empty: none does."""


@dataclass
class RememberedRun(ReferenceRun):
    """A single-process run that remembers what each job came to."""

    trained: dict[tuple[int, int], tuple[TrainLease, TrainResult]] = field(default_factory=dict)
    """By path and round."""
    stepped: dict[tuple[ModuleId, int], Stepped] = field(default_factory=dict)
    """By module and version."""
    sheets: dict[tuple[int, int], Sheet] = field(default_factory=dict)
    """By path and window."""

    def _perform(self, job: Job, what: str) -> Answer:
        answer = super()._perform(job, what)
        match job, answer:
            case PerformLease(lease=TrainLease() as lease), TrainResult():
                self.trained[lease.path, lease.round] = lease, answer
            case PerformLease(lease=ScoreLease() as lease), ScoreResult():
                self.sheets[lease.path, lease.window] = answer.sheet
            case OuterStep(module=module), Stepped():
                self.stepped[ModuleId(module), len(self.states[ModuleId(module)])] = answer
            case _:
                pass  # the run itself keeps it
        return answer


def replay(
    manifest: Manifest,
    records: Sequence[LedgerRecord],
    settings: WorkerSettings,
    on_progress: OnProgress,
) -> Replayed:
    """Train a run again as its ledger tells it, up to the first record that differs, or its end.

    records   from the first on, each checked to follow those before it.
    Raises Refusal, Unavailable, or another DipacoError, as the jobs of a worker do.
    """
    performer = Performer(settings)
    first = derive_spec(Derive(manifest=manifest), performer, on_progress)
    run = RememberedRun(manifest, [first], performer, on_progress)
    history = _History(run, [record.entry for record in records])
    for number, record in enumerate(records):
        if differs := next(history.differences(record.entry), ""):
            what = f"record {number}, {_named(record.entry)}: {differs}"
            return Replayed(run.result(), number, what)
    return Replayed(run.result(), len(records), "")


class _History:
    """The single-process run beside the ledger's entries: it goes on as far as they ask."""

    def __init__(self, run: RememberedRun, entries: Sequence[Entry]) -> None:
        self._run = run
        self._done = -1
        """The newest version that the run has come to."""
        self._missed: defaultdict[int, set[int]] = defaultdict(set)
        for entry in entries:
            if isinstance(entry, RoundMissed):
                self._missed[entry.round].add(entry.path)

    def _go_on(self, version: int) -> None:
        while self._done < version:
            self._done += 1
            if self._done:
                self._run.whole_round(self._done, self._missed[self._done])
            else:
                self._run.seed()
                self._run.evaluate(0)

    def differences(self, entry: Entry) -> Iterator[str]:
        """Yield how an entry differs from what came out here."""
        match entry:
            case SpecAdopted():
                yield from self._of_spec(entry)
            case Seeded():
                self._go_on(0)
                ours = tuple(_first(self._run.states, each) for each in entry.states)
                yield from _of_blobs("state", entry.states, ours)
            case ModuleUpdated():
                self._go_on(entry.version)
                yield from self._of_step(entry)
            case RoundMissed() | TermBegun() | TermGranted():
                pass  # a missed round is what the run is told, and a term changes nothing of it
            case MomentsReplaced():
                self._go_on(entry.round)
                _, result = self._run.trained[entry.path, entry.round]
                yield from _of_blobs("moments", entry.moments, result.moments)
            case Evaluated():
                self._go_on(entry.version)
                found = self._run.evaluations[entry.version, entry.path]
                if found != entry.evaluation:
                    yield f"{short_peer(entry.peer)} has {entry.evaluation}, here {found}"
            case Scored():
                reshard = self._run.manifest.routing.reshard
                self._go_on(reshard.after_round if reshard else 0)
                sheet = self._run.sheets[entry.path, entry.window]
                yield from _unlike("sheet", entry.sheet.digest, sheet.digest)

    def _of_spec(self, entry: SpecAdopted) -> Iterator[str]:
        reshard = self._run.manifest.routing.reshard
        if entry.epoch and reshard:
            self._go_on(reshard.after_round)
        spec = self._run.specs[entry.epoch]
        yield from _unlike("router spec", entry.spec, spec_digest(spec))
        live = tuple(path for path, tokens in enumerate(spec.tokens) if tokens)
        if entry.live not in (UNSET, live):
            yield f"it states the live paths {entry.live}, the spec has {live}"

    def _of_step(self, entry: ModuleUpdated) -> Iterator[str]:
        module = ModuleId(entry.module)
        for each in entry.contributions:
            yield from self._of_contribution(module, entry.version, each)
        step = self._run.stepped.get((module, entry.version))
        if step is None or len(entry.contributions) != len(self._who(module, entry.version)):
            yield f"paths {self._who(module, entry.version)} took part here"
            return
        yield from _unlike("state", entry.state, step.state)
        yield from _unlike("momentum", entry.momentum, step.momentum)
        if entry.quantised and step.quantised:
            yield from _unlike("update", entry.quantised.update, step.quantised.update)
            yield from _unlike("residual", entry.quantised.residual, step.quantised.residual)

    def _who(self, module: ModuleId, version: int) -> list[int]:
        through = self._run.manifest.topology.paths_through(module)
        return [path for path in through if (path, version) in self._run.trained]

    def _of_contribution(
        self, module: ModuleId, version: int, given: Contribution
    ) -> Iterator[str]:
        """Yield what is different in one path's part; its training is what was repeated."""
        whose = f" of path {given.path}, trained by {short_peer(given.peer)}"
        found = self._run.trained.get((given.path, version))
        if found is None:
            yield f"path {given.path} took no part here"
            return
        lease, result = found
        yield from _unlike(f"delta{whose}", given.delta, digest_of(module, result.deltas))
        if given.moments and result.moments:
            moments = digest_of(module, result.moments)
            yield from _unlike(f"moments{whose}", given.moments, moments)
        weight = self._run.specs[self._run.manifest.epoch_of(version)].tokens[given.path]
        taken = result.steps_taken(self._run.manifest.training.inner_steps)
        steps = lease.steps + taken if given.moments else 0
        if (given.weight, given.steps) != (weight, steps):
            yield (
                f"weight and steps{whose} are {given.weight} and {given.steps}, "
                f"here {weight} and {steps}"
            )


def _first(states: dict[ModuleId, list[Digest]], given: ModuleDigest) -> ModuleDigest:
    return ModuleDigest(module=given.module, digest=states[ModuleId(given.module)][0])


def _of_blobs(
    what: str, theirs: tuple[ModuleDigest, ...], ours: tuple[ModuleDigest, ...]
) -> Iterator[str]:
    for given, found in zip(theirs, ours, strict=True):
        yield from _unlike(f"{what} of {given.module}", given.digest, found.digest)


def _unlike(what: str, theirs: Digest, ours: Digest) -> Iterator[str]:
    if theirs != ours:
        yield f"the {what} is {short(theirs)}, here {short(ours)}"


def _named(entry: Entry) -> str:
    """Say what an entry is about."""
    match entry:
        case ModuleUpdated():
            return f"module {entry.module} version {entry.version}"
        case SpecAdopted():
            return f"router of epoch {entry.epoch}"
        case Seeded():
            return f"seed model by {short_peer(entry.peer)}"
        case Evaluated():
            return f"evaluation of path {entry.path} at version {entry.version}"
        case Scored():
            return (
                f"scores of path {entry.path}, window {entry.window}, by {short_peer(entry.peer)}"
            )
        case MomentsReplaced() | RoundMissed():
            return f"path {entry.path} round {entry.round}"
        case TermBegun() | TermGranted():
            return "a new term"
