"""The memory and time that a path needs on this device, measured by real steps.

The tokens are artificial. A process measures one micro-batch and does nothing else, so that the
peak is that micro-batch's. `node/doctor/memory_fit.py` chooses the next one to try. Nothing is
downloaded.
"""

import time
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from dipaco.node.config import ComputeSection
from dipaco.node.jobs.values import MemoryProbed, ProbeMemory
from dipaco.node.training.compiled import compile_blocks, compiling_in_words
from dipaco.node.training.devices import bounded, peak_memory, ran_out, wait_for
from dipaco.node.training.model import PathModel
from dipaco.node.training.optimizers import make_optimizer
from dipaco.protocol.run.manifest import Manifest

REPEATS = 3
SECONDS = 2.0  # no further repeat after that
SPREAD = 0.02  # of artificial parameters: losses and gradients then have an ordinary size


def measure(job: ProbeMemory, device: torch.device, compute: ComputeSection) -> MemoryProbed:
    """Take steps at the job's micro-batch; a lack of memory is an answer, not an error."""
    compiling = compiling_in_words if compute.compile else nullcontext
    try:
        with bounded(device, job.usable), compiling():
            micro, step = _seconds(job, device, compute)
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        return MemoryProbed(fits=False)
    return MemoryProbed(
        fits=True, peak=peak_memory(device), micro_seconds=min(micro), step_seconds=min(step)
    )


def _seconds(
    job: ProbeMemory, device: torch.device, compute: ComputeSection
) -> tuple[list[float], list[float]]:
    """Return the seconds of each timed micro-batch, and of each optimizer step."""
    training = job.manifest.training
    model = PathModel(job.manifest, device)
    model.model.checkpointing = job.checkpointing
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-SPREAD, SPREAD)
    if compute.compile:
        compile_blocks(model)
    optimizer = make_optimizer(model, job.manifest, moment_bits=compute.moment_bits)
    rows = made_up_rows(job.manifest, job.micro_batch, device)
    # A second micro-batch of a step finds the gradients of the first in memory.
    in_a_step = 1 if job.micro_batch >= training.batch else 2
    micro, step = [], []
    for turn in range(1 + REPEATS):
        began = time.perf_counter()
        for _ in range(in_a_step):
            torch.autograd.backward(model.loss(rows) / (rows.numel() * in_a_step))
        wait_for(device)
        between = time.perf_counter()
        optimizer.step(training.inner.lr)
        wait_for(device)
        if turn:  # the first one includes one-time work
            micro.append((between - began) / in_a_step)
            step.append(time.perf_counter() - between)
            if sum(micro) > SECONDS:
                break
    return micro, step


def made_up_rows(manifest: Manifest, count: int, device: torch.device) -> Tensor:
    """Return `count` rows of context + 1 ids below the vocabulary, the same every time."""
    shape = (count, manifest.model.context + 1)
    numbers = np.arange(shape[0] * shape[1], dtype=np.int64) * 2654435761  # Knuth's multiplier
    return torch.from_numpy((numbers >> 7) % manifest.tokenizer.vocabulary).view(shape).to(device)
