"""Measured speed: slow peers near the end of a round, and work that is done twice since it is late.

1. A slow peer gets no training that faster ones will have done before; it is told so in words.
2. Idle peers do beside its holder what would end last, at most one lease of four; the first result
   counts, and the other holder hears it and is not blamed.
3. A run of unlike volunteers ends sooner, and one of like volunteers no later.
"""

import pytest
from msgspec.structs import replace

from dipaco.node.kinds.changes import Recorded
from dipaco.node.scheduler.grants import Grants
from dipaco.node.scheduler.pace import held_back
from dipaco.node.scheduler.standing import Standing
from dipaco.protocol.numbers import span
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.calls import Fallen, NoLease, Stands
from dipaco.protocol.work.kinds import Evaluated, Evaluation, TrainLease
from tests.node.scheduler.crowd import SPEEDS, Crowd, without_pace
from tests.node.scheduler.shell import ANNA, BERT, CARA, Shell
from tests.values import manifest, peer

SLOW, FAST = 100.0, 10.0


def measured() -> Shell:
    """Return a run after a round: Anna is slow, three others are fast; all is evaluated."""
    plain = manifest()
    shell = Shell(replace(plain, training=replace(plain.training, rounds=9)), (40, 30, 20, 10))
    shell.seed(peer("founder"))
    held = {who: shell.train_lease(who) for who in (ANNA, BERT, CARA, peer("dora"))}
    for who, lease in held.items():
        assert shell.submit(who, lease, SLOW if who == ANNA else FAST) == Stands()
    shell.arrive()
    while shell.step():
        pass
    for version, path in list(shell.schedule.rounds.due_evaluations()):
        found = Evaluation(documents=1, tokens=10, nll=30.0)
        entry = Evaluated(path=path, version=version, peer=BERT, evaluation=found)
        shell.make((Recorded(entry),))
    return shell


def waits(shell: Shell, who: PeerId, now: float) -> NoLease:
    told = shell.ask(who, now)
    assert isinstance(told, NoLease), told
    return told


def test_pace_is_that_of_the_last_trainings_on_the_schedulers_clock() -> None:
    standing = measured().schedule.standing
    assert standing.pace(ANNA) == SLOW and standing.pace(BERT) == FAST
    assert standing.pace(peer("eve")) is None  # evaluations say nothing


def test_a_slow_peer_waits_while_faster_ones_will_have_done_what_is_left() -> None:
    shell, now = measured(), SLOW
    for who in (BERT, CARA, peer("dora")):
        shell.train_lease(who, now)
    told = waits(shell, ANNA, now)
    assert told.reason.startswith("what is left of the round is done by 1 faster peer, the first")
    assert f"free in {span(FAST)}, before it would be in {span(SLOW)}" in told.reason
    assert isinstance(shell.ask(peer("new"), now), TrainLease)  # nobody knows its speed


def test_a_slow_peer_gets_what_the_faster_ones_cannot_do_before() -> None:
    shell, now = measured(), SLOW
    for who in (BERT, CARA, peer("dora")):
        shell.schedule.gone(who, now)
    assert isinstance(shell.ask(ANNA, now), TrainLease)


def test_a_fast_peer_that_is_late_is_not_counted_on() -> None:
    shell, now = measured(), SLOW
    for who in (BERT, CARA, peer("dora")):
        lease = shell.train_lease(who, now)
        shell.beat(who, lease, now=now + 16.0, progress=1)
    waits(shell, ANNA, now + 15.0)
    assert isinstance(shell.ask(ANNA, now + 15.1), TrainLease)


def test_only_proven_peers_count_as_faster() -> None:
    standing, grants = Standing(), Grants()
    standing.trained(ANNA, 0.0)
    assert held_back(grants, standing, ANNA, 1, 0.0) == ""
    assert held_back(grants, standing, peer("new"), 1, 0.0) == ""


def one_slow_lease() -> tuple[Shell, TrainLease]:
    """Return a run at `SLOW + FAST` in which Anna holds the last lease of a round."""
    shell, now = measured(), SLOW
    fast = BERT, CARA, peer("dora")
    for who in fast:
        shell.schedule.gone(who, now)
    slow = shell.train_lease(ANNA, now)
    for who, lease in {who: shell.train_lease(who, now) for who in fast}.items():
        assert shell.submit(who, lease, now + FAST) == Stands()
    shell.arrive()
    while shell.step():
        pass
    return shell, slow


def test_an_idle_peer_does_beside_its_holder_what_ends_last_and_the_first_result_counts() -> None:
    shell, slow = one_slow_lease()
    now = SLOW + FAST
    beside = shell.train_lease(BERT, now)
    assert (beside.path, beside.round) == (slow.path, slow.round) and beside.token != slow.token
    assert isinstance(shell.ask(CARA, now), NoLease)  # nobody does it a third time
    assert shell.beat(ANNA, slow, now=now, progress=1) == Stands()
    assert shell.submit(BERT, beside, now + FAST) == Stands()
    assert isinstance(shell.beat(ANNA, slow, now=now + FAST), Fallen)
    assert shell.schedule.standing.proven(ANNA)
    told = shell.submit(ANNA, slow, SLOW + SLOW)
    assert isinstance(told, Fallen) and "agrees" in told.reason
    assert [each.agreed for each in shell.schedule.compared] == [True]


def test_the_holder_may_be_first_and_the_other_is_told() -> None:
    shell, slow = one_slow_lease()
    beside = shell.train_lease(BERT, SLOW + FAST)
    assert shell.submit(ANNA, slow, SLOW + FAST + 1.0) == Stands()
    assert isinstance(shell.beat(BERT, beside, now=SLOW + FAST + 2.0), Fallen)
    assert shell.schedule.standing.proven(BERT)


def test_nobody_does_beside_its_holder_what_the_holder_will_have_done_as_soon() -> None:
    shell, slow = one_slow_lease()
    late = SLOW + SLOW - FAST
    assert shell.beat(ANNA, slow, now=late, progress=1) == Stands()
    assert isinstance(shell.ask(BERT, late), NoLease)


def test_new_peers_do_nothing_beside_others_once_it_is_known_how_long_it_takes() -> None:
    shell, _ = one_slow_lease()
    assert isinstance(shell.ask(peer("new"), SLOW + FAST), NoLease)


@pytest.mark.parametrize(
    ("speeds", "most"),
    [
        (SPEEDS, 0.85),
        ((100,) * 8, 1.0),
        ((100, *(10,) * 7), 0.6),
        ((60, 50, 40, 30) * 2, 1.0),
        ((100, 10), 1.0),
    ],
    ids=["1 to 2 to 10", "alike", "one slow", "nearly alike", "two"],
)
def test_a_run_of_unlike_volunteers_ends_sooner_and_none_later(
    speeds: tuple[int, ...], most: float
) -> None:
    with without_pace():
        before = Crowd(speeds).run()
    assert Crowd(speeds).run() <= most * before
