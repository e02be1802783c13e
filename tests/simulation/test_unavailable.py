"""A run that can rightly not go on is told apart from one that is stuck."""

from dataclasses import replace

import pytest

from tests.simulation import universe
from tests.simulation.faults import DiskLost, Fault, Leaves, Plan, plan_of, volunteers
from tests.simulation.universe import run_plan


def calm(*faults: Fault) -> Plan:
    """Return a universe of two volunteers and one round, with these faults alone."""
    plan = plan_of(1)
    return replace(
        plan,
        volunteers=2,
        grid=(1, 2),
        rounds=1,
        latency=0.05,
        calm=30.0,
        schedulers=("scheduler",),
        keepers=("k0", "k1", "k2"),
        healed=(),
        faults=faults,
    )


@pytest.mark.parametrize(
    ("gone", "reason"),
    [
        (("k1", "k2"), "fewer keepers vote than a quorum"),
        (("scheduler",), "all schedulers are gone"),
        (volunteers(2), "all volunteers are gone"),
    ],
)
def test_a_run_whose_nodes_are_gone_for_good_is_unavailable(
    gone: tuple[str, ...], reason: str
) -> None:
    outcome = run_plan(calm(*(Leaves(name, 2.0) for name in gone)))
    assert (outcome.violation, outcome.unavailable) == ("", reason)


def test_a_run_that_may_go_on_and_does_not_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(universe, "ENDS_WITHIN", -25.0)
    outcome = run_plan(calm())
    assert outcome.violation.startswith("the run is stuck") and not outcome.unavailable


def test_one_keeper_of_three_may_be_gone_and_one_may_lose_its_disk() -> None:
    for fault in (Leaves("k1", 12.0), DiskLost("k1", 12.0)):
        outcome = run_plan(calm(fault))
        assert outcome.violation == outcome.unavailable == ""
        assert outcome.happened
