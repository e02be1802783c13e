"""Leases done: from module states in the blob store to deltas, or to a held-out loss.

Runs in worker processes and in the single-process reference, never in the daemon: this is where
torch comes in.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
from numpy.typing import NDArray

from dipaco.node.config import ComputeSection
from dipaco.node.data.shards import RouterDocuments
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.training.compiled import compile_blocks, compiling_in_words
from dipaco.node.training.devices import bounded, choose_device, describe, ran_out
from dipaco.node.training.evaluation import evaluate, score, whole
from dipaco.node.training.fitting import measure
from dipaco.node.training.inner_loop import (
    PathState,
    Rows,
    StepReport,
    Steps,
    make_deterministic,
    run_steps,
)
from dipaco.node.training.jobs import (
    Described,
    Evaluate,
    Evaluated,
    Fit,
    Fitted,
    Progress,
    Score,
    Scored,
    Train,
    Trained,
)
from dipaco.node.training.micro_batches import MicroBatches
from dipaco.node.training.model import Float32, PathModel, load
from dipaco.node.training.options import check_moment_bits
from dipaco.node.training.outer import read_moments
from dipaco.protocol.batches import DENSE, RowOrder, batch_seed, first_step
from dipaco.protocol.delta import encode_delta
from dipaco.protocol.errors import NoDevice, Refusal
from dipaco.protocol.initial import initial_module
from dipaco.protocol.lease import Lease, ModuleDigest, Sheet
from dipaco.protocol.manifest import Manifest
from dipaco.protocol.moments import Moments, encode_moments
from dipaco.protocol.routing.labels import NOT_SCORED, quantised, sheet_bytes
from dipaco.protocol.topology import ModuleId, topology

OnProgress = Callable[[Progress], None]


class Trainer:
    """Does `Train`, `Evaluate` and `Score` jobs on one device."""

    def __init__(
        self,
        blobs: BlobStore,
        compute: ComputeSection,
        *,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Choose the device; raises NoDevice.

        tell   gets what the operator should know, a line.
        """
        make_deterministic(compute.torch_threads)
        self._blobs, self._compute = blobs, compute
        self._device = choose_device(compute.device)
        self._micro_batches = MicroBatches(
            most=compute.max_batch, checkpointing=compute.checkpointing, tell=tell
        )

    def describe(self) -> Described:
        """Return the device in words."""
        return describe(self._device)

    def fit(self, job: Fit) -> Fitted:
        """Measure one micro-batch."""
        return measure(job, self._device, self._compute)

    def train(self, job: Train, shard: Rows, on_progress: OnProgress) -> Trained:
        """Take the lease's inner steps; leaves states (seed) or pseudo-gradients in the store.

        shard   of the lease's path and window; for a seed lease the dense training stream.
        A path to which the window gives no document learns nothing: its pseudo-gradients are zero.
        Raises Refusal for a seed lease without a row, DipacoError if the loss is not finite.
        """
        manifest, lease = job.manifest, job.lease
        check_moment_bits(self._compute.moment_bits, manifest)
        start = PathState(
            weights=self._weights(manifest, lease), moments=self._moments(manifest, lease)
        )
        if shard.rows < 1:
            return self._nothing_learnt(manifest, lease, start)
        path = DENSE if lease.kind == "seed" else lease.path
        compiling = compiling_in_words if self._compute.compile else nullcontext
        with self._within_memory(), compiling():
            model = self._model(manifest)
            if self._compute.compile:
                compile_blocks(model)
            result = run_steps(
                model,
                manifest,
                start,
                shard,
                RowOrder(batch_seed(lease.run, path), shard.rows),
                steps_of(manifest, lease),
                max_batch=self._micro_batches.most,
                on_step=self._step_reporter(steps_of(manifest, lease).count, on_progress),
                shrink=self._micro_batches.shrink(model, manifest.training.batch),
                moment_bits=self._compute.moment_bits,
            )
        return Trained(
            blobs=tuple(self._keep(manifest, lease, start, result.end)),
            moments=tuple(self._keep_moments(manifest, lease, result.end)),
            tokens=result.tokens,
            seconds=result.seconds,
            loss_first=result.loss_first,
            loss_last=result.loss_last,
        )

    def _nothing_learnt(self, manifest: Manifest, lease: Lease, start: PathState) -> Trained:
        if lease.kind == "seed":
            raise Refusal(f"window {lease.window} has no training document for the seed model")
        return Trained(
            blobs=tuple(self._keep(manifest, lease, start, start)),
            moments=tuple(self._keep_moments(manifest, lease, start)),
            tokens=0,
            seconds=0.0,
            loss_first=0.0,
            loss_last=0.0,
        )

    def evaluate(
        self, job: Evaluate, documents: Sequence[NDArray[np.integer]], on_progress: OnProgress
    ) -> Evaluated:
        """Score the held-out documents that the router sends to the lease's path."""
        manifest, lease = job.manifest, job.lease

        def on_batch(done: int) -> None:
            on_progress(Progress(stage="evaluate", done=done, total=len(documents)))

        with self._within_memory():
            model = self._model(manifest)
            load(model, manifest, self._weights(manifest, lease))
            evaluation = evaluate(
                model,
                documents,
                prefix=manifest.routing.prefix,
                max_batch=self._micro_batches.most,
                on_batch=on_batch,
            )
        return Evaluated(evaluation=evaluation)

    def score(self, job: Score, documents: RouterDocuments, on_progress: OnProgress) -> Scored:
        """Score the lease's router documents, or some rows of them, and leave the sheet."""
        manifest, lease, prefix = job.manifest, job.lease, job.manifest.routing.prefix
        asked = range(len(documents.documents)) if job.rows is None else job.rows
        if any(row >= len(documents.documents) for row in asked):
            raise Refusal(f"the window has {len(documents.documents)} router documents, not more")
        due = set(documents.scored_by(lease.path, prefix).tolist()).intersection(asked)
        rows = sorted(due)
        passages = [whole(documents.documents[row], prefix) for row in rows]

        def on_batch(done: int) -> None:
            on_progress(Progress(stage="score", done=done, total=len(passages)))

        with self._within_memory():
            model = self._model(manifest)
            load(model, manifest, self._weights(manifest, lease))
            nlls = score(model, passages, max_batch=self._micro_batches.most, on_batch=on_batch)
        scores = {
            row: quantised(nll, len(passage.tokens) - prefix)
            for row, nll, passage in zip(rows, nlls, passages, strict=True)
        }
        sheet = sheet_bytes([scores.get(row, NOT_SCORED) for row in asked])
        return Scored(sheet=Sheet(digest=self._blobs.write(sheet), documents=len(asked)))

    def _model(self, manifest: Manifest) -> PathModel:
        model = PathModel(manifest, self._device)
        model.model.checkpointing = self._micro_batches.checkpointing
        return model

    def _weights(self, manifest: Manifest, lease: Lease) -> dict[ModuleId, Float32]:
        """The states that the lease starts from: the named blobs, or the initial model."""
        top = topology(manifest)
        if lease.kind == "seed" and not lease.modules:
            return {module: initial_module(manifest, module) for module in top.path_modules[0]}
        return {
            ModuleId(each.module): self._blobs.read_array(
                each.digest, top.elements(ModuleId(each.module))
            )
            for each in lease.modules
        }

    def _moments(self, manifest: Manifest, lease: Lease) -> dict[ModuleId, Moments] | None:
        """AdamW's moments that the lease starts from; None where none are carried."""
        if lease.kind != "train" or manifest.training.inner_state == "reset":
            return None
        top = topology(manifest)
        if not lease.moments:
            return {m: Moments.zeros(top.elements(m)) for m in top.path_modules[lease.path]}
        return {
            ModuleId(each.module): read_moments(
                self._blobs, manifest, ModuleId(each.module), each.digest
            )
            for each in lease.moments
        }

    def _keep(
        self, manifest: Manifest, lease: Lease, start: PathState, end: PathState
    ) -> Iterator[ModuleDigest]:
        for module, weights in end.weights.items():
            if lease.kind == "seed":
                digest = self._blobs.write_array(weights)
            else:  # pseudo-gradient = global - local
                delta = start.weights[module] - weights
                digest = self._blobs.write(encode_delta(delta, manifest.training.deltas))
            yield ModuleDigest(module=module, digest=digest)

    def _keep_moments(
        self, manifest: Manifest, lease: Lease, end: PathState
    ) -> Iterator[ModuleDigest]:
        """Leave the moments for the next round; whoever takes it, this node too, reads them back.

        So staying and moving give the same bits, though 8 bits do not hold all of a moment.
        """
        training = manifest.training
        for module, moments in (end.moments or {}).items():
            data = encode_moments(moments, training.inner, first_step(training, lease.round + 1))
            yield ModuleDigest(module=module, digest=self._blobs.write(data))

    @contextmanager
    def _within_memory(self) -> Iterator[None]:
        """Have want of memory be an error that says so, on the CPU too."""
        try:
            with bounded(self._device, describe(self._device).usable):
                yield
        except (MemoryError, NoDevice, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not ran_out(error):
                raise
            raise NoDevice(
                f"{self._device} has too little memory for a path of this run: see "
                "`dipaco-node doctor --fit RUN`"
            ) from error

    def _step_reporter(self, total: int, on_progress: OnProgress) -> Callable[[StepReport], None]:
        def report(step: StepReport) -> None:
            self._micro_batches.fitted(self._device)
            on_progress(
                Progress(
                    stage="train",
                    done=step.done,
                    total=total,
                    rate=step.tokens_per_second,
                    unit="tokens",
                    loss=step.loss,
                )
            )

        return report


def steps_of(manifest: Manifest, lease: Lease) -> Steps:
    """Return the steps that a `seed` or `train` lease stands for."""
    training = manifest.training
    if lease.kind == "seed":
        return Steps(count=training.seed_steps, first_batch=0, first_rate=0)
    first = first_step(training, lease.round)
    return Steps(
        count=training.inner_steps,
        first_batch=first,
        first_rate=training.seed_steps + first,
        behind=first if lease.moments else 0,
    )
