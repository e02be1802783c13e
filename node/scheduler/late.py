"""Results that come when their lease has ended already. Pure.

A lease may end while its result is on its way: its line was cut, or another peer had the same work.
As long as the work is open such a result counts as any other. If another result counted before, the
two are compared, digest by digest: work that was done twice audits itself. They agree if both are
honest and come from like hardware; a difference says nothing by itself, and nobody is blamed.
"""

from dataclasses import dataclass, replace

from dipaco.node.kinds.changes import Compared, Grant, TrainingAccepted
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.kinds import Result, Token, TrainResult

MAX_LATE = 1024  # leases that are remembered, the last ones that ended


@dataclass(frozen=True)
class LateLease:
    """A lease that ended while its holder may have been done with it."""

    grant: Grant
    counted: TrainingAccepted | None
    """The result that counted in its stead, if there was one by then."""


class LateLeases:
    """The leases of one run that ended last. A restart forgets them."""

    def __init__(self) -> None:
        self._ended: dict[Token, LateLease] = {}

    def add(self, grant: Grant, counted: TrainingAccepted | None) -> None:
        """Note that a lease has ended."""
        self._ended[grant.lease.token] = LateLease(grant, counted)
        if len(self._ended) > MAX_LATE:
            del self._ended[next(iter(self._ended))]

    def find(self, peer: PeerId, token: Token) -> LateLease | None:
        """Return the lease that `peer` held under `token`, if it is remembered."""
        found = self._ended.get(token)
        return found if found and found.grant.peer == peer else None

    def handing_in(self, peer: PeerId, token: Token) -> None:
        """Note that the result of such a lease is on its way."""
        if found := self.find(peer, token):
            grant = replace(found.grant, handed_in=True)
            self._ended[token] = replace(found, grant=grant)

    def got_on(self, peer: PeerId, token: Token, now: float) -> None:
        """Note that the result of such a lease is arriving, or being inspected."""
        if found := self.find(peer, token):
            self._ended[token] = replace(found, grant=replace(found.grant, moved=now))

    def drop(self, token: Token) -> Grant | None:
        """Forget a lease, and return it if it was remembered."""
        found = self._ended.pop(token, None)
        return found.grant if found else None


def compared(late: Result, peer: PeerId, counted: TrainingAccepted) -> Compared | None:
    """Compare a result of `peer` with the one that counted; None: there is nothing to compare."""
    if not isinstance(late, TrainResult) or peer == counted.peer:
        return None
    same = (late.deltas, late.moments) == (counted.result.deltas, counted.result.moments)
    return Compared(counted.path, counted.round, counted.peer, peer, same)
