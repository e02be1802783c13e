"""The limit on exclusive apps: no work while a program runs that is to have the machine."""

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from dipaco.node.limits.values import Closed, Observed

PROCESSES = Path("/proc")
COMM_LENGTH = 15  # characters: the kernel cuts the name of a process


@dataclass(frozen=True)
class AppsLimit:
    """Forbids work while a listed program runs."""

    def closed(self, seen: Observed, now: float, *, before: bool) -> Closed | None:
        """Return which programs run, or None."""
        if not seen.apps:
            return None
        verb = "runs" if len(seen.apps) == 1 else "run"
        return Closed(
            code="app",
            why=f"{', '.join(seen.apps)} {verb}",
            opens="goes on when it ends",
            quiet=True,
        )


def running(names: Collection[str], processes: Path = PROCESSES) -> tuple[str, ...]:
    """Return those of `names` that are the name of a process now, in their order."""
    there = set(_names(processes))
    return tuple(name for name in names if name[:COMM_LENGTH] in there)


def _names(processes: Path) -> Iterator[str]:
    if not processes.is_dir():
        for process in psutil.process_iter(["name"]):
            yield str(process.info["name"])[:COMM_LENGTH]
        return
    for folder in processes.iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # it has ended meanwhile
                yield (folder / "comm").read_bytes().decode(errors="replace").rstrip("\n")
