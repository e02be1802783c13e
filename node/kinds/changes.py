"""What may happen to a schedule: the changes that its events return, and the steps that are due.

Frozen values. The shell saves a change, applies it, and answers then (`service.py`).
"""

import math
from dataclasses import dataclass

from dipaco.node.kinds.pending_moments import Pending, Place
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.kinds import Lease, Token, TrainResult
from dipaco.protocol.work.ledger import Contribution, Entry

# For which a peer whose connection broke may come back and go on. Its work is with another one
# within 2 s, the time to notice and to grant a lease among them.
RECONNECT_SECONDS = 1.5
STALL_TTLS = 30  # lease times to live without any progress, heartbeats or not: its holder hangs


@dataclass(frozen=True)
class Grant:
    """A lease in somebody's hand."""

    lease: Lease
    peer: PeerId
    granted: float
    """When it was granted, on the scheduler's clock. No time is saved: a restart grants anew."""
    beat: float = -math.inf
    """When its holder was last heard of."""
    progress: int = 0
    """The holder's own count of its progress, as last reported."""
    moved: float = -math.inf
    """When the work last got on: that count grew, or bytes of the result arrived. Infinite while
    the result is inspected, which is no work of its holder."""
    gone: float = math.inf
    """When its holder's connection broke."""
    prefix: str = ""
    """The IP prefix of its holder; empty: not counted, or not known since a restart."""
    restored: bool = False
    """Whether a restart, or the end of a standstill, granted it anew: its work began before."""
    behind: Token = b""
    """The lease that its holder works on first, while it has this one in hand; empty: it works on
    this one. Not saved: after a restart every holder is taken to work on its lease."""
    handed_in: bool = False
    """Whether its holder hands in the result: it may begin with the next lease."""
    begun: float = -math.inf
    """When a holder was first heard to work on a lease that it had in hand before."""

    @property
    def since(self) -> float:
        """When the work on it began."""
        return max(self.granted, self.begun)

    @property
    def deadline(self) -> float:
        """When the lease ends if nothing more is heard."""
        stalled = max(self.granted, self.moved) + STALL_TTLS * self.lease.ttl
        return min(self.silent_at, stalled, self.gone + RECONNECT_SECONDS)

    @property
    def silent_at(self) -> float:
        """When the lease ends for want of a heartbeat."""
        return max(self.granted, self.beat) + self.lease.ttl


@dataclass(frozen=True)
class LeaseEnded:
    """A lease no longer stands."""

    token: bytes
    reason: str
    counted: bool = False
    """Whether its result counts."""
    failed: float | None = None
    """When its holder failed, on the scheduler's clock; None: the end is no failure of its."""
    late: bool = False
    """Whether its result is still taken if it comes soon: its holder may be done with it."""


@dataclass(frozen=True)
class TrainingAccepted:
    """A path's result of a round counts; its lease ends with it."""

    path: int
    round: int
    peer: PeerId
    result: TrainResult


@dataclass(frozen=True)
class TrainingDiscarded:
    """An accepted result does not count after all: the path is trained again."""

    path: int
    round: int


@dataclass(frozen=True)
class MomentsPending:
    """Moments that count are not here yet. Not saved: see `Schedule.restored`."""

    place: Place
    pending: Pending


@dataclass(frozen=True)
class MomentsArrived:
    """They are here and were checked. Not saved either."""

    place: Place


@dataclass(frozen=True)
class Recorded:
    """An entry joins the ledger."""

    entry: Entry


@dataclass(frozen=True)
class PlaceTaken:
    """A peer waits for work, at the end of the queue."""

    key: str
    """The peer, or the IP prefix of peers that have proven nothing."""
    peer: PeerId
    now: float
    """When, on the scheduler's clock; not saved: a restart sets it anew."""
    held_back: bool = False
    """Whether it is too slow for the work that is left: none is kept for it. Not saved."""


@dataclass(frozen=True)
class PlaceLeft:
    """A place in the queue is given up."""

    key: str


@dataclass(frozen=True)
class Compared:
    """Two peers did the same work, and their results were compared. Not saved."""

    path: int
    round: int
    counted: PeerId
    """Whose result counts."""
    other: PeerId
    agreed: bool
    """Whether both have the same digests, as honest results from like hardware do."""


Change = (
    Grant
    | LeaseEnded
    | TrainingAccepted
    | TrainingDiscarded
    | MomentsPending
    | MomentsArrived
    | Recorded
    | Compared
    | PlaceTaken
    | PlaceLeft
)


@dataclass(frozen=True)
class DueStep:
    """An outer step whose contributions are complete."""

    module: ModuleId
    version: int
    """The version that it makes."""
    state: Digest
    momentum: Digest | None
    residual: Digest | None
    contributions: tuple[Contribution, ...]
