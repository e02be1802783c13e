"""The work of leases: from module states in the blob store to results.

It runs in worker processes and in the single-process reference, never in the daemon, since it
imports torch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
from msgspec.structs import replace

from dipaco.node.aggregation.outer import encoded_feedback, read_moments
from dipaco.node.config import ComputeSection
from dipaco.node.jobs.options import check_moment_bits
from dipaco.node.jobs.values import Described, MemoryProbed, ProbeMemory, Progress
from dipaco.node.routing.shards import RouterDocuments, Validation
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.training.compiled import compile_blocks, compiling_in_words
from dipaco.node.training.devices import (
    bounded,
    choose_device,
    describe,
    ran_out,
    try_out,
    was_lost,
)
from dipaco.node.training.duty import Duty
from dipaco.node.training.evaluation import evaluate, score, whole
from dipaco.node.training.inner_loop import (
    InnerResult,
    PathState,
    Rows,
    StepReport,
    Steps,
    make_deterministic,
    run_steps,
)
from dipaco.node.training.memory_probe import measure
from dipaco.node.training.micro_batches import MicroBatches
from dipaco.node.training.model import Float32, PathModel, load
from dipaco.protocol.errors import NoDevice, Refusal
from dipaco.protocol.routing.labels import NOT_SCORED, quantised, sheet_bytes
from dipaco.protocol.run.batches import DENSE, RowOrder, batch_run, batch_seed, first_step
from dipaco.protocol.run.initial import initial_module
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleDigest, ModuleId, digest_of
from dipaco.protocol.tensors.delta import encode_delta
from dipaco.protocol.tensors.feedback import decode_feedback, encode_feedback, send
from dipaco.protocol.tensors.moments import Moments, encode_moments
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.kinds import (
    EvaluateLease,
    EvaluateResult,
    Lease,
    ScoreLease,
    ScoreResult,
    SeedLease,
    SeedResult,
    Sheet,
    TrainLease,
    TrainResult,
)

OnProgress = Callable[[Progress], None]


class Trainer:
    """Trains, evaluates and scores on one device."""

    def __init__(
        self,
        blobs: BlobStore,
        compute: ComputeSection,
        *,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Choose the device; raises NoDevice.

        tell   is called with each line for the operator.
        """
        make_deterministic(compute.torch_threads)
        self._blobs, self._compute = blobs, compute
        self._device = choose_device(compute.device)
        self._micro_batches = MicroBatches(
            most=compute.max_batch, checkpointing=compute.checkpointing, tell=tell
        )

    def describe(self) -> Described:
        """Return the device in words, once it has computed something; raises NoDevice."""
        with self._within_memory():
            try_out(self._device)
            return describe(self._device, self._compute.max_ram)

    def probe_memory(self, job: ProbeMemory) -> MemoryProbed:
        """Measure the memory and the time of one micro-batch."""
        return measure(job, self._device, self._compute)

    def seed(
        self, manifest: Manifest, lease: SeedLease, shard: Rows, on_progress: OnProgress
    ) -> SeedResult:
        """Take the dense steps of the seed phase and write the states to the store.

        shard   the dense training stream of the window.
        Raises Refusal if it has no row, DipacoError if the loss is not finite.
        """
        if shard.rows < 1:
            raise Refusal(f"window {lease.window} has no training document for the seed model")
        steps = Steps(count=manifest.training.seed_steps, first_batch=0, first_rate=0)
        start = PathState(weights=self._seed_weights(manifest, lease), moments=None)
        order = RowOrder(_batch_seed(manifest, lease, DENSE), shard.rows)
        result = self._inner_steps(manifest, start, shard, order, steps, on_progress)
        states = {m: self._blobs.write_array(w) for m, w in result.end.weights.items()}
        return SeedResult(token=lease.token, states=_named(states), **_figures(result))

    def train(
        self, manifest: Manifest, lease: TrainLease, shard: Rows, on_progress: OnProgress
    ) -> TrainResult:
        """Take the inner steps of a path and write pseudo-gradients and moments to the store.

        shard   of the lease's path and window.
        If the window has no document for the path, its pseudo-gradients are zero.
        Raises DipacoError if the loss is not finite.
        """
        start = PathState(
            weights=self._weights(manifest, lease), moments=self._moments(manifest, lease)
        )
        if shard.rows < 1:
            return self._train_result(manifest, lease, start, InnerResult.nothing(start))
        order = RowOrder(_batch_seed(manifest, lease, lease.path), shard.rows)
        steps = steps_of(manifest, lease)
        result = self._inner_steps(manifest, start, shard, order, steps, on_progress)
        return self._train_result(manifest, lease, start, result)

    def _inner_steps(
        self,
        manifest: Manifest,
        start: PathState,
        shard: Rows,
        order: RowOrder,
        steps: Steps,
        on_progress: OnProgress,
    ) -> InnerResult:
        check_moment_bits(self._compute.moment_bits, manifest)
        compiling = compiling_in_words if self._compute.compile else nullcontext
        told, duty = _StepReporter(steps.count, on_progress), Duty(self._compute.duty)

        def on_step(step: StepReport) -> None:
            self._micro_batches.fitted(self._device)
            told.on_step(step)
            duty.rest(told.on_micro_batch)

        def on_micro_batch() -> None:
            told.on_micro_batch()
            duty.rest(told.on_micro_batch)

        with self._within_memory(), compiling():
            model = self._model(manifest)
            if self._compute.compile:
                compile_blocks(model)
            return run_steps(
                model,
                manifest,
                start,
                shard,
                order,
                steps,
                max_batch=self._micro_batches.most,
                on_step=on_step,
                on_micro_batch=on_micro_batch,
                shrink=self._micro_batches.shrink(model, manifest.training.batch),
                moment_bits=self._compute.moment_bits,
            )

    def _train_result(
        self, manifest: Manifest, lease: TrainLease, start: PathState, result: InnerResult
    ) -> TrainResult:
        """Write pseudo-gradients and moments to the store; returns the result that names them.

        The next round reads the moments from the store, on this node as on any other. So a path
        gives the same bits wherever it is trained, though 8 bits do not hold all of a moment.
        """
        training, deltas, moments, left = manifest.training, {}, {}, {}
        for module, weights in result.end.weights.items():
            delta = start.weights[module] - weights  # pseudo-gradient = global - local
            if training.deltas == "topk":
                data, left[module] = self._sent(manifest, lease, module, delta, result)
            else:
                data = encode_delta(delta, training.deltas)
            deltas[module] = self._blobs.write(data)
        seen = lease.steps + training.inner_steps
        for module, each in (result.end.moments or {}).items():
            data = encode_moments(each, training.inner, seen) + left.get(module, b"")
            moments[module] = self._blobs.write(data)
        return TrainResult(
            token=lease.token, deltas=_named(deltas), moments=_named(moments), **_figures(result)
        )

    def _sent(
        self,
        manifest: Manifest,
        lease: TrainLease,
        module: ModuleId,
        delta: Float32,
        result: InnerResult,
    ) -> tuple[bytes, bytes]:
        """Return the bytes of a sparse pseudo-gradient, and of what it leaves to the next round.

        Without a step nothing is sent, and what was left before waits on.
        """
        before = np.zeros_like(delta)
        if lease.moments:
            before = decode_feedback(
                encoded_feedback(self._blobs, manifest, module, digest_of(module, lease.moments)),
                delta.size,
            )
        if result.tokens:
            return send(delta, before, manifest.training.deltas)
        return encode_delta(delta, manifest.training.deltas), encode_feedback(before)

    def evaluate(
        self,
        manifest: Manifest,
        lease: EvaluateLease,
        documents: Validation,
        on_progress: OnProgress,
    ) -> EvaluateResult:
        """Compute the loss on the held-out documents that the router sends to the lease's path."""
        total = len(documents)

        def on_batch(done: int) -> None:
            on_progress(Progress(stage="evaluate", done=done, total=total, unit="documents"))

        with self._within_memory():
            model = self._model(manifest)
            load(model, manifest, self._weights(manifest, lease))
            evaluation = evaluate(
                model,
                documents,
                first=manifest.routing.first_scored,
                id_bytes=documents.id_bytes,
                max_batch=self._micro_batches.most,
                on_batch=on_batch,
            )
        return EvaluateResult(token=lease.token, evaluation=evaluation)

    def score(
        self,
        manifest: Manifest,
        lease: ScoreLease,
        documents: RouterDocuments,
        on_progress: OnProgress,
        *,
        rows: Sequence[int] | None = None,
    ) -> ScoreResult:
        """Score the lease's router documents and write the sheet to the store.

        rows   the documents to score, by their number from 0; None: all.
        """
        first = manifest.routing.first_scored
        asked = range(len(documents.documents)) if rows is None else rows
        if any(row >= len(documents.documents) for row in asked):
            raise Refusal(f"the window has {len(documents.documents)} router documents, not more")
        due = sorted(set(documents.scored_by(lease.path, first).tolist()).intersection(asked))
        passages = [whole(documents.documents[row], first) for row in due]

        def on_batch(done: int) -> None:
            on_progress(Progress(stage="score", done=done, total=len(passages), unit="documents"))

        with self._within_memory():
            model = self._model(manifest)
            load(model, manifest, self._weights(manifest, lease))
            nlls = score(model, passages, max_batch=self._micro_batches.most, on_batch=on_batch)
        scores = {
            row: quantised(nll, len(passage.tokens) - first)
            for row, nll, passage in zip(due, nlls, passages, strict=True)
        }
        sheet = sheet_bytes([scores.get(row, NOT_SCORED) for row in asked])
        return ScoreResult(
            token=lease.token,
            sheet=Sheet(digest=self._blobs.write(sheet), documents=len(asked)),
        )

    def _model(self, manifest: Manifest) -> PathModel:
        model = PathModel(manifest, self._device)
        model.model.checkpointing = self._micro_batches.checkpointing
        return model

    def _seed_weights(self, manifest: Manifest, lease: SeedLease) -> dict[ModuleId, Float32]:
        """Return the initial states of the seed phase: the lease's, or the initial model."""
        if lease.modules:
            return self._weights(manifest, lease)
        first = manifest.topology.path_modules[0]
        return {module: initial_module(manifest, module) for module in first}

    def _weights(self, manifest: Manifest, lease: Lease) -> dict[ModuleId, Float32]:
        """Return the states that the lease names."""
        top = manifest.topology
        return {
            ModuleId(each.module): self._blobs.read_array(
                each.digest, top.elements(ModuleId(each.module))
            )
            for each in lease.modules
        }

    def _moments(self, manifest: Manifest, lease: TrainLease) -> dict[ModuleId, Moments] | None:
        """Return the initial moments of the path; None if the run does not carry moments."""
        if manifest.training.inner_state == "reset":
            return None
        top = manifest.topology
        if not lease.moments:
            modules = top.path_modules[lease.path]
            return {m: Moments.zeros(top.elements(m), manifest.by_muon(m)) for m in modules}
        return {
            ModuleId(each.module): read_moments(
                self._blobs, manifest, ModuleId(each.module), each.digest
            )
            for each in lease.moments
        }

    @contextmanager
    def _within_memory(self) -> Iterator[None]:
        """Turn a lack of memory, on the CPU too, or the loss of the device into NoDevice."""
        try:
            with bounded(self._device, describe(self._device, self._compute.max_ram).usable):
                yield
        except (MemoryError, NoDevice, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not ran_out(error):
                if was_lost(error):
                    why = str(error).partition("\n")[0]
                    raise NoDevice(f"{self._device} cannot be used: {why}") from error
                raise
            raise NoDevice(
                f"{self._device} has too little memory for a path of this run: see "
                "`dipaco-node doctor --fit RUN`"
            ) from error


class _StepReporter:
    """Reports the steps of a job, and between the micro-batches of one the last step again."""

    def __init__(self, total: int, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._last = Progress(stage="train", done=0, total=total, unit="steps")

    def on_step(self, step: StepReport) -> None:
        """Report a step that was taken."""
        self._last = replace(
            self._last,
            done=step.done,
            per_second=step.per_second,
            tokens_per_second=step.tokens_per_second,
            loss=step.loss,
        )
        self._on_progress(self._last)

    def on_micro_batch(self) -> None:
        """Report that the step in work got on."""
        self._on_progress(self._last)


def steps_of(manifest: Manifest, lease: TrainLease) -> Steps:
    """Return the inner steps of a lease."""
    training = manifest.training
    first = first_step(training, lease.round)
    return Steps(
        count=training.inner_steps,
        first_batch=first,
        first_rate=training.seed_steps + first,
        behind=lease.steps,
    )


def _batch_seed(manifest: Manifest, lease: Lease, path: int) -> Digest:
    return batch_seed(batch_run(manifest.training, lease.run), path)


def _figures(result: InnerResult) -> dict[str, Any]:
    """Return the figures of inner steps as fields of a result."""
    return {
        "tokens": result.tokens,
        "seconds": result.seconds,
        "loss_first": result.loss_first,
        "loss_last": result.loss_last,
    }


def _named(blobs: dict[ModuleId, Digest]) -> tuple[ModuleDigest, ...]:
    """Return modules and the digests of their blobs as fields of a result."""
    return tuple(ModuleDigest(module=m, digest=digest) for m, digest in blobs.items())
