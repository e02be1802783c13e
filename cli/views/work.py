"""The tasks of a node: those in work, and those that ended."""

from collections.abc import Sequence

from dipaco.cli.views.events import moment
from dipaco.cli.views.layout import Column, table_text
from dipaco.node.status.events import TaskRecord
from dipaco.protocol.numbers import size, span

COLUMNS = (
    Column("task"),
    Column("begun", words=True, drop=7),
    Column("run", words=True, drop=6),
    Column("kind", words=True, drop=2),
    Column("path"),
    Column("round"),
    Column("steps", drop=5),
    Column("time", drop=3),
    Column("tokens/s", drop=4),
    Column("loss", drop=3),
    Column("received", drop=8),
    Column("sent", drop=8),
    Column("outcome", words=True),
)


def tasks_text(tasks: Sequence[TaskRecord], width: int | None) -> str:
    """Return a line for each task, the oldest first."""
    if not tasks:
        return "no task yet"
    return table_text(COLUMNS, [_row(task) for task in reversed(tasks)], width)


def _row(task: TaskRecord) -> tuple[str, ...]:
    words = task.outcome.replace("-", " ")
    return (
        str(task.number),
        moment(task.began),
        task.name,
        task.kind,
        str(task.path),
        str(task.round),
        str(task.steps) if task.steps else "-",
        span(max(0.0, task.seconds)),
        f"{task.tokens_per_second:,.0f}" if task.tokens_per_second else "-",
        "-" if task.loss is None else f"{task.loss:.3f}",
        size(task.received) if task.received else "-",
        size(task.sent) if task.sent else "-",
        f"{words}: {task.reason}" if task.reason else words,
    )
