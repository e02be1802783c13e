"""A scheduler that stood still (SIGSTOP, a sleeping laptop) is not the silence of its peers.

First event by event, as in test_schedule; then whole nodes in virtual time, as in test_swarm.
"""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.kinds.changes import RECONNECT_SECONDS, LeaseEnded
from dipaco.node.scheduler.schedule import Schedule
from dipaco.protocol.work.calls import Stands
from tests.node.scheduler.shell import ANNA, BERT, FIGURES, TTL, Shell, train_result
from tests.node.scheduler.swarm import RUN, SCHEDULER, Swarm, found, until
from tests.values import manifest


@pytest.fixture
def shell() -> Shell:
    seeded = Shell(manifest(), (40, 30, 0, 0))
    seeded.seed()
    return seeded


def test_leases_get_their_whole_time_again_and_no_more(shell: Shell) -> None:
    shell.train_lease(ANNA, now=0.0)
    shell.schedule.woke(now=100.0)
    assert shell.schedule.expire(now=100.0 + TTL - 1) == ()
    assert len(shell.schedule.expire(now=100.0 + TTL)) == 1


def test_a_connection_that_had_broken_counts_as_broken_on_waking(shell: Shell) -> None:
    lease = shell.train_lease(ANNA, now=0.0)
    shell.train_lease(BERT, now=0.0)
    shell.schedule.gone(ANNA, now=1.0)
    shell.schedule.woke(now=100.0)
    assert shell.schedule.expire(now=100.0 + RECONNECT_SECONDS - 0.1) == ()
    (ended,) = shell.schedule.expire(now=100.0 + RECONNECT_SECONDS)
    assert getattr(ended, "token", None) == lease.token


def test_the_seconds_of_work_that_went_on_meanwhile_are_believed(shell: Shell) -> None:
    lease = shell.train_lease(ANNA, now=0.0)
    shell.schedule.woke(now=100.0)
    honest = train_result(lease, **(FIGURES | {"seconds": 95.0}))
    assert shell.hand_in(ANNA, honest, now=101.0) == Stands()


def test_moments_are_not_given_up_for_the_gap(shell: Shell) -> None:
    lease = shell.train_lease(ANNA, now=0.0)
    shell.submit(ANNA, lease, now=1.0)
    shell.schedule.expire(now=2.0)  # the first look at them
    shell.schedule.gone(ANNA, now=3.0)
    shell.schedule.woke(now=5000.0)
    assert shell.schedule.expire(now=5000.0 + RECONNECT_SECONDS - 0.1) == ()
    assert len(shell.schedule.expire(now=5000.0 + RECONNECT_SECONDS)) == 1


async def test_a_standstill_of_the_machine_ends_no_lease(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    await swarm.start("anna")
    schedulers = scheduler.parts.request_router.schedulers
    await until(lambda: RUN in schedulers and len(schedulers[RUN].schedule.grants) == 1)
    ended: list[LeaseEnded] = []
    monkeypatch.setattr(Schedule, "_end", lambda self, change: ended.append(change))
    autojump_clock.jump(30.0)  # the looks for leases to end come before any heartbeat arrives
    await trio.sleep(5.0)
    assert len(schedulers[RUN].schedule.grants) == 1 and ended == []
