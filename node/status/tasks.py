"""The tasks of this node: those in work, and in the journal of events those that ended."""

import time
from typing import Any

from msgspec.structs import replace

from dipaco.node.status.event_log import EventLog
from dipaco.node.status.events import Outcome, TaskRecord


class Tasks:
    """Notes how each task goes on."""

    def __init__(self, event_log: EventLog) -> None:
        self._history = event_log
        self._open: dict[int, TaskRecord] = {}

    @property
    def working(self) -> tuple[TaskRecord, ...]:
        """The tasks in work, the newest first."""
        now = time.time()
        return tuple(
            replace(each, seconds=now - each.began) for _, each in sorted(self._open.items())[::-1]
        )

    def begin(self, *, run: str, name: str, kind: str, path: int, round_: int) -> int:
        """Begin a task and return its number."""
        number = self._history.begin_task()
        self._open[number] = TaskRecord(
            number=number,
            run=run,
            name=name,
            kind=kind,
            path=path,
            round=round_,
            began=time.time(),
        )
        return number

    def note(self, number: int, **fields: Any) -> None:
        """Note what is known of a task in work."""
        self._open[number] = replace(self._open[number], **fields)

    def end(self, number: int, outcome: Outcome, text: str, reason: str = "") -> None:
        """Write down that a task ended.

        text     of the event.
        reason   why it was not accepted.
        """
        task = self._open.pop(number)
        ended = replace(task, seconds=time.time() - task.began, outcome=outcome, reason=reason)
        self._history.add("task", outcome, text, run=task.run, task=ended)
