"""One batch of inputs of one target: makes them, times them, and says what is wrong with one.

An input is wrong if it leads to an error that the target does not declare, takes the processor for
longer than the target allows, or more memory than `MEMORY_FACTOR` times its bytes.
"""

import gc
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from tests.fuzz.target import Call, Target

MEMORY_FACTOR = 20  # bytes taken at once per byte of input
MEMORY_BASE = 1 << 20  # bytes besides: an error with its traceback, a first import, caches
MEMORY_EVERY = 512  # of so many inputs the memory of one is measured: that takes 5 times as long
LARGEST_EVERY = 1024  # of so many inputs one is of the largest size


@dataclass(frozen=True)
class Finding:
    """An input that is wrong, and why."""

    target: str
    reason: str
    data: bytes
    seed: int
    batch: int


@dataclass
class Count:
    """Figures of the inputs of a target."""

    inputs: int = 0
    taken: int = 0
    """Inputs that were valid."""
    seconds: float = 0.0
    slowest: float = 0.0
    """Seconds of the slowest input."""
    slowest_input: bytes = b""
    findings: list[Finding] = field(default_factory=list)

    def add(self, other: "Count") -> None:
        """Take in the figures of another batch."""
        self.inputs += other.inputs
        self.taken += other.taken
        self.seconds += other.seconds
        self.findings += other.findings
        if other.slowest > self.slowest:
            self.slowest, self.slowest_input = other.slowest, other.slowest_input


def run_batch(target: Target, seed: int, batch: int, *, size: int | None = None) -> Count:
    """Run one batch; the same numbers give the same inputs in the same order.

    size   number of inputs [the target's own].
    """
    count, begun = Count(), time.perf_counter()
    with target.open() as call:
        for number, data in enumerate(inputs(target, seed, batch, size or target.batch)):
            count.inputs += 1
            if fault := _try(target, call, data, count, measured=not number % MEMORY_EVERY):
                count.findings.append(Finding(target.name, fault, data, seed, batch))
    count.seconds = time.perf_counter() - begun
    return count


def inputs(target: Target, seed: int, batch: int, size: int) -> Iterator[bytes]:
    """Yield the inputs of a batch."""
    chance = Random(f"{target.name} {seed} {batch}")
    seeds, mutator = target.material
    for _ in range(size):
        chosen = seeds[int(chance.random() * len(seeds))]
        if chance.random() * LARGEST_EVERY < 1:
            yield mutator.largest(chosen, target.limit, chance)
        else:
            yield mutator.mutated(chosen, chance)


def judge(target: Target, data: bytes) -> str:
    """Run one input alone, its time and memory measured; return what is wrong, empty if nothing."""
    with target.open() as call:
        return _try(target, call, data, Count(), measured=True)


def _try(target: Target, call: Call, data: bytes, count: Count, *, measured: bool) -> str:
    begun = time.thread_time()  # of the processor: other processes run beside it
    fault = _outcome(target, call, data, count)
    seconds = time.thread_time() - begun
    if seconds > count.slowest:
        if seconds > target.seconds:  # the least of three: a garbage collection is of another input
            seconds = min(_seconds(target, call, data) for _ in range(3))
        if seconds > count.slowest:
            count.slowest, count.slowest_input = seconds, data
    if fault:
        return fault
    if seconds > target.seconds:
        return f"takes {1000 * seconds:.0f} ms for {len(data)} bytes"
    return _memory_fault(target, call, data) if measured else ""


def _outcome(target: Target, call: Call, data: bytes, count: Count) -> str:
    try:
        call(data)
    except target.declared:
        return ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a library's panic is none of Exception
        return f"{type(error).__name__}: {error}"[:400]
    count.taken += 1
    return ""


def _seconds(target: Target, call: Call, data: bytes) -> float:
    begun = time.thread_time()
    _outcome(target, call, data, Count())
    return time.thread_time() - begun


def _memory_fault(target: Target, call: Call, data: bytes) -> str:
    """Return what is wrong with the memory of an input; measured twice, for what is made once."""
    allowed = MEMORY_FACTOR * len(data) + MEMORY_BASE
    peak = _peak(target, call, data)
    if peak > allowed:
        gc.collect()
        peak = min(peak, _peak(target, call, data))
    return f"takes {peak} bytes for {len(data)}" if peak > allowed else ""


def _peak(target: Target, call: Call, data: bytes) -> int:
    tracemalloc.start()
    try:
        _outcome(target, call, data, Count())
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
