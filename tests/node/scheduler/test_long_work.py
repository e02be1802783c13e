"""Work that takes longer than a lease may stand still: as in test_swarm, virtual time."""

import math
from pathlib import Path

import pytest
from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.node.kinds.changes import STALL_TTLS
from dipaco.protocol.run.manifest import Scheduling
from dipaco.protocol.work.calls import Fallen, Stands
from tests.node.scheduler.fakes import train_leases
from tests.node.scheduler.shell import ANNA, BERT, TTL, Shell
from tests.node.scheduler.swarm import SCHEDULER, Swarm, found, until
from tests.values import manifest, peer

SHORT = Scheduling(schedulers=(peer("scheduler"),), members=(), lease_ttl=5)
"""Its leases may stand still for 150 s."""
WINDOW_SECONDS = 200.0


@pytest.fixture
def shell() -> Shell:
    return Shell(manifest(), (40, 30, 20, 10))


def test_a_lease_lives_as_long_as_its_result_arrives(shell: Shell) -> None:
    seed = shell.lease(ANNA, now=0.0)
    for now in range(10, 7200, 10):
        assert shell.beat(ANNA, seed, now=float(now)) == Stands()
        shell.schedule.got_on(ANNA, seed.token, float(now))
        assert shell.schedule.expire(float(now)) == ()
    for now in range(7200, 7790, 10):
        assert shell.beat(ANNA, seed, now=float(now)) == Stands()
    (ended,) = shell.schedule.expire(7190 + STALL_TTLS * TTL)  # but not for ever
    assert "does not get on" in getattr(ended, "reason", "")


def test_no_lease_ends_for_the_time_that_the_scheduler_inspects_its_result(shell: Shell) -> None:
    seed = shell.lease(ANNA, now=0.0)
    shell.schedule.got_on(ANNA, seed.token, math.inf)
    for now in range(10, 2000, 10):
        assert shell.beat(ANNA, seed, now=float(now)) == Stands()
        assert shell.schedule.expire(float(now)) == ()
    shell.schedule.got_on(ANNA, seed.token, 2000.0)
    assert shell.schedule.expire(2000.0) == ()
    assert len(shell.schedule.expire(1990.0 + TTL)) == 1  # it is silent


def test_moments_are_waited_for_as_long_as_they_arrive(shell: Shell) -> None:
    shell.seed()
    lease = shell.train_lease(ANNA)
    assert shell.submit(ANNA, lease) == Stands()
    place = (lease.path, 1)
    for now in range(0, 7200, 100):
        assert shell.schedule.expire(float(now)) == ()
        shell.schedule.state.pending.got_on(place, float(now))
    assert shell.schedule.expire(7100 + STALL_TTLS * TTL - 1) == ()
    assert len(shell.schedule.expire(7100 + STALL_TTLS * TTL)) == 1


def test_a_result_that_is_sent_again_since_its_answer_was_lost_stands(shell: Shell) -> None:
    seed = shell.lease(ANNA)
    assert shell.submit(ANNA, seed) == shell.submit(ANNA, seed) == Stands()
    assert isinstance(shell.submit(BERT, seed), Fallen)
    training = shell.train_lease(ANNA)
    assert shell.submit(ANNA, training) == shell.submit(ANNA, training) == Stands()
    assert len(shell.schedule.state.accepted) == 1


@pytest.mark.parametrize("reports", [True, False])
async def test_a_window_is_made_once_however_long_it_takes(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock, reports: bool
) -> None:
    source = replace(manifest().source, window=200)  # round 2 needs one that nothing prepares
    found(tmp_path, manifest(source=source, schedule=SHORT))
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna", window_seconds=WINDOW_SECONDS, reports=reports)
    await until(lambda: scheduler.reporter.ledger().finished)
    assert anna.worker.begun_windows == [0, 1]
    trained = [each.round for each in train_leases(anna.worker.done)]
    assert trained == [1, 1, 1, 1, 2, 2, 2, 2]  # a lease that was lost made the window all the same
