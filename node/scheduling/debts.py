"""Moments that are still to come from the volunteer that made them: pure, as `Schedule` is.

A submission counts with its pseudo-gradients alone, and outer steps wait for nothing else; its
moments, twice as large as the deltas or more, follow while their maker works on (docs/method.md
2.3). Until they are here only their maker can train the path's next round. If it goes away before,
nobody can: the round is trained once more, from what it began with, for its moments alone.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from dipaco.protocol.identity import PeerId
from dipaco.protocol.lease import ModuleDigest

Place = tuple[int, int]
"""Path and round."""


@dataclass(frozen=True)
class Debt:
    """The moments of a path after a round."""

    moments: tuple[ModuleDigest, ...]
    maker: PeerId | None
    """Who has them; None: they are lost, unless it comes back in time."""
    gone: float = math.inf
    """When its connection broke."""
    seen: float = math.inf
    """When `overdue` was first asked about it."""


class Debts:
    """What is owed for one run."""

    def __init__(self) -> None:
        self._debts: dict[Place, Debt] = {}

    def __iter__(self) -> Iterator[Place]:
        return iter(tuple(self._debts))

    def get(self, place: Place) -> Debt | None:
        """Return what is owed for a path and round, if it is."""
        return self._debts.get(place)

    def lost(self, path: int, upto: int) -> int | None:
        """Return the first round of `path` up to `upto` whose moments are lost."""
        rounds = (r for (p, r), debt in self._debts.items() if p == path and debt.maker is None)
        return min((round_ for round_ in rounds if round_ <= upto), default=None)

    def bars(self, peer: PeerId, path: int, round_: int) -> bool:
        """Return whether `peer` lacks the moments with which `path` begins `round_`."""
        debt = self._debts.get((path, round_ - 1))
        return debt is not None and debt.maker != peer

    def owe(self, place: Place, debt: Debt) -> None:
        """Note what is owed."""
        self._debts[place] = debt

    def drop(self, place: Place) -> None:
        """Note that it is not wanted any more."""
        self._debts.pop(place, None)

    def pay(self, place: Place) -> None:
        """Note that they are here: nothing of earlier rounds is needed any more either."""
        self.forget(place[0], place[1])

    def forget(self, path: int, upto: int) -> None:
        """Drop what is owed for `path` up to round `upto`."""
        for place in self:
            if place[0] == path and place[1] <= upto:
                del self._debts[place]

    def went(self, peer: PeerId, now: float) -> None:
        """Note that a peer's connection broke."""
        self._set_gone(peer, now)

    def came(self, peer: PeerId) -> None:
        """Note that a peer was heard of."""
        self._set_gone(peer, math.inf)

    def overdue(self, now: float, *, away: float, upload: float) -> Iterator[Place]:
        """Yield what nobody can be expected to bring.

        Its maker is gone for `away` seconds, or had `upload` seconds and did not hand it over.
        """
        for place, debt in tuple(self._debts.items()):
            if debt.maker is None:
                continue
            self._debts[place] = replace(debt, seen=min(debt.seen, now))
            if debt.gone + away <= now or debt.seen + upload <= now:
                yield place

    def _set_gone(self, peer: PeerId, gone: float) -> None:
        for place, debt in self._debts.items():
            if debt.maker == peer:
                self._debts[place] = replace(debt, gone=gone)
