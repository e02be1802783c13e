"""The events of a node, and its tasks: values that outlive a restart (`event_log.py`).

This module is independent of trio: the client of the local API reads it.
"""

from typing import Final, Literal

import msgspec

State = Literal[
    "starting",
    "connecting",
    "choosing",
    "verifying",
    "refused",
    "fetching",
    "training",
    "waiting",
    "paused",
    "serving",
    "stopping",
]

EventKind = Literal["node", "state", "task"]
Outcome = Literal["working", "accepted", "refused", "handed-back", "lost", "failed"]

Level = Literal["debug", "info", "warning", "error"]

MAX_TEXT: Final = 1000  # characters of a text of an event; the longest reason has some 300


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One task of this node: the work of one lease."""

    number: int
    """From 1, over all starts of this home."""
    run: str
    """Run id, hex."""
    name: str
    """The run's name."""
    kind: str
    """A kind of work: `seed`, `train`, `evaluate`, `score`."""
    path: int
    round: int
    began: float
    """When the lease was taken up, Unix time, seconds."""
    seconds: float = 0.0
    """From then to the end, or until now."""
    steps: int = 0
    """Of training, done so far."""
    tokens_per_second: float = 0.0
    """Of training, at the last report; 0 for other work."""
    loss: float | None = None
    """Nats per token, at the last report; null: none yet."""
    received: int = 0
    """Bytes of blobs that were fetched for it."""
    sent: int = 0
    """Bytes of the blobs that were handed in."""
    outcome: Outcome = "working"
    reason: str = ""
    """Why it was not accepted; else empty."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event of this node."""

    number: int
    """Ascending by one, over all starts of this home."""
    time: float
    """Unix time, seconds."""
    kind: EventKind
    """`node`: it started or stops; `state`: its state, or that of a run, has another reason;
    `task`: a task has ended."""
    code: str
    """`started`, `stopping`; the code of the reason; the outcome of the task."""
    text: str
    run: str = ""
    """Run id, hex; empty: of no single run."""
    state: State | None = None
    """Of a `state`."""
    task: TaskRecord | None = None
    """Of a `task`."""
    tasks: int = 0
    """The number of tasks that were begun so far."""


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some events, ascending by number."""

    events: tuple[Event, ...]
    more: bool
    """Whether there may be later ones: ask again, with `after` the last number."""


class TaskPage(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks of this node, the newest first: those in work, then those that ended."""

    tasks: tuple[TaskRecord, ...]


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the daemon's log."""

    number: int
    """Ascending, from 1 at each start of the daemon."""
    time: float
    """Unix time, seconds."""
    level: Level
    text: str


class LogPage(msgspec.Struct, frozen=True, kw_only=True):
    """The latest lines of the daemon's log since its start."""

    lines: tuple[LogLine, ...]
