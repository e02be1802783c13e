"""Progress of a pass over the source, reported at most a few times a second."""

import time
from collections.abc import Callable

from dipaco.node.jobs.values import Progress

INTERVAL = 0.25  # seconds between two reports

OnProgress = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Ignore the progress."""


class Meter:
    """Counts documents (or megabytes) and reports the progress of the pass."""

    def __init__(
        self,
        on_progress: OnProgress,
        stage: str,
        total: int,
        *,
        unit: str = "documents",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """total: number of `unit`s in all; 0 if not known."""
        self._on_progress, self._stage, self._total, self._unit = on_progress, stage, total, unit
        self._clock = clock
        self._began = self._reported = clock()

    def at(self, done: int) -> None:
        """Note that `done` units are done; report it if `INTERVAL` has passed, or at the end."""
        now = self._clock()
        if now - self._reported < INTERVAL and done != self._total:
            return
        self._reported = now
        per_second = done / (now - self._began) if now > self._began else 0.0
        progress = Progress(
            stage=self._stage,
            done=done,
            total=self._total,
            unit=self._unit,
            per_second=per_second,
        )
        self._on_progress(progress)
