"""The single-process run of a manifest, which a swarm must equal bit for bit.

It follows docs/method.md section 2 in a loop of its own, and uses neither `Schedule` nor the fold
of the ledger, so that they check each other. It shares with them the construction of leases and the
work of each kind (`dipaco.node.kinds`). It does the jobs of a run one after the other, on a blob
store and a shard cache of the same format; only order and place differ.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from dipaco.node.jobs.settings import WorkerSettings
from dipaco.node.jobs.values import (
    Answer,
    Derive,
    DerivedAnswer,
    Job,
    OuterStep,
    PerformLease,
    Progress,
    Stepped,
)
from dipaco.node.kinds.base import Work
from dipaco.node.kinds.table import EVALUATE, SCORE, SEED, TRAIN
from dipaco.node.worker.performer import Performer
from dipaco.protocol.errors import Refusal, Unavailable
from dipaco.protocol.routing.decision import may_pass
from dipaco.protocol.routing.spec import RouterSpec, spec_digest
from dipaco.protocol.routing.verdict import Derived
from dipaco.protocol.run.manifest import Manifest, Reshard, run_id
from dipaco.protocol.run.modules import ModuleDigest, ModuleId, digest_of
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.kinds import (
    TOKEN_BYTES,
    EvaluateLease,
    EvaluateResult,
    Evaluation,
    Result,
    Scored,
    ScoreResult,
    SeedResult,
    Sheet,
    TrainResult,
)
from dipaco.protocol.work.ledger import Contribution
from dipaco.protocol.work.losses import perplexity

OnProgress = Callable[[str, Progress], None]

NO_TOKEN = bytes(TOKEN_BYTES)  # one process needs no fencing


class Performs(Protocol):
    """Does jobs in this process: a `Performer`, or one that shares its shards."""

    def perform(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
        """Do `job`; raises DipacoError."""
        ...


@dataclass(frozen=True, kw_only=True)
class ReferenceResult:
    """The outcome of a run."""

    run: Digest
    specs: tuple[RouterSpec, ...]
    """The router spec of every epoch."""
    states: dict[ModuleId, tuple[Digest, ...]]
    """By module, the digest of every version from 0; version 0 alone if no live path uses it."""
    momenta: dict[ModuleId, Digest]
    """By module, the outer momentum of its last version."""
    evaluations: dict[tuple[int, int], Evaluation]
    """By (version, path): the held-out loss of every live path, version 0 included."""

    def perplexity(self, version: int) -> float | None:
        """Return the routed validation perplexity at `version`, token-weighted over the paths.

        None if there is no held-out token.
        """
        found = [e for (v, _), e in self.evaluations.items() if v == version]
        tokens = sum(e.tokens for e in found)
        return perplexity(sum(e.nll for e in found), tokens)


Missed = Mapping[int, Collection[int]]
"""By round the paths that miss it (docs/method.md 2.10)."""


def run_reference(
    manifest: Manifest,
    settings: WorkerSettings,
    on_progress: OnProgress,
    *,
    missed: Missed = MappingProxyType({}),
) -> ReferenceResult:
    """Run `manifest` from its source to the last round, in this process.

    settings      as of a worker; one thread and the same micro-batch give the bits of a swarm.
    on_progress   gets the name of the current job (`round 3, path 1`) and its progress.
    missed        as in the swarm that this is to equal.
    Raises Refusal, Unavailable, or another DipacoError, as the jobs of a worker do.
    """
    performer = Performer(settings)
    first = derive_spec(Derive(manifest=manifest), performer, on_progress)
    run = ReferenceRun(manifest, [first], performer, on_progress)
    run.seed()
    run.evaluate(0)
    for round_ in range(1, manifest.training.rounds + 1):
        run.whole_round(round_, missed.get(round_, ()))
    return run.result()


def derive_spec(job: Derive, performer: Performs, on_progress: OnProgress) -> RouterSpec:
    """Return the router that `job` derives; raises Refusal or Unavailable if there is none."""
    answer = performer.perform(job, lambda progress: on_progress("router", progress))
    assert isinstance(answer, DerivedAnswer)
    found = answer.derivation
    if isinstance(found, Derived):
        return found.spec
    raise (Unavailable if may_pass(found) else Refusal)(f"no router can be derived: {found.reason}")


@dataclass
class ReferenceRun:
    """The state of a run between two rounds.

    It begins with `seed`, or with given `states` as version 0 of every module.
    """

    manifest: Manifest
    specs: list[RouterSpec]
    """The router spec of every epoch so far."""
    performer: Performs
    on_progress: OnProgress
    states: dict[ModuleId, list[Digest]] = field(default_factory=dict)
    momenta: dict[ModuleId, Digest] = field(default_factory=dict)
    residuals: dict[ModuleId, Digest] = field(default_factory=dict)
    """By module, the part of the exact update that its last packed update left out."""
    moments: dict[int, tuple[ModuleDigest, ...]] = field(default_factory=dict)
    """By path, the moments after its last round; none if they begin at zero."""
    steps: dict[int, int] = field(default_factory=dict)
    """By path, the inner steps that these moments have seen."""
    evaluations: dict[tuple[int, int], Evaluation] = field(default_factory=dict)

    def live_paths(self, round_: int) -> list[int]:
        """Return the paths that have training data in a round."""
        return [path for path, tokens in enumerate(self._spec(round_).tokens) if tokens]

    def seed(self) -> None:
        """Train one path densely and copy it into every module (line 1)."""
        seed = self._perform_lease(Work(SEED), "seed model")
        assert isinstance(seed, SeedResult)
        seeds = {ModuleId(state.module): state.digest for state in seed.states}
        top = self.manifest.topology
        self.states = {module: [seeds[top.counterpart(module)]] for module in top.modules}

    def whole_round(self, round_: int, missed: Collection[int] = ()) -> None:
        """Do all that belongs to a round: training, evaluation, the next router where it is due."""
        self.round(round_, missed)
        self.evaluate(round_)
        reshard = self.manifest.routing.reshard
        if reshard is not None and round_ == reshard.after_round:
            self.reshard(reshard)

    def round(self, round_: int, missed: Collection[int] = ()) -> None:
        """Train every live path, then take every module's outer step (lines 4 to 17).

        missed   the paths that miss the round: they are not trained, and a module that only they
                 go through comes to the round's version as it is.
        """
        done: dict[int, TrainResult] = {}
        live = self.live_paths(round_)
        for path in live:
            if path in missed:
                continue
            work, what = Work(TRAIN, path, round_), f"round {round_}, path {path}"
            trained = self._perform_lease(work, what)
            assert isinstance(trained, TrainResult)
            done[path] = trained
        top = self.manifest.topology
        for module in top.modules:
            paths = [path for path in top.paths_through(module) if path in done]
            if paths:
                self._step(module, {path: done[path] for path in paths}, round_)
            elif set(top.paths_through(module)).intersection(live):
                self.states[module].append(self.states[module][-1])
        self.moments |= {path: trained.moments for path, trained in done.items()}
        if self.manifest.training.inner_state == "carry":
            tau = self.manifest.training.inner_steps
            self.steps |= {
                path: self.steps_before(path, round_) + trained.steps_taken(tau)
                for path, trained in done.items()
            }

    def evaluate(self, version: int) -> None:
        """Compute the held-out loss of every live path at `version` (line 19)."""
        for path in self.live_paths(version):
            work, what = Work(EVALUATE, path, version), f"evaluation {version}, path {path}"
            found = self._perform_lease(work, what)
            assert isinstance(found, EvaluateResult)
            self.evaluations[version, path] = found.evaluation

    def evaluation(self, version: int, path: int) -> EvaluateLease:
        """Return the lease to compute the held-out loss of `path` at `version`."""
        return EVALUATE.lease(self, Work(EVALUATE, path, version), NO_TOKEN)

    def reshard(self, reshard: Reshard) -> None:
        """Score the router documents and derive the next epoch's router from the scores (5)."""
        sheets = [
            Scored(
                path=path,
                window=window,
                peer=self.manifest.owner,
                sheet=self._score(path, window, reshard.after_round),
            )
            for path in self.live_paths(reshard.after_round)
            for window in range(reshard.windows)
        ]
        job = Derive(manifest=self.manifest, previous=self.specs[-1], sheets=tuple(sheets))
        self.specs.append(derive_spec(job, self.performer, self.on_progress))
        for states in self.states.values():  # of modules that no live path went through
            states += states[-1:] * (reshard.after_round + 1 - len(states))

    def _score(self, path: int, window: int, version: int) -> Sheet:
        work, what = Work(SCORE, path, version, window), f"scores of window {window}, path {path}"
        scored = self._perform_lease(work, what)
        assert isinstance(scored, ScoreResult)
        return scored.sheet

    def _spec(self, round_: int) -> RouterSpec:
        return self.specs[self.manifest.epoch_of(round_)]

    def result(self) -> ReferenceResult:
        """Return the outcome so far."""
        return ReferenceResult(
            run=self.run,
            specs=tuple(self.specs),
            states={module: tuple(digests) for module, digests in self.states.items()},
            momenta=self.momenta,
            evaluations=self.evaluations,
        )

    def _step(self, module: ModuleId, done: dict[int, TrainResult], round_: int) -> None:
        job = OuterStep(
            manifest=self.manifest,
            module=module,
            state=self.states[module][-1],
            momentum=self.momenta.get(module),
            residual=self.residuals.get(module),
            contributions=tuple(
                Contribution(
                    path=path,
                    peer=self.manifest.owner,
                    delta=digest_of(module, trained.deltas),
                    weight=self._spec(round_).tokens[path],
                    moments=digest_of(module, trained.moments) if trained.moments else None,
                )
                for path, trained in sorted(done.items())
            ),
        )
        answer = self._perform(job, f"round {round_}, module {module}")
        assert isinstance(answer, Stepped)
        self.states[module].append(answer.state)
        self.momenta[module] = answer.momentum
        if answer.quantised:
            self.residuals[module] = answer.quantised.residual

    # ------------------------------------------------------------------ leases (`LeaseSource`)

    @property
    def run(self) -> Digest:
        """The run id."""
        return run_id(self.manifest)

    def spec_at(self, round_: int) -> Digest:
        """Return the digest of a round's router spec."""
        return spec_digest(self._spec(round_))

    def states_at(self, path: int, version: int) -> tuple[ModuleDigest, ...]:
        """Return the states of a path's modules at a version, in the topology's order.

        A module that no live path goes through keeps its last version.
        """
        found = []
        for module in self.manifest.topology.path_modules[path]:
            versions = self.states[module]
            digest = versions[min(version, len(versions) - 1)]
            found.append(ModuleDigest(module=module, digest=digest))
        return tuple(found)

    def moments_before(self, path: int, round_: int) -> tuple[ModuleDigest, ...]:
        """Return the moments after the path's last round; none if they begin at zero."""
        return self.moments.get(path, ())

    def steps_before(self, path: int, round_: int) -> int:
        """Return the inner steps that these moments have seen."""
        return self.steps.get(path, 0)

    def _perform_lease(self, work: Work, what: str) -> Result:
        job = PerformLease(
            manifest=self.manifest,
            spec=self._spec(work.round),
            lease=work.kind.lease(self, work, NO_TOKEN),
        )
        answer = self._perform(job, what)
        assert isinstance(answer, Result)
        return answer

    def _perform(self, job: Job, what: str) -> Answer:
        return self.performer.perform(job, lambda progress: self.on_progress(what, progress))
