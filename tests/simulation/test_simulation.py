"""A fixed small part of the universes; `make simulate` runs thousands."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.simulation.faults import Crash, plan_of
from tests.simulation.kept import kept_seeds
from tests.simulation.many import Sums, run_many
from tests.simulation.shrink import shrink, without
from tests.simulation.universe import Outcome, run_plan

ROOT = Path(__file__).parent.parent.parent
FIRST_SEEDS = 16


@pytest.mark.slow
def test_all_rules_hold_in_the_first_universes() -> None:
    found = [run_plan(plan_of(seed)) for seed in range(FIRST_SEEDS)]
    assert not [(each.seed, each.violation) for each in found if each.violation]


def test_universes_that_failed_once_do_no_more() -> None:
    found = [run_plan(plan_of(seed)) for seed in kept_seeds()]
    assert not [(each.seed, each.violation) for each in found if each.violation]


def test_a_seed_gives_the_same_events_whatever_the_process_hashes_by() -> None:
    code = (
        "from tests.simulation.faults import plan_of\n"
        "from tests.simulation.universe import run_plan\n"
        "print(run_plan(plan_of(3)).hash)"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == run_plan(plan_of(3)).hash


def test_another_fault_gives_other_events() -> None:
    plan = plan_of(3)
    crash = Crash(node="v0", step=5, point="after", down=1.0, power=False)
    assert run_plan(replace(plan, faults=(crash,))).hash != run_plan(plan).hash


def test_the_shrinker_leaves_the_faults_that_a_failure_needs() -> None:
    faults = plan_of(44).faults
    needed = {faults[2], faults[-1]}
    left_out = shrink(44, lambda plan: needed <= set(plan.faults))
    assert set(without(44, left_out).faults) == needed


def test_the_sums_are_taken_up_where_they_ended(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    run_many(0, 2, 1, state)
    sums = run_many(0, 3, 1, state)
    assert (sums.universes, sums.next_seed) == (3, 3)
    assert Sums.read(state).faults == sums.faults


def test_a_failure_is_counted_and_its_command_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = Outcome(seed=5, hash="", events=1, seconds=1.0, violation="a rule")
    monkeypatch.setattr("tests.simulation.many.run_plan", lambda plan: wrong)
    sums = run_many(5, 1, 1, None)
    assert sums.violations == {5: "a rule"}
    assert "python -m tests.simulation --seed 5" in capsys.readouterr().out
