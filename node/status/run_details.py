"""Parts of the status document that tell of one run: its router, and its work as scheduled here.

As the document itself, this module is independent of the wire, trio and torch.
"""

from typing import Final

import msgspec

MAX_MEMBERS: Final = 256  # told of a run: more rows than a person reads, and 64 kB
MAX_RECEIPTS: Final = 64  # told of a run


class StageDigest(msgspec.Struct, frozen=True, kw_only=True):
    """The digest of one stage of a router's derivation: equal inputs give equal digests."""

    stage: str
    """`source-bytes`, `tokens`, `labels`, `idf`, `basis`, `features`, `centroids` or `spec`."""
    digest: str
    """Hex."""


class ReceiptStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What another peer says of the router."""

    peer: str
    """PeerID."""
    outcome: str
    """`verified`, `refuted` or `unverifiable`."""


class RouterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The newest router of a run."""

    epoch: int
    """How often the router was replaced."""
    kind: str
    """`kmeans`, `class_means` or `round_robin`."""
    author: str
    """PeerID of the scheduler that signed it."""
    reason: str
    """Why this node's verdict is as it is; empty: there is none yet, or this node derived the
    router to publish it."""
    stages: tuple[StageDigest, ...]
    """In the order of the derivation, the whole spec last. Where the verdict is `verified`, this
    node derived the same digests from the source."""
    receipts: tuple[ReceiptStatus, ...]
    """Of other peers, at most 64."""


class LeaseStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One lease that stands."""

    work: str
    """In words: `path 1 round 2`."""
    path: int
    round: int
    since: float
    """When the work began, Unix time, seconds."""
    until: float
    """When it ends if its holder says nothing more, Unix time, seconds."""
    tokens_per_second: float
    """As its holder reports; 0: it has not begun to train."""
    loss: float | None
    """As its holder reports, nats per token."""
    in_hand: bool
    """Whether its holder works on another lease first."""


class MemberStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A peer that works for the run, or waits for work."""

    peer: str
    """PeerID."""
    proven: bool
    """Whether a training result of it counted, and no lease of it failed since."""
    seconds: float | None
    """Time that it needs for a path's training, seconds; null: not known yet."""
    place: int | None
    """Its place in the queue of those that wait, from 1; null: it does not wait."""
    leases: tuple[LeaseStatus, ...]
    """That it holds."""


class ScheduleStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A run as its scheduler sees it; only the node that schedules it has this."""

    members: tuple[MemberStatus, ...]
    """Holders of leases first, then those that wait, in the order of the queue; at most 256."""
    count: int
    """The number of all of them."""
    tokens_per_second: float
    """Of all leases together."""
    blocks: tuple[str, ...]
    """What keeps the run from going on, in words; empty: nothing does."""


class PaceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a run gets on, as this node saw it since its start."""

    done: float
    """Rounds that the paths have done, in the mean."""
    per_hour: float | None
    """Rounds per hour of the last hour; null: too little was seen."""
    ends: float | None
    """When the last round is done at that pace, Unix time, seconds; null: not known, or over."""
