"""Leases among strangers: what identities of one prefix may hold while others wait.

1. Nobody loses a lease while work is left, and a prefix that is alone may hold all.
2. A prefix with more leases gives one to a prefix with fewer; a lease never moves back.
3. A peer that has proven nothing gets small work first, and what proven peers leave.
4. Work that takes far longer than that of others goes to a peer that waits.
5. Work whose kind nobody has done yet is done by up to three prefixes at once, after a while.
6. Failures of new peers park the new peers of their prefix, and nobody else.
"""

import math
from collections import Counter

import pytest
from msgspec.structs import replace

from dipaco.node.kinds.changes import LeaseEnded
from dipaco.node.scheduler.sharing import BESIDE_TTLS, UNCOUNTED_TTLS
from dipaco.node.scheduler.standing import LONGEST_SECONDS, MAX_PROVEN, Standing
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.calls import Fallen, NoLease, Stands
from dipaco.protocol.work.kinds import EvaluateLease, Lease, SeedLease, TrainLease
from tests.node.scheduler.shell import ANNA, BERT, CARA, TTL, Shell
from tests.values import manifest, peer

NEAR, FAR, EVIL = "10.1.1.0/24", "10.2.2.0/24", "10.6.6.0/24"
DORA = peer("dora")
HONEST = (ANNA, BERT, CARA, DORA)


@pytest.fixture
def shell() -> Shell:
    plain = manifest()
    made = Shell(replace(plain, training=replace(plain.training, rounds=9)), (40, 30, 20, 10))
    made.seed(peer("founder"))
    return made


def held_by(shell: Shell) -> Counter[str]:
    return Counter(grant.prefix for grant in shell.schedule.grants.values())


def train_round(shell: Shell, now: float, seconds: float = 60.0) -> float:
    """Have the four honest peers train all paths, and evaluate; returns the time of its end."""
    leases = {who: shell.lease(who, now, prefix=NEAR) for who in HONEST}
    for who, lease in leases.items():
        assert isinstance(lease, TrainLease)
        assert shell.submit(who, lease, now + seconds) == Stands()
    shell.arrive()
    while shell.step():
        pass
    return now + seconds


def evaluate_all(shell: Shell, now: float) -> None:
    """Have a new peer evaluate all that is due: the paths are kept for the proven ones."""
    while isinstance(lease := shell.ask(peer("eve"), now, prefix=FAR), EvaluateLease):
        assert shell.submit(peer("eve"), lease, now) == Stands()


def test_a_household_that_is_alone_holds_all_leases(shell: Shell) -> None:
    leases = [shell.lease(peer(f"v{i}"), prefix=NEAR) for i in range(8)]
    assert held_by(shell) == {NEAR: 8}  # four paths, four evaluations
    assert isinstance(shell.ask(peer("v8"), prefix=NEAR), NoLease)
    assert all(
        shell.beat(peer(f"v{i}"), lease, now=1.0, prefix=NEAR) == Stands()
        for i, lease in enumerate(leases)
    )


def test_prefixes_share_and_no_lease_moves_back(shell: Shell) -> None:
    for number in range(8):
        shell.lease(peer(f"v{number}"), prefix=NEAR)
    for number in range(20):
        shell.ask(peer(f"w{number}"), prefix=FAR)
    assert held_by(shell) == {NEAR: 4, FAR: 4}
    before = dict(shell.schedule.grants)
    for number in range(20, 40):
        assert isinstance(shell.ask(peer(f"w{number}"), prefix=FAR), NoLease)
        assert isinstance(shell.ask(peer(f"v{number}"), prefix=NEAR), NoLease)
    assert shell.schedule.grants == before


def test_whoever_gave_a_lease_up_hears_it_at_its_next_heartbeat_and_is_not_parked(
    shell: Shell,
) -> None:
    leases = {peer(f"v{i}"): shell.lease(peer(f"v{i}"), prefix=NEAR) for i in range(8)}
    shell.lease(ANNA, prefix=FAR)
    fallen = [
        who
        for who, lease in leases.items()
        if isinstance(shell.beat(who, lease, now=1.0, prefix=NEAR), Fallen)
    ]
    assert len(fallen) == 1
    ended = [change for change in shell.log if isinstance(change, LeaseEnded)][-1]
    assert ended.failed is None and "holds 8 leases" in ended.reason


def test_the_only_lease_of_a_prefix_and_those_of_uncounted_ones_stay(shell: Shell) -> None:
    for number in range(7):
        shell.lease(peer(f"v{number}"))
    shell.lease(peer("v7"), prefix=NEAR)
    assert isinstance(shell.ask(ANNA, prefix=FAR), NoLease)


def test_a_new_peer_gets_small_work_first_and_what_proven_peers_leave(shell: Shell) -> None:
    now = train_round(shell, 0.0)
    strangers = [peer(f"x{i}") for i in range(256)]
    got = [shell.ask(who, now, prefix=EVIL) for who in strangers]
    assert {type(each) for each in got if not isinstance(each, NoLease)} == {EvaluateLease}
    assert all(isinstance(shell.lease(who, now, prefix=NEAR), TrainLease) for who in HONEST)


def test_new_peers_train_where_proven_ones_are_gone_or_busy(shell: Shell) -> None:
    now = train_round(shell, 0.0)
    evaluate_all(shell, now)
    shell.schedule.gone(BERT, now)
    assert isinstance(shell.lease(ANNA, now, prefix=NEAR), TrainLease)
    new = shell.ask(peer("eve"), now, prefix=FAR)  # she has waited since her last evaluation
    assert isinstance(new, TrainLease)  # two are kept for Cara and Dora
    assert isinstance(shell.ask(peer("x1"), now, prefix=EVIL), NoLease)
    later = now + 16.0  # they did not ask
    assert isinstance(shell.ask(peer("x1"), later, prefix=EVIL), TrainLease)


def test_a_proven_peer_takes_what_a_new_one_does_not_finish_in_time(shell: Shell) -> None:
    now = train_round(shell, 0.0, seconds=100.0) + 20.0
    lease = _only_new_lease(shell, now)
    assert isinstance(shell.ask(DORA, now + 150.0, prefix=NEAR), NoLease)
    shell.beat(peer("x0"), lease, now=now + 151.0, progress=10**6, prefix=EVIL)
    again = shell.lease(DORA, now + 151.0, prefix=NEAR)
    assert isinstance(again, TrainLease) and isinstance(lease, TrainLease)
    assert again.path == lease.path
    told = shell.beat(peer("x0"), lease, now=now + 152.0, progress=10**6 + 1, prefix=EVIL)
    assert isinstance(told, Fallen)


def test_a_slow_proven_peer_has_six_times_as_long_and_thirty_ttls_at_least(shell: Shell) -> None:
    now = train_round(shell, 0.0, seconds=110.0)
    evaluate_all(shell, now)
    for who in HONEST:
        shell.lease(who, now, prefix=NEAR)
    assert isinstance(shell.ask(peer("x0"), now + 660.0, prefix=EVIL), NoLease)
    for who, grant in [(g.peer, g) for g in shell.schedule.grants.values()]:
        shell.beat(who, grant.lease, now=now + 660.0, progress=9, prefix=NEAR)
    assert isinstance(shell.ask(peer("x0"), now + 661.0, prefix=EVIL), TrainLease)
    assert 30 * TTL < 6 * 110.0


def test_before_any_measure_a_lease_has_hours(shell: Shell) -> None:
    lease = shell.lease(ANNA, prefix=NEAR)
    for number in range(7):
        shell.lease(peer(f"v{number}"), prefix=NEAR)
    waits = LONGEST_SECONDS
    assert isinstance(shell.ask(BERT, waits, prefix=NEAR), NoLease)
    assert shell.beat(ANNA, lease, now=waits, progress=1, prefix=NEAR) == Stands()
    assert isinstance(shell.ask(BERT, waits + 1.0, prefix=NEAR), TrainLease)


def new_run() -> Shell:
    return Shell(manifest(), (40, 30, 20, 10))


def seeding(shell: Shell) -> list[str]:
    return [grant.prefix for grant in shell.schedule.grants.values()]


def test_the_seed_model_is_trained_beside_a_stranger_and_the_first_result_counts() -> None:
    shell, wait = new_run(), BESIDE_TTLS * TTL
    held = shell.lease(peer("x0"), prefix=EVIL)
    assert isinstance(shell.ask(ANNA, wait - 1.0, prefix=NEAR), NoLease)
    assert shell.beat(peer("x0"), held, now=wait, progress=1, prefix=EVIL) == Stands()
    mine = shell.lease(ANNA, wait, prefix=NEAR)
    assert shell.beat(peer("x0"), held, now=wait, progress=2, prefix=EVIL) == Stands()
    assert shell.submit(ANNA, mine, wait + 60.0) == Stands() and shell.ledger.seeded
    assert shell.submit(ANNA, mine, wait + 60.0) == Stands()  # its answer was lost
    assert isinstance(shell.beat(peer("x0"), held, now=wait + 61.0, prefix=EVIL), Fallen)
    assert isinstance(shell.submit(peer("x0"), held, wait + 61.0), Fallen)
    assert not list(shell.schedule.parking.all_parked(wait + 61.0))


def test_the_seed_model_has_three_prefixes_at_most_and_each_once() -> None:
    shell, wait = new_run(), BESIDE_TTLS * TTL
    leases = [shell.lease(peer(f"v{n}"), n * wait, prefix=f"10.{n}.0.0/24") for n in range(3)]
    for number, lease in enumerate(leases):
        shell.beat(peer(f"v{number}"), lease, now=9 * wait, progress=1)
    assert isinstance(shell.ask(ANNA, 9 * wait, prefix=FAR), NoLease)
    alone = new_run()
    alone.lease(ANNA, prefix=NEAR)
    assert isinstance(alone.ask(BERT, 9 * wait, prefix=NEAR), NoLease)  # one household
    assert seeding(alone) == [NEAR]


def test_peers_that_are_not_counted_wait_longer_to_train_the_same() -> None:
    shell = new_run()
    shell.lease(ANNA)
    assert isinstance(shell.ask(BERT, UNCOUNTED_TTLS * TTL - 1.0), NoLease)
    assert isinstance(shell.ask(BERT, UNCOUNTED_TTLS * TTL), SeedLease)


def test_three_strangers_that_hold_the_seed_model_lose_it_after_hours() -> None:
    shell, wait = new_run(), BESIDE_TTLS * TTL
    held = {
        peer(f"x{n}"): shell.lease(peer(f"x{n}"), n * wait, prefix=f"10.{n}.0.0/24")
        for n in range(3)
    }
    for who, lease in held.items():
        shell.beat(who, lease, now=LONGEST_SECONDS + 1.0, progress=1)
    assert isinstance(shell.ask(ANNA, LONGEST_SECONDS + 1.0, prefix=NEAR), SeedLease)
    assert len(seeding(shell)) == 3


def test_a_result_that_is_inspected_and_a_proven_holder_are_waited_for(shell: Shell) -> None:
    fresh, wait = new_run(), BESIDE_TTLS * TTL
    held = fresh.lease(ANNA, prefix=NEAR)
    fresh.schedule.got_on(ANNA, held.token, math.inf)
    assert isinstance(fresh.ask(BERT, wait, prefix=FAR), NoLease)
    now = train_round(shell, 0.0)
    shell.restart()  # how long work takes is forgotten
    for who in HONEST:
        assert isinstance(shell.lease(who, now, prefix=NEAR), TrainLease)
    evaluate_all(shell, now)
    assert isinstance(shell.ask(peer("x0"), now + wait, prefix=EVIL), NoLease)


def test_the_first_round_is_trained_beside_those_who_hold_all_of_it(shell: Shell) -> None:
    for number in range(8):
        shell.lease(peer(f"x{number}"), prefix=f"10.{number}.0.0/24")
    mine = shell.lease(ANNA, BESIDE_TTLS * TTL, prefix=FAR)
    assert isinstance(mine, TrainLease)
    assert shell.submit(ANNA, mine, BESIDE_TTLS * TTL + 60.0) == Stands()
    assert len(shell.schedule.grants) == 7  # the stranger's lease of that path ended


def test_nobody_takes_what_nobody_else_waits_for(shell: Shell) -> None:
    now = train_round(shell, 0.0)
    lease = shell.lease(ANNA, now, prefix=NEAR)
    for step in range(1, 10_000):
        assert shell.beat(ANNA, lease, now=now + 15.0 * step, progress=step) == Stands()
        assert shell.schedule.expire(now + 15.0 * step) == ()


def test_failures_of_new_peers_park_the_new_peers_of_their_prefix_alone(shell: Shell) -> None:
    now = train_round(shell, 0.0)
    for number in range(3):
        lease = shell.lease(peer(f"x{number}"), now, prefix=EVIL)
        shell.hand_back(peer(f"x{number}"), lease, "no", now)
    told = shell.ask(peer("x9"), now, prefix=EVIL)
    assert isinstance(told, NoLease) and told.code == "parked"
    assert "3 leases in a row of new peers of 10.6.6.0/24" in told.reason
    assert not isinstance(shell.ask(peer("y"), now, prefix=FAR), NoLease)
    assert not isinstance(shell.ask(ANNA, now, prefix=EVIL), NoLease)  # proven, in that prefix
    assert not isinstance(shell.ask(peer("x9"), now + 10.0, prefix=EVIL), NoLease)


def test_a_training_result_of_the_prefix_ends_its_row_and_an_evaluation_does_not(
    shell: Shell,
) -> None:
    parking = shell.schedule.parking
    for number in range(3):
        parking.failed(peer(f"x{number}"), "no", 0.0, prefix=EVIL)
    parking.worked(peer("x4"))
    assert parking.parked(peer("x4"), 0.0, prefix=EVIL)
    parking.worked(peer("x4"), prefix=EVIL)
    assert parking.parked(peer("x4"), 0.0, prefix=EVIL) is None


def test_a_failed_lease_ends_the_proof_and_the_next_result_renews_it(shell: Shell) -> None:
    train_round(shell, 0.0)
    assert shell.schedule.standing.proven(ANNA)
    lease = shell.lease(ANNA, 60.0, prefix=NEAR)
    shell.hand_back(ANNA, lease, "no", 60.0)
    assert not shell.schedule.standing.proven(ANNA)


def test_a_restart_knows_whose_training_the_ledger_names(shell: Shell) -> None:
    train_round(shell, 0.0)
    shell.restart()
    assert all(shell.schedule.standing.proven(who) for who in HONEST)
    assert not shell.schedule.standing.awaited(0.0)  # until they are heard of


def test_the_number_of_proven_peers_is_bounded() -> None:
    standing = Standing()
    for number in range(MAX_PROVEN + 1):
        standing.trained(PeerId(f"p{number}"))
    assert len(standing) == MAX_PROVEN and not standing.proven(PeerId("p0"))


def _only_new_lease(shell: Shell, now: float) -> Lease:
    """Have three proven peers hold a path each, Dora none, and a new peer the fourth."""
    evaluate_all(shell, now - 20.0)
    for who in (ANNA, BERT, CARA):
        assert isinstance(shell.lease(who, now, prefix=NEAR), TrainLease)
    return shell.lease(peer("x0"), now, prefix=EVIL)
