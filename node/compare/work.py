"""The tasks of a comparison: makes one seed's start, and trains one method.

All methods of a seed share its router, its shards and its seed model, and are scored on the same
held-out documents of the same shards. `ReferenceRun` does the training; this module only chooses
the training rows of a path.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import msgspec

from dipaco.node.compare.folder import SeedFolder
from dipaco.node.compare.results import Loss, MethodResult, Point, Shard, Start, write_result
from dipaco.node.compare.variants import (
    METHODS,
    Stream,
    dense,
    parameters,
    recut,
    round_robin,
)
from dipaco.node.jobs.settings import reproducible_settings
from dipaco.node.jobs.values import Answer, Derive, Job, PerformLease, Progress
from dipaco.node.reference.inner_steps import StepCount, steps_after_seed
from dipaco.node.reference.run import Performs, ReferenceRun, derive_spec
from dipaco.node.routing.shards import Shards, TokenShard, Validation
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home
from dipaco.node.worker.performer import Performer, shards_of, tools_of
from dipaco.protocol.routing.recipe import recipe_of, unfitted_spec
from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.run.batches import DENSE
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.kinds import SeedLease, TrainLease

MAX_SPEC = 64 << 20  # bytes
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
    data = SeedData(manifest, spec, _shards(folder.root))
    run = ReferenceRun(manifest, [spec], data.performer_for("dense", performer), count)
    run.seed()
    losses = _losses(run, 0, data, performer, count)
    first = manifest.topology.path_modules[0]
    start = Start(
        run=run_id(manifest).hex(),
        seed=manifest.seed,
        spec=blobs_of(folder.root).write(encode(spec)).hex(),
        states={module: run.states[module][0].hex() for module in first},
        shards=_shards_of(spec),
        point=Point(
            steps=manifest.training.seed_steps,
            tokens=manifest.training.seed_steps * _step_tokens(manifest),
            losses=losses,
        ),
    )
    write_result(folder.start_file, start)


def train_method(folder: SeedFolder, method: str, device: str, on_work: OnWork) -> None:
    """Train one method from the start that `prepare` made; write its result and final states."""
    start, began = folder.start(), monotonic()
    assert start is not None
    folder.clear_work(method)
    own = Performer(reproducible_settings(folder.work(method), device))
    data = SeedData.of(folder, start)
    manifest = METHODS[method].manifest(folder.manifest)
    reshard = manifest.routing.reshard
    performer, count = data.performer_for(METHODS[method].stream, own), _Steps(on_work)
    run = ReferenceRun(manifest, [data.spec_for(manifest)], performer, count)
    run.states = _beginning(folder, start, method, manifest)
    if reshard is not None:
        _copy_tokenizer(folder, method)
    points = [start.point]
    for round_ in range(1, manifest.training.rounds + 1):
        run.round(round_)
        steps = manifest.training.inner_steps
        points.append(
            Point(
                steps=points[-1].steps + steps,
                tokens=points[-1].tokens
                + len(run.live_paths(round_)) * steps * _step_tokens(manifest),
                losses=_losses(run, round_, data, own, count),
            )
        )
        if reshard is not None and round_ == reshard.after_round:
            run.reshard(reshard)
            data = SeedData(manifest, run.specs[-1], _shards(folder.work(method)))
    last = {module: digests[-1] for module, digests in run.states.items()}
    _copy_states(folder, method, manifest, last)
    total, of_path = parameters(manifest)
    result = MethodResult(
        run=start.run,
        method=method,
        seed=start.seed,
        compute=steps_after_seed(manifest) / steps_after_seed(dense(folder.manifest)),
        parameters=total,
        path_parameters=of_path,
        seconds=monotonic() - began,
        points=tuple(points),
        states={module: digest.hex() for module, digest in last.items()},
        spec=blobs_of(folder.root).write(encode(run.specs[-1])).hex() if reshard else "",
        shards=_shards_of(run.specs[-1]) if reshard else (),
    )
    write_result(folder.method_file(method), result)
    folder.clear_work(method)


@dataclass(frozen=True)
class SeedData:
    """The data that the methods of one seed share: its router and its shards."""

    manifest: Manifest
    spec: RouterSpec
    shards: Shards
    """The shards in the seed's home; after re-sharding those in the method's."""

    @classmethod
    def of(cls, folder: SeedFolder, start: Start) -> "SeedData":
        """Return the data that `prepare` made."""
        return cls(folder.manifest, _read_spec(folder, start.spec), _shards(folder.root))

    @classmethod
    def at_end(cls, folder: SeedFolder, start: Start, result: MethodResult) -> "SeedData":
        """Return the data at a method's end: the common data, or those of its own last router."""
        if not result.spec:
            return cls.of(folder, start)
        manifest = METHODS[result.method].manifest(folder.manifest)
        return cls(manifest, _read_spec(folder, result.spec), _shards(folder.root))

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

    def held_out(self, shard: int, on_progress: OnProgress) -> Validation:
        """Return the held-out documents that the router sends to `shard`."""
        return self.shards.validation(self.manifest, self.spec, 0, shard, on_progress)


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


def _losses(
    run: ReferenceRun, version: int, data: SeedData, performer: Performer, count: _Steps
) -> tuple[Loss, ...]:
    """Score every shard's held-out documents: by the path of its number, or the only path."""
    losses = []
    for shard in range(data.manifest.paths):
        what = f"evaluation {version}, shard {shard}"

        def on_progress(progress: Progress, what: str = what) -> None:
            count(what, progress)

        lease = run.evaluation(version, shard if run.manifest.paths > 1 else 0)
        documents, trainer = data.held_out(shard, on_progress), performer.trainer()
        found = trainer.evaluate(run.manifest, lease, documents, on_progress).evaluation
        losses.append(
            Loss(shard=shard, documents=found.documents, tokens=found.tokens, nll=found.nll)
        )
    return tuple(losses)


def _beginning(
    folder: SeedFolder, start: Start, method: str, manifest: Manifest
) -> dict[ModuleId, list[Digest]]:
    """Write the seed model, cut into the modules of `manifest`, to the method's store.

    Returns the digests per module, those of version 0.
    """
    top, blobs = folder.manifest.topology, blobs_of(folder.root)
    seed = {
        ModuleId(module): blobs.read_array(
            Digest(bytes.fromhex(digest)), top.elements(ModuleId(module))
        )
        for module, digest in start.states.items()
    }
    own = blobs_of(folder.work(method))
    cut = recut(seed, folder.manifest, manifest)
    return {module: [own.write_array(state)] for module, state in cut.items()}


def _copy_tokenizer(folder: SeedFolder, method: str) -> None:
    """Copy the run's tokenizer, unless it is packaged, for a method that derives a router."""
    tokenizer, kept = folder.manifest.tokenizer, blobs_of(folder.root)
    if kept.has(tokenizer.sha256):
        blobs_of(folder.work(method)).write(kept.read(tokenizer.sha256, tokenizer.size))


def _copy_states(
    folder: SeedFolder, method: str, manifest: Manifest, states: dict[ModuleId, Digest]
) -> None:
    """Copy a method's final states from its own store into the seed's."""
    own, kept = blobs_of(folder.work(method)), blobs_of(folder.root)
    for module, digest in states.items():
        kept.write_array(own.read_array(digest, manifest.topology.elements(module)))


def blobs_of(home: Path) -> BlobStore:
    """Return the blob store of a seed's home, or of a method's folder."""
    return BlobStore(Home.at(home).blobs)


def _read_spec(folder: SeedFolder, digest: str) -> RouterSpec:
    data = blobs_of(folder.root).read(Digest(bytes.fromhex(digest)), MAX_SPEC)
    return decode(data, RouterSpec, limit=MAX_SPEC)


def _shards_of(spec: RouterSpec) -> tuple[Shard, ...]:
    return tuple(
        Shard(shard=shard, documents=documents, tokens=tokens)
        for shard, (documents, tokens) in enumerate(zip(spec.documents, spec.tokens, strict=True))
    )


def _shards(home: Path) -> Shards:
    settings = reproducible_settings(home, "cpu")
    return shards_of(settings, tools_of(settings))


def _step_tokens(manifest: Manifest) -> int:
    return manifest.training.batch * manifest.model.context
