"""Nodes whose disk is full: SQLite's own limit on pages, a worker that says so, a told free space.

As in test_swarm: virtual time, real journals and blobs, fake work.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dipaco.node import assembly
from dipaco.node.jobs.values import Failed
from dipaco.node.storage.files import DiskFull
from dipaco.node.storage.journal import Journal
from dipaco.protocol.run.manifest import run_id
from tests.node.scheduler.fakes import trains
from tests.node.scheduler.swarm import RUN, SCHEDULER, Swarm, found, until
from tests.node.scheduler.test_interruptions import VALUE as RESHARDED
from tests.node.scheduler.test_swarm import states, undisturbed
from tests.values import digest, manifest


async def test_a_worker_without_room_pauses_its_node_which_goes_on_by_itself(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    full = Failed(kind="disk", reason="cannot write shards: no space left on the disk")
    anna = await swarm.start("anna", fail=[full] * 6)  # more than `failures` would bear
    activity = anna.parts.activity
    await until(lambda: activity.reason.code == "disk")
    assert activity.state == "paused"
    assert activity.reason.text.endswith(
        "no space left on the disk; the node tries again by itself"
    )
    assert not scheduler.parts.request_router.schedulers[
        RUN
    ].schedule.grants  # others may have the work
    await until(lambda: scheduler.reporter.ledger().finished)
    assert anna.worker.fail == []


async def test_a_node_with_less_than_min_free_begins_no_work(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 10**12
    monkeypatch.setattr(assembly, "free_bytes", lambda folder: free)
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    free = 400 * 10**6
    anna = await swarm.start("anna")
    await until(lambda: anna.parts.activity.reason.code == "disk")
    assert "0.4 GB free, storage.min_free is 0.5 GB" in anna.parts.activity.reason.text
    await trio.sleep(600.0)
    assert not scheduler.reporter.ledger().versions.get("stem")
    assert not any(trains(job) for job in anna.worker.done)
    free = 600 * 10**6
    await until(lambda: scheduler.reporter.ledger().finished)


@pytest.mark.parametrize("when", ["accepting", "stepping"])
async def test_a_scheduler_without_room_loses_nothing_and_goes_on_by_itself(
    when: str, swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    volunteers = [await swarm.start(name) for name in ("anna", "bert")]
    activity, schedulers = scheduler.parts.activity, scheduler.parts.request_router.schedulers
    await until(lambda: RUN in schedulers and schedulers[RUN].schedule.ledger.seeded)
    if when == "stepping":
        await until(lambda: bool(schedulers[RUN].schedule.state.accepted))
    limit = fill(scheduler.parts.journal)
    await until(lambda: activity.reason.code == "disk")
    assert activity.state == "paused" and "no space left on the disk" in activity.reason.text
    await trio.sleep(100.0)
    assert not scheduler.ended.is_set()
    limit(1 << 20)
    await until(lambda: scheduler.reporter.ledger().finished)
    assert not any(each.ended.is_set() for each in volunteers)
    assert states(scheduler) == await undisturbed(tmp_path)
    trained = sum(trains(job) for v in volunteers for job in v.worker.done)
    assert trained == 1 + 2 * 4  # no result was asked for twice


@pytest.mark.parametrize("epoch", [0, 1])
async def test_a_scheduler_without_room_for_a_router_waits_and_then_publishes_it(
    epoch: int, swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, RESHARDED)
    scheduler = await swarm.start(SCHEDULER)
    await swarm.start("anna")
    activity, schedulers = scheduler.parts.activity, scheduler.parts.request_router.schedulers
    record = scheduler.parts.run_store.runs[run_id(RESHARDED)]
    if epoch:
        await until(lambda: record.run in schedulers and schedulers[record.run].schedule.switch_due)
    limit = fill(scheduler.parts.journal)
    with pytest.raises(DiskFull):
        for number in range(100):  # what is left of the pages that there are
            name = digest(f"receipt {number}")
            scheduler.parts.journal.save_signed("receipt", record.run, name, bytes(100))
    await until(lambda: activity.reason.code == "disk")
    for _ in range(100):
        assert activity.state == "paused" and "no space left on the disk" in activity.reason.text
        await trio.sleep(1.0)
    assert len(record.specs) == epoch and not scheduler.ended.is_set()
    limit(1 << 20)
    await until(lambda: scheduler.reporter.ledger().finished)
    assert states(scheduler) == await undisturbed(tmp_path, RESHARDED)


def fill(journal: Journal) -> Callable[[int], None]:
    """Leave no page more to a journal's file; returns what sets how many it may have."""

    def limit(pages: int) -> None:
        journal._db.execute(f"PRAGMA max_page_count = {pages}")

    ((pages,),) = journal._db.execute("PRAGMA page_count").fetchall()
    limit(pages)
    return limit
