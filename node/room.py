"""Room on the disk: without it a node is paused, says so, and goes on by itself when there is some.

Nothing is half-written then: files and database take what they are given whole or not at all.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from dipaco.node.status.activity import Activity
from dipaco.node.storage.files import DiskFull

LOOK_SECONDS = 5.0  # between two looks at how much is free
PAUSE_SECONDS = 30.0  # after a write found no room, however much seems free: it may be a quota


@dataclass(frozen=True)
class Room:
    """Watches the disk that a node's home is on."""

    board: Activity
    free: Callable[[], int]
    """Bytes that may still be written."""
    least: int
    """`storage.min_free`, bytes: with less, no work is begun."""

    async def wait(self) -> None:
        """Return once there is room to begin some work; paused until then."""
        while (free := self.free()) < self.least:
            problem = f"storage.min_free is {self.least / 1e9:.1f} GB; goes on when there is room"
            self.board.say("disk", free=free / 1e9, problem=problem)
            await trio.sleep(LOOK_SECONDS)

    async def after(self, full: DiskFull) -> None:
        """Pause since a write found no room; return when it is worth another try."""
        self.say(str(full))
        await trio.sleep(PAUSE_SECONDS)
        await self.wait()

    def say(self, problem: str) -> None:
        """Put it on the board that nothing can be written."""
        self.board.say("disk", free=self.free() / 1e9, problem=f"{problem}; tries again by itself")


def free_bytes(folder: Path) -> int:
    """Return how much this user may still write to the disk that `folder` is on."""
    return shutil.disk_usage(folder).free
