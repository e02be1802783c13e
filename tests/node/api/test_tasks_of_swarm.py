"""Rules of this file: whole nodes over the transport in memory; a task is told as it ended."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.status.events import TaskRecord
from tests.node.scheduler.swarm import SCHEDULER, Swarm, SwarmNode, found, until
from tests.values import manifest


@pytest.fixture
async def swarm(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[Swarm]:
    async with trio.open_nursery() as nursery:
        yield Swarm(tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def told(node: SwarmNode) -> list[TaskRecord]:
    """Return all tasks of a node, the oldest first."""
    return list((await node.reporter.tasks(1000)).tasks)[::-1]


async def test_every_lease_is_a_task_with_its_figures_and_its_end(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    await until(lambda: anna.parts.activity.reason.code == "task")
    working = (await told(anna))[0]
    assert (working.outcome, working.number, working.name) == ("working", 1, "tiny")
    await until(lambda: scheduler.reporter.ledger().finished)
    tasks, totals = await told(anna), anna.reporter.status().totals
    accepted = [task for task in tasks if task.outcome == "accepted"]
    assert [task.number for task in tasks] == list(range(1, len(tasks) + 1))
    assert len(accepted) == totals.accepted > 3
    trained = [task for task in accepted if task.kind == "train"]
    assert {task.path for task in trained} == {0, 1, 2, 3}
    assert all(task.steps and task.sent and task.loss is not None for task in trained)
    assert all(
        not task.reason and task.run == anna.reporter.status().offers[0].id for task in tasks
    )


async def test_a_task_that_a_stop_ends_is_handed_back_and_told_after_a_restart(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    await until(lambda: anna.parts.activity.reason.code == "task")
    anna.stop.set()
    await anna.ended.wait()
    again = await swarm.start("anna")
    first, *_ = await told(again)
    assert (first.number, first.outcome, first.reason) == (1, "handed-back", "stopped")
    await until(lambda: again.parts.activity.tasks.working != ())
    assert again.parts.activity.tasks.working[-1].number == len(await told(again))


async def test_events_tell_states_of_a_run_and_tasks_in_order_over_a_kill(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    await until(lambda: anna.reporter.status().totals.accepted == 2)
    await swarm.kill(anna)
    again = await swarm.start("anna")
    await until(lambda: scheduler.reporter.ledger().finished)
    page = await again.reporter.events(0, 0.0, 1000)
    numbers = [event.number for event in page.events]
    assert numbers == list(range(1, len(numbers) + 1)) and not page.more
    codes = [event.code for event in page.events]
    assert {"deriving", "accepted"} <= set(codes) and "asking" not in codes
    assert codes.count("accepted") == again.reporter.status().totals.accepted
    assert all(event.run for event in page.events if event.kind == "task")
    first = await again.reporter.events(3, 0.0, 2)
    assert [event.number for event in first.events] == [4, 5] and first.more
