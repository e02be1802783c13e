"""The pauses of a volunteer after failures. Pure.

Pauses grow, since a fault that stayed for an hour stays for another minute, and end, since a person
may mend it at any time.
"""

FAILURES = 5  # of tasks in a row, from which on a pause is long
SHORT_SECONDS = 1.0
FAILURE_SECONDS = 60.0  # the first long pause; it doubles
DEVICE_SECONDS = 10.0  # the first pause after the device failed; it doubles
MAX_SECONDS = 600.0


def after_failures(count: int) -> float:
    """Return the seconds to wait after so many tasks failed in a row, at least 1."""
    return SHORT_SECONDS if count < FAILURES else _doubled(FAILURE_SECONDS, count - FAILURES)


def after_device_failures(count: int) -> float:
    """Return the seconds to wait after the device failed so many times in a row, at least 1."""
    return _doubled(DEVICE_SECONDS, count - 1)


def _doubled(first: float, times: int) -> float:
    return min(MAX_SECONDS, first * 2.0 ** min(times, 16))
