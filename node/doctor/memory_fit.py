"""The memory fit: whether a path of a run fits a device, measured before anything is leased.

This module chooses the sizes and sums up the measurements. It is pure except for `find_fit`, which
has a worker process measure (`training/memory_probe.py`).
"""

from collections.abc import Callable, Sequence

import msgspec

from dipaco.node.config import Checkpointing, ComputeSection, MomentBits
from dipaco.node.jobs.runner import KILLED, JobRunner
from dipaco.node.jobs.values import Described, Failed, MemoryProbed, ProbeMemory
from dipaco.protocol.errors import DipacoError
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.tensors.delta import encoded_bytes

SLOW_SECONDS = 5.0  # of one micro-batch: a larger one gains nothing and takes too long to measure
AS_FAST = 0.95  # of the fastest: measurements on a busy machine are no more precise


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """One micro-batch, measured."""

    micro_batch: int
    """Sequences."""
    checkpointing: bool
    fits: bool
    peak: int = 0
    """Bytes."""
    micro_seconds: float = 0.0
    step_seconds: float = 0.0


class FitReport(msgspec.Struct, frozen=True, kw_only=True):
    """The demands of a run on a device, and the measurements."""

    run: str
    device: Described
    parameters: int
    """Number of one path's parameters."""
    batch: int
    """Sequences of a step."""
    context: int
    inner_steps: int
    paths: int
    least: int
    """Bytes of weights, gradients and moments, without any sequence: a lower bound."""
    down: int
    """Bytes that a lease fetches at most."""
    up: int
    """Bytes that a lease hands in."""
    tries: tuple[Try, ...]

    @property
    def chosen(self) -> Try | None:
        """The largest micro-batch that fits and is about as fast as any; None: no sequence fits."""
        fitting = [each for each in self.tries if each.fits]
        fastest = max(map(self.rate, fitting), default=0.0)
        fast = [each for each in fitting if self.rate(each) >= AS_FAST * fastest]
        return fast[-1] if fast else None

    @property
    def tokens_per_second(self) -> float:
        """Speed of training at the chosen micro-batch; 0 if none fits."""
        return self.rate(self.chosen) if self.chosen else 0.0

    @property
    def lease_seconds(self) -> float:
        """Time of a lease's inner steps; 0 if the path does not fit."""
        return self.inner_steps * self._seconds(self.chosen) if self.chosen else 0.0

    @property
    def settings(self) -> dict[str, int | str]:
        """The settings to change, by key of the configuration; empty if the defaults fit."""
        found: dict[str, int | str] = {}
        if self.chosen and self.chosen.micro_batch < self.batch:
            found["compute.max_batch"] = self.chosen.micro_batch
        if self.chosen and self.chosen.checkpointing:
            found["compute.checkpointing"] = "on"
        return found

    def rate(self, measured: Try) -> float:
        """Return the tokens per second of whole steps with the measured micro-batch."""
        return self.batch * self.context / self._seconds(measured)

    def _seconds(self, measured: Try) -> float:
        micro_batches = self.batch / measured.micro_batch
        return measured.micro_seconds * micro_batches + measured.step_seconds


def next_try(
    found: Sequence[Try], *, most: int, usable: int, checkpointing: Checkpointing
) -> tuple[int, bool] | None:
    """Return the next micro-batch to measure, and whether with checkpointing; None at the end.

    most     sequences of a micro-batch at most.
    usable   bytes of the device.

    Sizes double while they fit, and while a straight line through the last two predicts that the
    next one fits. If one sequence does not fit, it is tried once more with checkpointing.
    """
    if not found:
        return 1, checkpointing == "on"
    last = found[-1]
    if not last.fits:
        retry = last.micro_batch == 1 and not last.checkpointing and checkpointing == "auto"
        return (1, True) if retry else None
    if last.micro_batch >= most or last.micro_seconds > SLOW_SECONDS:
        return None
    size = min(2 * last.micro_batch, most)
    before = [t for t in found[:-1] if t.fits and t.checkpointing == last.checkpointing]
    if before:
        slope = (last.peak - before[-1].peak) / (last.micro_batch - before[-1].micro_batch)
        if last.peak + slope * (size - last.micro_batch) > usable:
            return None
    return size, last.checkpointing


def least_bytes(manifest: Manifest, moment_bits: MomentBits) -> int:
    """Return the bytes that any micro-batch needs: float32 weight and gradient, and moments.

    AdamW has two moments of each parameter, Muon one.
    """
    modules = manifest.topology.path_modules[0]
    elements = sum(map(manifest.topology.elements, modules))
    by_muon = sum(map(manifest.by_muon, modules))
    return (4 + 4) * elements + (2 * elements - by_muon) * moment_bits // 8


async def find_fit(
    manifest: Manifest,
    worker: JobRunner,
    device: Described,
    *,
    compute: ComputeSection,
    on_try: Callable[[Try], None],
) -> FitReport:
    """Measure `manifest` on the worker's device, size by size.

    compute   of the worker; a micro-batch has `max_batch` sequences at most, 0 for no limit.
    Raises DipacoError when a measurement fails for another reason than memory.
    """
    batch = manifest.training.batch
    most = min(compute.max_batch or batch, batch)
    top = manifest.topology
    modules = top.path_modules[0]
    parameters = sum(map(top.elements, modules))
    least = least_bytes(manifest, compute.moment_bits)
    tries: list[Try] = []
    usable, checkpointing = device.usable, compute.checkpointing
    while least <= usable and (
        chosen := next_try(tries, most=most, usable=usable, checkpointing=checkpointing)
    ):
        size, again = chosen
        job = ProbeMemory(manifest=manifest, micro_batch=size, checkpointing=again, usable=usable)
        await worker.close()  # a new process for each measurement
        answer = await worker.run(job, lambda progress: None)
        tries.append(_tried(job, answer, device.usable))
        on_try(tries[-1])
    return FitReport(
        run=manifest.name,
        device=device,
        parameters=parameters,
        batch=batch,
        context=manifest.model.context,
        inner_steps=manifest.training.inner_steps,
        paths=manifest.paths,
        least=least,
        down=sum(map(top.state_bytes, modules)),
        up=sum(encoded_bytes(manifest.training.deltas, top.elements(m)) for m in modules),
        tries=tuple(tries),
    )


def _tried(job: ProbeMemory, answer: object, usable: int) -> Try:
    """Return the outcome of a measurement; a process that the kernel killed did not fit."""
    if isinstance(answer, Failed) and KILLED in answer.reason:
        answer = MemoryProbed(fits=False)
    if isinstance(answer, Failed):
        raise DipacoError(f"the fit could not be measured: {answer.reason}")
    assert isinstance(answer, MemoryProbed)
    return Try(
        micro_batch=job.micro_batch,
        checkpointing=job.checkpointing,
        fits=answer.fits and answer.peak <= usable,
        peak=answer.peak,
        micro_seconds=answer.micro_seconds,
        step_seconds=answer.step_seconds,
    )
