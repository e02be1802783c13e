"""The front: `python -m tests.simulation_nodes --help`; `make simulate-nodes SEEDS=200`."""

import argparse
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tests.simulation.shrink import needless
from tests.simulation_nodes.mutations import table
from tests.simulation_nodes.plan import plan_of
from tests.simulation_nodes.universe import Outcome, run_plan


def main() -> int:
    """Run the universes that the arguments name; 1 if a rule did not hold in one."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation_nodes")
    parser.add_argument("--seed", type=int, help="repeat one universe")
    parser.add_argument("--without", default="", metavar="N,N", help="leave these faults out")
    parser.add_argument(
        "--shrink", action="store_true", help="with --seed: leave out what it fails without"
    )
    parser.add_argument(
        "--seeds", type=int, default=20, help="how many universes, or the most for each bug"
    )
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--mutations", action="store_true", help="how soon planted bugs are found")
    given = parser.parse_args()
    logging.disable()  # what the nodes log is told by the rules, and else nobody's matter
    if given.mutations:
        return int(not table(given.seeds))
    if given.seed is not None:
        left_out = [int(each) for each in given.without.split(",") if each]
        return _one(given.seed, left_out, shrinks=given.shrink)
    return _many(range(given.first, given.first + given.seeds))


def command(seed: int, left_out: Sequence[int] = ()) -> str:
    """Return what repeats a universe."""
    without = f" --without {','.join(map(str, left_out))}" if left_out else ""
    return f"PYTHONHASHSEED=0 .venv/bin/python -m tests.simulation_nodes --seed {seed}{without}"


def _one(seed: int, left_out: list[int], *, shrinks: bool) -> int:
    plan = plan_of(seed)
    print(f"  nodes: {', '.join(plan.nodes)}; keepers: {', '.join(plan.keepers) or 'none'}")
    for number, fault in enumerate(plan.faults):
        print(f"  {'-' if number in left_out else ' '} {number}: {fault}")
    outcome = run_plan(plan.without(left_out))
    _tell(seed, outcome)
    if outcome.violations and shrinks:
        least = needless(len(plan.faults), lambda out: bool(run_plan(plan.without(out)).violations))
        print(f"the faults that it needs: {command(seed, least)}")
        for fault in plan.without(least).faults:
            print(f"    {fault}")
    return int(bool(outcome.violations))


def _tell(seed: int, outcome: Outcome) -> None:
    for rule in outcome.violations:
        print(f"seed {seed}: {rule}")
    print(f"ended at {outcome.ended:.1f} s, events {outcome.events[:16]}")


def _many(seeds: range) -> int:
    happened, failed, began = Counter[str](), list[int](), time.monotonic()
    for seed in seeds:
        outcome = run_plan(plan_of(seed))
        happened.update(outcome.happened)
        for rule in outcome.violations:
            print(f"seed {seed}: {rule}; repeat: {command(seed)}", flush=True)
        if outcome.violations:
            failed.append(seed)
    seconds = time.monotonic() - began
    found = {"universes": len(seeds), "failed": failed, "faults": dict(happened)}
    print(json.dumps(found | {"per_hour": round(3600 * len(seeds) / seconds)}))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
