"""Rules of this file: whole nodes over the transport in memory; what each of them tells of a run.

Whatever happens, no status shows a progress of nothing, nor a stage that is over.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.cli.views.status import status_text
from dipaco.node.status.document import Status
from dipaco.protocol.run.manifest import run_id
from tests.node.scheduler.swarm import SCHEDULER, Swarm, SwarmNode, found, until
from tests.values import manifest


@pytest.fixture
async def swarm(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[Swarm]:
    async with trio.open_nursery() as nursery:
        yield Swarm(tmp_path, nursery)
        nursery.cancel_scope.cancel()


def held(node: SwarmNode) -> dict[int, str]:
    """Return who holds which path, as a node tells."""
    return {path.path: path.holder for path in node.reporter.status().swarm if path.holder}


def codes(status: Status) -> list[str]:
    return [each.code for each in status.reasons]


async def test_a_volunteer_tells_its_own_path_and_all_holders_with_their_losses(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    nodes = [await swarm.start(name) for name in ("anna", "bert")]
    anna, bert = nodes
    await until(lambda: len(held(scheduler)) == 2)
    await until(lambda: held(anna) == held(bert) == held(scheduler), seconds=30)
    assert set(held(anna).values()) == {node.parts.me for node in nodes}
    await until(lambda: {p.loss for p in anna.reporter.status().swarm if p.holder} == {3.0})


async def test_a_path_handed_in_is_told_with_its_maker_until_the_outer_step(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")

    def submitted() -> list[str]:
        return [p.holder for p in anna.reporter.status().swarm if p.state == "submitted"]

    await until(lambda: submitted() == [anna.parts.me])


async def test_the_sums_survive_a_restart_and_a_kill(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    await until(lambda: anna.reporter.status().totals.accepted == 3)
    before = anna.reporter.status()
    await swarm.kill(anna)
    again = await swarm.start("anna")
    after = again.reporter.status()
    assert after.totals.accepted == 3 and after.totals.tokens == before.totals.tokens > 0
    assert after.totals.sent > after.network.sent  # of this start alone
    again.stop.set()
    await again.ended.wait()
    third = await swarm.start("anna")
    assert third.reporter.status().totals.received >= again.reporter.status().totals.received
    await until(lambda: scheduler.reporter.ledger().finished)
    assert third.reporter.status().totals.accepted > 3
    run = scheduler.reporter.status().run
    assert run is not None and run.held_out is not None and run.held_out.version == run.rounds


async def test_a_scheduler_that_goes_away_is_told_beside_the_training(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    await until(lambda: anna.parts.activity.reason.code == "task")
    await swarm.kill(scheduler)
    await until(lambda: codes(anna.reporter.status()) == ["task", "scheduler-away"], seconds=30)
    away = anna.reporter.status().reasons[1]
    assert "silent for" in away.text and away.until is not None and away.until > away.since
    await until(lambda: codes(anna.reporter.status())[0] == "scheduler-away", seconds=600)
    assert anna.reporter.status().reason.until is not None
    assert len(codes(anna.reporter.status())) == 1
    scheduler = await swarm.start(SCHEDULER)
    await until(lambda: scheduler.reporter.ledger().finished)
    assert "scheduler-away" not in codes(anna.reporter.status())


async def test_a_scheduler_of_two_runs_tells_of_each_and_is_named_by_the_busiest(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    one, other = manifest(), replace(manifest(), name="other")
    found(tmp_path, one)
    found(tmp_path, other)
    scheduler = await swarm.start(SCHEDULER)
    await swarm.start("anna", run=(run_id(other).hex(),))
    await until(lambda: any(p.holder for p in scheduler.reporter.status().swarm))
    status = scheduler.reporter.status()
    assert [run.name for run in status.runs] == ["other", "tiny"]
    assert status.run is not None and status.run.name == "other"
    assert status.reason.text.startswith("other: round 0 of 2, 1 of 4 paths held")
    assert [run.state for run in status.runs] == ["serving", "serving"]
    assert status.runs[1].reason.text == "round 0 of 2, 0 of 4 paths held"
    await until(lambda: scheduler.reporter.status().runs[-1].finished)
    over, idle = scheduler.reporter.status().runs[1], scheduler.reporter.status().runs[0]
    assert (over.name, over.reason.code, idle.name) == ("other", "run-over", "tiny")


async def test_no_status_shows_progress_of_nothing_nor_a_stage_that_is_over(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    seen = set()
    while not scheduler.reporter.ledger().finished:
        for node in (scheduler, anna):
            status = node.reporter.status()
            text = status_text(status)
            assert "0 of 0" not in text and " of ?" not in text and " 1 steps" not in text
            if status.task is None or status.task.kind != "derive":
                assert status.reason.code != "deriving"
            if status.reason.code in ("modules", "shard", "task", "submitting"):
                assert status.task is not None
            seen.add(status.reason.code)
        await trio.sleep(4.53)  # work takes whole seconds: never at the very moment of its end
    assert {"deriving", "task", "scheduling"} <= seen
    await until(lambda: anna.parts.activity.reason.code == "run-over", seconds=60)
    assert anna.reporter.status().task is None
