"""Moments that follow their submission: the schedule, event by event, as in test_schedule."""

from msgspec.structs import replace

from dipaco.node.kinds.changes import MomentsPending, Recorded
from dipaco.node.kinds.train import is_again
from dipaco.node.scheduler.retention import blobs_needed
from dipaco.protocol.run.modules import ModuleDigest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.calls import Fallen, NoLease, Stands
from dipaco.protocol.work.kinds import MomentsReplaced, TrainLease
from dipaco.protocol.work.ledger import Entry
from dipaco.protocol.work.run_state import MAX_REPLACED
from tests.node.scheduler.shell import ANNA, BERT, CARA, TTL, Shell, moments_of, train_result
from tests.values import digest, manifest

WEIGHTS = (40, 30, 0, 0)  # paths 0 and 1 alone are live


def after_round_1() -> tuple[Shell, TrainLease]:
    """Anna has trained path 0, Bert path 1; no moments are here. Returns Anna's lease too."""
    shell = Shell(manifest(), WEIGHTS)
    shell.seed()
    first, second = shell.train_lease(ANNA), shell.train_lease(BERT)
    assert (first.path, second.path) == (0, 1)
    for who, lease in ((ANNA, first), (BERT, second)):
        assert shell.submit(who, lease) == Stands()
    shell.step()
    return shell, first


def training(shell: Shell, who: PeerId) -> tuple[int, int] | None:
    """Return path and round of the next training that `who` gets; evaluations are done."""
    while not isinstance(lease := shell.ask(who), NoLease):
        if isinstance(lease, TrainLease):
            return lease.path, lease.round
        shell.submit(who, lease)
    return None


def replaced(shell: Shell) -> list[Entry]:
    made = (change.entry for change in shell.log if isinstance(change, Recorded))
    return [entry for entry in made if isinstance(entry, MomentsReplaced)]


def made_by(lease: TrainLease, number: int) -> tuple[ModuleDigest, ...]:
    """Return moments that come out otherwise for each `number`."""
    return tuple(
        ModuleDigest(module=m.module, digest=digest(f"{m.module} {number}")) for m in lease.modules
    )


def test_outer_steps_wait_for_no_moments_but_other_peers_do() -> None:
    shell, _ = after_round_1()
    assert shell.ledger.path_version(0) == 1 and list(shell.schedule.state.pending) == [
        (0, 1),
        (1, 1),
    ]
    assert shell.submit(BERT, shell.lease(BERT)) == Stands()
    assert training(shell, BERT) is None  # path 0 is Anna's alone
    waiting = shell.ask(BERT)
    assert isinstance(waiting, NoLease) and "path 0 round 1 are still with" in waiting.reason
    shell.make(shell.schedule.moments_arrived((0, 1)))
    assert training(shell, BERT) == (0, 2)
    shell, _ = after_round_1()
    assert training(shell, ANNA) == (0, 2)


def test_a_round_is_done_again_for_its_moments_when_their_maker_is_gone() -> None:
    shell, first = after_round_1()
    shell.make(shell.schedule.moments_arrived((1, 1)))
    entries = sum(isinstance(change, Recorded) for change in shell.log)
    shell.schedule.gone(ANNA, now=10.0)
    shell.make(shell.schedule.expire(now=11.4))
    assert training(shell, BERT) == (1, 2)
    shell.submit(BERT, shell.lease(BERT))
    shell.make(shell.schedule.expire(now=11.5))
    again = shell.train_lease(BERT)
    assert replace(again, token=first.token) == first
    assert again.inputs <= blobs_needed(shell.schedule)
    assert shell.submit(BERT, again) == Stands()
    last = shell.train_lease(BERT)
    assert (last.path, last.round, last.moments) == (0, 2, moments_of(last, 1))
    made = [change.entry for change in shell.log if isinstance(change, Recorded)][entries:]
    assert not any(isinstance(entry, MomentsReplaced) for entry in made)  # they are the same


def test_moments_that_come_out_otherwise_are_those_of_the_ledger_from_then_on() -> None:
    shell, _ = after_round_1()
    shell.schedule.gone(ANNA, now=10.0)
    shell.make(shell.schedule.expire(now=11.5))
    again = shell.train_lease(BERT)
    assert is_again(shell.schedule.state, again)
    others = tuple(ModuleDigest(module=m.module, digest=digest(m.module)) for m in again.modules)
    assert shell.hand_in(BERT, train_result(again, moments=others)) == Stands()
    assert set(blobs_needed(shell.schedule)) >= {each.digest for each in others}
    assert replaced(shell) == [] and training(shell, BERT) == (1, 2)  # until they are here
    shell.make(shell.schedule.moments_arrived((0, 1)))
    entry = MomentsReplaced(path=0, round=1, peer=BERT, moments=others)
    assert replaced(shell) == [entry]
    shell.make(shell.schedule.moments_arrived((0, 1)))
    assert replaced(shell) == [entry] and shell.train_lease(CARA).moments == others


def test_whoever_makes_moments_and_leaves_with_them_again_and_again_writes_nothing() -> None:
    shell, _ = after_round_1()
    shell.make(shell.schedule.moments_arrived((1, 1)))
    shell.schedule.gone(ANNA, now=10.0)
    for number in range(20):
        now = 12.0 * (number + 1)
        shell.make(shell.schedule.expire(now))
        again = shell.train_lease(BERT, now)
        assert (again.path, again.round) == (0, 1)
        shell.hand_in(BERT, train_result(again, moments=made_by(again, number)), now)
        shell.schedule.gone(BERT, now)
    assert replaced(shell) == []


def test_a_scheduler_that_loses_moments_for_ever_says_so() -> None:
    shell, _ = after_round_1()
    shell.make(shell.schedule.moments_arrived((1, 1)))
    for number in range(MAX_REPLACED):
        shell.make(shell.schedule.moments_lost((0, 1)))
        assert not shell.schedule.deadlock
        again = shell.train_lease(BERT)
        shell.hand_in(BERT, train_result(again, moments=made_by(again, number)))
        shell.make(shell.schedule.moments_arrived((0, 1)))
    assert len(replaced(shell)) == MAX_REPLACED
    shell.make(shell.schedule.moments_lost((0, 1)))
    assert "path 0 round 1 were lost 8 times" in shell.schedule.deadlock
    assert training(shell, BERT) == (1, 2)


def test_a_maker_that_comes_back_in_time_ends_the_work_for_its_moments() -> None:
    shell, _ = after_round_1()
    shell.schedule.gone(ANNA, now=10.0)
    shell.make(shell.schedule.expire(now=11.5))
    again = shell.train_lease(BERT)
    assert is_again(shell.schedule.state, again)
    shell.make(shell.schedule.moments_arrived((0, 1)))
    assert isinstance(shell.beat(BERT, again, now=13.0), Fallen)
    assert training(shell, ANNA) == (0, 2)


def test_a_peer_that_is_heard_of_again_keeps_its_path() -> None:
    shell, _ = after_round_1()
    lease = shell.train_lease(ANNA, now=9.0)
    shell.schedule.gone(ANNA, now=10.0)
    assert shell.beat(ANNA, lease, now=11.0) == Stands()
    assert shell.schedule.expire(now=13.0) == ()


def test_a_maker_that_stays_and_does_not_hand_over_its_moments_holds_nobody_up_for_ever() -> None:
    shell, _ = after_round_1()
    shell.make(shell.schedule.moments_arrived((1, 1)))
    assert shell.schedule.expire(now=100.0) == ()
    assert shell.schedule.expire(now=99.0 + 30 * TTL) == ()
    shell.make(shell.schedule.expire(now=100.0 + 30 * TTL))
    again = shell.train_lease(BERT)
    assert (again.path, again.round) == (0, 1)


def test_a_maker_that_hands_back_its_own_path_lets_others_make_the_moments() -> None:
    shell, _ = after_round_1()
    lease = shell.train_lease(ANNA)
    assert lease.moments
    shell.hand_back(ANNA, lease, "its blobs are gone")
    again = shell.train_lease(ANNA)
    assert (again.path, again.round) == (0, 1)


def test_nothing_is_owed_for_the_last_round() -> None:
    shell, _ = after_round_1()
    for who in (ANNA, BERT):
        shell.submit(who, shell.lease(who))
    assert not [place for place in shell.schedule.state.pending if place[1] == 2]
    shell.step()
    assert not list(shell.schedule.state.pending)


def test_after_a_restart_the_newest_moments_are_owed_until_they_were_looked_at() -> None:
    shell, _ = after_round_1()
    shell.arrive()
    shell.submit(BERT, shell.lease(BERT))
    shell.restart()
    restored = shell.schedule
    shell.make(restored.restored(now=100.0))
    assert list(restored.state.pending) == [(0, 1), (1, 1)]
    assert restored.expire(now=99.0 + TTL) == ()
    assert training(shell, BERT) == (1, 2)
    overdue = restored.expire(now=103.0 + TTL)
    lost = [change.place for change in overdue if isinstance(change, MomentsPending)]
    assert lost == [(0, 1)]  # Bert was heard of, Anna was not
