"""The inner loop: steps of one path on the rows of its shard (docs/method.md, section 2).

One loop serves the seed phase and every path and round. The same inputs give the same bits on the
same hardware, library versions, thread count and micro-batch: no value is drawn at random, the
lease decides the initial moments, and torch uses its deterministic kernels alone.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import deterministic

from dipaco.node.config import MomentBits
from dipaco.node.training.micro_batches import Shrink, do_what_fits, halve
from dipaco.node.training.model import Float32, PathModel, load, store
from dipaco.node.training.optimizers import load_moments, make_optimizer, moments_of
from dipaco.protocol.errors import DipacoError
from dipaco.protocol.run.batches import RowOrder, learning_rate
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.tensors.moments import Moments


class Rows(Protocol):
    """A shard: rows of context + 1 token ids."""

    @property
    def rows(self) -> int:
        """The number of rows."""
        ...

    def row(self, index: int) -> NDArray[np.integer]:
        """Return one row, (context + 1,)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The inner steps to take."""

    count: int
    first_batch: int
    """The first step's place in the order of the shard's batches."""
    first_rate: int
    """The first step's k, which sets the learning rate."""
    behind: int = 0
    """Steps that the initial moments have seen."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One step that was taken."""

    done: int
    """The number of steps taken, with this one."""
    loss: float
    """Mean over the batch before the step, nats per token."""
    per_second: float
    """Steps per second since the first one."""
    tokens_per_second: float
    """Tokens per second since the first step."""


@dataclass(frozen=True, kw_only=True)
class PathState:
    """The state at the start or the end of inner steps, per module."""

    weights: Mapping[ModuleId, Float32]
    moments: Mapping[ModuleId, Moments] | None = None
    """The optimizer's moments. None: they start from zero, and are not needed at the end."""


@dataclass(frozen=True, kw_only=True)
class InnerResult:
    """The outcome of inner steps."""

    end: PathState
    tokens: int
    seconds: float
    loss_first: float
    loss_last: float

    @classmethod
    def nothing(cls, start: PathState) -> "InnerResult":
        """Return the outcome of zero steps."""
        return cls(end=start, tokens=0, seconds=0.0, loss_first=0.0, loss_last=0.0)


def make_deterministic(threads: int) -> None:
    """Limit torch to deterministic kernels and `threads` CPU threads, in the whole process.

    On CUDA a kernel without a deterministic form is used with a warning; the CPU has none such.
    """
    torch.set_num_threads(threads)
    # torch.use_deterministic_algorithms would import the compiler stack, which takes seconds.
    torch.set_deterministic_debug_mode("warn" if torch.cuda.is_available() else "error")
    # It costs time and changes no result. It is a property of the module, which mypy cannot see.
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def run_steps(
    model: PathModel,
    manifest: Manifest,
    start: PathState,
    shard: Rows,
    order: RowOrder,
    steps: Steps,
    *,
    max_batch: int,
    on_step: Callable[[StepReport], None],
    on_micro_batch: Callable[[], None] = lambda: None,
    shrink: Shrink = halve,
    moment_bits: MomentBits = 32,
) -> InnerResult:
    """Take `steps` of one path.

    max_batch   sequences per micro-batch, 0 for all at once. Gradients of a batch are summed, so
                it changes the memory needed and the last bits, not the method.
    on_micro_batch  is called between the micro-batches of a step, since one step may take longer
                than a lease lasts without progress.
    shrink      returns the next size after a micro-batch that did not fit into memory.
    moment_bits 8 only if the run carries no moments.
    Raises DipacoError when the loss is not finite, NoDevice when no micro-batch fits.
    """
    load(model, manifest, start.weights)
    training = manifest.training
    optimizer = make_optimizer(model, manifest, moment_bits=moment_bits, steps=steps.behind)
    if start.moments is not None:
        load_moments(optimizer, manifest, start.moments)
    micro = min(max_batch or training.batch, training.batch)
    per_step = training.batch * manifest.model.context
    losses: list[float] = []
    began = time.perf_counter()
    for step in range(steps.count):
        batch = order.batch(steps.first_batch + step, training.batch)
        nats, micro = do_what_fits(
            partial(_backward, model, shard, batch, on_micro_batch),
            micro,
            device=model.device,
            shrink=shrink,
        )
        loss = nats / per_step
        if not np.isfinite(loss):
            raise DipacoError(
                f"the training loss is {loss} at step {step} of {steps.count}: the learning rate "
                "is too high for this run, or this device computes wrongly"
            )
        optimizer.step(learning_rate(training, steps.first_rate + step))
        losses.append(loss)
        rate = len(losses) / (time.perf_counter() - began)
        on_step(
            StepReport(
                done=len(losses), loss=loss, per_second=rate, tokens_per_second=per_step * rate
            )
        )
    return InnerResult(
        end=PathState(
            weights={module: store(model, manifest, module) for module in start.weights},
            moments=start.moments and moments_of(optimizer, manifest, start.moments),
        ),
        tokens=per_step * steps.count,
        seconds=time.perf_counter() - began,
        loss_first=losses[0] if losses else 0.0,
        loss_last=losses[-1] if losses else 0.0,
    )


def _backward(
    model: PathModel, shard: Rows, batch: list[int], on_micro_batch: Callable[[], None], micro: int
) -> float:
    """Compute the gradient of the batch's mean loss; returns the summed loss in nats."""
    model.zero_grad()  # a gradient is left if memory ran out between two micro-batches
    total = 0.0
    for number, rows in enumerate(_micro_batches(shard, batch, micro)):
        if number:
            on_micro_batch()
        tokens = torch.from_numpy(rows).to(model.device)
        loss = model.loss(tokens)
        (loss / (len(batch) * (rows.shape[1] - 1))).backward()
        total += loss.item()
    return total


def _micro_batches(shard: Rows, batch: list[int], micro: int) -> Iterator[NDArray[np.int64]]:
    for first in range(0, len(batch), micro):
        yield np.stack([shard.row(i) for i in batch[first : first + micro]]).astype(np.int64)
