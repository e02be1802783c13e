"""The journal of events: JSON lines in `events/` of the home, which can be read again for 30 days.

Each file holds the events from the number on that is its name. Files are only appended to, and the
oldest are removed, so that all stay within a bound. An event is no promise to a peer: it is not
synced, a line that a crash has torn is skipped, and on a full disk events are lost and the node
goes on.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from dipaco.node.condition import Condition
from dipaco.node.status.events import MAX_TEXT, Event, EventKind, State, TaskRecord
from dipaco.protocol.wire.text import one_line

log = logging.getLogger(__name__)

KEPT_SECONDS = 30 * 24 * 3600.0  # of an event: a month, as `why` and `events` promise
FILE_BYTES = 1 << 20  # of one file, some 5,000 events; one is decoded in 10 ms
MAX_FILES = 32  # of at most FILE_BYTES and one line each: a month of a task every 30 s
RECENT = 512  # events in memory, for clients that watch
TAIL_BYTES = 1 << 16  # of the last file, in which its last event is found; a line has at most 8 kB

_EVENT: Final = msgspec.json.Decoder(Event)
_SUFFIX: Final = ".jsonl"


class EventLog:
    """Writes events, and keeps the latest in memory."""

    def __init__(self, folder: Path | None = None) -> None:
        """Go on where the journal in `folder` ends; None: nothing is written."""
        self._folder = folder
        self._path: Path | None = None
        """The file that is appended to; None: the next event begins one."""
        self.recent: deque[Event] = deque(maxlen=RECENT)
        self.number, self.tasks = 0, 0
        """Of the last event; of tasks that were begun."""
        self.changed = Condition()
        if folder is not None:
            self._resume(folder)

    def begin_task(self) -> int:
        """Return the number of a new task."""
        self.tasks += 1
        return self.tasks

    def add(
        self,
        kind: EventKind,
        code: str,
        text: str,
        *,
        run: str = "",
        state: State | None = None,
        task: TaskRecord | None = None,
    ) -> None:
        """Write an event down, and tell whoever watches."""
        self.number += 1
        event = Event(
            number=self.number,
            time=time.time(),
            kind=kind,
            code=code,
            text=one_line(text, MAX_TEXT),
            run=run,
            state=state,
            task=task,
            tasks=self.tasks,
        )
        self.recent.append(event)
        self._write(event)
        self.changed.notify()

    def after(self, number: int) -> list[Event]:
        """Return the events in memory whose numbers are larger."""
        return [event for event in self.recent if event.number > number]

    @property
    def before_recent(self) -> int:
        """The number before that of the first event in memory."""
        return self.recent[0].number - 1 if self.recent else self.number

    def holds(self, number: int) -> bool:
        """Return whether all events after this number are in memory."""
        return number >= self.before_recent

    # ------------------------------------------------------------------ the files

    def _resume(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            files = _files(folder)
            if files:
                self._read_last(files[-1])
        except OSError as error:
            log.warning("the events of earlier starts are not known: %s", error)

    def _read_last(self, path: Path) -> None:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            tail = file.read()
        found = list(_decoded(tail))
        self.number = max((event.number for event in found), default=_first(path))
        self.tasks = max((event.tasks for event in found), default=0)
        self.recent.extend(_unbroken(found))
        if tail.endswith(b"\n"):  # else a crash tore the last line: nothing is appended to it
            self._path = path

    def _write(self, event: Event) -> None:
        if self._folder is None:
            return
        try:
            if self._path is None:
                self._path = self._new_file(self._folder, event)
            with self._path.open("ab", buffering=0) as file:
                whole = file.write(data := msgspec.json.encode(event) + b"\n") == len(data)
                if not whole or file.tell() >= FILE_BYTES:
                    self._path = None
        except OSError as error:
            log.debug("event %d is not written: %s", event.number, error)

    def _new_file(self, folder: Path, event: Event) -> Path:
        """Return the path of a new file, and remove files for which there is no room or reason."""
        files, oldest = _files(folder), event.time - KEPT_SECONDS
        stale = [path for path in files if path.stat().st_mtime < oldest]
        for path in {*stale, *files[: -(MAX_FILES - 1)]}:
            path.unlink(missing_ok=True)
        return folder / f"{event.number:012d}{_SUFFIX}"


def page_of(folder: Path, after: int, since: float, limit: int) -> list[Event]:
    """Return at most `limit` events after a number and a time, ascending; call it in a thread."""
    since = max(since, time.time() - KEPT_SECONDS)
    files, found = _files(folder), list[Event]()
    for path, following in zip(files, [*files[1:], None], strict=True):
        if following is not None and _first(following) <= after + 1:
            continue
        with suppress(OSError):  # removed meanwhile
            if path.stat().st_mtime < since:
                continue
            found += (e for e in _events(path) if e.number > after and e.time >= since)
        if len(found) >= limit:
            break
    return found[:limit]


def latest_tasks(folder: Path, limit: int) -> list[TaskRecord]:
    """Return the last tasks that ended, the newest first; call it in a thread."""
    found: list[TaskRecord] = []
    for path in reversed(_files(folder)):
        with suppress(OSError):
            found += reversed([event.task for event in _events(path) if event.task])
        if len(found) >= limit:
            break
    return found[:limit]


def _unbroken(events: list[Event]) -> list[Event]:
    """Return the last events that follow each other without a gap."""
    gaps = [n for n in range(1, len(events)) if events[n].number != events[n - 1].number + 1]
    return events[max(gaps, default=0) :]


def _files(folder: Path) -> list[Path]:
    """Return the files of the journal, the oldest first."""
    return sorted(path for path in folder.glob(f"*{_SUFFIX}") if path.stem.isdecimal())


def _first(path: Path) -> int:
    return int(path.stem)


def _events(path: Path) -> Iterator[Event]:
    return _decoded(path.read_bytes())


def _decoded(data: bytes) -> Iterator[Event]:
    """Yield the events of whole lines; a damaged or torn one is left out."""
    for line in data.splitlines():
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            yield _EVENT.decode(line)
