"""When an event that repeats is told: at once, then at pauses that double while it goes on."""

FIRST_PAUSE = 1.0  # s
LONGEST_PAUSE = 600.0


class Pace:
    """Says of each event whether it is told; after a long quiet time it begins anew."""

    def __init__(self) -> None:
        self._next, self._pause = float("-inf"), FIRST_PAUSE

    def is_due(self, now: float) -> bool:
        """Return whether the event at `now` (seconds of any clock) is told."""
        if now < self._next:
            return False
        quiet = now > self._next + LONGEST_PAUSE
        self._pause = FIRST_PAUSE if quiet else min(2 * self._pause, LONGEST_PAUSE)
        self._next = now + self._pause
        return True
