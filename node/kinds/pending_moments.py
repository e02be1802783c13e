"""Moments that are still to come from the volunteer that made them: pure.

A result counts with its pseudo-gradients alone, and outer steps wait for nothing else; its
moments, twice as large as the deltas or more, follow while their maker works on (docs/method.md
2.3). Until they are here only their maker can train the path's next round. If it goes away before,
nobody can: the round is trained once more, from what it began with, for its moments alone.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from dipaco.protocol.run.modules import ModuleDigest
from dipaco.protocol.wire.identity import PeerId

K = TypeVar("K")
V = TypeVar("V")

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
        self._rounds: dict[int, set[int]] = {}
        """The rounds in it, by path."""
        self._lost: dict[int, set[int]] = {}
        """The rounds in it that nobody has, by path."""
        self._of: dict[PeerId, set[Place]] = {}
        """The places in it, by maker."""

    def __iter__(self) -> Iterator[Place]:
        return iter(tuple(self._pending))

    def get(self, place: Place) -> Pending | None:
        """Return the moments that a path and round lack, if they lack any."""
        return self._pending.get(place)

    def rounds(self, path: int) -> list[int]:
        """Return the rounds of `path` whose moments are not here yet."""
        return sorted(self._rounds.get(path, ()))

    def first_lost(self, path: int, upto: int) -> int | None:
        """Return the first round of `path` up to `upto` whose moments are lost."""
        return min((each for each in self._lost.get(path, ()) if each <= upto), default=None)

    def add(self, place: Place, pending: Pending) -> None:
        """Note moments that are not here yet."""
        before = self._pending.get(place)
        self._unlist(place, before)
        self._pending[place] = pending  # one that is there already keeps its turn
        path, round_ = place
        self._rounds.setdefault(path, set()).add(round_)
        if pending.maker is None:
            self._lost.setdefault(path, set()).add(round_)
        else:
            self._of.setdefault(pending.maker, set()).add(place)

    def drop(self, place: Place) -> None:
        """Note that the moments of a path and round are not needed any more."""
        self._unlist(place, self._pending.pop(place, None))

    def _unlist(self, place: Place, pending: Pending | None) -> None:
        if pending is None:
            return
        path, round_ = place
        _discard(self._rounds, path, round_)
        if pending.maker is None:
            _discard(self._lost, path, round_)
        else:
            _discard(self._of, pending.maker, place)

    def arrived(self, place: Place) -> None:
        """Note that they are here: nothing of earlier rounds is needed any more either."""
        self.forget(place[0], place[1])

    def forget(self, path: int, upto: int) -> None:
        """Drop all moments of `path` up to round `upto`."""
        for round_ in self.rounds(path):
            if round_ <= upto:
                self.drop((path, round_))

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
        for place in self._of.get(peer, ()):
            found = self._pending[place]
            if found.gone != gone:
                self._pending[place] = replace(found, gone=gone)


def _discard(index: dict[K, set[V]], key: K, value: V) -> None:
    """Remove a value from an index, and its key with the last one."""
    found = index[key]
    found.discard(value)
    if not found:
        del index[key]
