"""Whole nodes under faults by seed: a small fixed part of `make simulate-nodes`."""

from functools import cache

import pytest

from tests.simulation_nodes.__main__ import command
from tests.simulation_nodes.universe import Outcome, plan_of, run_plan

SEEDS = (0, 1, 2)


@cache
def outcome(seed: int) -> Outcome:
    return run_plan(plan_of(seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_under_faults_ends_with_the_states_of_one_left_alone(seed: int) -> None:
    assert outcome(seed).violations == [], f"repeat: {command(seed)}"


def test_equal_seeds_give_equal_universes() -> None:
    events = [outcome(seed).events.hexdigest() for seed in SEEDS]
    assert len(set(events)) == len(SEEDS)
    assert run_plan(plan_of(SEEDS[0])).events.hexdigest() == events[0]
