"""Pure decisions of all displays of progress: the time left, and when a plain line is due.

Times are seconds on any clock that does not go back; `now` is an argument.
"""

from typing import Final

LINE_SECONDS: Final = 10.0  # between plain lines while nothing but a count changes
LEAST_SECONDS: Final = 1.0  # between two plain lines, whatever changes


def time_left(done: float, total: float, seconds: float) -> float | None:
    """Return the seconds left if `done` of `total` took `seconds`; None: not known."""
    if done <= 0 or total <= 0:
        return None
    return seconds * max(total - done, 0.0) / done


class Pace:
    """Estimates the time left from the rate of a count since its first report."""

    def __init__(self) -> None:
        self._counted: str | None = None
        self._began = self._first = 0.0

    def left(self, counted: str, done: float, total: float, now: float) -> float | None:
        """Return the seconds left; None: not known yet.

        counted   the name of the count; with a new name the estimate begins anew.
        """
        if counted != self._counted:
            self._counted, self._began, self._first = counted, now, done
        return time_left(done - self._first, total - self._first, now - self._began)


class LinePacing:
    """Bounds the rate of plain lines, for logs and pipes, where no line can be overwritten."""

    def __init__(self, began: float, news: object = "") -> None:
        """news: the first value, which makes no line."""
        self._news, self._waits_since = news, began
        self._said_at = float("-inf")

    def is_due(self, news: object, now: float) -> bool:
        """Return whether to print a line `now`; if so, count it as printed.

        A line is due when `news` has changed, but at most one every `LEAST_SECONDS`; and after
        `LINE_SECONDS` without a line.
        """
        changed = news != self._news and now - self._said_at >= LEAST_SECONDS
        if not changed and now - self._waits_since < LINE_SECONDS:
            return False
        self._news, self._waits_since, self._said_at = news, now, now
        return True
