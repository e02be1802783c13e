"""Whole nodes under a person's orders and the hours: virtual time, as in test_closed_gate."""

from datetime import datetime
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.config import WhenSection
from dipaco.node.hours import parse_hours
from dipaco.protocol.errors import ConfigError
from tests.node.scheduler.fakes import trains
from tests.node.scheduler.swarm import SCHEDULER, Swarm, SwarmNode, found, until
from tests.node.scheduler.test_closed_gate import works
from tests.node.scheduler.test_swarm import states, undisturbed
from tests.values import manifest

EVENING = datetime(2026, 11, 27, 17, 58).timestamp()  # a Friday, local time


def code(node: SwarmNode) -> str:
    return node.parts.activity.reason.code


async def test_a_pause_frees_all_within_two_seconds_also_after_a_restart_and_resume_goes_on(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    await until(lambda: code(anna) == "task")
    anna.reporter.pause(None)
    with trio.fail_after(2.0):
        while anna.worker.process or works(scheduler, anna) or code(anna) != "user":
            await trio.sleep(0.1)
    status = anna.reporter.status()
    assert status.state == "paused" and status.reason.cure == "to go on: dipaco-node resume"

    await trio.sleep(300.0)
    anna.stop.set()
    await anna.ended.wait()
    anna = await swarm.start("anna")
    await trio.sleep(300.0)
    assert code(anna) == "user" and not anna.worker.done and not anna.worker.process
    anna.reporter.resume()
    await until(lambda: scheduler.reporter.ledger().finished)
    assert any(map(trains, anna.worker.done))
    assert states(scheduler) == await undisturbed(tmp_path)


async def test_a_node_that_does_not_train_says_that_there_is_nothing_to_pause(
    swarm: Swarm, autojump_clock: MockClock
) -> None:
    scheduler = await swarm.start(SCHEDULER)
    with pytest.raises(ConfigError, match="trains nothing that could pause"):
        scheduler.reporter.pause(None)
    with pytest.raises(ConfigError, match="trains nothing that could pause"):
        scheduler.reporter.finish()
    assert scheduler.reporter.resume().mode == "runs"


async def test_finish_ends_the_lease_in_hand_begins_no_other_and_pauses(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    await until(lambda: code(anna) == "task")
    begun, accepted = works(scheduler, anna), anna.reporter.status().totals.accepted
    anna.reporter.finish()
    await trio.sleep(0.1)
    assert [each.code for each in anna.parts.activity.reasons] == ["task", "finishing"]
    await until(lambda: code(anna) == "finished", seconds=600.0)
    assert anna.reporter.status().totals.accepted == accepted + 1 and begun
    assert not anna.worker.process and not works(scheduler, anna)
    before = len(anna.worker.done)
    await trio.sleep(100.0)
    assert len(anna.worker.done) == before
    anna.reporter.resume()
    await until(lambda: scheduler.reporter.ledger().finished)
    assert states(scheduler) == await undisturbed(tmp_path)


async def test_work_begins_when_its_hours_do_and_its_reasons_are_found_again(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    start = trio.current_time()
    swarm.clock = lambda: EVENING + trio.current_time() - start
    await swarm.start(SCHEDULER)
    swarm.when = WhenSection(hours=(parse_hours("mon-fri 18:00-08:00"),))
    anna = await swarm.start("anna")
    await until(lambda: code(anna) == "hours")
    assert anna.parts.activity.reason.until == EVENING + 120
    await trio.sleep_until(start + 119.0)
    assert code(anna) == "hours" and not anna.worker.done and not anna.worker.process
    await until(lambda: anna.worker.process, seconds=10.0)
    await trio.sleep(60.0)
    before, after = await anna.reporter.why(EVENING + 100), await anna.reporter.why(EVENING + 130)
    assert [each.code for each in before.reasons] == ["hours"] and before.until == EVENING + 120
    assert after.state != "paused" and after.since is not None
