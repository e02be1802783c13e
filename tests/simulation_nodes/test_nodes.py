"""Whole nodes under faults by seed: a small fixed part of `make simulate-nodes`."""

from functools import cache

import pytest

from tests.simulation.shrink import needless
from tests.simulation_nodes.__main__ import command
from tests.simulation_nodes.plan import plan_of
from tests.simulation_nodes.universe import Outcome, run_plan

SEEDS = (3, 8)
"""One without keepers; one with them, whose scheduler is killed, comes back and dies for good."""


@cache
def outcome(seed: int) -> Outcome:
    return run_plan(plan_of(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_under_faults_ends_with_the_states_of_one_left_alone(seed: int) -> None:
    assert outcome(seed).violations == [], f"repeat: {command(seed)}"


@pytest.mark.slow
def test_equal_seeds_give_equal_universes() -> None:
    events = [outcome(seed).events for seed in SEEDS]
    assert len(set(events)) == len(SEEDS)
    assert run_plan(plan_of(SEEDS[0])).events == events[0]


def test_the_shrinker_leaves_the_faults_that_a_failure_needs() -> None:
    plan = plan_of(10)
    needed = {plan.faults[0], plan.faults[-1]}
    left_out = needless(len(plan.faults), lambda out: needed <= set(plan.without(out).faults))
    assert set(plan.without(left_out).faults) == needed
    assert command(10, left_out).endswith(f"--without {','.join(map(str, left_out))}")
