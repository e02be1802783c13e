"""Nodes whose gate closes at work: the lease goes back, the device is free, and later they go on.

As in test_swarm: virtual time, real journals and blobs, fake work; once a real worker process, in
real time, where every wait is for an event.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dipaco.node import assembly
from dipaco.node.jobs.runner import Worker
from dipaco.node.jobs.values import Answer, Derive, Job, Progress
from dipaco.node.kinds.base import Work
from dipaco.node.kinds.table import work_of
from dipaco.node.storage.files import Home
from dipaco.protocol.run.manifest import run_id
from tests.golden.trajectories import tiny
from tests.node.scheduler.fakes import trains
from tests.node.scheduler.swarm import RUN, SCHEDULER, RealReader, Swarm, SwarmNode, found, until
from tests.node.scheduler.test_interruptions import VALUE
from tests.node.scheduler.test_swarm import states, undisturbed
from tests.settings import settings
from tests.values import manifest, peer

PATIENCE = 180  # seconds until a test that waits for processes gives up
LOOK = 6.0  # seconds in which a gate sees a change: a look of 5, and a look of the test


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Free bytes by the name of a node; plenty for whoever is not in it."""
    told: dict[str, int] = {}
    monkeypatch.setattr(assembly, "free_bytes", lambda folder: told.get(folder.name, 10**12))
    return told


async def test_closing_hands_the_lease_back_for_another_and_opening_goes_on(
    free: dict[str, int],
    swarm: Swarm,
    tmp_path: Path,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="dipaco.node.scheduler.service")
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    await until(lambda: anna.parts.activity.reason.code == "task")
    grants = scheduler.parts.request_router.schedulers[RUN].schedule.grants
    ((token, held),) = grants.items()

    free["anna"] = 400 * 10**6
    await until(lambda: anna.parts.activity.reason.code == "disk", seconds=LOOK)
    await until(lambda: not anna.worker.process and token not in grants, seconds=1.0)
    status = anna.reporter.status()
    assert (status.state, status.task) == ("paused", None)
    assert (
        "handed back: 0.4 GB free, storage.min_free is 0.5 GB; work goes on when 0.55 GB are free"
        in caplog.text
    )

    bert = await swarm.start("bert")
    await until(lambda: works(scheduler, bert) == {work_of(held.lease)})
    before = len(anna.worker.done)
    await trio.sleep(100.0)
    assert len(anna.worker.done) == before and anna.parts.activity.reason.code == "disk"

    free["anna"] = 600 * 10**6
    await until(lambda: bool(works(scheduler, anna)))
    assert anna.parts.activity.state != "paused"
    await until(lambda: scheduler.reporter.ledger().finished)
    assert any(trains(job) for job in anna.worker.done[before:])
    assert sum(isinstance(job, Derive) for job in anna.worker.done) == 1  # it verifies once
    assert states(scheduler) == await undisturbed(tmp_path)


async def test_a_gate_that_closes_in_whatever_a_volunteer_does_changes_no_digest(
    free: dict[str, int], swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, VALUE)
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    closing = {"derive", "seed", "train", "evaluate", "score"}
    while not scheduler.reporter.ledger().finished:
        task, code = anna.parts.activity.task, anna.parts.activity.reason.code
        if task and task.kind in closing and code in ("deriving", "task"):
            closing.discard(task.kind)
            await pause(free, anna, scheduler)
        await trio.sleep(0.25)
    assert not closing and anna.error is None
    await until(lambda: anna.parts.activity.reason.code == "run-over")
    await trio.sleep(60.0)
    assert not anna.worker.process  # nothing of a run that is over holds the device
    assert states(scheduler) == await undisturbed(tmp_path, VALUE)


async def pause(free: dict[str, int], node: SwarmNode, scheduler: SwarmNode) -> None:
    """Close a node's gate for a minute, in which it does nothing and holds nothing."""
    free[node.parts.home.root.name] = 0
    node.parts.gate.changed.notify()
    await trio.sleep(1.0)
    for _ in range(60):
        assert node.parts.activity.reason.code == "disk" and not node.worker.process
        assert not works(scheduler, node)
        await trio.sleep(1.0)
    del free[node.parts.home.root.name]
    node.parts.gate.changed.notify()
    await trio.sleep(0.25)
    assert node.parts.activity.state != "paused"


def works(scheduler: SwarmNode, node: SwarmNode) -> set[Work]:
    """Return the work of every lease that a node holds."""
    grants = [
        g
        for s in scheduler.parts.request_router.schedulers.values()
        for g in s.schedule.grants.values()
    ]
    return {work_of(g.lease) for g in grants if g.peer == node.parts.me}


async def test_a_node_leaves_while_its_gate_is_closed(
    free: dict[str, int], swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    await swarm.start(SCHEDULER)
    free["anna"] = 0
    anna = await swarm.start("anna")
    await until(lambda: anna.parts.activity.reason.code == "disk")
    anna.stop.set()
    with trio.fail_after(1.0):
        await anna.ended.wait()
    assert anna.parts.activity.reason.code == "stopping" and anna.error is None


# ---------------------------------------------------------------------- a real worker process


class RealProcess(Worker):
    """The worker process itself, which says when it trains."""

    def __init__(self, home: Home) -> None:
        super().__init__(settings(home.root), lambda line: None)
        self.trains = trio.Event()

    async def run(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
        def watch(progress: Progress) -> None:
            on_progress(progress)
            if progress.stage == "train":
                self.trains.set()

        return await super().run(job, watch)


class Holder(RealReader):
    """Says when it has something to train, and then never ends it."""

    def __init__(self, home: Home) -> None:
        super().__init__(home)
        self.trains = trio.Event()

    async def run(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
        if trains(job):
            self.trains.set()
        return await super().run(job, on_progress)


@pytest.mark.slow
async def test_closing_ends_a_real_worker_process_and_opening_starts_another(
    free: dict[str, int], tmp_path: Path
) -> None:
    endless = tiny(seed_steps=1 << 30)
    found(tmp_path, endless)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            swarm = Swarm(tmp_path, nursery)
            scheduler = await swarm.start(SCHEDULER, worker=RealReader)
            anna = await swarm.start("anna", worker=RealProcess)
            await anna.worker.trains.wait()
            pid = anna.worker.pid
            assert holder(scheduler) == peer("anna") and runs(pid)

            free["anna"] = 0
            anna.parts.gate.changed.notify()
            bert = await swarm.start("bert", worker=Holder)
            await bert.worker.trains.wait()
            assert holder(scheduler) == peer("bert")
            assert not runs(pid) and anna.worker.pid is None
            assert anna.parts.activity.reason.code == "disk"

            del free["anna"]
            anna.worker.trains = trio.Event()
            anna.parts.gate.changed.notify()
            await swarm.kill(bert)
            await anna.worker.trains.wait()
            assert holder(scheduler) == peer("anna") and anna.worker.pid not in (None, pid)
            anna.stop.set()
            await anna.ended.wait()
            nursery.cancel_scope.cancel()


def holder(scheduler: SwarmNode) -> str:
    run = run_id(tiny(seed_steps=1 << 30))
    (grant,) = scheduler.parts.request_router.schedulers[run].schedule.grants.values()
    return grant.peer


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
