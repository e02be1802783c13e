"""Which job of which run has its turn: fake processes, virtual time; and two real processes.

Rules of this file: a fake job ends when the test says so.
"""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from dipaco.node.jobs.pool import IDLE_SECONDS, LOOK_SECONDS, Pair, Pool, is_short
from dipaco.node.jobs.runner import Worker
from dipaco.node.jobs.values import (
    Answer,
    Derive,
    Failed,
    InspectMoments,
    InspectResult,
    Job,
    Materialise,
    OuterStep,
    Progress,
    Stepped,
)
from dipaco.protocol.routing.recipe import recipe_of, unfitted_spec
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.work.kinds import ScoreLease, ScoreResult
from tests.golden.values import LEASE, SHARED, SHEET, TOKEN
from tests.node.worker.test_process import PATIENCE, endless_job, ignore, step_job
from tests.settings import settings
from tests.values import digest, manifest

A, B = manifest(name="a"), manifest(name="b")
DONE = Failed(kind="local", reason="done")


class Process:
    """A worker process that does a job until `finish`."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.pids: tuple[int, ...] = ()
        self.ended = 0
        self._finish = trio.Event()

    async def run(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
        self.pids = (1,)
        self.begun.append(name(job))
        await self._finish.wait()
        return DONE

    async def finish(self) -> None:
        self._finish.set()
        self._finish = trio.Event()
        await wait_all_tasks_blocked()

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
        self.pids, self.ended = (), self.ended + 1


def name(job: Job) -> str:
    assert isinstance(job, Derive | InspectMoments | Materialise | OuterStep)
    return f"{type(job).__name__} {job.manifest.name}"


def derive(run: Manifest) -> Derive:
    return Derive(manifest=run)


def step(run: Manifest) -> OuterStep:
    return OuterStep(
        manifest=run, module="stem", state=digest("state"), momentum=None, contributions=()
    )


class Fixture:
    """A pool of fake processes, and the means to put jobs into it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.long, self.short = Process(), Process()
        self.pool = Pool(self.long, self.short)
        self._nursery = nursery
        nursery.start_soon(self.pool.end_idle)

    async def put(self, job: Job) -> trio.CancelScope:
        scope = trio.CancelScope()

        async def do() -> None:
            with scope:
                assert await self.pool.run(job, ignore) is DONE

        self._nursery.start_soon(do)
        await wait_all_tasks_blocked()
        return scope


@pytest.fixture
async def made() -> AsyncIterator[Fixture]:
    async with trio.open_nursery() as nursery:
        yield Fixture(nursery)
        nursery.cancel_scope.cancel()


async def test_an_endless_derivation_delays_no_outer_step_of_another_run(made: Fixture) -> None:
    await made.put(derive(A))
    await made.put(step(B))
    assert (made.long.begun, made.short.begun) == (["Derive a"], ["OuterStep b"])
    await made.short.finish()
    await made.put(step(B))
    assert made.short.begun == ["OuterStep b"] * 2


async def test_runs_take_turns_however_many_jobs_one_of_them_has(made: Fixture) -> None:
    for _ in range(4):
        await made.put(derive(A))
    for _ in range(2):
        await made.put(derive(B))
    for _ in range(5):
        await made.long.finish()
    order = [each[-1] for each in made.long.begun]
    assert order == ["a", "b", "a", "b", "a", "a"]


async def test_an_outer_step_goes_before_inspections_that_came_first(made: Fixture) -> None:
    await made.put(step(A))
    await made.put(InspectMoments(manifest=A, lease=LEASE, moments=()))
    await made.put(step(A))
    await made.short.finish()
    await made.short.finish()
    assert made.short.begun == ["OuterStep a", "OuterStep a", "InspectMoments a"]


async def test_a_job_that_is_cancelled_hands_its_turn_on(made: Fixture) -> None:
    first, second = await made.put(derive(A)), await made.put(derive(B))
    await made.put(derive(A))
    second.cancel()
    first.cancel()
    await wait_all_tasks_blocked()
    assert made.long.begun == ["Derive a", "Derive a"]
    await made.long.finish()
    await made.put(derive(B))
    assert made.long.begun[-1] == "Derive b"


async def test_a_process_ends_when_it_was_idle_for_a_while_and_never_in_a_job(
    made: Fixture, autojump_clock: MockClock
) -> None:
    await made.put(derive(A))
    await made.put(step(A))
    await made.short.finish()
    await trio.sleep(IDLE_SECONDS + LOOK_SECONDS)
    assert (made.long.ended, made.short.ended) == (0, 1)
    await trio.sleep(10 * IDLE_SECONDS)
    assert (made.long.ended, made.short.ended) == (0, 1) and made.pool.pids == (1,)


async def test_a_lease_is_prepared_beside_training_and_by_the_same_process_otherwise(
    autojump_clock: MockClock,
) -> None:
    device, second = Process(), Process()
    pair, spec = Pair(device, second), unfitted_spec(recipe_of(A))
    shards = Materialise(manifest=A, spec=spec, window=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.end_idle)
        nursery.start_soon(pair.run, shards, ignore)
        await wait_all_tasks_blocked()
        assert (device.begun, second.begun) == (["Materialise a"], [])
        await device.finish()
        for job in (derive(A), shards, derive(B)):  # what may need the device waits for it
            nursery.start_soon(pair.run, job, ignore)
            await wait_all_tasks_blocked()
        assert (device.begun[1:], second.begun) == (["Derive a"], ["Materialise a"])
        assert pair.pids == (1, 1)
        await second.finish()
        await trio.sleep(IDLE_SECONDS + LOOK_SECONDS)
        assert (device.ended, second.ended) == (0, 1)
        await pair.close()
        assert (device.ended, second.ended) == (1, 2)
        nursery.cancel_scope.cancel()


def test_what_may_read_a_source_is_no_short_job() -> None:
    lease = ScoreLease(**SHARED, path=1, version=1)
    result = ScoreResult(token=TOKEN, sheet=SHEET)
    spec = unfitted_spec(recipe_of(A))
    assert not is_short(derive(A))
    assert not is_short(InspectResult(manifest=A, spec=spec, lease=lease, result=result))
    assert is_short(InspectMoments(manifest=A, lease=LEASE, moments=()))


@pytest.mark.slow
async def test_a_real_step_is_taken_beside_real_training_which_then_is_cancelled(
    tmp_path: Path,
) -> None:
    long, short = Worker(settings(tmp_path), ignore_line), Worker(settings(tmp_path), ignore_line)
    pool, trains = Pool(long, short), trio.Event()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run, endless_job(), lambda progress: trains.set())
            await trains.wait()
            assert isinstance(await pool.run(step_job(tmp_path), ignore), Stepped)
            assert len(set(pool.pids)) == 2
            nursery.cancel_scope.cancel()
        assert pool.pids == short.pids
        await pool.close()
        assert pool.pids == ()


def ignore_line(line: str) -> None:
    """Take no notice."""
