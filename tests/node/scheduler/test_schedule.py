"""The schedule, event by event: pure values, no clock but the numbers given."""

import random

import pytest
from msgspec.structs import replace

from dipaco.node.kinds.changes import LeaseEnded, Recorded
from dipaco.node.kinds.table import TRAIN
from dipaco.node.kinds.train import is_again
from dipaco.node.scheduler.retention import blobs_needed
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.run.manifest import Scheduling
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.calls import Fallen, NoLease, Stands
from dipaco.protocol.work.kinds import EvaluateLease, Lease, SeedLease, SeedResult, TrainLease
from dipaco.protocol.work.ledger import Contribution, ModuleUpdated
from dipaco.protocol.work.run_state import RunState
from tests.node.scheduler.shell import (
    ANNA,
    BERT,
    CARA,
    FIGURES,
    Shell,
    evaluation,
    moments_of,
    train_result,
)
from tests.values import digest, manifest, peer

WEIGHTS = (40, 30, 20, 10)


@pytest.fixture
def shell() -> Shell:
    return Shell(manifest(), WEIGHTS)


def test_the_seed_model_comes_first_and_becomes_version_zero_of_every_module(shell: Shell) -> None:
    seed = shell.lease(ANNA)
    assert isinstance(seed, SeedLease)
    waiting = shell.ask(BERT)
    assert isinstance(waiting, NoLease) and "seed" in waiting.reason
    assert shell.submit(ANNA, seed) == Stands()
    states = shell.ledger.states
    assert list(states) == ["stem", "L1.E0", "L1.E1", "L2.E0", "L2.E1"]
    assert states[ModuleId("L1.E0")] == states[ModuleId("L1.E1")] == [digest("seed 0 0 L1.E0")]


def test_every_path_is_leased_once_and_to_one_peer(shell: Shell) -> None:
    shell.seed()
    paths = [shell.train_lease(peer(f"v{i}")).path for i in range(4)]
    assert sorted(paths) == [0, 1, 2, 3]
    fifth = shell.lease(peer("v4"))
    assert isinstance(fifth, EvaluateLease)  # nothing to train: look at the seed model


def test_a_module_steps_when_all_paths_through_it_arrived_and_not_before(shell: Shell) -> None:
    shell.seed()
    held = {peer(f"v{i}"): shell.train_lease(peer(f"v{i}")) for i in range(4)}
    leases = {lease.path: lease for lease in held.values()}
    holders = {lease.path: who for who, lease in held.items()}
    for path in (3, 1):  # both go through L2.E1, nothing else is complete
        assert shell.submit(holders[path], leases[path]) == Stands()
    (due,) = shell.schedule.due_steps()
    assert due.module == "L2.E1"
    assert [c.path for c in due.contributions] == [1, 3]
    assert [c.weight for c in due.contributions] == [30, 10]
    assert due.momentum is None


def test_whoever_asks_again_gives_up_what_it_held(shell: Shell) -> None:
    first = shell.lease(ANNA)
    second = shell.lease(ANNA)
    assert isinstance(second, SeedLease) and second.token != first.token
    reply = shell.submit(ANNA, first)
    assert isinstance(reply, Fallen) and "no longer stands" in reply.reason


def test_a_silent_peer_loses_its_lease_and_hears_so(shell: Shell) -> None:
    seed = shell.lease(ANNA, now=0.0)
    assert shell.beat(ANNA, seed, now=15.0) == Stands()
    assert shell.schedule.expire(now=34.9) == ()
    (ended,) = shell.schedule.expire(now=35.0)
    assert isinstance(ended, LeaseEnded) and "silent" in ended.reason
    shell.make((ended,))
    again = shell.lease(BERT, now=36.0)
    assert isinstance(shell.beat(ANNA, seed, now=36.0), Fallen)
    assert shell.submit(BERT, again) == Stands()
    assert isinstance(shell.submit(ANNA, seed), Fallen)


def test_a_broken_connection_ends_the_lease_within_two_seconds_unless_the_peer_is_back(
    shell: Shell,
) -> None:
    seed = shell.lease(ANNA, now=0.0)
    shell.schedule.gone(ANNA, now=5.0)
    assert shell.schedule.expire(now=6.4) == ()
    assert len(shell.schedule.expire(now=6.5)) == 1
    assert shell.beat(ANNA, seed, now=6.45) == Stands()
    assert shell.schedule.expire(now=7.0) == ()


def test_a_lease_whose_work_does_not_get_on_ends_in_spite_of_heartbeats(shell: Shell) -> None:
    seed = shell.lease(ANNA, now=0.0)
    for now in range(10, 400, 10):
        assert shell.beat(ANNA, seed, now=float(now)) == Stands()
    assert shell.beat(ANNA, seed, now=400.0, progress=1) == Stands()
    for now in range(410, 1000, 10):
        assert shell.beat(ANNA, seed, now=float(now), progress=1) == Stands()
    assert shell.schedule.expire(now=999.0) == ()
    assert len(shell.schedule.expire(now=1000.0)) == 1  # 30 times to live after the last step


def test_a_lease_is_nobody_elses_to_renew_to_return_or_to_submit(shell: Shell) -> None:
    seed = shell.lease(ANNA)
    assert isinstance(shell.beat(BERT, seed, now=1.0), Fallen)
    assert shell.schedule.hand_back(BERT, seed.token, "mischief", now=0.0) == ()
    assert isinstance(shell.submit(BERT, seed), Fallen)
    assert shell.submit(ANNA, seed) == Stands()


def test_a_result_that_names_other_modules_ends_the_lease(shell: Shell) -> None:
    seed = shell.lease(ANNA)
    wrong = SeedResult(token=seed.token, states=(), **FIGURES)
    reply = shell.hand_in(ANNA, wrong)
    assert isinstance(reply, Fallen) and "other modules" in reply.reason
    assert isinstance(shell.lease(BERT), SeedLease)


def test_a_result_of_another_kind_of_work_ends_the_lease(shell: Shell) -> None:
    shell.seed()
    training = shell.train_lease(ANNA)
    wrong = SeedResult(token=training.token, states=training.modules, **FIGURES)
    reply = shell.hand_in(ANNA, wrong)
    assert isinstance(reply, Fallen) and "other work than the lease, which is to train" in (
        reply.reason
    )
    assert shell.train_lease(ANNA).path == training.path


def test_a_peer_gets_its_path_again_and_leaves_the_others_theirs(shell: Shell) -> None:
    shell.seed()
    before = {}
    for who in (ANNA, BERT, CARA, peer("dora")):
        lease = shell.train_lease(who)
        before[who] = lease.path
        assert shell.submit(who, lease) == Stands()
    shell.step()
    for who in (CARA, BERT, ANNA):
        assert shell.train_lease(who).path == before[who]


def test_an_old_version_not_yet_evaluated_goes_before_training(shell: Shell) -> None:
    shell.seed()
    for _ in range(2):
        for _ in range(4):
            shell.submit(ANNA, shell.train_lease(ANNA))
        shell.step()
        if shell.ledger.path_version(0) < 2:
            assert shell.ledger.path_version(0) == 1
    lease = shell.lease(ANNA)
    assert isinstance(lease, EvaluateLease) and lease.version == 0


def test_a_path_without_documents_is_never_leased_and_nobody_waits_for_it() -> None:
    shell = Shell(manifest(), (40, 30, 20, 0))
    seen = run_to_end(shell, [ANNA, BERT], random.Random(1))
    assert {lease.path for lease in seen} == {0, 1, 2}


def test_listed_members_alone_get_work() -> None:
    listed = manifest(schedule=Scheduling(schedulers=(peer("scheduler"),), members=(ANNA,)))
    shell = Shell(listed, (1, 1, 1, 1))
    refused = shell.ask(BERT)
    assert isinstance(refused, NoLease) and refused.code == "not-admitted"
    assert isinstance(shell.lease(ANNA), SeedLease)


def test_whoever_verified_another_spec_gets_no_work(shell: Shell) -> None:
    changes, reply = shell.schedule.ask(ANNA, digest("other"), token=bytes(16), now=0.0)
    assert changes == () and isinstance(reply, NoLease) and reply.code == "other-spec"


def run_to_end(shell: Shell, peers: list[PeerId], chance: random.Random) -> list[TrainLease]:
    """Work until the run is over, in a random order, with losses; return what was trained."""
    trained: list[TrainLease] = []
    held: dict[PeerId, Lease] = {}
    now = 0.0
    while not shell.schedule.rounds.finished:
        now += 1.0
        who = chance.choice(peers)
        if who not in held:
            reply = shell.ask(who, now)
            if not isinstance(reply, NoLease):
                held[who] = reply
        elif chance.random() < 0.2:
            shell.hand_back(who, held.pop(who), "paused")
        else:
            lease = held.pop(who)
            new = isinstance(lease, TrainLease) and not is_again(shell.schedule.state, lease)
            if shell.submit(who, lease) == Stands() and new:
                assert isinstance(lease, TrainLease)
                trained.append(lease)
        if chance.random() < 0.3:
            shell.arrive()
        elif chance.random() < 0.1:
            shell.schedule.gone(who, now)
        shell.make(shell.schedule.expire(now))
        if chance.random() < 0.5:
            shell.step()
        assert now < 10_000
    return trained


@pytest.mark.parametrize("chance", range(20))
def test_the_run_ends_with_the_same_states_whatever_the_order_of_arrivals(chance: int) -> None:
    shell = Shell(manifest(), WEIGHTS)
    trained = run_to_end(shell, [ANNA, BERT, CARA], random.Random(chance))
    assert sorted((lease.path, lease.round) for lease in trained) == [
        (path, round_) for path in range(4) for round_ in (1, 2)
    ]
    states = shell.ledger.states
    assert states[ModuleId("stem")][2] == digest("stem 2 from 0123")
    assert states[ModuleId("L1.E1")][2] == digest("L1.E1 2 from 23")
    assert isinstance(shell.ask(ANNA), NoLease) and not shell.schedule.state.accepted

    followed = RunState(manifest())
    for change in shell.log:
        if isinstance(change, Recorded):
            followed.apply(change.entry)
    assert followed.states == states
    assert (
        sum(isinstance(c.entry, ModuleUpdated) for c in shell.log if isinstance(c, Recorded)) == 10
    )


def test_a_restored_schedule_goes_on_where_the_saved_changes_end(shell: Shell) -> None:
    shell.seed()
    lease = shell.lease(BERT)
    shell.submit(BERT, shell.lease(CARA))
    before = shell.schedule
    shell.restart()
    for change in shell.log:
        shell.schedule.apply(change)
    assert shell.schedule.grants == before.grants
    assert shell.schedule.state.accepted == before.state.accepted
    assert shell.schedule.grant_of(BERT, lease.token) is not None


def test_a_result_whose_blobs_are_lost_is_trained_again(shell: Shell) -> None:
    shell.seed()
    lease = shell.train_lease(ANNA)
    shell.submit(ANNA, lease)
    shell.make(shell.schedule.discard(lease.path, lease.round))
    again = shell.train_lease(ANNA)
    assert (again.path, again.round) == (lease.path, lease.round)


def one_round(shell: Shell) -> None:
    for _ in range(4):
        shell.submit(ANNA, shell.lease(ANNA))
    shell.step()
    shell.arrive()


def test_a_lease_names_the_moments_that_the_path_handed_in_for_the_round_before(
    shell: Shell,
) -> None:
    shell.seed()
    assert shell.train_lease(ANNA).moments == ()
    one_round(shell)
    for who in (ANNA, BERT, CARA, peer("dora")):
        lease = shell.train_lease(who)
        assert (lease.round, lease.moments) == (2, moments_of(lease, 1))
        assert {each.digest for each in lease.moments} <= blobs_needed(shell.schedule)
        shell.submit(who, lease)
    shell.step()
    assert isinstance(shell.lease(ANNA), EvaluateLease)
    carried = {d for each in shell.ledger.moments.values() for d in each.values()}
    assert len(carried) == 2 * 12 and not carried & blobs_needed(shell.schedule)  # no round 3


def test_a_path_trained_again_starts_from_the_moments_that_it_had(shell: Shell) -> None:
    """One module has stepped already when the result is lost."""
    shell.seed()
    one_round(shell)
    for who in (ANNA, BERT, CARA):
        shell.submit(who, shell.lease(who))
    step = next(shell.schedule.due_steps())
    shell.make(shell.schedule.stepped(step, state=digest("new"), momentum=digest("momentum")))
    path = next(c.path for c in step.contributions)
    shell.make(shell.schedule.discard(path, 2))
    again = next(
        lease
        for lease in (shell.train_lease(peer(f"v{i}")) for i in range(2))
        if lease.path == path
    )
    assert again.moments == moments_of(again, 1)
    assert {each.digest for each in again.moments} <= blobs_needed(shell.schedule)


@pytest.mark.parametrize("early_stopping", [True, False])
def test_a_path_can_be_trained_again_when_some_of_its_modules_are_ahead(
    early_stopping: bool,
) -> None:
    plain = manifest()
    training = replace(plain.training, early_stopping=early_stopping)
    shell = Shell(replace(plain, training=training), WEIGHTS)
    shell.seed()
    one_round(shell)
    while isinstance(lease := shell.ask(ANNA), EvaluateLease | TrainLease):
        if isinstance(lease, TrainLease):
            assert shell.submit(ANNA, lease) == Stands()
            shell.arrive()
            continue
        assert shell.hand_in(ANNA, evaluation(lease, 30.0 + lease.version)) == Stands()
    step = next(shell.schedule.due_steps())
    shell.make(shell.schedule.stepped(step, state=digest("new"), momentum=digest("momentum")))
    path = step.contributions[0].path
    needed = blobs_needed(shell.schedule)
    shell.make(shell.schedule.discard(path, 2))
    again = shell.train_lease(ANNA)
    assert (again.path, again.round) == (path, 2)
    assert again.inputs <= needed


@pytest.mark.parametrize("early_stopping", [True, False])
def test_the_states_that_paths_are_used_with_are_kept(early_stopping: bool) -> None:
    plain = manifest()
    training = replace(plain.training, early_stopping=early_stopping)
    shell = Shell(replace(plain, training=training), WEIGHTS)
    shell.seed()
    for _ in range(plain.training.rounds):
        one_round(shell)
    while isinstance(lease := shell.ask(ANNA), EvaluateLease):
        assert shell.hand_in(ANNA, evaluation(lease, 30.0 + lease.version)) == Stands()
    view = shell.ledger
    assert shell.schedule.rounds.finished
    seeds = {digests[0] for digests in view.states.values()}
    newest = {digests[-1] for digests in view.states.values()}
    needed = blobs_needed(shell.schedule)
    assert newest <= needed
    assert (seeds <= needed) == early_stopping  # every path was best as the seed model
    assert [view.kept_version(p) for p in range(4)] == [0 if early_stopping else 2] * 4


@pytest.mark.parametrize("steps", [2, 0])
def test_a_lease_names_the_steps_that_its_moments_have_seen(steps: int) -> None:
    two_windows = replace(manifest().source, window=200)  # a path may have no document in one
    shell = Shell(replace(manifest(), source=two_windows), WEIGHTS)
    figures = FIGURES if steps else dict.fromkeys(FIGURES, 0)
    shell.seed()
    while isinstance(lease := shell.ask(ANNA), TrainLease):
        assert lease.steps == 0
        assert shell.hand_in(ANNA, train_result(lease, **figures)) == Stands()
        shell.arrive()
    shell.step()
    again = shell.train_lease(BERT)
    assert (again.round, again.steps) == (2, steps) and again.moments
    TRAIN.check(shell.ledger, again)
    with pytest.raises(RemoteProtocolError, match="moments are not the ledger's"):
        TRAIN.check(shell.ledger, replace(again, steps=2 - steps))


@pytest.mark.parametrize("inner_state", ["carry", "reset"])
def test_moments_are_handed_in_exactly_where_the_manifest_carries_them(inner_state: str) -> None:
    plain = manifest()
    training = replace(plain.training, inner_state=inner_state)
    shell = Shell(replace(plain, training=training), WEIGHTS)
    shell.seed()
    lease = shell.train_lease(ANNA)
    right = train_result(lease)
    for moments in ((), right.moments, right.moments[:-1], right.moments[::-1]):
        _, reply = shell.schedule.submit(ANNA, replace(right, moments=moments), now=0.0)
        due = right.moments if inner_state == "carry" else ()
        assert isinstance(reply, Stands) == (moments == due)
        assert isinstance(reply, Stands) or "moments" in reply.reason


def test_leases_whose_work_a_longer_ledger_has_already_end_and_all_others_stand(
    shell: Shell,
) -> None:
    shell.seed()
    held = [shell.train_lease(who) for who in (ANNA, BERT)]
    evaluates = shell.schedule.ask(CARA, digest("spec"), token=bytes(16), now=0.0)
    shell.make(evaluates[0])
    assert shell.schedule.overtaken() == ()
    done = held[0]
    for module in shell.ledger.topology.path_modules[done.path]:
        paths = shell.ledger.topology.paths_through(module)
        entry = ModuleUpdated(
            module=module,
            version=1,
            contributions=tuple(
                Contribution(
                    path=path, peer=CARA, delta=digest("d"), weight=1, moments=digest("m"), steps=2
                )
                for path in paths
            ),
            state=digest(f"{module} 1"),
            momentum=digest("momentum"),
        )
        shell.ledger.apply(entry)
    ended = shell.schedule.overtaken()
    assert [each.token for each in ended if isinstance(each, LeaseEnded)] == [done.token]
