"""The worker processes of a node: two places for jobs, each with one process.

A node that schedules runs has a place for long jobs, and one for short ones: a derivation that
takes hours delays no inspection and no outer step. Within a place the more urgent kind goes first,
and runs take turns within a kind, so that no run keeps the others waiting. A node that trains has a
second process for what prepares the next lease while the device is at work.

A process is started with its first job, and ended when it was idle for a while; that of the device
stays.
"""

import itertools
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, NoReturn

import trio

from dipaco.node.jobs.runner import JobRunner
from dipaco.node.jobs.values import (
    Advance,
    Answer,
    Describe,
    InspectMoments,
    InspectResult,
    Job,
    Materialise,
    OuterStep,
    Progress,
)
from dipaco.protocol.run.manifest import run_id
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.kinds import ScoreLease

IDLE_SECONDS = 300.0  # until an idle process ends: it holds 100 MB, and a start takes a second
LOOK_SECONDS = 30.0  # between two looks for idle processes
SHORT: Final[tuple[type[Job], ...]] = (OuterStep, InspectResult, InspectMoments, Advance)
"""The kinds of jobs that take seconds, the most urgent first: all paths of a module wait for its
outer step. The others may take hours."""


PREPARING: Final[tuple[type[Job], ...]] = (Materialise, Advance)
"""The kinds of jobs that prepare a lease; none of them uses the device."""


def is_short(job: Job) -> bool:
    """Return whether a job takes seconds; an inspection of scores may read the source again."""
    reads = isinstance(job, InspectResult) and isinstance(job.lease, ScoreLease)
    return isinstance(job, SHORT) and not reads


@dataclass(eq=False)
class _Waiting:
    """A job that waits for its turn."""

    urgency: int
    run: Digest | None
    turn: trio.Event = field(default_factory=trio.Event)


class _Place:
    """One worker process and the jobs that wait for it."""

    def __init__(self, worker: JobRunner) -> None:
        self.worker = worker
        self.idle_since = math.inf
        """trio's clock; inf while a job is done, and before the first."""
        self._busy = False
        self._waiting: list[_Waiting] = []
        """In the order of their arrival."""
        self._turns: dict[Digest | None, int] = {}
        """By run the number of its last turn."""
        self._numbers = itertools.count(1)

    @asynccontextmanager
    async def turn(self, urgency: int, run: Digest | None) -> AsyncIterator[None]:
        """Hold the place for the block; the least `urgency` goes first."""
        job = _Waiting(urgency, run)
        self._waiting.append(job)
        self._pass_on()
        try:
            await job.turn.wait()
            yield
        finally:
            if job in self._waiting:  # cancelled before its turn
                self._waiting.remove(job)
            else:
                self._busy, self.idle_since = False, trio.current_time()
                self._pass_on()

    def _pass_on(self) -> None:
        if self._busy or not self._waiting:
            return
        job = min(self._waiting, key=lambda j: (j.urgency, self._turns.get(j.run, 0)))
        self._waiting.remove(job)
        self._turns[job.run] = next(self._numbers)
        self._busy, self.idle_since = True, math.inf
        job.turn.set()


class Pool:
    """Does jobs in two worker processes; see `runner.JobRunner`."""

    def __init__(self, long: JobRunner, short: JobRunner) -> None:
        self._long, self._short = _Place(long), _Place(short)

    @property
    def pids(self) -> tuple[int, ...]:
        """The ids of the worker processes that there are."""
        return (*self._long.worker.pids, *self._short.worker.pids)

    async def run(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
        """Do `job` in its place, once it has its turn; otherwise as `Worker.run`."""
        run = None if isinstance(job, Describe) else run_id(job.manifest)
        place = self._short if is_short(job) else self._long
        urgency = SHORT.index(type(job)) if is_short(job) else 0
        async with place.turn(urgency, run):
            return await place.worker.run(job, on_progress)

    async def end_idle(self) -> NoReturn:
        """End the processes that have had no job for a while, until cancelled."""
        await _end_idle(self._long, self._short)

    async def close(self) -> None:
        """End both processes, with the jobs that they do."""
        await _close(self._long, self._short)


class Pair:
    """The process that trains, and a second one that prepares leases while the first is busy."""

    def __init__(self, first: JobRunner, second: JobRunner) -> None:
        self._first, self._second = _Place(first), _Place(second)
        self._busy = 0

    @property
    def pids(self) -> tuple[int, ...]:
        """The ids of the worker processes that there are."""
        return (*self._first.worker.pids, *self._second.worker.pids)

    async def run(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
        """Do `job`; otherwise as `Worker.run`. Cancelling ends its own process alone."""
        if self._busy and isinstance(job, PREPARING):
            async with self._second.turn(0, None):
                return await self._second.worker.run(job, on_progress)
        self._busy += 1
        try:
            async with self._first.turn(0, None):
                return await self._first.worker.run(job, on_progress)
        finally:
            self._busy -= 1

    async def end_idle(self) -> NoReturn:
        """End the second process when it has had no job for a while, until cancelled."""
        await _end_idle(self._second)

    async def close(self) -> None:
        """End both processes, with the jobs that they do."""
        await _close(self._first, self._second)


async def _end_idle(*places: _Place) -> NoReturn:
    while True:
        await trio.sleep(LOOK_SECONDS)
        for place in places:
            if trio.current_time() - place.idle_since >= IDLE_SECONDS:
                place.idle_since = math.inf
                await place.worker.close()


async def _close(*places: _Place) -> None:
    async with trio.open_nursery() as nursery:
        for place in places:
            nursery.start_soon(place.worker.close)
