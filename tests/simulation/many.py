"""Many universes, in several processes: one line a thousand, and the sums as JSON at the end."""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.simulation.faults import plan_of
from tests.simulation.universe import Outcome, run_plan

LINE = 1000  # universes
SAVED = 50  # universes after which the sums are written down
CHUNK = 20  # universes that a process takes at once
NICE = 10


@dataclass
class Sums:
    """What the universes so far came to."""

    next_seed: int
    universes: int = 0
    seconds: float = 0.0
    """Of work, over all starts."""
    cpu_seconds: float = 0.0
    events: int = 0
    simulated_seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    """By kind the times that it struck."""
    struck: Counter[str] = field(default_factory=Counter)
    """By kind the universes that it struck in."""
    unavailable: Counter[str] = field(default_factory=Counter)
    """Universes that could rightly not go on, by reason."""
    violations: dict[int, str] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Take in a universe."""
        self.universes += 1
        self.events += outcome.events
        self.cpu_seconds += outcome.cpu_seconds
        self.simulated_seconds += outcome.seconds
        self.faults += outcome.happened
        self.struck.update(outcome.happened.keys())
        self.unavailable.update([outcome.unavailable] if outcome.unavailable else [])
        if outcome.violation:
            self.violations[outcome.seed] = outcome.violation

    def as_json(self) -> str:
        """Return the sums as they are printed, and read again."""
        return json.dumps(
            {
                "next_seed": self.next_seed,
                "universes": self.universes,
                "universes_per_hour": round(3600 * self.universes / max(self.seconds, 1e-9)),
                "seconds": round(self.seconds, 1),
                "cpu_seconds": round(self.cpu_seconds, 1),
                "events": self.events,
                "simulated_seconds": round(self.simulated_seconds),
                "faults": dict(self.faults.most_common()),
                "universes_struck": dict(self.struck.most_common()),
                "unavailable": dict(self.unavailable.most_common()),
                "violations": {str(seed): text for seed, text in self.violations.items()},
            },
            indent=1,
        )

    @classmethod
    def read(cls, path: Path) -> "Sums":
        """Take up the sums of an earlier start."""
        found = json.loads(path.read_text())
        return cls(
            next_seed=found["next_seed"],
            universes=found["universes"],
            seconds=found["seconds"],
            cpu_seconds=found["cpu_seconds"],
            events=found["events"],
            simulated_seconds=found["simulated_seconds"],
            faults=Counter(found["faults"]),
            struck=Counter(found["universes_struck"]),
            unavailable=Counter(found["unavailable"]),
            violations={int(seed): text for seed, text in found["violations"].items()},
        )


def run_many(first: int, count: int, jobs: int, state: Path | None) -> Sums:
    """Run the universes of `count` seeds from `first` on, and print as they pass.

    state   a file that the sums are written to, line by line, and taken up from; None: neither.
    """
    sums = Sums.read(state) if state and state.exists() else Sums(next_seed=first)
    end, before = first + count, time.monotonic()
    for outcome in _outcomes(sums.next_seed, end, jobs):
        sums.add(outcome)
        sums.next_seed += 1
        if outcome.violation:
            print(
                f"seed {outcome.seed}: {outcome.violation}\n  {command(outcome.seed)}", flush=True
            )
        if sums.universes % SAVED == 0 or sums.next_seed == end:
            sums.seconds, before = sums.seconds + time.monotonic() - before, time.monotonic()
            if state:
                state.parent.mkdir(parents=True, exist_ok=True)
                state.write_text(sums.as_json())
        if sums.universes % LINE == 0 or sums.next_seed == end:
            _say(sums)
    return sums


def _say(sums: Sums) -> None:
    print(
        f"{sums.universes} universes, {3600 * sums.universes / sums.seconds:.0f} an hour, "
        f"{sums.events} events, {sums.faults.total()} faults, "
        f"{sums.unavailable.total()} unavailable, {len(sums.violations)} violations",
        flush=True,
    )


def command(seed: int) -> str:
    """Return the command that repeats a universe."""
    return f"python -m tests.simulation --seed {seed}"


def _outcomes(first: int, end: int, jobs: int) -> Iterator[Outcome]:
    """Yield the outcomes in the order of their seeds."""
    if jobs == 1:
        yield from map(_one, range(first, end))
        return
    with ProcessPoolExecutor(jobs, initializer=os.nice, initargs=(NICE,)) as pool:
        yield from pool.map(_one, range(first, end), chunksize=CHUNK)


def _one(seed: int) -> Outcome:
    return run_plan(plan_of(seed))
