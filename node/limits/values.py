"""The values of limits: the last observations of this machine, and a limit's answer to them.

A limit is a frozen value whose one method is pure: it gets the observations, the time and its own
last answer, and returns why no work may run now, or None. Clocks, files and buses are read
elsewhere (`watch.py`), so a test of a limit needs numbers alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

By = Literal["you", "need", "limit"]
ORDER: Final[tuple[By, ...]] = ("you", "need", "limit")
"""Whose pause is told first: the person's own, then what the work lacks, then a limit that is set.
"""
Mode = Literal["runs", "finishing", "user", "start-paused", "finished"]


@dataclass(frozen=True, kw_only=True)
class Order:
    """The last order of the person who runs the node: `pause`, `resume` or `finish`."""

    mode: Mode = "runs"
    since: float = 0.0
    """Unix time of the order, seconds."""
    until: float | None = None
    """Unix time at which a pause ends by itself, seconds; None: with `resume` alone."""
    gpus_off: tuple[int, ...] = ()
    """Numbers of the GPUs that are not to be used, ascending."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of this machine, or of the cgroup if that has less; bytes."""

    total: int
    free: int
    """That programs can get without swapping."""
    worker: int = 0
    """Most that the worker processes held at once since the start of the node."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """The last observations. A field that is None was not looked at, and closes nothing."""

    order: Order = Order()
    device: str = "cpu"
    """That trains, as `cuda:0`."""
    no_device: str = ""
    """Why the device that trains has not been seen yet; empty: it was."""
    disk_free: int | None = None
    """Bytes that this user may still write to the disk of the home."""
    disk_full: str = ""
    """The error of a write that found no space a short while ago."""
    idle_seconds: float | Literal["unknown"] | None = None
    """Time since the last input of a person."""
    on_battery: bool | None = None
    metered: bool | None = None
    """Whether the connection is paid by traffic."""
    traffic: int | None = None
    """Bytes on the wire today, both ways."""
    apps: tuple[str, ...] = ()
    """Programs that run now, of those that the configuration lists."""
    celsius: float | None = None
    """Temperature of the device that trains."""
    memory: Memory | None = None


@dataclass(frozen=True, kw_only=True)
class Closed:
    """The reason why a limit forbids work."""

    code: str
    """For programs: one per limit, listed in docs/operation.md."""
    why: str
    opens: str
    """The event or the command that would open the gate, in words."""
    by: By = "limit"
    since: float | None = None
    """Unix time, seconds; None: since the gate first met it."""
    until: float | None = None
    """Unix time at which the gate opens by itself, seconds; None: no time is known."""
    quiet: bool = False
    """Whether the node also sends and fetches no blobs meanwhile."""

    def __str__(self) -> str:
        """Return the text for a person, or for the scheduler that gets the lease back."""
        return f"{self.why}; {self.opens}"


class Limit(Protocol):
    """One condition that may forbid work, such as a full disk."""

    def closed(self, seen: Observed, now: float, *, before: bool) -> Closed | None:
        """Return why no work may run `now` (Unix time, seconds), or None.

        before   whether this limit forbade work when it was asked last: a limit on a measure opens
                 a little farther from the line than it closes, so that nothing flaps.
        """
        ...


def closed_by(
    limits: Iterable[Limit], seen: Observed, now: float, before: Mapping[Limit, Closed]
) -> dict[Limit, Closed]:
    """Return the limits that forbid work `now` with their reasons, the one to tell first first.

    before   the answer of the last time.
    """
    asked = ((limit, limit.closed(seen, now, before=limit in before)) for limit in limits)
    found = ((limit, reason) for limit, reason in asked if reason is not None)
    return dict(sorted(found, key=lambda each: ORDER.index(each[1].by)))
