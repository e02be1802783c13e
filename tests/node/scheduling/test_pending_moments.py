"""Moments that follow their submission: the schedule, event by event, as in test_schedule."""

from msgspec.structs import replace

from dipaco.node.kinds.changes import MomentsPending, Recorded
from dipaco.node.kinds.train import is_again
from dipaco.node.scheduling.retention import blobs_needed
from dipaco.protocol.identity import PeerId
from dipaco.protocol.lease import MomentsReplaced, TrainLease
from dipaco.protocol.modules import ModuleDigest
from dipaco.protocol.work import Fallen, NoLease, Stands
from tests.node.scheduling.desk import ANNA, BERT, TTL, Desk, moments_of, train_result
from tests.values import digest, manifest

WEIGHTS = (40, 30, 0, 0)  # paths 0 and 1 alone are live


def after_round_1() -> tuple[Desk, TrainLease]:
    """Anna has trained path 0, Bert path 1; no moments are here. Returns Anna's lease too."""
    desk = Desk(manifest(), WEIGHTS)
    desk.seed()
    first, second = desk.train_lease(ANNA), desk.train_lease(BERT)
    assert (first.path, second.path) == (0, 1)
    for who, lease in ((ANNA, first), (BERT, second)):
        assert desk.submit(who, lease) == Stands()
    desk.step()
    return desk, first


def training(desk: Desk, who: PeerId) -> tuple[int, int] | None:
    """Return path and round of the next training that `who` gets; evaluations are done."""
    while not isinstance(lease := desk.ask(who), NoLease):
        if isinstance(lease, TrainLease):
            return lease.path, lease.round
        desk.submit(who, lease)
    return None


def test_outer_steps_wait_for_no_moments_but_other_peers_do() -> None:
    desk, _ = after_round_1()
    assert desk.ledger.path_version(0) == 1 and list(desk.schedule.state.pending) == [
        (0, 1),
        (1, 1),
    ]
    assert desk.submit(BERT, desk.lease(BERT)) == Stands()
    assert training(desk, BERT) is None  # path 0 is Anna's alone
    waiting = desk.ask(BERT)
    assert isinstance(waiting, NoLease) and "path 0 round 1 are still with" in waiting.reason
    desk.make(desk.schedule.moments_arrived((0, 1)))
    assert training(desk, BERT) == (0, 2)
    desk, _ = after_round_1()
    assert training(desk, ANNA) == (0, 2)


def test_a_round_is_done_again_for_its_moments_when_their_maker_is_gone() -> None:
    desk, first = after_round_1()
    desk.make(desk.schedule.moments_arrived((1, 1)))
    entries = sum(isinstance(change, Recorded) for change in desk.log)
    desk.schedule.gone(ANNA, now=10.0)
    desk.make(desk.schedule.expire(now=11.9))
    assert training(desk, BERT) == (1, 2)
    desk.submit(BERT, desk.lease(BERT))
    desk.make(desk.schedule.expire(now=12.0))
    again = desk.train_lease(BERT)
    assert replace(again, token=first.token) == first
    assert again.inputs <= blobs_needed(desk.schedule)
    assert desk.submit(BERT, again) == Stands()
    last = desk.train_lease(BERT)
    assert (last.path, last.round, last.moments) == (0, 2, moments_of(last, 1))
    made = [change.entry for change in desk.log if isinstance(change, Recorded)][entries:]
    assert not any(isinstance(entry, MomentsReplaced) for entry in made)  # they are the same


def test_moments_that_come_out_otherwise_are_those_of_the_ledger_from_then_on() -> None:
    desk, _ = after_round_1()
    desk.schedule.gone(ANNA, now=10.0)
    desk.make(desk.schedule.expire(now=12.0))
    again = desk.train_lease(BERT)
    assert is_again(desk.schedule.state, again)
    others = tuple(ModuleDigest(module=m.module, digest=digest(m.module)) for m in again.modules)
    changes, reply = desk.schedule.submit(BERT, train_result(again, moments=others))
    desk.make(changes)
    assert reply == Stands()
    assert any(
        isinstance(change, Recorded)
        and change.entry == MomentsReplaced(path=0, round=1, peer=BERT, moments=others)
        for change in changes
    )
    assert desk.train_lease(BERT).moments == others


def test_a_maker_that_comes_back_in_time_ends_the_work_for_its_moments() -> None:
    desk, _ = after_round_1()
    desk.schedule.gone(ANNA, now=10.0)
    desk.make(desk.schedule.expire(now=12.0))
    again = desk.train_lease(BERT)
    assert is_again(desk.schedule.state, again)
    desk.make(desk.schedule.moments_arrived((0, 1)))
    assert isinstance(desk.beat(BERT, again, now=13.0), Fallen)
    assert training(desk, ANNA) == (0, 2)


def test_a_peer_that_is_heard_of_again_keeps_its_path() -> None:
    desk, _ = after_round_1()
    lease = desk.train_lease(ANNA, now=9.0)
    desk.schedule.gone(ANNA, now=10.0)
    assert desk.beat(ANNA, lease, now=11.0) == Stands()
    assert desk.schedule.expire(now=13.0) == ()


def test_a_maker_that_stays_and_does_not_hand_over_its_moments_holds_nobody_up_for_ever() -> None:
    desk, _ = after_round_1()
    desk.make(desk.schedule.moments_arrived((1, 1)))
    assert desk.schedule.expire(now=100.0) == ()
    assert desk.schedule.expire(now=99.0 + 30 * TTL) == ()
    desk.make(desk.schedule.expire(now=100.0 + 30 * TTL))
    again = desk.train_lease(BERT)
    assert (again.path, again.round) == (0, 1)


def test_a_maker_that_hands_back_its_own_path_lets_others_make_the_moments() -> None:
    desk, _ = after_round_1()
    lease = desk.train_lease(ANNA)
    assert lease.moments
    desk.make(desk.schedule.hand_back(ANNA, lease.token, "its blobs are gone"))
    again = desk.train_lease(ANNA)
    assert (again.path, again.round) == (0, 1)


def test_nothing_is_owed_for_the_last_round() -> None:
    desk, _ = after_round_1()
    for who in (ANNA, BERT):
        desk.submit(who, desk.lease(who))
    assert not [place for place in desk.schedule.state.pending if place[1] == 2]
    desk.step()
    assert not list(desk.schedule.state.pending)


def test_after_a_restart_the_newest_moments_are_owed_until_they_were_looked_at() -> None:
    desk, _ = after_round_1()
    desk.arrive()
    desk.submit(BERT, desk.lease(BERT))
    desk.restart()
    restored = desk.schedule
    desk.make(restored.restored(now=100.0))
    assert list(restored.state.pending) == [(0, 1), (1, 1)]
    assert restored.expire(now=99.0 + TTL) == ()
    assert training(desk, BERT) == (1, 2)
    overdue = restored.expire(now=103.0 + TTL)
    lost = [change.place for change in overdue if isinstance(change, MomentsPending)]
    assert lost == [(0, 1)]  # Bert was heard of, Anna was not
