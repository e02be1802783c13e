"""Progress of a pass over the source, told a few times a second at most."""

import time
from collections.abc import Callable

from dipaco.node.jobs.values import Progress

INTERVAL = 0.25  # seconds between two reports

OnProgress = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Tell nobody."""


class Meter:
    """Counts documents (or megabytes) and tells how far the pass is."""

    def __init__(
        self,
        on_progress: OnProgress,
        stage: str,
        total: int,
        *,
        unit: str = "documents",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """total: of `unit`; 0 if not known. What is left over the rate is the time to go."""
        self._tell, self._stage, self._total, self._unit = on_progress, stage, total, unit
        self._clock = clock
        self._began = self._told = clock()

    def at(self, done: int) -> None:
        """Say that `done` of them are done: heard if the last report is old, or at the end."""
        now = self._clock()
        if now - self._told < INTERVAL and done != self._total:
            return
        self._told = now
        per_second = done / (now - self._began) if now > self._began else 0.0
        progress = Progress(
            stage=self._stage,
            done=done,
            total=self._total,
            unit=self._unit,
            per_second=per_second,
        )
        self._tell(progress)
