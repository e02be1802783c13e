"""Some planted bugs are found at once; `python -m tests.simulation --mutations` tries them all."""

import pytest

from tests.simulation.faults import plan_of
from tests.simulation.mutations import MUTATIONS, Mutation
from tests.simulation.universe import run_plan

CHEAP = {
    "nothing is synced before the answer": 8,
    "a keeper forgets its promise at a restart": 8,
    "an outer step takes one delta twice": 6,
}
"""Bugs that few universes find, and how many do at most."""


@pytest.mark.slow
@pytest.mark.parametrize("name", CHEAP)
def test_a_planted_bug_is_found(name: str) -> None:
    (mutation,) = (each for each in MUTATIONS if each.name == name)
    count, violation = mutation.found_after(CHEAP[name])
    assert count and violation


def test_without_a_bug_nothing_is_found() -> None:
    assert Mutation("none", lambda: []).found_after(2) == (0, "")
    assert run_plan(plan_of(0)).violation == ""


def test_every_planted_bug_has_a_name_of_its_own() -> None:
    assert len({each.name for each in MUTATIONS}) == len(MUTATIONS) >= 10
