"""The single-process run of a manifest: what a swarm must equal, bit for bit.

A plain reading of docs/method.md section 2, and no user of `Schedule`: the two check each other.
It does the jobs of a run one after the other with the functions that worker processes use, on a
blob store and a shard cache of the same format; only order and place differ.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from dipaco.node.jobs.settings import WorkerSettings
from dipaco.node.training.jobs import (
    Answer,
    Derive,
    DerivedAnswer,
    Evaluate,
    Evaluated,
    Job,
    OuterStep,
    Progress,
    Score,
    Scored,
    Stepped,
    Train,
    Trained,
)
from dipaco.node.training.performer import Performer
from dipaco.protocol.course import may_pass
from dipaco.protocol.digest import Digest
from dipaco.protocol.errors import Refusal, Unavailable
from dipaco.protocol.lease import (
    TOKEN_BYTES,
    Evaluation,
    Lease,
    LeaseKind,
    ModuleDigest,
    Sheet,
    digest_of,
)
from dipaco.protocol.ledger import Contribution
from dipaco.protocol.ledger import Scored as SheetEntry
from dipaco.protocol.manifest import Manifest, Reshard, run_id
from dipaco.protocol.spec import RouterSpec, spec_digest
from dipaco.protocol.topology import ModuleId, topology
from dipaco.protocol.verdict import Derived

OnProgress = Callable[[str, Progress], None]


class Performs(Protocol):
    """Whoever does jobs in this process: a `Performer`, or one that shares its shards."""

    def perform(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
        """Do `job`; raises what goes wrong with it."""
        ...


@dataclass(frozen=True, kw_only=True)
class ReferenceResult:
    """What a run came to."""

    run: Digest
    specs: tuple[RouterSpec, ...]
    """The router spec of every epoch."""
    states: dict[ModuleId, tuple[Digest, ...]]
    """Per module the digest of every version, 0 first; one alone where no live path passes."""
    momenta: dict[ModuleId, Digest]
    """Per module the outer momentum of its last version."""
    evaluations: dict[tuple[int, int], Evaluation]
    """By (version, path): the held-out loss of every live path, version 0 included."""

    def perplexity(self, version: int) -> float | None:
        """Return the routed validation perplexity at `version`, token-weighted over the paths.

        None when there is not one held-out token.
        """
        found = [e for (v, _), e in self.evaluations.items() if v == version]
        tokens = sum(e.tokens for e in found)
        return math.exp(sum(e.nll for e in found) / tokens) if tokens else None


def run_reference(
    manifest: Manifest, settings: WorkerSettings, on_progress: OnProgress
) -> ReferenceResult:
    """Run `manifest` from its source to the last round, in this process.

    settings      as a worker's: with one thread and the same micro-batch, the bits of a swarm.
    on_progress   gets what is being done (`round 3, path 1`) and how far it is.
    Raises what a worker's jobs would fail with: Refusal, Unavailable, or another DipacoError.
    """
    performer = Performer(settings)
    first = derive_spec(Derive(manifest=manifest), performer, on_progress)
    run = ReferenceRun(manifest, [first], performer, on_progress)
    run.seed()
    run.evaluate(0)
    reshard = manifest.routing.reshard
    for round_ in range(1, manifest.training.rounds + 1):
        run.round(round_)
        run.evaluate(round_)
        if reshard is not None and round_ == reshard.after_round:
            run.reshard(reshard)
    return run.result()


def derive_spec(job: Derive, performer: Performs, on_progress: OnProgress) -> RouterSpec:
    """Return the router that `job` derives; raises Refusal or Unavailable where there is none."""
    answer = performer.perform(job, lambda progress: on_progress("router", progress))
    assert isinstance(answer, DerivedAnswer)
    found = answer.derivation
    if isinstance(found, Derived):
        return found.spec
    raise (Unavailable if may_pass(found) else Refusal)(f"no router can be derived: {found.reason}")


@dataclass
class ReferenceRun:
    """The state of a run between two rounds.

    It begins with `seed`, or from states that were put into `states` as version 0 of every module.
    """

    manifest: Manifest
    specs: list[RouterSpec]
    """Of every epoch so far."""
    performer: Performs
    on_progress: OnProgress
    states: dict[ModuleId, list[Digest]] = field(default_factory=dict)
    momenta: dict[ModuleId, Digest] = field(default_factory=dict)
    residuals: dict[ModuleId, Digest] = field(default_factory=dict)
    """Per module what its last packed update left out."""
    moments: dict[int, tuple[ModuleDigest, ...]] = field(default_factory=dict)
    """Per path what its last round left of AdamW's; nothing where they begin anew."""
    evaluations: dict[tuple[int, int], Evaluation] = field(default_factory=dict)

    def live_paths(self, round_: int) -> list[int]:
        """Paths that have training data in a round."""
        return [path for path, tokens in enumerate(self._spec(round_).tokens) if tokens]

    def seed(self) -> None:
        """Train one path densely and copy it into every module (line 1)."""
        trained = self._train(self._lease("seed", 0, 0), "seed model")
        seeds = {ModuleId(blob.module): blob.digest for blob in trained.blobs}
        top = topology(self.manifest)
        self.states = {module: [seeds[top.counterpart(module)]] for module in top.modules}

    def round(self, round_: int) -> None:
        """Train every live path, then take every module's outer step (lines 4 to 17)."""
        done: dict[int, Trained] = {}
        for path in self.live_paths(round_):
            lease = self._lease("train", path, round_)
            done[path] = self._train(lease, f"round {round_}, path {path}")
        top = topology(self.manifest)
        for module in top.modules:
            paths = [path for path in top.paths_through(module) if path in done]
            if paths:
                self._step(module, {path: done[path] for path in paths}, round_)
        self.moments = {path: trained.moments for path, trained in done.items()}

    def evaluate(self, version: int) -> None:
        """Look at the held-out loss of every live path at `version` (line 19)."""
        for path in self.live_paths(version):
            job = self.evaluation(version, path)
            answer = self._perform(job, f"evaluation {version}, path {path}")
            assert isinstance(answer, Evaluated)
            self.evaluations[version, path] = answer.evaluation

    def evaluation(self, version: int, path: int) -> Evaluate:
        """Return the job that looks at the held-out loss of `path` at `version`."""
        lease = self._lease("evaluate", path, version)
        return Evaluate(manifest=self.manifest, spec=self._spec(version), lease=lease)

    def reshard(self, reshard: Reshard) -> None:
        """Score the router documents, and go on by a router that is fitted to the scores (5)."""
        sheets = [
            SheetEntry(
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
        lease = msgspec.structs.replace(self._lease("score", path, version), window=window)
        job = Score(manifest=self.manifest, spec=self._spec(version), lease=lease)
        answer = self._perform(job, f"scores of window {window}, path {path}")
        assert isinstance(answer, Scored)
        return answer.sheet

    def _spec(self, round_: int) -> RouterSpec:
        return self.specs[self.manifest.epoch_of(round_)]

    def result(self) -> ReferenceResult:
        """Return all that came out."""
        return ReferenceResult(
            run=run_id(self.manifest),
            specs=tuple(self.specs),
            states={module: tuple(digests) for module, digests in self.states.items()},
            momenta=self.momenta,
            evaluations=self.evaluations,
        )

    def _train(self, lease: Lease, what: str) -> Trained:
        job = Train(manifest=self.manifest, spec=self._spec(lease.round), lease=lease)
        answer = self._perform(job, what)
        assert isinstance(answer, Trained)
        return answer

    def _step(self, module: ModuleId, done: dict[int, Trained], round_: int) -> None:
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
                    delta=digest_of(module, trained.blobs),
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

    def _lease(self, kind: LeaseKind, path: int, round_: int) -> Lease:
        """The lease that a scheduler would grant; nobody else is there to be fenced off."""
        version = round_ if kind in ("evaluate", "score") else round_ - 1
        modules = self.manifest.start
        if kind != "seed":
            names = topology(self.manifest).path_modules[path]
            modules = tuple(ModuleDigest(module=m, digest=self.states[m][version]) for m in names)
        windows = self.manifest.source.windows
        return Lease(
            run=run_id(self.manifest),
            token=bytes(TOKEN_BYTES),
            kind=kind,
            path=path,
            round=round_,
            window=(round_ - 1) % windows if kind == "train" else 0,
            spec=spec_digest(self._spec(round_)),
            modules=modules,
            moments=self.moments.get(path, ()) if kind == "train" else (),
            ttl=self.manifest.schedule.lease_ttl,
        )

    def _perform(self, job: Job, what: str) -> Answer:
        return self.performer.perform(job, lambda progress: self.on_progress(what, progress))
