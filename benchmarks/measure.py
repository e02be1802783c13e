"""Shared parts of the benchmarks: the type of a result, new processes, peak memory."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any, Literal, NotRequired, TypedDict


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


def peak_rss(pid: int | str = "self") -> int:
    """Return the largest resident set of a process so far, bytes (Linux); by default this one's."""
    # getrusage cannot be used: its maximum is inherited from the parent process.
    with Path(f"/proc/{pid}/status").open(encoding="ascii") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
