"""The limit on the disk: work needs some free space, and pauses after a write on a full disk.

A failed write leaves nothing half-written: files and database store each value whole or not at all.
"""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

from dipaco.node.limits.gate import Closed
from dipaco.node.storage.files import DiskFull

RETRY_SECONDS = 30.0  # pause after a failed write, even if space seems free: it may be a quota
MARGIN = 1.1  # work resumes at this times `least`: else its own files would stop and start it


class DiskLimit:
    """Forbids work while the disk of the node's home is short of space."""

    def __init__(self, free: Callable[[], int], least: int) -> None:
        """Watch the disk through `free`.

        free    returns the bytes that may still be written.
        least   `storage.min_free`, bytes: with less, no work runs.
        """
        self._free = free
        self._least = least
        self._opens_at = least
        """Bytes free; more than `least` while the disk is short."""
        self._problem = ""
        """The error of the last write on a full disk."""
        self._retry_at = -math.inf

    def note(self, full: DiskFull, now: float) -> None:
        """Forbid work for `RETRY_SECONDS`, since a write found the disk full."""
        self._problem, self._retry_at = str(full), now + RETRY_SECONDS

    def closed(self, now: float) -> Closed | None:
        """Return why no work may run `now` (seconds, as in `note`), or None."""
        if now < self._retry_at:
            return self.no_space(self._problem)
        if self._free() >= self._opens_at:
            self._opens_at = self._least
            return None
        self._opens_at = math.ceil(self._least * MARGIN)
        return self._closed(
            f"storage.min_free is {self._least / 1e9:.1f} GB",
            f"work goes on when {self._opens_at / 1e9:.2f} GB are free",
        )

    def no_space(self, problem: str) -> Closed:
        """Return the reason of a node whose write failed with `problem`."""
        return self._closed(problem, "the node tries again by itself")

    def _closed(self, problem: str, opens: str) -> Closed:
        free = f"{self._free() / 1e9:.1f} GB free"
        return Closed(code="disk", why=f"{free}, {problem}", opens=opens)


def free_bytes(folder: Path) -> int:
    """Return the bytes that this user may still write to the disk of `folder`."""
    return shutil.disk_usage(folder).free
