"""The tasks of a comparison: makes one seed's start, and trains one trial.

All trials of a seed share its seed model and, unless a method routes by itself, its router and its
shards. All are scored on the same held-out documents. `ReferenceRun` does the training; this module
only chooses the training rows of a path.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from time import monotonic

import msgspec

from dipaco.node.compare.folder import SeedFolder
from dipaco.node.compare.held_out import Scorer, described
from dipaco.node.compare.results import (
    HeldOutDocument,
    Loss,
    Point,
    Shard,
    Start,
    TrialResult,
    sum_over,
    write_result,
)
from dipaco.node.compare.trials import Trial
from dipaco.node.compare.variants import (
    Stream,
    dense,
    method_named,
    parameters,
    recut,
    round_robin,
)
from dipaco.node.jobs.settings import reproducible_settings
from dipaco.node.jobs.values import Answer, Derive, Job, PerformLease, Progress
from dipaco.node.reference.inner_steps import StepCount, steps_after_seed
from dipaco.node.reference.run import Performs, ReferenceRun, derive_spec
from dipaco.node.routing.held_out import HeldOutDocuments, of_run
from dipaco.node.routing.shards import Shards, TokenShard
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home
from dipaco.node.training.devices import choose_device
from dipaco.node.worker.performer import Performer, shards_of, tools_of
from dipaco.protocol.routing.recipe import recipe_of, unfitted_spec
from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.run.batches import DENSE
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.run.training import Training
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.kinds import SeedLease, TrainLease

MAX_SPEC = 64 << 20  # bytes
POINTS = 3  # of a curve, after the seed model; a few more where the rounds divide badly
NOTHING_DONE = Progress(stage="evaluate", done=0, total=0, unit="documents")
OnWork = Callable[[str, int], None]
"""Gets the name of the work and the number of inner steps taken."""
OnProgress = Callable[[Progress], None]


def prepare(folder: SeedFolder, device: str, on_work: OnWork) -> None:
    """Make the common start of a seed's methods: router, shards, seed model and its loss.

    The folder's blobs must hold the run's tokenizer, unless it is the packaged one.
    Raises the errors of a run's jobs: Refusal, Unavailable, or another DipacoError.
    """
    manifest, count = folder.manifest, _Steps(on_work)
    performer = Performer(reproducible_settings(folder.root, device))
    spec = derive_spec(Derive(manifest=manifest), performer, count)
    data = SeedData.at(folder.root, manifest, spec)
    run = ReferenceRun(manifest, [spec], data.performer_for("dense", performer), count)
    run.seed()
    held_out = data.held_out(lambda progress: count("documents", progress))
    documents = described(held_out, recipe_of(manifest).source, manifest.routing.first_scored)
    scores = _Scores(data, performer, device, count)
    losses, nlls = scores.at(run, 0, documents, whole=True, paths=1)
    first = manifest.topology.path_modules[0]
    start = Start(
        run=run_id(manifest).hex(),
        seed=manifest.seed,
        vocabulary=manifest.tokenizer.vocabulary,
        spec=blobs_of(folder.root).write(encode(spec)).hex(),
        states={module: run.states[module][0].hex() for module in first},
        shards=_shards_of(spec),
        documents=documents,
        nlls=nlls,
        point=Point(
            steps=manifest.training.seed_steps,
            tokens=manifest.training.seed_steps * _step_tokens(manifest),
            losses=losses,
        ),
    )
    write_result(folder.start_file, start)


def train(folder: SeedFolder, trial: Trial, device: str, on_work: OnWork) -> None:
    """Train a trial from the start that `prepare` made; write its result and final states."""
    start, began = folder.start(), monotonic()
    assert start is not None
    folder.clear_work(trial)
    own = Performer(reproducible_settings(folder.work(trial), device))
    method, manifest = method_named(trial.method), trial.manifest(folder.manifest)
    count = _Steps(on_work)
    data = SeedData.of(folder, start)
    if method.stream == "own":
        _copy_tokenizer(folder, trial)
        spec = derive_spec(Derive(manifest=manifest), own, count)
        data = SeedData.at(folder.work(trial), manifest, spec)
    run = ReferenceRun(
        manifest, [data.spec_for(manifest)], data.performer_for(method.stream, own), count
    )
    run.states = _beginning(folder, start, trial, manifest)
    scores = _Scores(data, own, device, count)
    points, nlls = [start.point], start.nlls
    training, reshard = manifest.training, manifest.routing.reshard
    tokens, absent = start.point.tokens, 0
    for round_ in range(1, training.rounds + 1):
        live = run.live_paths(round_)
        missed = method.missed(manifest, round_, live)
        run.round(round_, missed)
        absent += len(missed)
        tokens += (len(live) - len(missed)) * training.inner_steps * _step_tokens(manifest)
        if _is_scored(training, round_):
            last = round_ == training.rounds
            losses, nlls = scores.at(run, round_, start.documents, whole=last)
            steps = training.seed_steps + round_ * training.inner_steps
            points.append(Point(steps=steps, tokens=tokens, losses=losses))
        if reshard is not None and round_ == reshard.after_round:
            run.reshard(reshard)
            scores.data = SeedData.at(folder.work(trial), manifest, run.specs[-1])
    states = {module: digests[-1] for module, digests in run.states.items()}
    _copy_states(folder, trial, manifest, states)
    total, of_path = parameters(manifest)
    routes = method.stream == "own"
    result = TrialResult(
        run=start.run,
        method=trial.method,
        lr=trial.lr,
        outer_lr=trial.outer_lr,
        seed=start.seed,
        repeat=trial.repeat,
        compute=(steps_after_seed(manifest) - absent * training.inner_steps)
        / steps_after_seed(dense(folder.manifest)),
        parameters=total,
        path_parameters=of_path,
        seconds=monotonic() - began,
        points=tuple(points),
        nlls=nlls,
        choice_nll=sum_over("choice", start.documents, nlls),
        states={module: digest.hex() for module, digest in states.items()},
        spec=blobs_of(folder.root).write(encode(run.specs[-1])).hex() if routes else "",
        shards=_shards_of(run.specs[-1]) if routes else (),
    )
    write_result(folder.trial_file(trial), result)
    folder.clear_work(trial)


@dataclass(frozen=True)
class SeedData:
    """The data that the methods of one seed share: its router and its shards."""

    manifest: Manifest
    spec: RouterSpec
    shards: Shards
    """The shards in the seed's home, or in that of a trial with its own router."""

    @classmethod
    def at(cls, home: Path, manifest: Manifest, spec: RouterSpec) -> "SeedData":
        """Return the data in a home, which makes the shards that it lacks."""
        settings = reproducible_settings(home, "cpu")
        return cls(manifest, spec, shards_of(settings, tools_of(settings)))

    @classmethod
    def of(cls, folder: SeedFolder, start: Start) -> "SeedData":
        """Return the data that `prepare` made."""
        return cls.at(folder.root, folder.manifest, _read_spec(folder, start.spec))

    @classmethod
    def at_end(cls, folder: SeedFolder, start: Start, result: TrialResult) -> "SeedData":
        """Return the data at a trial's end: the common data, or those of its own last router."""
        if not result.spec:
            return cls.of(folder, start)
        manifest = result.trial.manifest(folder.manifest)
        return cls.at(folder.root, manifest, _read_spec(folder, result.spec))

    def spec_for(self, manifest: Manifest) -> RouterSpec:
        """Return the spec that a variant's own derivation gives: this router with its run id."""
        if manifest.routing.kind == "round_robin":
            return unfitted_spec(recipe_of(manifest))
        return msgspec.structs.replace(self.spec, manifest=run_id(manifest))

    def performer_for(self, stream: Stream, own: Performer) -> Performs:
        """Return a performer that does a variant's jobs on the blobs of `own`, with `stream`."""
        return own if stream == "own" else _SharedShards(self, stream, own)

    def training(
        self, stream: Stream, path: int, window: int, on_progress: OnProgress
    ) -> TokenShard:
        """Return the rows that a path trains on in a window."""
        manifest, spec = self.manifest, self.spec
        if stream == "dense":
            path = DENSE
        elif stream == "round_robin":
            manifest = round_robin(manifest)
            spec = self.spec_for(manifest)
        return self.shards.training(manifest, spec, window, path, on_progress)

    def held_out(self, on_progress: OnProgress) -> HeldOutDocuments:
        """Return the held-out documents by the path that the router sends them to."""
        return of_run(self.manifest, self.spec, self.shards, on_progress)


@dataclass(frozen=True)
class _SharedShards:
    """A performer that takes training rows from the seed's home."""

    data: SeedData
    stream: Stream
    own: Performer

    def perform(self, job: Job, on_progress: OnProgress) -> Answer:
        """Do `job`; raises its errors."""
        if not isinstance(job, PerformLease):
            return self.own.perform(job, on_progress)
        match job.lease:
            case SeedLease() as lease:
                shard = self.data.training(self.stream, 0, lease.window, on_progress)
                return self.own.trainer().seed(job.manifest, lease, shard, on_progress)
            case TrainLease() as lease:
                shard = self.data.training(self.stream, lease.path, lease.window, on_progress)
                return self.own.trainer().train(job.manifest, lease, shard, on_progress)
            case _:
                return self.own.perform(job, on_progress)


class _Steps:
    """Counts the inner steps over all leases."""

    def __init__(self, on_work: OnWork) -> None:
        self._on_work, self._count = on_work, StepCount()

    def __call__(self, what: str, progress: Progress) -> None:
        self._on_work(what, self._count.add(what, progress))


def _is_scored(training: Training, round_: int) -> bool:
    """Return whether a round's versions are a point of the picture; the last round's always are."""
    return (training.rounds - round_) % max(1, training.rounds // POINTS) == 0


class _Scores:
    """Scores the held-out documents at a version, each by the path that the router sends it to."""

    def __init__(self, data: SeedData, own: Performer, device: str, count: _Steps) -> None:
        """data: with the router of the versions to be scored; replace it when that changes."""
        own.trainer()  # makes torch reproducible
        self.data = data
        self._own, self._device, self._count = own, choose_device(device), count
        self._scorer: Scorer | None = None

    def at(
        self,
        run: ReferenceRun,
        version: int,
        documents: Sequence[HeldOutDocument],
        *,
        whole: bool,
        paths: int | None = None,
    ) -> tuple[tuple[Loss, ...], tuple[float, ...]]:
        """Return the loss of each shard over the half that is shown, and of every document.

        whole   score both halves; else the documents of the other half count 0.
        paths   of the model, if not as many as the run's.
        """
        paths = paths or run.manifest.paths
        if self._scorer is None:
            self._scorer = Scorer(run.manifest, self._own.blobs, self._device)
        place_of = {each.index: place for place, each in enumerate(documents)}
        held_out = self.data.held_out(lambda progress: self._count("documents", progress))
        nlls, losses = [0.0] * len(documents), []
        for shard in range(self.data.manifest.paths):
            self._count(f"evaluation {version}, shard {shard}", NOTHING_DONE)
            path = shard if paths > 1 else 0
            states = {ModuleId(each.module): each.digest for each in run.states_at(path, version)}
            indices = held_out.indices.get(shard, ())
            texts = zip(indices, held_out.by_path.get(shard, ()), strict=True)
            chosen = [
                (place, ids)
                for place, ids in ((place_of[index], ids) for index, ids in texts)
                if whole or documents[place].half == "score"
            ]
            found = self._scorer.nlls(path, states, [ids for _, ids in chosen])
            for (place, _), nll in zip(chosen, found, strict=True):
                nlls[place] = nll
            shown = [place for place, _ in chosen if documents[place].half == "score"]
            losses.append(_loss(shard, [(documents[place], nlls[place]) for place in shown]))
        return tuple(losses), tuple(nlls)


def _loss(shard: int, scored: Sequence[tuple[HeldOutDocument, float]]) -> Loss:
    return Loss(
        shard=shard,
        documents=sum(each.tokens > 0 for each, _ in scored),
        tokens=sum(each.tokens for each, _ in scored),
        nll=fsum(nll for _, nll in scored),
    )


def _beginning(
    folder: SeedFolder, start: Start, trial: Trial, manifest: Manifest
) -> dict[ModuleId, list[Digest]]:
    """Write the seed model, cut into the modules of `manifest`, to the trial's store.

    Returns the digests per module, those of version 0.
    """
    top, blobs = folder.manifest.topology, blobs_of(folder.root)
    seed = {
        ModuleId(module): blobs.read_array(
            Digest(bytes.fromhex(digest)), top.elements(ModuleId(module))
        )
        for module, digest in start.states.items()
    }
    own = blobs_of(folder.work(trial))
    cut = recut(seed, folder.manifest, manifest)
    return {module: [own.write_array(state)] for module, state in cut.items()}


def _copy_tokenizer(folder: SeedFolder, trial: Trial) -> None:
    """Copy the run's tokenizer, unless it is packaged, for a trial that derives a router."""
    tokenizer, kept = folder.manifest.tokenizer, blobs_of(folder.root)
    if kept.has(tokenizer.sha256):
        blobs_of(folder.work(trial)).write(kept.read(tokenizer.sha256, tokenizer.size))


def _copy_states(
    folder: SeedFolder, trial: Trial, manifest: Manifest, states: dict[ModuleId, Digest]
) -> None:
    """Copy a trial's final states from its own store into the seed's."""
    own, kept = blobs_of(folder.work(trial)), blobs_of(folder.root)
    for module, digest in states.items():
        kept.write_array(own.read_array(digest, manifest.topology.elements(module)))


def blobs_of(home: Path) -> BlobStore:
    """Return the blob store of a seed's home, or of a trial's folder."""
    return BlobStore(Home.at(home).blobs)


def _read_spec(folder: SeedFolder, digest: str) -> RouterSpec:
    data = blobs_of(folder.root).read(Digest(bytes.fromhex(digest)), MAX_SPEC)
    return decode(data, RouterSpec, limit=MAX_SPEC)


def _shards_of(spec: RouterSpec) -> tuple[Shard, ...]:
    return tuple(
        Shard(shard=shard, documents=documents, tokens=tokens)
        for shard, (documents, tokens) in enumerate(zip(spec.documents, spec.tokens, strict=True))
    )


def _step_tokens(manifest: Manifest) -> int:
    return manifest.training.batch * manifest.model.context
