"""What peers say of this node: the answer of `GET /v1/outside`.

The local API's client imports it, so it imports no messages of peers.
"""

from typing import Literal

import msgspec


class SeenFrom(msgspec.Struct, frozen=True, kw_only=True):
    """What one peer says of this node."""

    peer: str
    """PeerID."""
    offset_s: float
    """Seconds by which the peer's clock is ahead of this node's."""
    round_trip_s: float
    """Seconds; the offset is right to half of it."""
    observed: str
    """The IP address that this node's connection comes from; empty: the peer does not know it."""
    port: Literal["answers", "open", "closed", "not-dialled"]
    """What came of the port at that address, as `Outside` has it."""


class OutsideView(msgspec.Struct, frozen=True, kw_only=True):
    """What peers say of this node, asked just now."""

    port: int
    """The TCP port that was to be reached; 0: the node listens on none."""
    answers: tuple[SeenFrom, ...]
    """At most 8, of which at most 3 tried the port."""
