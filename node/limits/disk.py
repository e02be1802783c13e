"""The limit on the disk: work needs some free space, and pauses after a write on a full disk.

A failed write leaves nothing half-written: files and database store each value whole or not at all.
"""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from dipaco.node.limits.values import Closed, Observed
from dipaco.node.storage.files import DiskFull

RETRY_SECONDS = 30.0  # pause after a failed write, even if space seems free: it may be a quota
MARGIN = 1.1  # work resumes at this times `least`: else its own files would stop and start it


@dataclass(frozen=True)
class DiskLimit:
    """Forbids work while the disk of the node's home is short of space."""

    least: int
    """`storage.min_free`, bytes: with less, no work runs."""

    def closed(self, seen: Observed, now: float, *, before: bool) -> Closed | None:
        """Return why no work may run, or None."""
        free = seen.disk_free
        if free is None:
            return None
        if seen.disk_full:
            return no_space(free, seen.disk_full)
        opens_at = math.ceil(self.least * MARGIN)
        if free >= (opens_at if before else self.least):
            return None
        problem = f"storage.min_free is {self.least / 1e9:.1f} GB"
        return _closed(free, problem, f"work goes on when {opens_at / 1e9:.2f} GB are free")


def no_space(free: int, problem: str) -> Closed:
    """Return the reason of a node whose write failed with `problem`; `free` in bytes."""
    return _closed(free, problem, "the node tries again by itself")


def _closed(free: int, problem: str, opens: str) -> Closed:
    return Closed(code="disk", why=f"{free / 1e9:.1f} GB free, {problem}", opens=opens, by="need")


class Disk:
    """What is known of the disk of the home: its free space, and the last write that failed."""

    def __init__(self, free: Callable[[], int]) -> None:
        """`free` returns the bytes that may still be written."""
        self._free = free
        self._problem = ""
        self._retry_at = -math.inf

    @property
    def free(self) -> int:
        """The bytes that may still be written."""
        return self._free()

    def note(self, full: DiskFull) -> None:
        """Have work forbidden for `RETRY_SECONDS`, since a write found the disk full."""
        self._problem, self._retry_at = str(full), trio.current_time() + RETRY_SECONDS

    @property
    def full(self) -> str:
        """The error of a write that found no space in the last `RETRY_SECONDS`; else empty."""
        return self._problem if trio.current_time() < self._retry_at else ""

    def observed(self) -> Observed:
        """Return what the limit on the disk asks for."""
        return Observed(disk_free=self.free, disk_full=self.full)


def free_bytes(folder: Path) -> int:
    """Return the bytes that this user may still write to the disk of `folder`."""
    return shutil.disk_usage(folder).free
