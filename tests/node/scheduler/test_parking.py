"""A peer whose leases end without a result is parked, for longer and longer, but never for good."""

import pytest

from dipaco.node.scheduler.parking import MAX_PEERS, Parking, pause_after
from dipaco.node.scheduler.schedule import MAX_COUNTED
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.calls import NoLease, Stands
from dipaco.protocol.work.kinds import EvaluateLease, Lease, TrainLease
from tests.node.scheduler.shell import ANNA, BERT, Shell
from tests.values import manifest, peer


@pytest.fixture
def shell() -> Shell:
    made = Shell(manifest(), (40, 30, 20, 10))
    made.seed(BERT)
    return made


def held(shell: Shell, name: str) -> Lease:
    (grant,) = (each for each in shell.schedule.grants.values() if each.peer == peer(name))
    return grant.lease


def fail(shell: Shell, times: int, now: float = 0.0) -> int:
    """Have Anna hand back so many leases; returns the path of the last."""
    for _ in range(times):
        lease = shell.train_lease(ANNA, now)
        shell.hand_back(ANNA, lease, "no device cuda:3", now)
    return lease.path


def test_pauses_double_up_to_ten_minutes() -> None:
    assert [pause_after(n) for n in range(1, 7)] == [0, 0, 10, 20, 40, 80]
    assert pause_after(9) == pause_after(10**6) == 600


def test_the_third_failure_in_a_row_parks_and_another_gets_the_path(shell: Shell) -> None:
    path = fail(shell, 3)
    told = shell.ask(ANNA, now=4.0)
    assert isinstance(told, NoLease) and (told.code, told.retry_after) == ("parked", 6.0)
    assert "3 leases in a row" in told.reason and "no device cuda:3" in told.reason
    assert path in {shell.train_lease(peer(f"v{i}")).path for i in range(4)}


def test_a_parked_peer_gets_work_again_when_its_pause_is_over(shell: Shell) -> None:
    fail(shell, 3)
    lease = shell.train_lease(ANNA, now=10.0)  # it may be the only one
    shell.hand_back(ANNA, lease, "again", now=11.0)
    told = shell.ask(ANNA, now=11.0)
    assert isinstance(told, NoLease) and told.retry_after == 20.0


def test_a_result_that_counts_ends_the_row(shell: Shell) -> None:
    fail(shell, 2)
    assert shell.submit(ANNA, shell.lease(ANNA)) == Stands()
    fail(shell, 2)
    assert not isinstance(shell.ask(ANNA), NoLease)


def test_an_evaluation_that_counts_does_not_end_the_row_of_a_peer_that_cannot_train(
    shell: Shell,
) -> None:
    for number in range(4):  # others do all training, and leave the evaluations
        shell.train_lease(peer(f"v{number}"))
    for number in range(3):
        shell.hand_back(peer(f"v{number}"), held(shell, f"v{number}"), "stopped")
        failing = shell.train_lease(ANNA)
        shell.hand_back(ANNA, failing, "out of memory")
        shell.train_lease(peer(f"w{number}"))
        if number < 2:
            evaluation = shell.lease(ANNA)
            assert isinstance(evaluation, EvaluateLease)
            assert shell.submit(ANNA, evaluation) == Stands()
    told = shell.ask(ANNA)
    assert isinstance(told, NoLease) and told.code == "parked" and "out of memory" in told.reason


def test_a_device_that_is_absent_fails_few_leases_and_another_gets_its_path(shell: Shell) -> None:
    taken, paths = 0, set[int]()
    for now in range(600):
        told = shell.ask(ANNA, float(now))
        if isinstance(told, TrainLease):
            taken += 1
            shell.hand_back(ANNA, told, "no device cuda:3", float(now))
        elif isinstance(other := shell.ask(BERT, float(now)), TrainLease):
            paths.add(other.path)
            shell.submit(BERT, other, float(now))
    assert taken <= 9 and len(paths) == 4


@pytest.mark.parametrize("how", ["silent", "asked for another"])
def test_leases_that_end_by_themselves_count_too(shell: Shell, how: str) -> None:
    now = 0.0
    for _ in range(3):
        shell.train_lease(ANNA, now)
        if how == "silent":
            now += 20.0
            shell.make(shell.schedule.expire(now))
    if how != "silent":
        shell.lease(ANNA, now)
    told = shell.ask(ANNA, now)
    assert isinstance(told, NoLease) and told.code == "parked" and how in told.reason


def test_the_number_of_peers_is_bounded() -> None:
    parking = Parking()
    for number in range(MAX_PEERS + 1):
        for _ in range(3):
            parking.failed(peer(f"v{number % 3}") if number < 3 else f"p{number}", "x", 0.0)  # type: ignore[arg-type]
    assert len(list(parking.all_parked(0.0))) == MAX_PEERS
    assert parking.parked(peer("v0"), 0.0) is None


def test_the_number_of_prefixes_is_bounded() -> None:
    parking = Parking()
    for number in range(MAX_PEERS + 1):
        for _ in range(3):
            parking.failed(peer("x"), "no", 0.0, prefix=f"prefix {number}")
    parked = [parking.parked(peer("y"), 0.0, prefix=f"prefix {n}") for n in range(MAX_PEERS + 1)]
    assert parked[0] is None and all(parked[1:])


def test_the_number_of_remembered_results_is_bounded(shell: Shell) -> None:
    schedule = shell.schedule
    for number in range(MAX_COUNTED + 1):
        schedule._note_counted(PeerId(f"p{number}"), number.to_bytes(16, "big"))
    assert len(schedule._counted) == MAX_COUNTED and PeerId("p0") not in schedule._counted
