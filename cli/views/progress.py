"""The progress of long work and the time left, on stderr: one display for all verbs.

A terminal gets one bar that changes; a pipe or a file gets plain lines at a bounded rate.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from dipaco.cli.views.pace import LinePacing, Pace
from dipaco.cli.views.text import clock
from dipaco.node.jobs.values import Progress as JobProgress
from dipaco.protocol.numbers import amount
from dipaco.protocol.wire.text import escaped

BAR_WIDTH = 20  # columns
BAR_FROM = 70  # columns of a terminal that has room for a bar
CLOCK_WIDTH = 8  # columns of the time elapsed
REST = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # gets the rest of the width

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Work:
    """The state of a piece of work."""

    title: str
    """The name of the count. With a new title the estimate of the time left begins anew."""
    done: int
    total: int
    """0: not known."""
    unit: str = ""
    """The unit of `done` and `total`."""
    part: str = ""
    """The current part, such as `round 3, path 1`; a new part is worth a plain line."""
    notes: tuple[str, ...] = ()
    """Speed, loss and the like."""

    @property
    def count(self) -> str:
        """The count as text, empty before there is one."""
        return amount(self.done, self.total, self.unit)

    def details(self, left: float | None, width: int | None = None) -> str:
        """Return all but the title in one line; `left` in seconds, None: not known.

        width   cells; parts that do not fit are left out whole, the last first. None: all fit.
        """
        remaining = f"{clock(left)} left" if left is not None else ""
        parts = [part for part in (self.count, remaining, self.part, *self.notes) if part]
        while width is not None and parts and cell_len(", ".join(parts)) > width:
            parts.pop()
        return ", ".join(parts)


class Display(Protocol):
    """Shows the state of a piece of work."""

    def show(self, work: Work) -> None:
        """Show the newest state."""
        ...

    def say(self, line: str) -> None:
        """Print a line that stays."""
        ...


@contextmanager
def display(
    title: str,
    console: Console | None = None,
    *,
    silent: bool = False,
    now: Clock = time.monotonic,
) -> Iterator[Display]:
    """Give the display that suits `console`, stderr by default.

    title    shown until there is a report.
    silent   print lines alone, no progress.
    """
    console = console or Console(stderr=True)
    if silent:
        yield SilentDisplay(console)
        return
    if not console.is_terminal:
        yield PlainDisplay(console, now)
        return
    bar = [BarColumn(BAR_WIDTH)] if console.width >= BAR_FROM else []
    columns = (
        TextColumn("{task.description}", markup=False),
        *bar,
        TimeElapsedColumn(),
        TextColumn("{task.fields[details]}", markup=False, table_column=REST),
    )
    # rich would redirect what is printed on stdout to the console, which is stderr.
    bars = Progress(*columns, console=console, transient=True, redirect_stdout=False, expand=True)
    with bars:
        yield LiveDisplay(bars, title, now, room=console.width - (BAR_WIDTH + 1 if bar else 0))


@contextmanager
def job_display(title: str) -> Iterator[Callable[[JobProgress], None]]:
    """Give a function that shows the progress of one job; every stage has its own time left."""
    with display(title) as shown:
        yield lambda progress: shown.show(job_work(title, progress))


def job_work(title: str, progress: JobProgress) -> Work:
    """Return the state of a job, with `title` and its stage as the title."""
    return Work(
        title=f"{title}: {progress.stage}",
        done=progress.done,
        total=progress.total,
        unit=progress.unit,
        part=progress.note,
        notes=job_notes(progress),
    )


def job_notes(progress: JobProgress) -> tuple[str, ...]:
    """Return speed and loss of a job that trains; for other jobs nothing."""
    if progress.loss is None:
        return ()
    speed = f"{progress.tokens_per_second:,.0f} tokens/s"
    return (speed, f"loss {progress.loss:.3f}")


class PlainDisplay:
    """Plain lines: one for each new part, otherwise one every few seconds."""

    def __init__(self, console: Console, now: Clock) -> None:
        self._console, self._now, self._began = console, now, now()
        self._pace, self._pacing = Pace(), LinePacing(self._began)

    def show(self, work: Work) -> None:
        """Print the state if a line is due."""
        now = self._now()
        left = self._pace.left(work.title, work.done, work.total, now)
        if self._pacing.is_due(work.part, now):
            self.say(f"{clock(now - self._began)}  {work.title}: {work.details(left)}")

    def say(self, line: str) -> None:
        """Print the line."""
        self._console.print(Text(escaped(line)), soft_wrap=True)


class SilentDisplay:
    """Prints lines but no progress, for work whose own output shows its progress."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, work: Work) -> None:
        """Do nothing."""

    def say(self, line: str) -> None:
        """Print the line."""
        self._console.print(Text(escaped(line)), soft_wrap=True)


class LiveDisplay:
    """A bar that redraws itself."""

    def __init__(self, bars: Progress, title: str, now: Clock, *, room: int) -> None:
        """room   columns for title, clock and details."""
        self._room = room
        self._bars, self._now, self._pace = bars, now, Pace()
        self._bar = bars.add_task(title, total=None, details="")

    def show(self, work: Work) -> None:
        """Draw the state."""
        left = self._pace.left(work.title, work.done, work.total, self._now())
        room = self._room - CLOCK_WIDTH - 2
        words = escaped(work.title).split(" ")
        while words and cell_len(" ".join(words)) + cell_len(work.count) > room:
            words.pop()  # the title gives way to the count, which says more that is new
        title = " ".join(words)
        self._bars.update(
            self._bar,
            description=title,
            completed=work.done,
            total=work.total or None,
            details=escaped(work.details(left, room - cell_len(title))),
        )

    def say(self, line: str) -> None:
        """Print the line above the bar."""
        self._bars.console.print(Text(escaped(line)))
