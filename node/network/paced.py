"""Log lines about something that repeats: the first at once, the others after growing pauses."""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import trio

FIRST_PAUSE = 60.0  # s between the first line about a thing and the second; doubled after each line
LONGEST_PAUSE = 3600.0  # s; after a silence of twice as long the thing counts as a new one
MAX_THINGS = 256  # remembered, the latest ones


@dataclass
class _Told:
    last: float
    pause: float
    left_out: int = 0


class Paced:
    """Writes lines through `log`, about each thing ever less often.

    now   the clock, in seconds.
    """

    def __init__(
        self, log: logging.Logger, *, now: Callable[[], float] = trio.current_time
    ) -> None:
        self._log = log
        self._now = now
        self._told: OrderedDict[str, _Told] = OrderedDict()

    def say(
        self,
        thing: str,
        line: str,
        *,
        level: int = logging.WARNING,
        error: BaseException | None = None,
    ) -> None:
        """Log `line` unless one about the same `thing` was logged a short while ago.

        error   whose traceback goes with the first line about a thing.
        """
        now, told = self._now(), self._told.get(thing)
        if told is not None and now - told.last < told.pause:
            told.left_out += 1
            return
        if told is None or now - told.last > 2 * LONGEST_PAUSE:
            told = self._told[thing] = _Told(now, FIRST_PAUSE)
        else:
            told.pause, error = min(LONGEST_PAUSE, 2 * told.pause), None
        self._told.move_to_end(thing)
        if len(self._told) > MAX_THINGS:
            self._told.popitem(last=False)
        more = f" ({told.left_out} more since the last line)" if told.left_out else ""
        told.last, told.left_out = now, 0
        self._log.log(level, "%s%s", line, more, exc_info=error)
