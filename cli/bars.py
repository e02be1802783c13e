"""A bar with the time left for one piece of work, on stderr."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dipaco.node.training.jobs import Progress


@contextmanager
def progress_bar(title: str) -> "Iterator[Callable[[Progress], None]]":
    """Give what shows progress with the time left: on a terminal, for a pipe nothing."""
    if not sys.stderr.isatty():
        yield lambda progress: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task(title, total=None)
        stage = ""

        def show(progress: "Progress") -> None:
            nonlocal stage
            if progress.stage != stage:  # another pace: the time left starts anew
                stage = progress.stage
                bars.reset(bar, description=f"{title}: {stage}")
            bars.update(bar, completed=progress.done, total=progress.total or None)

        yield show
