"""Calls about work: between a volunteer and the scheduler, and between schedulers and keepers.

A refusal of a lease is a reply with a reason as text, never a missing reply: a volunteer must be
able to say why it does not train. A keeper that cannot do as it is asked says where it stands.
"""

from typing import Annotated, ClassVar

from msgspec import UNSET, Meta, UnsetType

from dipaco.protocol.run.model_shape import MAX_PATHS
from dipaco.protocol.wire.canonical import Wire
from dipaco.protocol.wire.digest import DigestField
from dipaco.protocol.wire.identity import PeerIdField
from dipaco.protocol.wire.messages import (
    LEDGER_PART,
    MAX_CERTIFICATE,
    MAX_KEEPERS,
    MAX_RECORDS,
    Count,
)
from dipaco.protocol.wire.signed import Signed, signed_bytes
from dipaco.protocol.wire.text import Text
from dipaco.protocol.work.kinds import (
    Lease,
    Nats,
    Path,
    Result,
    Round,
    Size,
    Token,
    TrainResult,
    Version,
)
from dipaco.protocol.work.terms import MAX_TERMS, Cosigned, Head, Promise, Term

MAX_PROPOSAL = 1 << 20  # bytes of records to cosign at once: a whole tail (`keeping.MAX_TAIL`)
MAX_ACCEPTANCES = 1024  # in one message; its bytes are reached before where modules are many
MAX_HELD = 1024  # blobs in one question to a keeper
MAX_SOURCES = 16  # peers that a keeper may fetch a blob from: the keepers, and who made it

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
    head: Head | UnsetType = UNSET
    """In a run with keepers: where the asker's ledger ends, which is final. A scheduler that sees
    a higher term than its own schedules no more."""


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


class Reclaim(Wire, frozen=True, kw_only=True):
    """A volunteer shows a lease of an earlier term to the scheduler of this one."""

    lease: Lease
    """As it was granted; it stands again if this scheduler would grant the same, and the work is
    free."""


# --------------------------------------------------------------------------- keepers


class Acceptance(Wire, frozen=True, kw_only=True):
    """The scheduler of a term accepted a path's result, which waits for the outer step."""

    run: DigestField
    term: Term
    order: Count
    """Grows with each acceptance of the term. Of one path and round the highest (term, order)
    counts: an earlier result was discarded."""
    path: Path
    round: Round
    peer: PeerIdField
    """The peer whose result it is."""
    result: TrainResult

    @property
    def place(self) -> tuple[int, int]:
        """The path and the round."""
        return self.path, self.round

    @property
    def rank(self) -> tuple[int, int]:
        """The order of acceptances of one place."""
        return self.term, self.order


class AskPromise(Wire, frozen=True, kw_only=True):
    """The scheduler that a term belongs to asks a keeper to sign no lower term any more."""

    run: DigestField
    term: Annotated[int, Meta(ge=1, le=MAX_TERMS)]


class Promised(Wire, frozen=True, kw_only=True):
    """The keeper's promise, and the acceptances that it keeps."""

    MOST_BYTES: ClassVar = LEDGER_PART + signed_bytes(Promise) + 64

    promise: Signed
    """Its `Promise`."""
    acceptances: Annotated[tuple[Signed, ...], Meta(max_length=MAX_ACCEPTANCES)]
    """Signed `Acceptance`s, by path and round, as many as fit."""
    more: bool
    """There are more acceptances: `ReadTail` brings them."""


class Behind(Wire, frozen=True, kw_only=True):
    """The keeper does not do as asked: the asker is behind it, or it is behind the asker."""

    term: Term
    """The highest term that it promised or cosigned: it serves no lower one."""
    head: Head
    """Where its chain ends, with what is not final yet."""
    final: Count
    """Number of final records: it takes in others from there on alone."""


class AskCosign(Wire, frozen=True, kw_only=True):
    """The scheduler of a term asks a keeper to take records into its chain, and to sign a head."""

    MOST_BYTES: ClassVar = MAX_PROPOSAL + MAX_CERTIFICATE + 256

    run: DigestField
    records: Annotated[tuple[Signed, ...], Meta(max_length=MAX_RECORDS)]
    """Consecutive `LedgerRecord`s: they begin at a record that the keeper has, or at its end."""
    head: Head
    """The head to sign, of the chain with these records."""
    certificate: Annotated[tuple[Signed, ...], Meta(max_length=MAX_KEEPERS)]
    """Of the highest head that the asker knows to be final; empty if it knows none."""


class CosignedHead(Wire, frozen=True, kw_only=True):
    """The keeper has the records on disk, and signs the head."""

    MOST_BYTES: ClassVar = 64 + signed_bytes(Cosigned)

    cosigned: Signed
    """Its `Cosigned`."""


class AskKeep(Wire, frozen=True, kw_only=True):
    """The scheduler of a term asks a keeper to keep acceptances of results."""

    MOST_BYTES: ClassVar = LEDGER_PART + 256

    run: DigestField
    term: Term
    acceptances: Annotated[tuple[Signed, ...], Meta(min_length=1, max_length=MAX_ACCEPTANCES)]
    """Signed `Acceptance`s, of this term or taken over from an earlier one."""


class Kept(Wire, frozen=True, kw_only=True):
    """The keeper has the acceptances on disk."""


class ReadTail(Wire, frozen=True, kw_only=True):
    """A scheduler that takes over asks a keeper for records and acceptances that it lacks."""

    run: DigestField
    first: Count
    """Number of the first record wanted; final records come by `ReadLedger`, and not here."""
    path: Path
    round: Version
    """Only acceptances after this (path, round); (0, 0): from the first on."""


class TailPart(Wire, frozen=True, kw_only=True):
    """Consecutive records up to the end of the keeper's chain, and acceptances: what fits."""

    MOST_BYTES: ClassVar = 2 * LEDGER_PART + 64

    records: Annotated[tuple[Signed, ...], Meta(max_length=MAX_RECORDS)]
    """Signed `LedgerRecord`s that are not final at the keeper; none when there are no more."""
    acceptances: Annotated[tuple[Signed, ...], Meta(max_length=MAX_ACCEPTANCES)]
    """Signed `Acceptance`s, by path and round."""
    more: bool
    """There are more acceptances after the last of these."""


class Wanted(Wire, frozen=True, kw_only=True):
    """A blob that a keeper is to hold."""

    blob: DigestField
    length: Size
    """Bytes, as the manifest and the encoding imply."""


class AskHold(Wire, frozen=True, kw_only=True):
    """The scheduler asks a keeper to fetch and hold blobs, and which ones it has by now."""

    run: DigestField
    blobs: Annotated[tuple[Wanted, ...], Meta(min_length=1, max_length=MAX_HELD)]
    holders: Annotated[tuple[PeerIdField, ...], Meta(max_length=MAX_SOURCES)]
    """Peers that have them: the volunteer that made them first."""


class Holding(Wire, frozen=True, kw_only=True):
    """The blobs among those asked for that the keeper holds, whole."""

    blobs: Annotated[tuple[DigestField, ...], Meta(max_length=MAX_HELD)]


class AskHead(Wire, frozen=True, kw_only=True):
    """Ask a keeper, a scheduler or any other node where its ledger of a run ends."""

    run: DigestField


class TermLeft(Wire, frozen=True, kw_only=True):
    """The scheduler of a term ends in order: another scheduler of the run need not wait for it."""

    run: DigestField
    term: Term
    """Its own, the newest that it has begun."""


class Noted(Wire, frozen=True, kw_only=True):
    """The node has taken note."""


class HeadIs(Wire, frozen=True, kw_only=True):
    """Where the ledger ends here; from a scheduler it is a sign of life for those that wait."""

    term: Term
    """The highest term known here; of a keeper, the one that it promised."""
    head: Head
    """With what is not final yet, where the node has such records."""
    scheduling: bool
    """Whether this node schedules the run now."""
    votes: bool
    """Whether this node votes as a keeper of the run: not one that forgot what it signed."""
