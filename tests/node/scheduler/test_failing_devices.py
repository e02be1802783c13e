"""Devices that fail, and the pauses that a status tells: as in test_swarm, virtual time."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.jobs.values import Failed
from dipaco.node.volunteer.pauses import after_device_failures, after_failures
from tests.node.scheduler.swarm import RUN, SCHEDULER, Swarm, found, until
from tests.values import manifest


def test_pauses_grow_and_end() -> None:
    assert [after_failures(n) for n in (1, 4, 5, 6, 7)] == [1, 1, 60, 120, 240]
    assert [after_device_failures(n) for n in (1, 2, 3)] == [10, 20, 40]
    assert after_failures(10**6) == after_device_failures(10**6) == 600


async def test_a_device_that_is_lost_is_waited_for_without_a_lease(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    await until(lambda: anna.parts.activity.sums.now().accepted > 1)
    anna.worker.device = "device cuda:0: this torch sees no CUDA device"
    activity = anna.parts.activity
    await until(lambda: activity.reason.code == "device")
    assert activity.state == "paused" and "sees no CUDA device, next try in 10 s" in (
        activity.reason.text
    )
    begun = trio.current_time()
    grants = scheduler.parts.request_router.schedulers[RUN].schedule.grants
    while trio.current_time() < begun + 100:
        assert not grants and not anna.worker.process
        await trio.sleep(0.5)
    gone = [round(time - begun) for time in anna.worker.looked]
    assert gone == [10, 30, 70]
    anna.worker.device, before = "", activity.sums.now().accepted
    await until(lambda: activity.sums.now().accepted > before)
    assert activity.sums.now().refused == 0


async def test_whatever_happens_meanwhile_a_told_pause_is_kept(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    await swarm.start(SCHEDULER)
    failures = [Failed(kind="local", reason="out of paper")] * 5
    anna = await swarm.start("anna", fail=failures)
    activity = anna.parts.activity
    await until(lambda: "5 in a row (out of paper), next try in 1 min" in activity.reason.text)
    told = trio.current_time()
    for _ in range(118):
        anna.parts.run_store.changed.notify()  # as a ledger record does, or any other item
        await trio.sleep(0.5)
        assert activity.reason.code == "failures"
    await until(lambda: activity.reason.code != "failures")
    assert trio.current_time() - told == pytest.approx(60, abs=1.5)


async def test_a_node_that_keeps_failing_is_parked_and_both_sides_say_so(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    failures = [Failed(kind="local", reason="out of paper")] * 3
    anna = await swarm.start("anna", fail=failures)
    await until(lambda: anna.parts.activity.reason.code == "parked")
    told = trio.current_time()
    assert "3 leases in a row" in anna.parts.activity.reason.text
    assert "handed back: out of paper" in anna.parts.activity.reason.text
    status = scheduler.reporter.status().reason
    assert status.code == "scheduling" and "out of paper" in status.text
    assert "gets no work for " in status.text
    anna.parts.run_store.changed.notify()
    await until(lambda: anna.parts.activity.reason.code != "parked")
    assert 8 <= trio.current_time() - told <= 11
    await until(lambda: anna.parts.activity.sums.now().accepted > 0)  # it is the only volunteer
    assert "gets no work" not in scheduler.reporter.status().reason.text
