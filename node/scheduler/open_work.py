"""What is to be done now in one run, and which of it a peer may have. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from dipaco.node.kinds.base import Kind, Work
from dipaco.node.kinds.state import SchedulingState
from dipaco.node.scheduler.grants import Grants
from dipaco.protocol.wire.identity import PeerId

AnyKind = Kind[Any, Any]


class OpenWork:
    """The work of one run that is to be done, worked out anew only after a change of its state.

    Peers ask far more often than the state changes: with 256 paths that saves most of an answer.
    """

    def __init__(self, state: SchedulingState, grants: Grants) -> None:
        self._state, self._grants = state, grants
        self._open: dict[AnyKind, dict[Work, Work]] = {}
        self._free: dict[AnyKind, dict[Work, None]] = {}
        """The open work of a kind that has a place left."""
        self._overdue: dict[AnyKind, tuple[Work, ...]] = {}

    def changed(self) -> None:
        """Forget what was worked out: the ledger, the results or the moments changed."""
        self._open.clear()
        self._free.clear()
        self._overdue.clear()

    def of(self, kind: AnyKind) -> Mapping[Work, Work]:
        """Return the open work of a kind by itself, oldest first."""
        if kind not in self._open:
            self._open[kind] = {work: work for work in kind.open(self._state)}
        return self._open[kind]

    def overdue(self, kind: AnyKind) -> tuple[Work, ...]:
        """Return the work of a kind that goes before all other work."""
        if kind not in self._overdue:
            self._overdue[kind] = tuple(kind.overdue(self._state))
        return self._overdue[kind]

    def find(self, peer: PeerId, work: Work) -> Work | None:
        """Return a piece of work as it is open now, with its places, if `peer` may do it."""
        found = self.of(work.kind).get(work)
        return found if found and work.kind.may(self._state, work, peer) else None

    def leased(self, work: Work) -> None:
        """Note that a lease of a piece of work was granted, or ended."""
        free, found = self._free.get(work.kind), self.of(work.kind).get(work)
        if free is None or found is None:
            return
        if self._grants.holders(work) < found.places:
            free[found] = None
        else:
            free.pop(found, None)

    def free(self, kind: AnyKind) -> Collection[Work]:
        """Return the open work of a kind that has a place left, in any order."""
        if kind not in self._free:
            holders = self._grants.holders
            found = (work for work in self.of(kind) if holders(work) < work.places)
            self._free[kind] = dict.fromkeys(found)
        return self._free[kind]

    def may(self, work: Work, peer: PeerId) -> bool:
        """Return whether a piece of work is open, and `peer` may do it."""
        return work in self.of(work.kind) and work.kind.may(self._state, work, peer)

    def freed(self, work: Work, peer: PeerId, *, leases: int = 1) -> Work | None:
        """Return a piece of work if `peer` may have it once so many leases of it end."""
        found = self.of(work.kind).get(work)
        if found is None or self._grants.holders(work) - leases >= found.places:
            return None
        return found if work.kind.may(self._state, found, peer) else None

    def groups(
        self,
        peer: PeerId,
        kinds: Iterable[AnyKind],
        *,
        urgent_of: Iterable[AnyKind] | None = None,
        ended: Collection[Work] = (),
        besides: Collection[Work] = (),
    ) -> Iterator[tuple[Work, ...]]:
        """Yield what `peer` may have, the most urgent first: in groups that are equally urgent.

        In a group the piece goes first that suits `peer` best.

        urgent_of   the kinds whose overdue work goes first; None: `kinds`.
        ended       the work of leases of its that count for nothing.
        besides     work that it does not do.
        """
        kinds, given = tuple(kinds), set(besides)
        freed = (self.freed(work, peer) for work in ended)
        again = [work for work in freed if work]
        for kind in kinds if urgent_of is None else urgent_of:
            free = self.free(kind)
            urgent = [w for w in self.overdue(kind) if (w in free or w in again) and w not in given]
            yield from _by_round(urgent)
            given.update(urgent)
        state = self._state
        for kind in kinds:
            open_now = {*self.free(kind), *(work for work in again if work.kind is kind)} - given
            found = [work for work in open_now if kind.may(state, work, peer)]
            found.sort(key=lambda work, rank=kind.rank: rank(state, work, peer))  # type: ignore[misc]
            yield from _by_round(found)


def _by_round(found: Iterable[Work]) -> Iterator[tuple[Work, ...]]:
    for _, group in groupby(found, key=lambda work: work.round):
        yield tuple(group)
