"""Peers whose leases end without a result: each is left without work for a while. Pure.

A peer that fails over and over would else keep its path from those that could train it. The pauses
grow but end, since it may be the only volunteer, or mended meanwhile. A restart forgets them.
Identities are free, so the failures of peers that have proven nothing count for their IP prefix,
too: its proven peers go on.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from dipaco.protocol.wire.identity import PeerId

FAILURES = 3  # leases in a row without a result, after which a peer is parked; fewer may be chance
FIRST_SECONDS = 10.0  # of the first pause; each further failure doubles it
MAX_SECONDS = 600.0
MAX_PEERS = (
    4096  # remembered, and as many prefixes: the latest to fail; bounded since identities are free
)


@dataclass(frozen=True)
class Parked:
    """The failures in a row of one peer, or of the new peers of one prefix."""

    peer: PeerId
    """The last one that failed."""
    failures: int
    reason: str
    """Of the last one."""
    small: bool
    """Whether all of them were of small work."""
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
        self._failed: dict[str, Parked] = {}
        self._of_prefix: dict[str, Parked] = {}
        """The failures in a row of the peers of a prefix that have proven nothing."""

    def failed(
        self, peer: PeerId, reason: str, now: float, *, prefix: str = "", small: bool = False
    ) -> None:
        """Note that a lease of `peer` ended without a result.

        prefix   that of `peer`, if it has proven nothing; empty: none is counted.
        small    whether it was of small work.
        """
        _count(self._failed, peer, peer, reason, now, small=small)
        if prefix:
            _count(self._of_prefix, prefix, peer, reason, now, small=small)

    def worked(self, peer: PeerId, *, prefix: str = "", small: bool = False) -> None:
        """Note that a result of `peer` counts.

        prefix   that of `peer`, if it trained; empty: the failures of its prefix stand.
        small    whether it is of small work, and so no sign that it can train.
        """
        if small and (found := self._failed.get(peer)) and not found.small:
            return
        self._failed.pop(peer, None)
        self._of_prefix.pop(prefix, None)

    def parked(self, peer: PeerId, now: float, *, prefix: str = "") -> Parked | None:
        """Return why `peer` gets no work `now`; None: it gets some.

        prefix   that of `peer`, if it has proven nothing.
        """
        for found in (self._failed.get(peer), self._of_prefix.get(prefix)):
            if found and now < found.until:
                return found
        return None

    def all_parked(self, now: float) -> Iterator[Parked]:
        """Yield every peer that gets no work `now`."""
        return (found for found in self._failed.values() if now < found.until)


def _count(
    failed: dict[str, Parked], key: str, peer: PeerId, reason: str, now: float, *, small: bool
) -> None:
    before = failed.pop(key, None)
    failures = 1 + (before.failures if before else 0)
    small &= before is None or before.small
    failed[key] = Parked(peer, failures, reason, small, now + pause_after(failures))
    if len(failed) > MAX_PEERS:
        del failed[next(iter(failed))]
