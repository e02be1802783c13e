"""Tries the attacks: `python -m tests.adversary [--memory] [--seconds S] [NAME...]`.

Without `--memory` against real processes. Prints a table, and exits with 1 if any attack achieves
something.
"""

import argparse
import logging
import math
import sys
import tempfile
from pathlib import Path
from typing import Literal

import trio
from trio.testing import MockClock

from tests.adversary.arena import Outcome
from tests.adversary.memory import memory_arena
from tests.adversary.processes import try_on_processes
from tests.adversary.registry import Attack, all_attacks

HEADINGS = ("attack", "s", "in", "slowest", "hold", "MB", "disk", "fds", "lines", "verdict")
WIDTHS = (28, 6, 8, 8, 6, 6, 6, 5, 6, 0)


def row(outcome: Outcome) -> str:
    """Return an outcome as a line of the table, and its faults below it."""
    slowest = "none" if math.isinf(outcome.calls.slowest) else f"{outcome.calls.slowest:.2f}"
    faults = outcome.faults()
    cells = (
        outcome.attack,
        f"{outcome.seconds:.1f}",
        f"{outcome.got_in}/{outcome.strangers}",
        slowest,
        f"{outcome.hold:.2f}",
        f"{outcome.megabytes:.0f}",
        f"{outcome.disk:.0f}",
        str(outcome.descriptors),
        str(outcome.lines),
        "FAILED" if faults else "held",
    )
    return "\n".join([columns(cells), *(f"    {fault}" for fault in faults)])


def columns(cells: tuple[str, ...]) -> str:
    """Return cells side by side."""
    return " ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()


async def in_memory(attack: Attack, home: Path) -> Outcome:
    """Try one attack on a network of its own; the tests see the run to its end."""
    async with memory_arena(home) as arena:
        return await arena.try_out(attack)


def try_in_memory(attack: Attack) -> Outcome:
    """Try one attack; what ends a node ends the whole network in memory."""
    with tempfile.TemporaryDirectory() as home:
        clock = MockClock(autojump_threshold=0)
        try:
            return trio.run(in_memory, attack, Path(home), clock=clock)
        except BaseExceptionGroup as group:
            leaf: BaseException = group
            while isinstance(leaf, BaseExceptionGroup):
                leaf = leaf.exceptions[0]
            return Outcome(attack.name, attack.purpose, dead=[f"a node, by {leaf!r}"[:200]])


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="tests.adversary")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--memory", action="store_true", help="whole nodes in this process")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each attack that goes on")
    given = parser.parse_args()
    place: Literal["memory", "process"] = "memory" if given.memory else "process"
    chosen = [each for each in all_attacks() if each.runs_on(place)]
    if unknown := set(given.names) - {each.name for each in chosen}:
        parser.error(f"no attack {', '.join(sorted(unknown))} on {place}")
    chosen = [each for each in chosen if not given.names or each.name in given.names]
    logging.getLogger("dipaco").propagate = False
    print(columns(HEADINGS), flush=True)
    tried: list[Outcome] = []

    def show(outcome: Outcome) -> None:
        tried.append(outcome)
        print(row(outcome), flush=True)

    if given.memory:
        for each in chosen:
            show(try_in_memory(each))
    else:
        trio.run(try_on_processes, chosen, given.seconds, show)
    failed = sum(bool(outcome.faults()) for outcome in tried)
    print(f"{len(tried)} of {len(chosen)} attacks tried, {failed} achieved something")
    return 1 if failed or len(tried) < len(chosen) else 0


if __name__ == "__main__":
    sys.exit(main())
