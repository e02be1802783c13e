"""Shared parts of the benchmarks: the type of a result, samples in turns, peak memory."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any, Literal, NotRequired, TypedDict, TypeVar

from dipaco.cli.views.pace import time_left
from dipaco.protocol.numbers import span

S = TypeVar("S", str, int)


class Result(TypedDict):
    """One line of the table. `ours` and `peer` are medians, taken in one run, in turns."""

    name: str
    ours: float
    peer: float
    """The figure of the program that is compared with, or a limit."""
    ratio: float
    """ours / peer."""
    unit: str
    samples: dict[str, list[float]]
    """All measurements, by side."""
    mark: NotRequired[float]
    """The value that `ratio` must reach, or must not exceed; without one there is no verdict."""
    better: NotRequired[Literal["higher", "lower"]]
    """The side of `mark` that passes; by default `higher`."""
    note: NotRequired[str]
    """The meaning of the figures, in a line."""


def passed(result: Result) -> bool | None:
    """Return whether a result meets its mark; None if it has none."""
    if "mark" not in result:
        return None
    if result.get("better", "higher") == "higher":
        return result["ratio"] >= result["mark"]
    return result["ratio"] <= result["mark"]


def versus(name: str, ours: list[float], peer: list[float], unit: str) -> Result:
    """Return the result of two equally long lists of samples."""
    middle, theirs = median(ours), median(peer)
    return Result(
        name=name,
        ours=middle,
        peer=theirs,
        ratio=middle / theirs,
        unit=unit,
        samples={"ours": ours, "peer": peer},
    )


def in_new_process(module: str, function: str, *arguments: Any) -> Any:
    """Call `benchmarks.{module}.{function}` in a new process; values are passed as JSON."""
    command = [sys.executable, "-m", "benchmarks.child", module, function, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def in_turns(what: str, samples: int, sides: Mapping[S, Sequence[Any]]) -> dict[S, list[Any]]:
    """Take samples of every side in turns, each in a new process, and say on stderr how far it is.

    sides     by name the arguments of `in_new_process`.
    Returns   by side its values, (samples,).
    """
    found: dict[S, list[Any]] = {side: [] for side in sides}
    began, done, total = monotonic(), 0, samples * len(sides)
    for _ in range(samples):
        for side, call in sides.items():
            left = time_left(done, total, monotonic() - began)
            eta = f", about {span(left)} left" if left is not None else ""
            print(f"{what}: sample {done + 1} of {total}: {side}{eta}", file=sys.stderr, flush=True)
            found[side].append(in_new_process(*call))
            done += 1
    return found


def peak_rss(pid: int | str = "self") -> int:
    """Return the largest resident set of a process so far, bytes (Linux); by default this one's."""
    # getrusage cannot be used: its maximum is inherited from the parent process.
    with Path(f"/proc/{pid}/status").open(encoding="ascii") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
