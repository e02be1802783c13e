"""Allowances: how much of something may happen in a time, with a reserve for bursts. Pure.

What is spent comes back bit by bit.
"""

from dataclasses import dataclass


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


@dataclass(frozen=True)
class _Spent:
    amount: float
    at: float


class Allowances:
    """What each key has left; a key may be anything that strangers name, so they are bounded.

    burst    the most that a key may spend at once.
    seconds  in which a key gets back what it may spend at once.
    keys     the most keys kept; when there are more, the one is forgotten that spent first.
    """

    def __init__(self, burst: float, *, seconds: float, keys: int) -> None:
        self._burst, self._rate, self._keys = burst, burst / seconds, keys
        self._spent: dict[str, _Spent] = {}

    def __len__(self) -> int:
        return len(self._spent)

    def wait(self, key: str, now: float) -> float:
        """Return the seconds until `key` may spend 1; 0: it may now."""
        return max(0.0, (self._used(key, now) + 1 - self._burst) / self._rate)

    def spend(self, key: str, now: float, amount: float = 1.0) -> None:
        """Take from `key`; nothing is left when `amount` is more than it has."""
        used = min(self._burst, self._used(key, now) + amount)
        self._spent.pop(key, None)
        self._spent[key] = _Spent(used, now)
        if len(self._spent) > self._keys:
            del self._spent[next(iter(self._spent))]

    def give_back(self, key: str, now: float) -> None:
        """Undo a `spend` of 1."""
        used = self._used(key, now) - 1
        if used > 0:
            self._spent[key] = _Spent(used, now)
        else:
            self._spent.pop(key, None)

    def _used(self, key: str, now: float) -> float:
        spent = self._spent.get(key)
        return max(0.0, spent.amount - (now - spent.at) * self._rate) if spent else 0.0
