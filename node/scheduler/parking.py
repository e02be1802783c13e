"""Peers whose leases end without a result: each is left without work for a while. Pure.

A peer that fails over and over would else keep its path from those that could train it. The pauses
grow but end, since it may be the only volunteer, or mended meanwhile. A restart forgets them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from dipaco.protocol.wire.identity import PeerId

FAILURES = 3  # leases in a row without a result, after which a peer is parked; fewer may be chance
FIRST_SECONDS = 10.0  # of the first pause; each further failure doubles it
MAX_SECONDS = 600.0
MAX_PEERS = 4096  # remembered, the latest to fail; bounded since identities are free


@dataclass(frozen=True)
class Parked:
    """The failures of one peer in a row."""

    peer: PeerId
    failures: int
    reason: str
    """Of the last one."""
    until: float
    """Until then it gets no work; seconds on the scheduler's clock."""


def pause_after(failures: int) -> float:
    """Return the seconds without work after so many failures in a row."""
    if failures < FAILURES:
        return 0.0
    return min(MAX_SECONDS, FIRST_SECONDS * 2.0 ** min(failures - FAILURES, 16))


class Parking:
    """The peers of one run that failed last."""

    def __init__(self) -> None:
        self._failed: dict[PeerId, Parked] = {}

    def failed(self, peer: PeerId, reason: str, now: float) -> None:
        """Note that a lease of `peer` ended without a result."""
        before = self._failed.pop(peer, None)
        failures = 1 + (before.failures if before else 0)
        self._failed[peer] = Parked(peer, failures, reason, now + pause_after(failures))
        if len(self._failed) > MAX_PEERS:
            del self._failed[next(iter(self._failed))]

    def worked(self, peer: PeerId) -> None:
        """Note that a result of `peer` counts."""
        self._failed.pop(peer, None)

    def parked(self, peer: PeerId, now: float) -> Parked | None:
        """Return why `peer` gets no work `now`; None: it gets some."""
        found = self._failed.get(peer)
        return found if found and now < found.until else None

    def all_parked(self, now: float) -> Iterator[Parked]:
        """Yield every peer that gets no work `now`."""
        return (found for found in self._failed.values() if now < found.until)
