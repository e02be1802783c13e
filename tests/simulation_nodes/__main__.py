"""The front: `python -m tests.simulation_nodes --help`; `make simulate-nodes SEEDS=200`."""

import argparse
import json
import logging
import sys
import time
from collections import Counter

from tests.simulation_nodes.universe import Plan, plan_of, run_plan


def main() -> int:
    """Run the universes that the arguments name; 1 if a rule did not hold in one."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation_nodes")
    parser.add_argument("--seed", type=int, help="repeat one universe")
    parser.add_argument("--without", default="", metavar="N,N", help="leave these faults out")
    parser.add_argument("--seeds", type=int, default=20, help="how many universes")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    given = parser.parse_args()
    logging.disable()  # what the nodes log is told by the rules, and else nobody's matter
    if given.seed is not None:
        return _one(given.seed, [int(each) for each in given.without.split(",") if each])
    return _many(range(given.first, given.first + given.seeds))


def command(seed: int) -> str:
    """Return what repeats a universe."""
    return f"PYTHONHASHSEED=0 .venv/bin/python -m tests.simulation_nodes --seed {seed}"


def _one(seed: int, left_out: list[int]) -> int:
    whole = plan_of(seed)
    faults = tuple(f for number, f in enumerate(whole.faults) if number not in left_out)
    for number, fault in enumerate(whole.faults):
        print(f"  {'-' if number in left_out else ' '} {number}: {fault}")
    outcome = run_plan(Plan(seed, whole.volunteers, faults))
    for rule in outcome.violations:
        print(f"seed {seed}: {rule}")
    print(f"ended at {outcome.ended:.1f} s, events {outcome.events.hexdigest()[:16]}")
    return int(bool(outcome.violations))


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
