"""An allowance: how much of something may happen per second, with a reserve for bursts. Pure."""


class Allowance:
    """Refills at a steady rate up to its reserve.

    rate      units per second.
    reserve   units that may be taken at once after a quiet time.
    now       the time at the beginning, in seconds; the reserve is full then.
    """

    def __init__(self, rate: float, reserve: float, *, now: float) -> None:
        self._rate, self._reserve = rate, reserve
        self._left, self._at = reserve, now

    def take(self, units: float, *, now: float) -> bool:
        """Take `units` if they are left; returns whether they were."""
        self._refill(now)
        if units > self._left:
            return False
        self._left -= units
        return True

    def owe(self, units: float, *, now: float) -> float:
        """Take `units` whether or not they are left; returns the seconds until none is owed."""
        self._refill(now)
        self._left -= units
        return max(0.0, -self._left / self._rate)

    def _refill(self, now: float) -> None:
        self._left = min(self._reserve, self._left + (now - self._at) * self._rate)
        self._at = now
