"""Messages between a volunteer and the scheduler about leases.

They are requests and replies of the control stream. A refusal is a reply with a reason as text,
never a missing reply: a volunteer must be able to say why it does not train.
"""

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from dipaco.protocol.run.model_shape import MAX_PATHS
from dipaco.protocol.wire.canonical import Wire
from dipaco.protocol.wire.digest import DigestField
from dipaco.protocol.wire.identity import PeerIdField
from dipaco.protocol.wire.text import Text
from dipaco.protocol.work.kinds import Lease, Nats, Path, Result, Size, Token, Version

MAX_PLACES = 1024  # in a scheduler's queue: more peers wait without one, each asks at times

Code = Annotated[
    str,
    Meta(
        max_length=32,
        pattern=r"^[a-z-]+\Z",
        description="a code of at most 32 lower-case letters and '-'",
    ),
]


class AskLease(Wire, frozen=True, kw_only=True):
    """A volunteer that verified the spec asks for work; it holds no other lease of this run."""

    run: DigestField
    spec: DigestField
    """The spec that it verified; a scheduler that adopted another one refuses."""


class AskNext(Wire, frozen=True, kw_only=True):
    """A volunteer asks for a second lease to hold in hand while it works on the first."""

    run: DigestField
    spec: DigestField
    """As in `AskLease`."""
    token: Token
    """Of the lease that it works on: the only other one of this run that it holds."""


class Granted(Wire, frozen=True, kw_only=True):
    """The scheduler grants a lease."""

    lease: Lease


class NoLease(Wire, frozen=True, kw_only=True):
    """The scheduler has no lease for this volunteer now."""

    code: Code
    """`no-lease`, `parked`, `not-admitted`, `run-over`, `other-spec`, `unknown-run`: see
    docs/protocol.md."""
    reason: Text
    retry_after: Annotated[float, Meta(ge=0, le=3600)]
    """Seconds."""
    place: Annotated[int, Meta(ge=1, le=MAX_PLACES)] | UnsetType = UNSET
    """Its place in the queue of those that wait for work, 1: the next one."""
    places: Annotated[int, Meta(ge=1, le=MAX_PLACES)] | UnsetType = UNSET
    """The places that are taken; there is one exactly where there is the other."""

    def __post_init__(self) -> None:
        super().__post_init__()
        place, places = self.place, self.places
        if (place is UNSET) != (places is UNSET):
            raise ValueError("place: is there without places, or places without place")
        if place is not UNSET and places is not UNSET and place > places:
            raise ValueError(f"place: {place} of {places} places")


class Heartbeat(Wire, frozen=True, kw_only=True):
    """The volunteer is still working; this renews the lease."""

    run: DigestField
    token: Token
    progress: Size
    """A count that grows whenever the work has got on: bytes fetched, documents read, steps."""
    tokens_per_second: Annotated[float, Meta(ge=0, le=1e12)]
    loss: Nats | None = None


class HandBack(Wire, frozen=True, kw_only=True):
    """The volunteer gives the lease up; another peer may get the work at once."""

    run: DigestField
    token: Token
    reason: Text


class Submit(Wire, frozen=True, kw_only=True):
    """The work is done; the scheduler can fetch its blobs from the sender until the reply."""

    run: DigestField
    result: Result


class Stands(Wire, frozen=True, kw_only=True):
    """Accepted: the lease is renewed or taken back, or the result counts."""


class Fallen(Wire, frozen=True, kw_only=True):
    """Not accepted: the lease is no longer the sender's, or the result does not count."""

    reason: Text


class AskHolders(Wire, frozen=True, kw_only=True):
    """Ask a run's scheduler who works on which path: for people, no decision depends on it."""

    run: DigestField


class Held(Wire, frozen=True, kw_only=True):
    """A path that is leased, or whose result waits for the outer step."""

    path: Path
    round: Version
    """0: the seed model."""
    peer: PeerIdField
    submitted: bool
    """The result has been accepted."""
    loss: Nats | None = None
    """The latest training loss that its holder reported, nats per token."""


class Holders(Wire, frozen=True, kw_only=True):
    """All paths that are held, each once, by path."""

    held: Annotated[tuple[Held, ...], Meta(max_length=MAX_PATHS)]
