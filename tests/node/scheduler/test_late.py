"""Results whose lease has ended: they count while their work is open, and are compared after."""

from dataclasses import replace

import pytest
from msgspec import structs

from dipaco.node.kinds.changes import LeaseEnded
from dipaco.node.scheduler.late import MAX_LATE
from dipaco.protocol.work.calls import Fallen, Stands
from dipaco.protocol.work.kinds import TrainLease
from tests.node.scheduler.shell import ANNA, BERT, Shell, train_result
from tests.values import manifest, peer

GONE = 3.0  # seconds after which a lease ends whose holder's connection broke


@pytest.fixture
def shell() -> Shell:
    made = Shell(manifest(), (40, 30, 20, 10))
    made.seed(peer("founder"))
    return made


def cut_off(shell: Shell, lease: TrainLease, now: float) -> None:
    """Have Anna's line break until her lease has ended."""
    shell.schedule.gone(ANNA, now)
    (ended,) = shell.schedule.expire(now + GONE)
    assert isinstance(ended, LeaseEnded) and ended.token == lease.token
    shell.make((ended,))


def test_a_result_that_comes_when_its_lease_has_ended_counts_while_its_work_is_open(
    shell: Shell,
) -> None:
    lease = shell.train_lease(ANNA)
    cut_off(shell, lease, 10.0)
    assert shell.submit(ANNA, lease, 20.0) == Stands()
    assert shell.schedule.state.accepted[lease.path, 1].peer == ANNA
    assert shell.submit(ANNA, lease, 21.0) == Stands()  # its answer was lost
    assert not list(shell.schedule.parking.all_parked(21.0))


def test_it_counts_before_that_of_another_who_has_the_work_by_now_and_who_hears_it(
    shell: Shell,
) -> None:
    lease = shell.train_lease(ANNA)
    cut_off(shell, lease, 10.0)
    again = next(
        each
        for number in range(4)
        if isinstance(each := shell.train_lease(peer(f"v{number}"), 13.0), TrainLease)
        and each.path == lease.path
    )
    holder = shell.schedule.grants[again.token].peer
    assert shell.submit(ANNA, lease, 20.0) == Stands()
    assert isinstance(shell.beat(holder, again, now=21.0), Fallen)
    assert not list(shell.schedule.parking.all_parked(21.0))


def test_while_it_is_handed_in_its_holder_is_not_told_to_stop(shell: Shell) -> None:
    lease = shell.train_lease(ANNA)
    cut_off(shell, lease, 10.0)
    assert isinstance(shell.beat(ANNA, lease, now=14.0), Fallen)
    shell.schedule.handing_in(ANNA, lease.token, 15.0)
    assert shell.beat(ANNA, lease, now=16.0) == Stands()
    assert isinstance(shell.beat(BERT, lease, now=16.0), Fallen)


@pytest.mark.parametrize("honest", [True, False])
def test_a_result_of_work_that_is_done_is_compared_and_nobody_is_blamed(
    shell: Shell, honest: bool
) -> None:
    lease = shell.train_lease(ANNA)
    cut_off(shell, lease, 10.0)
    while (again := shell.train_lease(BERT, 13.0)).path != lease.path:
        shell.submit(BERT, again, 14.0)
    assert shell.submit(BERT, again, 14.0) == Stands()
    found = train_result(lease)
    if not honest:
        found = train_result(lease, deltas=train_result(again, moments=()).moments or found.moments)
    told = shell.hand_in(ANNA, found, 20.0)
    assert isinstance(told, Fallen) and ("agrees" if honest else "differs") in told.reason
    (compared,) = shell.schedule.compared
    assert (compared.counted, compared.other, compared.agreed) == (BERT, ANNA, honest)
    assert (compared.path, compared.round) == (lease.path, 1)
    assert not list(shell.schedule.parking.all_parked(21.0))


def test_what_its_holder_gave_back_or_another_holder_sends_does_not_count(shell: Shell) -> None:
    lease = shell.train_lease(ANNA)
    shell.hand_back(ANNA, lease, "stopped", 1.0)
    assert isinstance(shell.submit(ANNA, lease, 2.0), Fallen)
    other = shell.train_lease(ANNA, 3.0)
    cut_off(shell, other, 10.0)
    assert isinstance(shell.submit(BERT, other, 20.0), Fallen)


def test_a_round_that_has_ended_takes_no_late_result(shell: Shell) -> None:
    lease = shell.train_lease(ANNA)
    cut_off(shell, lease, 10.0)
    for number in range(4):
        again = shell.train_lease(peer(f"v{number}"), 13.0)
        assert shell.submit(peer(f"v{number}"), again, 14.0) == Stands()
    while shell.step():
        pass
    before = dict(shell.schedule.state.accepted)
    assert isinstance(shell.submit(ANNA, lease, 20.0), Fallen)
    assert shell.schedule.state.accepted == before == {}


def test_the_number_of_leases_that_are_remembered_is_bounded(shell: Shell) -> None:
    late, lease = shell.schedule.late, shell.train_lease(ANNA)
    (grant,) = shell.schedule.grants.values()
    cut_off(shell, lease, 10.0)
    for number in range(MAX_LATE):
        token = (1 << 64 | number).to_bytes(16, "big")
        late.add(replace(grant, lease=structs.replace(lease, token=token)), None)
    assert late.find(ANNA, lease.token) is None
    assert isinstance(shell.submit(ANNA, lease, 20.0), Fallen)
