"""The peers that have proven themselves in one run, and how long its work takes them. Pure.

Identities are free, so a peer that has done nothing yet may be one of many of the same attacker.
A peer is proven once a training result of its counts, until a lease of its ends without a result.
"""

import math
from collections import deque
from collections.abc import Iterator

from dipaco.node.kinds.base import Work
from dipaco.protocol.wire.identity import PeerId

MAX_PROVEN = 4096  # remembered, the latest whose work counted
AWAITED_SECONDS = 15.0  # a volunteer without work asks every 10 s at most
RECENT = 32  # durations of each kind of work: those of all paths, and of several machines
PACES = 3  # trainings that a peer's pace is the mean of: it follows a machine that others use, too
MIN_PACE = 0.001  # seconds of any training
SLOWNESS = 6.0  # times the slowest recent work of its kind, or its holder's own longest
LEAST_TTLS = 30  # lease times to live that any holder has
NEW_SLOWNESS = 1.5  # times the slowest recent work of its kind, while a proven peer waits
LEAST_NEW_TTLS = 3  # lease times to live that any holder has while a proven peer waits
LONGEST_SECONDS = 6 * 3600.0  # of any lease that another peer waits for


class Standing:
    """Who has proven itself, and the durations of the work that counted.

    Seconds are those of the scheduler's clock.
    """

    def __init__(self) -> None:
        self._proven: dict[PeerId, float] = {}
        """When each was last heard of; -inf: not since a restart, or it is gone."""
        self._durations: dict[str, deque[float]] = {}
        self._slowest: dict[str, float] = {}
        """The longest of them."""
        self._paces: dict[PeerId, deque[float]] = {}
        """The durations of the last trainings of each proven peer."""
        self._fastest: float | None = None
        """The least of their means, where it was worked out."""
        self._too_slow: dict[PeerId, float] = {}
        """How long peers had held a path's training that was then given to others."""
        self._own: dict[PeerId, float] = {}
        """The longest training of each proven peer: whoever was quick to prove itself stays so."""

    def __len__(self) -> int:
        return len(self._proven)

    def proven(self, peer: PeerId) -> bool:
        """Return whether a training result of `peer` counts, and no lease of its failed since."""
        return peer in self._proven

    def trained(self, peer: PeerId, now: float = float("-inf")) -> None:
        """Note that a training result of `peer` counts."""
        self._proven[peer] = max(now, self._proven.pop(peer, now))
        if len(self._proven) > MAX_PROVEN:
            self.failed(next(iter(self._proven)))

    def failed(self, peer: PeerId) -> None:
        """Note that a lease of `peer` ended without a result."""
        self._proven.pop(peer, None)
        self._own.pop(peer, None)
        self._paces.pop(peer, None)
        self._fastest = None

    def heard_from(self, peer: PeerId, now: float) -> None:
        """Note that a peer was heard of."""
        if peer in self._proven:
            self._proven[peer] = now

    def gone(self, peer: PeerId) -> None:
        """Note that a peer's connection broke."""
        self.heard_from(peer, float("-inf"))

    def awaited(self, now: float) -> set[PeerId]:
        """Return the proven peers that ask for work soon, unless they have some."""
        return {peer for peer, heard in self._proven.items() if now - heard <= AWAITED_SECONDS}

    def heard(self, peer: PeerId, now: float) -> bool:
        """Return whether a proven peer was heard of lately."""
        return now - self._proven.get(peer, float("-inf")) <= AWAITED_SECONDS

    def took(self, peer: PeerId, work: Work, seconds: float) -> None:
        """Note how long work of `peer` took that counted."""
        recent = self._durations.setdefault(work.kind.name, deque(maxlen=RECENT))
        recent.append(seconds)
        self._slowest[work.kind.name] = max(recent)
        if self.proven(peer) and not work.kind.small:
            self._own[peer] = max(seconds, self._own.get(peer, 0.0))
            if work.round:  # of a path: the seed model's training is of another length
                self._paces.setdefault(peer, deque(maxlen=PACES)).append(seconds)
                self._too_slow.pop(peer, None)
                self._fastest = None

    def was_slow(self, peer: PeerId, seconds: float) -> None:
        """Note that a peer was not done with a path's training after so many seconds."""
        self._too_slow[peer] = seconds
        if len(self._too_slow) > MAX_PROVEN:
            del self._too_slow[next(iter(self._too_slow))]

    def pace(self, peer: PeerId) -> float | None:
        """Return the seconds, or more, that a peer needs for a path's training; None: unknown."""
        taken = self._paces.get(peer)
        if not taken:
            return self._too_slow.get(peer)
        return max(MIN_PACE, sum(taken) / len(taken))

    def paces(self) -> Iterator[tuple[PeerId, float]]:
        """Yield the proven peers whose pace is known, and the pace of each."""
        return ((peer, max(MIN_PACE, sum(d) / len(d))) for peer, d in self._paces.items())

    @property
    def fastest(self) -> float:
        """The least pace of a proven peer, in seconds; inf: none is known."""
        if self._fastest is None:
            self._fastest = min((pace for _, pace in self.paces()), default=math.inf)
        return self._fastest

    def slowest(self, work: Work) -> float | None:
        """Return the longest that work of this kind took lately; None: not known."""
        return self._slowest.get(work.kind.name)

    def measured(self, work: Work) -> bool:
        """Return whether it is known how long work of this kind takes."""
        return work.kind.name in self._slowest

    def least(self, ttl: float, *, proven_waits: bool) -> float:
        """Return the seconds before which no lease goes to a peer that waits, whoever holds it."""
        return min(LONGEST_SECONDS, (LEAST_NEW_TTLS if proven_waits else LEAST_TTLS) * ttl)

    def longest(self, holder: PeerId, work: Work, ttl: float, *, proven_waits: bool) -> float:
        """Return the seconds after which a lease may go to a peer that waits for work.

        ttl            of the lease, in seconds.
        proven_waits   whether the peer that waits is proven.
        """
        slowest = self.slowest(work)
        if slowest is None:
            return LONGEST_SECONDS
        longest = max(SLOWNESS * slowest, LEAST_TTLS * ttl)
        own = self._own.get(holder) if self.proven(holder) else 0.0
        if proven_waits and own is not None:
            longest = max(SLOWNESS * own, NEW_SLOWNESS * slowest, LEAST_NEW_TTLS * ttl)
        return min(LONGEST_SECONDS, longest)
