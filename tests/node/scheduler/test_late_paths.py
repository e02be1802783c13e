"""Quorum and grace, event by event: as test_schedule, where modules do not wait for all paths."""

from typing import Any

from msgspec.structs import replace

from dipaco.node.kinds.changes import LeaseEnded, Recorded
from dipaco.node.kinds.table import TRAIN
from dipaco.node.scheduler.retention import blobs_needed
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.model_shape import Level
from dipaco.protocol.run.modules import ModuleDigest, ModuleId
from dipaco.protocol.run.training import Quorum
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.calls import Fallen, NoLease, Stands
from dipaco.protocol.work.kinds import EvaluateLease, SeedResult, TrainLease
from dipaco.protocol.work.ledger import ModuleUpdated, RoundMissed
from tests.node.scheduler.shell import ANNA, FIGURES, SPEC, Shell
from tests.values import digest, manifest, peer

WEIGHTS = (40, 30, 20, 10)
GRACE = 30


def run(num: int = 1, den: int = 2, **grid: Any) -> Manifest:
    plain = manifest()
    training = replace(plain.training, rounds=3, quorum=Quorum(num=num, den=den, grace=GRACE))
    return replace(plain, training=training, grid=replace(plain.grid, **grid))


def begun(value: Manifest, weights: tuple[int, ...] = WEIGHTS) -> Shell:
    shell = Shell(value, weights)
    lease, modules = shell.lease(ANNA), value.topology.path_modules[0]
    states = tuple(ModuleDigest(module=m, digest=digest(f"seed {m}")) for m in modules)
    seed = SeedResult(token=lease.token, states=states, **FIGURES)
    assert shell.hand_in(ANNA, seed) == Stands()
    return shell


def leases(shell: Shell, now: float = 0.0, count: int = 4) -> dict[int, tuple[PeerId, TrainLease]]:
    """Have so many peers hold the paths of a round; evaluations are done on the way."""
    held: dict[int, tuple[PeerId, TrainLease]] = {}
    for number in range(count):
        who = peer(f"v{number}")
        while isinstance(lease := shell.lease(who, now), EvaluateLease):
            shell.submit(who, lease, now)
        assert isinstance(lease, TrainLease)
        held[lease.path] = who, lease
    return held


def tick(shell: Shell, now: float) -> int:
    changes = shell.schedule.go_on_without(now)
    shell.make(changes)
    return len(changes)


def entries(shell: Shell, kind: type) -> list[object]:
    made = (change.entry for change in shell.log if isinstance(change, Recorded))
    return [entry for entry in made if isinstance(entry, kind)]


def hand_in(
    shell: Shell, held: dict[int, tuple[PeerId, TrainLease]], paths: tuple[int, ...], now: float
) -> None:
    for path in paths:
        assert shell.submit(*held[path], now) == Stands()


def test_the_grace_begins_with_the_quorum_and_ends_with_the_late_paths_lease() -> None:
    shell = begun(run())
    held = leases(shell)
    hand_in(shell, held, (0,), 1.0)
    assert not tick(shell, 1.0)
    hand_in(shell, held, (1, 2), 5.0)
    assert not tick(shell, 6.0)  # the stem has 3 of 4, of which 2 are enough
    assert not tick(shell, 5.9 + GRACE)
    assert not list(shell.schedule.go_on_without(5.9 + GRACE))
    assert tick(shell, 6.0 + GRACE) == 2
    ended, recorded = shell.log[-2:]
    assert isinstance(ended, LeaseEnded) and ended.failed is None
    assert recorded == Recorded(RoundMissed(path=3, round=1))
    due = {each.module: [c.path for c in each.contributions] for each in shell.schedule.due_steps()}
    assert due == {"stem": [0, 1, 2], "L1.E0": [0, 1], "L1.E1": [2], "L2.E0": [0, 2], "L2.E1": [1]}
    assert all(  # weights over those that took part, as the spec has them
        c.weight == WEIGHTS[c.path]
        for each in shell.schedule.due_steps()
        for c in each.contributions
    )


def test_a_late_result_is_refused_with_its_reason_and_its_holder_has_not_failed() -> None:
    shell = begun(run())
    held = leases(shell)
    hand_in(shell, held, (0, 1, 2), 1.0)
    tick(shell, 1.0)
    tick(shell, 1.0 + GRACE)
    who, late = held[3]
    for reply in (shell.beat(who, late, now=40.0), shell.submit(who, late, 40.0)):
        assert isinstance(reply, Fallen) and "round 1 goes on without path 3" in reply.reason
    assert not list(shell.schedule.parking.all_parked(40.0))


def test_a_result_within_the_grace_counts_and_nobody_is_late() -> None:
    shell = begun(run())
    held = leases(shell)
    hand_in(shell, held, (0, 1, 2), 1.0)
    tick(shell, 1.0)
    hand_in(shell, held, (3,), GRACE)
    assert not tick(shell, 1.0 + GRACE) and shell.step() == 5
    assert not entries(shell, RoundMissed)


def test_fewer_results_than_the_quorum_wait_for_ever() -> None:
    shell = begun(run())
    held = leases(shell)
    hand_in(shell, held, (0,), 1.0)
    for now in (1.0, 1e6, 2e6):
        # L1.E0 has 1 of 2, but without path 1 the stem and L2.E1 would not keep theirs.
        tick(shell, now)
    missed = entries(shell, RoundMissed)
    assert missed == [RoundMissed(path=1, round=1), RoundMissed(path=2, round=1)]
    assert not tick(shell, 3e6)  # the stem needs two results: path 3 is waited for
    assert [each.module for each in shell.schedule.due_steps()] == ["L1.E0", "L2.E0"]


def test_no_path_is_late_where_another_module_would_lose_its_quorum() -> None:
    shell = begun(run(3, 4))  # an expert has two paths, of which two are needed
    held = leases(shell)
    hand_in(shell, held, (0, 1, 2), 1.0)
    for now in (1.0, 1e6):
        assert not tick(shell, now)


def test_a_run_without_a_quorum_waits_for_all() -> None:
    shell = begun(manifest())
    held = leases(shell)
    hand_in(shell, held, (0, 1, 2), 1.0)
    for now in (1.0, 1e6):
        assert not tick(shell, now)
    assert entries(shell, RoundMissed) == []


def missing_once(**grid: Any) -> Shell:
    """Return a schedule in which path 3 has missed round 2; its result of round 1 counts."""
    shell = begun(run(**grid))
    hand_in(shell, leases(shell), (0, 1, 2, 3), 1.0)
    shell.step()
    shell.arrive()
    held = leases(shell, 2.0)
    hand_in(shell, held, (0, 1, 2), 3.0)
    tick(shell, 3.0)
    assert tick(shell, 3.0 + GRACE)
    while shell.step():
        pass
    return shell


def test_a_path_that_missed_a_round_trains_on_from_the_new_version_and_its_own_moments() -> None:
    shell = missing_once()
    shell.arrive()
    assert shell.ledger.path_version(3) == 2
    held = leases(shell, 40.0)
    lease = held[3][1]
    assert lease.round == 3 and lease.steps == 2
    assert lease.modules[0].digest == shell.ledger.states[ModuleId("stem")][2]
    assert [m.digest for m in lease.moments] == [
        digest(f"moments train 3 1 {m.module}") for m in lease.modules
    ]
    TRAIN.check(shell.ledger, lease)  # its holder agrees
    assert lease.inputs <= blobs_needed(shell.schedule)
    hand_in(shell, held, (0, 1, 2, 3), 50.0)
    assert shell.step() == 5 and shell.ledger.path_version(3) == 3


def test_a_module_that_only_the_late_path_goes_through_comes_to_the_version_as_it_is() -> None:
    shell = missing_once(path_specific_blocks=(1,))
    own = shell.ledger.states[ModuleId("p3")]
    assert own == [own[0], own[1], own[1]]
    assert [each.version for each in entries(shell, ModuleUpdated) if each.module == "p3"] == [1]  # type: ignore[attr-defined]
    assert shell.ledger.path_version(3) == 2


def test_the_path_that_missed_a_round_goes_first_in_the_next() -> None:
    shell = missing_once()
    shell.arrive()
    first = leases(shell, 40.0, count=1)
    assert list(first) == [3]


def test_a_restart_begins_the_grace_anew_and_keeps_who_was_late() -> None:
    shell = begun(run())
    held = leases(shell)
    hand_in(shell, held, (0, 1, 2), 1.0)
    tick(shell, 1.0)
    accepted = dict(shell.schedule.state.accepted)
    shell.restart()
    for each in accepted.values():
        shell.schedule.apply(each)
    assert not tick(shell, 2.0 + GRACE)
    assert tick(shell, 2.0 + 2 * GRACE)
    shell.restart()
    for each in accepted.values():
        shell.schedule.apply(each)
    assert len(list(shell.schedule.due_steps())) == 5


def test_the_moments_of_before_a_missed_round_are_looked_for_and_made_again() -> None:
    shell = missing_once()
    shell.restart()
    shell.make(shell.schedule.restored(60.0))
    places = set(shell.schedule.state.pending)
    assert places == {(0, 2), (1, 2), (2, 2), (3, 1)}
    shell.make(shell.schedule.moments_lost((3, 1)))
    again = shell.schedule.lease_again((3, 1))
    assert again.inputs <= blobs_needed(shell.schedule)
    for place in places - {(3, 1)}:
        shell.make(shell.schedule.moments_arrived(place))
    held = leases(shell, 60.0)
    assert held[3][1].round == 1  # for the moments alone
    assert shell.submit(*held[3], 61.0) == Stands()
    shell.make(shell.schedule.moments_arrived((3, 1)))
    assert leases(shell, 62.0, count=1)[3][1].round == 3


def test_a_path_that_missed_all_rounds_begins_at_zero() -> None:
    shell = begun(run())
    held = leases(shell)
    hand_in(shell, held, (0, 1, 2), 1.0)
    tick(shell, 1.0)
    tick(shell, 1.0 + GRACE)
    shell.step()
    shell.arrive()
    lease = leases(shell, 40.0)[3][1]
    assert (lease.round, lease.moments, lease.steps) == (2, (), 0)
    TRAIN.check(shell.ledger, lease)  # its holder agrees


def test_the_ledger_states_the_live_paths_by_which_quorums_are_counted() -> None:
    shell = begun(run(), (40, 30, 0, 10))
    assert shell.ledger.live == [(0, 1, 3)] and shell.ledger.specs == [SPEC]
    held = leases(shell, count=3)
    hand_in(shell, held, (0, 1), 1.0)
    tick(shell, 1.0)
    assert tick(shell, 1.0 + GRACE)  # the stem has 2 of 3, L2.E1 keeps 1 of 2
    due = {each.module: len(each.contributions) for each in shell.schedule.due_steps()}
    assert due == {"stem": 2, "L1.E0": 2, "L2.E0": 1, "L2.E1": 1}
    assert shell.ledger.version(ModuleId("L1.E1")) == 1  # path 3 is its only live one


def test_a_path_that_missed_a_round_is_not_leased_in_it_again() -> None:
    shell = begun(run())
    held = leases(shell)
    hand_in(shell, held, (0, 1, 2), 1.0)
    tick(shell, 1.0)
    tick(shell, 1.0 + GRACE)
    who = peer("v9")
    while not isinstance(lease := shell.ask(who, 40.0), NoLease):
        assert isinstance(lease, EvaluateLease)  # the outer steps of round 1 are still to be taken
        shell.submit(who, lease, 40.0)


def test_the_grace_begins_when_the_late_path_can_train() -> None:
    shell = begun(run(levels=(Level(experts=4, blocks=2),)))
    hand_in(shell, leases(shell), (0, 1, 2, 3), 1.0)
    own = "L1.E3"  # the step of path 3's own module takes long
    for each in [due for due in shell.schedule.due_steps() if due.module != own]:
        shell.make(shell.schedule.stepped(each, state=digest("state"), momentum=digest("momentum")))
    shell.arrive()
    hand_in(shell, leases(shell, 2.0, count=3), (0, 1, 2), 10.0)
    for now in (10.0, 10.0 + GRACE, 100.0):
        assert not tick(shell, now)
    assert [due.module for due in shell.schedule.due_steps()][-1] == own
    shell.step()
    assert not tick(shell, 101.0) and not tick(shell, 100.0 + GRACE)
    assert tick(shell, 101.0 + GRACE)
    assert entries(shell, RoundMissed) == [RoundMissed(path=3, round=2)]
