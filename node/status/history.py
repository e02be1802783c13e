"""The history of reasons: why the node did what it did, at every moment of the last 30 days.

A file of the home gets a line whenever the set of reasons changes. The steps of work follow each
other by the second, so a stretch of work is one line. While the node runs, it touches the file
every minute: so the next start knows until when a node lived that ended without a goodbye.
"""

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

from dipaco.node.status.document import Reason
from dipaco.node.storage.files import DiskFull, translated, write_file
from dipaco.protocol.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

FILE = "reasons.jsonl"
KEEP_SECONDS = 30 * 86400.0
MAX_BYTES = 8 << 20  # a line has some 300 bytes: a change every two minutes for 30 days
TOUCH_SECONDS = 60.0  # by so much the end of a killed node is known at worst
TIDY_SECONDS = 86400.0
WORKING = Reason(code="working", text="takes leases and works on them", since=0.0)
STOPPED = Reason(code="not-running", text="the node did not run: it was stopped", since=0.0)
KILLED = Reason(
    code="not-running",
    text="the node did not run: it ended without a goodbye (killed, a crash, or the power)",
    since=0.0,
)
QUIET_STATES = frozenset({"fetching", "training"})
QUIET_CODES = frozenset({"asking", "resuming"})


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """The reasons that held from a moment on."""

    time: float
    """Unix time, seconds."""
    state: str
    reasons: tuple[Reason, ...]
    """The one of the state first."""

    @property
    def codes(self) -> tuple[str, ...]:
        """What tells this entry from the one before."""
        return (self.state, *(each.code for each in self.reasons))


def entry(now: float, state: str, reasons: tuple[Reason, ...]) -> Entry:
    """Return the entry of a state with its reasons; a step of work counts as work."""
    first, *others = reasons
    if state in QUIET_STATES or first.code in QUIET_CODES:
        state, first = "training", msgspec.structs.replace(WORKING, since=now)
    return Entry(time=now, state=state, reasons=(first, *others))


def at(entries: list[Entry], moment: float) -> tuple[Entry, float | None] | None:
    """Return the entry that held at a Unix time, and until when; None: nothing is known of it.

    Where a clock was set back, a moment was there twice: the later one counts.
    """
    for place in reversed(range(len(entries))):
        if entries[place].time <= moment:
            after = entries[place + 1].time if place + 1 < len(entries) else None
            return entries[place], after
    return None


class History:
    """Keeps the reasons in a home."""

    def __init__(self, home: Path | None = None, *, clock: Callable[[], float] = time.time) -> None:
        """Go on with the file in `home`; None: nothing is kept."""
        self._path = None if home is None else home / FILE
        self._clock = clock
        self._codes: tuple[str, ...] = ()
        """Of the last entry that was written."""
        self._end_what_was_killed()
        self.tidy()

    def note(self, state: str, reasons: tuple[Reason, ...]) -> None:
        """Keep the reasons, if others held before."""
        self._append(entry(self._clock(), state, reasons))

    def at(self, moment: float) -> tuple[Entry, float | None] | None:
        """Return what held at a Unix time, as `at`; reads the file."""
        return at(self._entries(), moment)

    def tidy(self) -> None:
        """Remove what is older than `KEEP_SECONDS`, and the oldest of a file that is too long."""
        if self._path is None or not (lines := self._lines()):
            return
        kept = _kept(lines, self._clock() - KEEP_SECONDS)
        if len(kept) < len(lines):
            with suppress(ConfigError, DiskFull):  # it is tried again tomorrow
                write_file(self._path, b"".join(kept))

    async def run(self, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Touch the file from time to time, and note the end."""
        task_status.started()
        try:
            tidied = trio.current_time()
            while True:
                await trio.sleep(TOUCH_SECONDS)
                if self._path is not None:
                    with suppress(OSError):  # removed by somebody: the next entry makes it anew
                        os.utime(self._path)
                if trio.current_time() - tidied >= TIDY_SECONDS:
                    tidied = trio.current_time()
                    self.tidy()
        finally:
            self._append(entry(self._clock(), "stopped", (STOPPED,)))

    def _append(self, new: Entry) -> None:
        if self._path is None or new.codes == self._codes:
            return
        try:
            with translated(self._path, "write"), self._path.open("ab") as file:
                file.write(msgspec.json.encode(new) + b"\n")
                length = file.tell()
        except (ConfigError, Unavailable) as full:  # the next change is tried again
            log.debug("a reason is not kept: %s", full)
            return
        self._codes = new.codes
        if length > MAX_BYTES:
            self.tidy()

    def _end_what_was_killed(self) -> None:
        entries = self._entries()
        if self._path is None or not entries or entries[-1].state == "stopped":
            return
        with suppress(OSError):
            alive = min(max(entries[-1].time, self._path.stat().st_mtime), self._clock())
            self._append(entry(alive, "stopped", (KILLED,)))

    def _entries(self) -> list[Entry]:
        entries = []
        for line in self._lines():
            with suppress(msgspec.DecodeError, UnicodeDecodeError):  # cut by a full disk
                entries.append(msgspec.json.decode(line, type=Entry))
        return entries

    def _lines(self) -> list[bytes]:
        if self._path is None:
            return []
        try:
            with self._path.open("rb") as file:
                return file.readlines(2 * MAX_BYTES)
        except OSError:
            return []


def _kept(lines: list[bytes], oldest: float) -> list[bytes]:
    """Return the lines to keep, with the one that still held at `oldest`.

    Of a file that is too long half as many bytes as it may have.
    """
    length = sum(map(len, lines))
    kept, room = list[bytes](), MAX_BYTES if length <= MAX_BYTES else MAX_BYTES // 2
    for line in reversed(lines):
        room -= len(line)
        if room < 0:
            break
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            found = msgspec.json.decode(line, type=Entry)
            kept.append(line)
            if found.time <= oldest:
                break
    return kept[::-1]
