"""The schedule, event by event: pure values, no clock but the numbers given."""

import random

import pytest
from msgspec.structs import replace

from dipaco.node.kinds.changes import Change, LeaseEnded, Recorded
from dipaco.node.scheduling.retention import blobs_needed
from dipaco.node.scheduling.schedule import Schedule
from dipaco.protocol.identity import PeerId
from dipaco.protocol.lease import Evaluation, Lease, Result
from dipaco.protocol.ledger import ModuleUpdated
from dipaco.protocol.manifest import Scheduling
from dipaco.protocol.modules import ModuleDigest, ModuleId
from dipaco.protocol.run_view import RunView
from dipaco.protocol.work import Fallen, Granted, NoLease, Stands
from tests.values import digest, manifest, peer

SPEC = digest("spec")
RUN = digest("run")
TTL = 20.0
ANNA, BERT, CARA = peer("anna"), peer("bert"), peer("cara")


class Desk:
    """A schedule with the shell's order of things: changes first, then the reply."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.tokens = 0
        self.log: list[Change] = []
        self.make(schedule.adopt(SPEC))

    def make(self, changes: tuple[Change, ...]) -> None:
        for change in changes:
            self.schedule.apply(change)
            self.log.append(change)

    def ask(self, who: PeerId, now: float = 0.0) -> Lease | NoLease:
        self.tokens += 1
        token = self.tokens.to_bytes(16, "big")
        changes, reply = self.schedule.ask(who, SPEC, token=token, now=now)
        self.make(changes)
        return reply.lease if isinstance(reply, Granted) else reply

    def lease(self, who: PeerId, now: float = 0.0) -> Lease:
        lease = self.ask(who, now)
        assert isinstance(lease, Lease)
        return lease

    def submit(self, who: PeerId, lease: Lease) -> Stands | Fallen:
        changes, reply = self.schedule.submit(who, self.result(lease))
        self.make(changes)
        return reply

    def result(self, lease: Lease) -> Result:
        names = self.schedule.view.topology.path_modules[lease.path]
        place = f"{lease.kind} {lease.path} {lease.round}"
        return Result(
            token=lease.token,
            blobs=()
            if lease.kind == "evaluate"
            else tuple(ModuleDigest(module=m, digest=digest(f"{place} {m}")) for m in names),
            moments=tuple(
                ModuleDigest(module=m, digest=digest(f"moments {place} {m}")) for m in names
            )
            if lease.kind == "train"
            else (),
            tokens=100,
            seconds=1.0,
            loss_first=3.0,
            loss_last=2.0,
            evaluation=Evaluation(documents=1, tokens=10, nll=30.0)
            if lease.kind == "evaluate"
            else None,
        )

    def beat(self, who: PeerId, lease: Lease, *, now: float, done: int = 0) -> Stands | Fallen:
        return self.schedule.heartbeat(who, lease.token, done=done, now=now)

    def step(self) -> int:
        due = list(self.schedule.due_steps())
        for each in due:
            paths = "".join(str(c.path) for c in each.contributions)
            state = digest(f"{each.module} {each.version} from {paths}")
            self.make(self.schedule.stepped(each, state=state, momentum=digest("momentum")))
        return len(due)

    def arrive(self) -> None:
        """All moments that are owed are here."""
        for place in self.schedule.debts:
            self.make(self.schedule.kept(place))

    def seed(self, who: PeerId = ANNA) -> None:
        assert self.submit(who, self.lease(who)) == Stands()


@pytest.fixture
def desk() -> Desk:
    return Desk(Schedule(manifest(), RUN, (40, 30, 20, 10)))


def test_the_seed_model_comes_first_and_becomes_version_zero_of_every_module(desk: Desk) -> None:
    seed = desk.lease(ANNA)
    assert seed.kind == "seed"
    waiting = desk.ask(BERT)
    assert isinstance(waiting, NoLease) and "seed" in waiting.reason
    assert desk.submit(ANNA, seed) == Stands()
    states = desk.schedule.view.states
    assert list(states) == ["stem", "L1.E0", "L1.E1", "L2.E0", "L2.E1"]
    assert states[ModuleId("L1.E0")] == states[ModuleId("L1.E1")] == [digest("seed 0 0 L1.E0")]


def test_every_path_is_leased_once_and_to_one_peer(desk: Desk) -> None:
    desk.seed()
    paths = [desk.lease(peer(f"v{i}")).path for i in range(4)]
    assert sorted(paths) == [0, 1, 2, 3]
    fifth = desk.lease(peer("v4"))
    assert fifth.kind == "evaluate"  # nothing to train: look at the seed model


def test_a_module_steps_when_all_paths_through_it_arrived_and_not_before(desk: Desk) -> None:
    desk.seed()
    leases = {lease.path: lease for lease in (desk.lease(peer(f"v{i}")) for i in range(4))}
    holders = {g.lease.path: g.peer for g in desk.schedule.grants.values()}
    for path in (3, 1):  # both go through L2.E1, nothing else is complete
        assert desk.submit(holders[path], leases[path]) == Stands()
    (due,) = desk.schedule.due_steps()
    assert due.module == "L2.E1"
    assert [c.path for c in due.contributions] == [1, 3]
    assert [c.weight for c in due.contributions] == [30, 10]
    assert due.momentum is None


def test_whoever_asks_again_gives_up_what_it_held(desk: Desk) -> None:
    first = desk.lease(ANNA)
    second = desk.lease(ANNA)
    assert second.kind == "seed" and second.token != first.token
    reply = desk.submit(ANNA, first)
    assert isinstance(reply, Fallen) and "no longer stands" in reply.reason


def test_a_silent_peer_loses_its_lease_and_its_late_result_is_refused(desk: Desk) -> None:
    seed = desk.lease(ANNA, now=0.0)
    assert desk.beat(ANNA, seed, now=15.0) == Stands()
    assert desk.schedule.expire(now=34.9) == ()
    (ended,) = desk.schedule.expire(now=35.0)
    assert isinstance(ended, LeaseEnded) and "silent" in ended.reason
    desk.make((ended,))
    again = desk.lease(BERT, now=36.0)
    assert isinstance(desk.submit(ANNA, seed), Fallen)
    assert isinstance(desk.beat(ANNA, seed, now=36.0), Fallen)
    assert desk.submit(BERT, again) == Stands()


def test_a_broken_connection_ends_the_lease_in_two_seconds_unless_the_peer_is_back(
    desk: Desk,
) -> None:
    seed = desk.lease(ANNA, now=0.0)
    desk.schedule.gone(ANNA, now=5.0)
    assert desk.schedule.expire(now=6.9) == ()
    assert len(desk.schedule.expire(now=7.0)) == 1
    assert desk.beat(ANNA, seed, now=6.5) == Stands()
    assert desk.schedule.expire(now=7.0) == ()


def test_a_lease_whose_work_does_not_get_on_ends_in_spite_of_heartbeats(desk: Desk) -> None:
    seed = desk.lease(ANNA, now=0.0)
    for now in range(10, 400, 10):
        assert desk.beat(ANNA, seed, now=float(now)) == Stands()
    assert desk.beat(ANNA, seed, now=400.0, done=1) == Stands()
    for now in range(410, 1000, 10):
        assert desk.beat(ANNA, seed, now=float(now), done=1) == Stands()
    assert desk.schedule.expire(now=999.0) == ()
    assert len(desk.schedule.expire(now=1000.0)) == 1  # 30 times to live after the last step


def test_a_lease_is_nobody_elses_to_renew_to_return_or_to_submit(desk: Desk) -> None:
    seed = desk.lease(ANNA)
    assert isinstance(desk.beat(BERT, seed, now=1.0), Fallen)
    assert desk.schedule.hand_back(BERT, seed.token, "mischief") == ()
    assert isinstance(desk.submit(BERT, seed), Fallen)
    assert desk.submit(ANNA, seed) == Stands()


def test_a_submission_that_names_other_modules_ends_the_lease(desk: Desk) -> None:
    seed = desk.lease(ANNA)
    wrong = Result(token=seed.token, blobs=(), tokens=1, seconds=0.0, loss_first=1.0, loss_last=1.0)
    changes, reply = desk.schedule.submit(ANNA, wrong)
    assert isinstance(reply, Fallen) and "other modules" in reply.reason
    desk.make(changes)
    assert desk.lease(BERT).kind == "seed"


def test_a_peer_gets_its_path_again_and_leaves_the_others_theirs(desk: Desk) -> None:
    desk.seed()
    before = {}
    for who in (ANNA, BERT, CARA, peer("dora")):
        lease = desk.lease(who)
        before[who] = lease.path
        assert desk.submit(who, lease) == Stands()
    desk.step()
    for who in (CARA, BERT, ANNA):
        assert desk.lease(who).path == before[who]


def test_an_old_version_not_yet_evaluated_goes_before_training(desk: Desk) -> None:
    desk.seed()
    for _ in range(2):
        for _ in range(4):
            lease = desk.lease(ANNA)
            assert lease.kind == "train"
            desk.submit(ANNA, lease)
        desk.step()
        if desk.schedule.view.path_version(0) < 2:
            assert desk.schedule.view.path_version(0) == 1
    lease = desk.lease(ANNA)
    assert (lease.kind, lease.round) == ("evaluate", 0)


def test_a_path_without_documents_is_never_leased_and_nobody_waits_for_it() -> None:
    desk = Desk(Schedule(manifest(), RUN, (40, 30, 20, 0)))
    seen = run_to_end(desk, [ANNA, BERT], random.Random(1))
    assert {lease.path for lease in seen} == {0, 1, 2}


def test_listed_members_alone_get_work() -> None:
    listed = manifest(schedule=Scheduling(schedulers=(peer("scheduler"),), members=(ANNA,)))
    desk = Desk(Schedule(listed, RUN, (1, 1, 1, 1)))
    refused = desk.ask(BERT)
    assert isinstance(refused, NoLease) and refused.code == "not-admitted"
    assert desk.lease(ANNA).kind == "seed"


def test_whoever_verified_another_spec_gets_no_work(desk: Desk) -> None:
    changes, reply = desk.schedule.ask(ANNA, digest("other"), token=bytes(16), now=0.0)
    assert changes == () and isinstance(reply, NoLease) and reply.code == "other-spec"


def run_to_end(desk: Desk, peers: list[PeerId], chance: random.Random) -> list[Lease]:
    """Work until the run is over, in a random order, with losses; return what was trained."""
    trained, held, now = [], {}, 0.0
    while not desk.schedule.finished:
        now += 1.0
        who = chance.choice(peers)
        if who not in held:
            reply = desk.ask(who, now)
            if isinstance(reply, Lease):
                held[who] = reply
        elif chance.random() < 0.2:
            desk.make(desk.schedule.hand_back(who, held.pop(who).token, "paused"))
        else:
            lease = held.pop(who)
            again = desk.schedule.is_again(lease)
            if desk.submit(who, lease) == Stands() and lease.kind == "train" and not again:
                trained.append(lease)
        if chance.random() < 0.3:
            desk.arrive()
        elif chance.random() < 0.1:
            desk.schedule.gone(who, now)
        desk.make(desk.schedule.expire(now))
        if chance.random() < 0.5:
            desk.step()
        assert now < 10_000
    return trained


@pytest.mark.parametrize("chance", range(20))
def test_the_run_ends_with_the_same_states_whatever_the_order_of_arrivals(chance: int) -> None:
    desk = Desk(Schedule(manifest(), RUN, (40, 30, 20, 10)))
    trained = run_to_end(desk, [ANNA, BERT, CARA], random.Random(chance))
    assert sorted((lease.path, lease.round) for lease in trained) == [
        (path, round_) for path in range(4) for round_ in (1, 2)
    ]
    states = desk.schedule.view.states
    assert states[ModuleId("stem")][2] == digest("stem 2 from 0123")
    assert states[ModuleId("L1.E1")][2] == digest("L1.E1 2 from 23")
    assert isinstance(desk.ask(ANNA), NoLease) and not desk.schedule.accepted

    followed = RunView(manifest())
    for change in desk.log:
        if isinstance(change, Recorded):
            followed.apply(change.entry)
    assert followed.states == states
    assert (
        sum(isinstance(c.entry, ModuleUpdated) for c in desk.log if isinstance(c, Recorded)) == 10
    )


def test_a_restored_schedule_goes_on_where_the_saved_changes_end(desk: Desk) -> None:
    desk.seed()
    lease = desk.lease(BERT)
    desk.submit(BERT, desk.lease(CARA))
    restored = Schedule(manifest(), RUN, (40, 30, 20, 10))
    for change in desk.log:
        restored.apply(change)
    assert restored.grants == desk.schedule.grants
    assert restored.accepted == desk.schedule.accepted
    assert restored.grant_of(BERT, lease.token) is not None


def test_a_submission_whose_blobs_are_lost_is_trained_again(desk: Desk) -> None:
    desk.seed()
    lease = desk.lease(ANNA)
    desk.submit(ANNA, lease)
    desk.make(desk.schedule.discard(lease.path, lease.round))
    again = desk.lease(ANNA)
    assert (again.path, again.round) == (lease.path, lease.round)


def moments_of(lease: Lease, round_: int) -> tuple[ModuleDigest, ...]:
    """Return what `Desk.result` hands in as the moments of a lease's path after a round."""
    return tuple(
        ModuleDigest(
            module=m.module, digest=digest(f"moments train {lease.path} {round_} {m.module}")
        )
        for m in lease.modules
    )


def one_round(desk: Desk) -> None:
    for _ in range(4):
        desk.submit(ANNA, desk.lease(ANNA))
    desk.step()
    desk.arrive()


def test_a_lease_names_the_moments_that_the_path_handed_in_for_the_round_before(
    desk: Desk,
) -> None:
    desk.seed()
    assert desk.lease(ANNA).moments == ()
    one_round(desk)
    for who in (ANNA, BERT, CARA, peer("dora")):
        lease = desk.lease(who)
        assert (lease.round, lease.moments) == (2, moments_of(lease, 1))
        assert {each.digest for each in lease.moments} <= blobs_needed(desk.schedule)
        desk.submit(who, lease)
    desk.step()
    evaluation = desk.lease(ANNA)
    assert (evaluation.kind, evaluation.moments) == ("evaluate", ())
    carried = {d for each in desk.schedule.view.moments.values() for d in each.values()}
    assert len(carried) == 2 * 12 and not carried & blobs_needed(desk.schedule)  # no round 3


def test_a_path_trained_again_starts_from_the_moments_that_it_had(desk: Desk) -> None:
    """One module has stepped already when the submission is lost."""
    desk.seed()
    one_round(desk)
    for who in (ANNA, BERT, CARA):
        desk.submit(who, desk.lease(who))
    step = next(desk.schedule.due_steps())
    desk.make(desk.schedule.stepped(step, state=digest("new"), momentum=digest("momentum")))
    path = next(c.path for c in step.contributions)
    desk.make(desk.schedule.discard(path, 2))
    again = next(
        lease for lease in (desk.lease(peer(f"v{i}")) for i in range(2)) if lease.path == path
    )
    assert again.moments == moments_of(again, 1)
    assert {each.digest for each in again.moments} <= blobs_needed(desk.schedule)


@pytest.mark.parametrize("early_stopping", [True, False])
def test_the_states_that_paths_are_used_with_are_kept(early_stopping: bool) -> None:
    plain = manifest()
    training = replace(plain.training, early_stopping=early_stopping)
    desk = Desk(Schedule(replace(plain, training=training), RUN, (40, 30, 20, 10)))
    desk.seed()
    for _ in range(plain.training.rounds):
        one_round(desk)
    while isinstance(lease := desk.ask(ANNA), Lease):
        worse = Evaluation(documents=1, tokens=10, nll=30.0 + lease.round)
        changes, _ = desk.schedule.submit(ANNA, replace(desk.result(lease), evaluation=worse))
        desk.make(changes)
    view = desk.schedule.view
    assert desk.schedule.finished
    seeds = {digests[0] for digests in view.states.values()}
    newest = {digests[-1] for digests in view.states.values()}
    needed = blobs_needed(desk.schedule)
    assert newest <= needed
    assert (seeds <= needed) == early_stopping  # every path was best as the seed model
    assert [view.kept_version(p) for p in range(4)] == [0 if early_stopping else 2] * 4


@pytest.mark.parametrize("inner_state", ["carry", "reset"])
def test_moments_are_handed_in_exactly_where_the_manifest_carries_them(inner_state: str) -> None:
    plain = manifest()
    training = replace(plain.training, inner_state=inner_state)
    desk = Desk(Schedule(replace(plain, training=training), RUN, (40, 30, 20, 10)))
    lease = desk.lease(ANNA)
    named = tuple(ModuleDigest(module=m, digest=digest("m")) for m in ("stem", "L1.E0", "L2.E0"))
    unasked = replace(desk.result(lease), moments=named)
    _, reply = desk.schedule.submit(ANNA, unasked)
    assert isinstance(reply, Fallen) and "moments" in reply.reason  # of the seed phase
    desk.submit(ANNA, lease)
    lease = desk.lease(ANNA)
    right = desk.result(lease)
    for moments in ((), right.moments, right.moments[:-1], right.moments[::-1]):
        submission = replace(right, moments=moments)
        _, reply = desk.schedule.submit(ANNA, submission)
        due = right.moments if inner_state == "carry" else ()
        assert isinstance(reply, Stands) == (moments == due)
