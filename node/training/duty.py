"""Rests between inner steps, for the heat: the device computes in a share of the time alone.

A rest follows each micro-batch and is in proportion to the time that it took, so that the share
holds for fast devices and slow ones. It changes no value that is computed.
"""

import time
from collections.abc import Callable

TELL_SECONDS = 1.0  # of a rest between two reports of progress: a lease ends without any


def rest_after(worked: float, percent: int) -> float:
    """Return the seconds to rest after `worked` seconds of work, to work in `percent` of all."""
    return max(0.0, worked) * (100 - percent) / percent


class Duty:
    """Keeps one job to its share of the time."""

    def __init__(
        self,
        percent: int,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Begin to work now; `percent` is `compute.duty`."""
        self._percent, self._clock, self._sleep = percent, clock, sleep
        self._began = clock()

    def rest(self, got_on: Callable[[], None]) -> None:
        """Rest for the work since the last rest; `got_on` is called from time to time meanwhile."""
        left = rest_after(self._clock() - self._began, self._percent)
        while left > 0:
            self._sleep(min(left, TELL_SECONDS))
            left -= TELL_SECONDS
            got_on()
        self._began = self._clock()
