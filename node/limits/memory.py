"""The limit on the memory of the machine: work ends before the kernel has to end a program."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from dipaco.node.limits.values import Closed, Memory, Observed
from dipaco.protocol.numbers import size

LEAST = 0.03  # of the memory: with less free a desktop begins to swap, and the kernel to kill
CGROUP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class MemoryLimit:
    """Forbids work while the machine is short of memory.

    Work goes on once there is room again for all that it had taken, else it would fill the memory
    that its own end had freed.
    """

    def closed(self, seen: Observed, now: float, *, before: bool) -> Closed | None:
        """Return how much is needed and how much is free, or None."""
        memory = seen.memory
        if memory is None:
            return None
        least = round(memory.total * LEAST)
        needs = min(memory.worker + least, memory.total - least)
        if memory.free >= (needs if before else least):
            return None
        return Closed(
            code="memory",
            why=f"needs {size(needs)}, {size(memory.free)} free",
            opens="goes on when other programs leave so much",
            by="need",
        )


def memory(worker: int, *, cgroup: Path = CGROUP, cgroups: Path = CGROUPS) -> Memory:
    """Return the memory of this machine, or of the cgroup of this process where that has less.

    worker   most bytes that the worker processes held so far.
    """
    machine = psutil.virtual_memory()
    total, free = machine.total, machine.available
    for folder in control_groups(cgroup, cgroups):
        with suppress(OSError, ValueError):  # no limit ("max"), or not this version of cgroups
            limit = int((folder / "memory.max").read_text())
            used = int((folder / "memory.current").read_text()) - _cached(folder)
            total, free = min(total, limit), min(free, limit - used)
    return Memory(total=total, free=max(0, free), worker=worker)


def control_groups(cgroup: Path = CGROUP, cgroups: Path = CGROUPS) -> list[Path]:
    """Return the folders of the cgroup of this process and of all above it (version 2).

    Empty where there are none, or only those of version 1.
    """
    with suppress(OSError, UnicodeDecodeError):
        for line in cgroup.read_text().splitlines():
            if line.startswith("0::/"):
                own = cgroups / line.removeprefix("0::/")
                return [own, *(each for each in own.parents if each.is_relative_to(cgroups))]
    return []


def _cached(folder: Path) -> int:
    """Return the bytes of files that the kernel drops when a program needs memory."""
    for line in (folder / "memory.stat").read_text().splitlines():
        name, _, number = line.partition(" ")
        if name == "inactive_file":
            return int(number)
    return 0
