"""Moments that are still to come from the volunteer that made them: pure.

A result counts with its pseudo-gradients alone, and outer steps wait for nothing else; its
moments, twice as large as the deltas or more, follow while their maker works on (docs/method.md
2.3). Until they are here only their maker can train the path's next round. If it goes away before,
nobody can: the round is trained once more, from what it began with, for its moments alone.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from dipaco.protocol.run.modules import ModuleDigest
from dipaco.protocol.wire.identity import PeerId

Place = tuple[int, int]
"""Path and round."""


@dataclass(frozen=True)
class Pending:
    """The moments of a path after a round that are not here yet."""

    moments: tuple[ModuleDigest, ...]
    maker: PeerId | None
    """Who has them; None: they are lost, unless it comes back in time."""
    gone: float = math.inf
    """When its connection broke."""
    moved: float = math.inf
    """When bytes of them last arrived; before any, when `overdue` was first asked about them."""


class PendingMoments:
    """The moments of one run that are not here yet."""

    def __init__(self) -> None:
        self._pending: dict[Place, Pending] = {}

    def __iter__(self) -> Iterator[Place]:
        return iter(tuple(self._pending))

    def get(self, place: Place) -> Pending | None:
        """Return the moments that a path and round lack, if they lack any."""
        return self._pending.get(place)

    def first_lost(self, path: int, upto: int) -> int | None:
        """Return the first round of `path` up to `upto` whose moments are lost."""
        rounds = (r for (p, r), found in self._pending.items() if p == path and not found.maker)
        return min((round_ for round_ in rounds if round_ <= upto), default=None)

    def add(self, place: Place, pending: Pending) -> None:
        """Note moments that are not here yet."""
        self._pending[place] = pending

    def drop(self, place: Place) -> None:
        """Note that the moments of a path and round are not needed any more."""
        self._pending.pop(place, None)

    def arrived(self, place: Place) -> None:
        """Note that they are here: nothing of earlier rounds is needed any more either."""
        self.forget(place[0], place[1])

    def forget(self, path: int, upto: int) -> None:
        """Drop all moments of `path` up to round `upto`."""
        for place in self:
            if place[0] == path and place[1] <= upto:
                del self._pending[place]

    def got_on(self, place: Place, now: float) -> None:
        """Note that bytes of the moments of a path and round have arrived."""
        if found := self._pending.get(place):
            self._pending[place] = replace(found, moved=now)

    def disconnected(self, peer: PeerId, now: float) -> None:
        """Note that a peer's connection broke."""
        self._set_gone(peer, now)

    def heard_from(self, peer: PeerId) -> None:
        """Note that a peer was heard of."""
        self._set_gone(peer, math.inf)

    def woke(self, now: float) -> None:
        """Count every wait from now on: the scheduler itself stood still."""
        for place, found in self._pending.items():
            gone = found.gone if math.isinf(found.gone) else now
            moved = found.moved if math.isinf(found.moved) else now
            self._pending[place] = replace(found, gone=gone, moved=moved)

    def overdue(self, now: float, *, away: float, upload: float) -> Iterator[Place]:
        """Yield the moments that nobody can be expected to bring.

        Their maker is gone for `away` seconds, or no byte of them came for `upload` seconds.
        """
        for place, found in tuple(self._pending.items()):
            if found.maker is None:
                continue
            moved = min(found.moved, now)
            self._pending[place] = replace(found, moved=moved)
            if found.gone + away <= now or moved + upload <= now:
                yield place

    def _set_gone(self, peer: PeerId, gone: float) -> None:
        for place, found in self._pending.items():
            if found.maker == peer:
                self._pending[place] = replace(found, gone=gone)
