"""Measured figures of the status document: bytes on the disk, memory of the processes.

`StorageMeter` walks a folder in a thread from time to time, so that a status is answered without
reading the disk. The memory of a process is read at each status: two small files of the kernel,
0.08 ms.
"""

import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import trio

from dipaco.node.network.guard import Guard
from dipaco.node.status.document import Memory
from dipaco.node.storage.files import folder_bytes

if TYPE_CHECKING:
    from trio_typing import TaskStatus

LEAST_SECONDS = 10.0  # between two walks: 30,000 files, the most of a cache, take half a second
MOST_SECONDS = 60.0  # between two walks, if no work of this node asks for one sooner

InThread = Callable[[Callable[[], int]], Awaitable[int]]


@dataclass(frozen=True)
class Measured:
    """A size, and when it was measured."""

    bytes: int
    time: float
    """Unix time, seconds."""


class StorageMeter:
    """Keeps the size of a folder up to date; one task, so never two walks at once."""

    def __init__(
        self,
        folder: Path,
        *,
        in_thread: InThread = trio.to_thread.run_sync,
        walk: Callable[[Path], int] | None = None,
        guard: Guard | None = None,
    ) -> None:
        """Measure `folder` with `walk`, which returns the bytes below a folder [`folder_bytes`]."""
        self._walk = partial(walk or folder_bytes, folder)
        self._in_thread = in_thread
        self._guard = guard or Guard()
        self._wanted = trio.Event()
        self.latest: Measured | None = None
        """None before the first walk has ended."""

    def look_soon(self) -> None:
        """Ask for a new measurement, since the folder may have changed."""
        self._wanted.set()

    async def run(self, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Measure at once, and again at most every `LEAST_SECONDS`, until cancelled."""
        task_status.started()
        while True:
            self._wanted = trio.Event()
            doing = "tidying the home"  # by what the runs of peers need
            size = await self._guard.attempt(doing, None, self._in_thread, self._walk)
            if size is not None:
                self.latest = Measured(bytes=size, time=time.time())
            await trio.sleep(LEAST_SECONDS)
            with trio.move_on_after(MOST_SECONDS - LEAST_SECONDS):
                await self._wanted.wait()


def memory(workers: Iterable[int]) -> Memory:
    """Return the resident sets of this process and of the worker processes with these ids."""
    resident, peak = _resident(None)
    return Memory(
        daemon=resident,
        peak=max(resident, peak),
        worker=sum(_resident(pid)[0] for pid in workers),
    )


def _resident(pid: int | None) -> tuple[int, int]:
    """Return the resident set of a process (None: this one) now and at its largest, bytes.

    Both are 0 for a process that has ended; the largest is 0 on systems that do not record it.
    """
    # getrusage cannot be used: its maximum is inherited from the parent process.
    try:
        text = Path(f"/proc/{pid or 'self'}/status").read_bytes()
    except OSError:  # the process has ended, or this is not Linux
        return _resident_by_psutil(pid), 0
    return _kilobytes(b"VmRSS", text), _kilobytes(b"VmHWM", text)


def _kilobytes(name: bytes, text: bytes) -> int:
    found = re.search(rb"^%b:\s+(\d+) kB" % name, text, re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def _resident_by_psutil(pid: int | None) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except (psutil.Error, OSError):  # it has ended meanwhile, or no descriptor is free
        return 0
