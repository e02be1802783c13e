"""Which peers offer which runs, as they said when they were last asked for all that they hold."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator

from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId

MAX_LISTINGS = 512  # peers whose offers are remembered, the latest; seeds and schedulers go last


class Listings:
    """The runs that each peer offers."""

    def __init__(self, needed: Callable[[], Collection[PeerId]]) -> None:
        """needed: the peers whose listings go last."""
        self._needed = needed
        self._listed: OrderedDict[PeerId, frozenset[Digest]] = OrderedDict()
        self._behind: set[PeerId] = set()
        """The peers that were asked before more runs were wanted."""

    def note(self, peer: PeerId, runs: frozenset[Digest]) -> bool:
        """Note all that `peer` offers, once it was pulled; returns whether that is news."""
        known, behind = self._listed.get(peer), peer in self._behind
        self._behind.discard(peer)
        self._listed[peer] = runs
        self._listed.move_to_end(peer)
        if len(self._listed) > MAX_LISTINGS:
            least = self._least()
            del self._listed[least]
            self._behind.discard(least)
        return behind or known != runs

    def note_one(self, peer: PeerId, run: Digest) -> bool:
        """Note one more run of a peer that has told of all before; returns whether it is news."""
        listed = self._listed.get(peer)
        if listed is None or run in listed:
            return False
        self._listed[peer] = listed | {run}
        return True

    def want_more(self) -> None:
        """Note that more runs are wanted than all of these peers were asked for."""
        self._behind = set(self._listed)

    def of(self, peer: PeerId) -> frozenset[Digest] | None:
        """Return the runs that `peer` offers; None before it was asked for all that it holds."""
        return self._listed.get(peer)

    def offering(self, run: Digest) -> Iterator[PeerId]:
        """Yield the peers that offer a run, those that were asked latest first."""
        for peer in tuple(reversed(self._listed)):
            if run in self._listed.get(peer, ()):
                yield peer

    def has_told(self, peer: PeerId) -> bool:
        """Return whether all that `peer` holds, and is wanted by now, was pulled."""
        return peer in self._listed and peer not in self._behind

    def _least(self) -> PeerId:
        """Return the peer whose listing makes room: the one that was asked longest ago."""
        needed = self._needed()
        return next((p for p in self._listed if p not in needed), next(iter(self._listed)))
