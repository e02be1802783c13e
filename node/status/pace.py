"""The pace of a run: rounds per hour, from when this node saw its ledger get on. Pure.

The ledger has no times. So the pace is that of the rounds that were done while this node looked,
over the last hour, and nothing is kept over a restart.
"""

from collections import deque

from dipaco.node.status.run_details import PaceStatus

WINDOW_SECONDS = 3600.0  # of which the pace is told: volunteers come and go in the course of a day
STEP = 0.25  # rounds between two looks that are kept: a ledger of many modules has many records
MAX_LOOKS = 512  # of the window; a run that is faster than 128 rounds an hour is seen for less
HOUR = 3600.0  # s
END_STEP = 10.0  # s to which the end is told: a status that nothing changes stays the same


class Pace:
    """When how many rounds were done."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, float]] = deque(maxlen=MAX_LOOKS)

    def note(self, now: float, done: float) -> None:
        """Note the rounds that are done, in the mean of all paths, at a Unix time."""
        if not self._looks or done < self._looks[-1][1]:  # a ledger that begins anew
            self._looks.clear()
            self._looks.append((now, done))
        elif done >= self._looks[-1][1] + STEP:
            self._looks.append((now, done))
            while len(self._looks) > 2 and self._looks[1][0] <= now - WINDOW_SECONDS:
                self._looks.popleft()

    def now(self, now: float, done: float, rounds: int) -> PaceStatus:
        """Return the pace of a run of so many rounds; a standstill makes it lower and lower."""
        per_hour = self._per_hour(now)
        left, ends = rounds - done, None
        if per_hour and left > 0:
            ends = round((now + left / per_hour * HOUR) / END_STEP) * END_STEP
        shown = None if per_hour is None else round(per_hour, 2)
        return PaceStatus(done=done, per_hour=shown, ends=ends)

    def _per_hour(self, now: float) -> float | None:
        if len(self._looks) < 2:
            return None
        (began, first), (latest, last) = self._looks[0], self._looks[-1]
        # Up to the latest step, or up to now if that has taken longer than the steps before.
        mean = (latest - began) / (len(self._looks) - 1)
        seconds = max(latest, now - mean) - began
        return (last - first) / seconds * HOUR if seconds > 0 else None
