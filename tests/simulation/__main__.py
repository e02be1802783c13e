"""The simulator's front: `python -m tests.simulation --help`; docs/simulation.md explains it."""

import argparse
import sys
from pathlib import Path

from tests.simulation.large import measure
from tests.simulation.many import command, run_many
from tests.simulation.mutations import table
from tests.simulation.shrink import remaining, shrink, without
from tests.simulation.universe import Outcome, run_plan


def main() -> int:
    """Run what the arguments ask for; 1 if a rule did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seed", type=int, help="repeat one universe")
    parser.add_argument(
        "--without", default="", metavar="N,N", help="with --seed: leave these faults out"
    )
    parser.add_argument(
        "--shrink", action="store_true", help="with --seed: leave out what it fails without"
    )
    parser.add_argument(
        "--seeds", type=int, default=1000, help="how many universes, or the most of each bug"
    )
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--state", type=Path, help="a file to go on from")
    parser.add_argument("--mutations", action="store_true", help="how soon planted bugs are found")
    parser.add_argument("--large", action="store_true", help="one universe of 1,000 nodes")
    given = parser.parse_args()
    if given.large:
        print(measure(given.first).text())
        return 0
    if given.mutations:
        return int(not table(given.seeds))
    if given.seed is not None:
        left_out = [int(each) for each in given.without.split(",") if each]
        return _one(given.seed, left_out, shrinks=given.shrink)
    sums = run_many(given.first, given.seeds, given.jobs, given.state)
    print(sums.as_json())
    return int(bool(sums.violations))


def _one(seed: int, left_out: list[int], *, shrinks: bool) -> int:
    outcome = run_plan(without(seed, left_out))
    _tell(outcome)
    for number, fault in enumerate(without(seed, ()).faults):
        print(f"  {'-' if number in left_out else ' '} {number}: {fault}")
    if outcome.violation and shrinks:
        least = shrink(seed, lambda plan: bool(run_plan(plan).violation))
        _tell(run_plan(without(seed, least)))
        for fault in remaining(seed, least):
            print(f"    {fault}")
        print(f"{command(seed)} --without {','.join(map(str, least))}")
    return int(bool(outcome.violation))


def _tell(outcome: Outcome) -> None:
    print(
        f"seed {outcome.seed}: {outcome.events} events, {outcome.seconds:.1f} s, "
        f"hash {outcome.hash}: {outcome.violation or outcome.unavailable or 'all rules held'}"
    )


if __name__ == "__main__":
    sys.exit(main())
