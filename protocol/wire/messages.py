"""Messages between peers below the level of runs: calls, pings, directory, gossip, blobs.

Owns the wire form of each; `dipaco.node.network` decides who answers it, and when. The messages
about leases and the ledger are in `protocol.work`. Every list and text is bounded here, so a
decoder never allocates more than the frame's limit implies.
"""

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.address import MAX_PLACE, ip_text
from dipaco.protocol.wire.canonical import Wire
from dipaco.protocol.wire.digest import DigestField
from dipaco.protocol.wire.identity import PeerIdField
from dipaco.protocol.wire.signed import MAX_ENVELOPE, Signed, open_signed, signed_bytes
from dipaco.protocol.wire.text import Text

MAX_ADDRESSES = 8  # of one peer; a home node has 2 to 4
MAX_LISTED = 50  # peers in one listing, which is a sample
MAX_ITEMS = 1024  # of one kind in an inventory; the most recent
MAX_KINDS = 4  # manifest, spec, receipt, ledger
MAX_RECORDS = 1024  # ledger records in one reply; its bytes are reached before
LEDGER_PART = 256 << 10  # bytes of records in a reply: one has at most 215 KB
MAX_KEEPERS = 15  # of one run: 7 may be away, and a call to each is still one call in 16
MAX_CERTIFICATE = 8 << 10  # bytes of a certificate: 15 cosignatures of less than 512 bytes
MAX_CHUNKS = 30_000  # in an outline: 30 GB in chunks of 1 MiB, and 1 MB of digests
MAX_ASKED = 256  # blobs in one question; a lease of 256 modules has as many states
MAX_ANNOUNCEMENT = 4096  # bytes that gossip may carry: digests, never bodies
MAX_CALL_BODY = MAX_ENVELOPE + 32  # bytes of a request or an answer; the largest, a `Value`

Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
PortState = Literal["answers", "open", "closed", "not-dialled"]
Kind = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=32,
        pattern=r"^[A-Za-z0-9_-]+\Z",
        description="the name of a kind: at most 32 letters, digits, '_' and '-'",
    ),
]
AddressText = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=MAX_PLACE,
        pattern=r"^/[!-~]+\Z",
        description=f"an address of at most {MAX_PLACE} characters such as /ip4/127.0.0.1/tcp/4410",
    ),
]


def _check_ip(observed: str) -> None:
    if observed and ip_text(observed) != observed:
        raise ValueError(f"observed: {observed!r} is not written as an IP address")


class Request(Wire, frozen=True, kw_only=True):
    """A call on a stream that stays open."""

    id: Count
    """Chosen by the caller, never used twice on one stream."""
    kind: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    """The type of the value in `body`."""
    body: Annotated[bytes, msgspec.Meta(max_length=MAX_CALL_BODY)]
    """Canonical encoding of the request's value."""


class Reply(Wire, frozen=True, kw_only=True):
    """The answer to the `Request` with this id."""

    id: Count
    """The request's id."""
    body: Annotated[bytes, msgspec.Meta(max_length=MAX_CALL_BODY)]
    """Canonical encoding of the answer's value."""


class Failure(Wire, frozen=True, kw_only=True):
    """The `Request` with this id has no answer, and why."""

    id: Count
    """The request's id."""
    fault: Literal["refusal", "unavailable"]
    """`refusal`: never ask again; `unavailable`: ask later. A peer that breaks the protocol gets
    no answer: its connection is closed."""
    reason: Text
    """One line for a person."""


class Ping(Wire, frozen=True, kw_only=True):
    """Asks for a sign of life."""


class Pong(Wire, frozen=True, kw_only=True):
    """The answer to a `Ping`."""


class PeerRecord(Wire, frozen=True, kw_only=True):
    """A node's own statement of its addresses, roles and runs; it travels signed by the node."""

    peer: PeerIdField
    """The node; its key must be the signer's."""
    addresses: Annotated[tuple[AddressText, ...], msgspec.Meta(max_length=MAX_ADDRESSES)]
    """Multiaddrs of IP addresses without the closing `/p2p/...`; empty: the node only dials out."""
    roles: Annotated[tuple[Kind, ...], msgspec.Meta(max_length=8)]
    """The services that it offers: `rendezvous`, `keeper`, `volunteer`."""
    runs: Annotated[tuple[DigestField, ...], msgspec.Meta(max_length=16)]
    """The runs it takes part in."""
    sequence: Count
    """Larger in each newer statement, for example milliseconds since 1970."""


def open_record(signed: Signed) -> PeerRecord:
    """Return the record inside, if its own peer signed it; else raises RemoteProtocolError."""
    record = open_signed(signed, PeerRecord)
    if record.peer != signed.signer:
        raise RemoteProtocolError(f"the record of {record.peer} is signed by {signed.signer}")
    return record


class AskOutside(Wire, frozen=True, kw_only=True):
    """Asks how the sender looks from there: its address, its clock, and a port of its own."""

    port: Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]
    """TCP port to dial at the address that the sender's connection comes from; 0: none."""


class Outside(Wire, frozen=True, kw_only=True):
    """How the asker looks from here."""

    observed: Annotated[str, msgspec.Meta(max_length=64)]
    """The IP address that the asker's connection comes from; empty if unknown."""
    time: Count
    """Milliseconds since 1970 on the clock of this peer."""
    port: PortState
    """The port there: a libp2p node answers, or it is open; else no connection came about within
    5 s, or none was tried."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_ip(self.observed)


class Register(Wire, frozen=True, kw_only=True):
    """Asks a rendezvous node to enter the sender into its directory."""

    MOST_BYTES: ClassVar = 64 + 3 * signed_bytes(PeerRecord)

    records: Annotated[tuple[Signed, ...], msgspec.Meta(min_length=1, max_length=3)]
    """One per scope: public addresses only; private ones too; loopback too."""


class Registered(Wire, frozen=True, kw_only=True):
    """The sender is entered into the directory."""

    observed: Annotated[str, msgspec.Meta(max_length=64)]
    """The IP address that the sender's connection comes from; empty if unknown."""
    life: Count
    """Seconds until the entry ends, unless a ping renews it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_ip(self.observed)


class ListPeers(Wire, frozen=True, kw_only=True):
    """Asks a rendezvous node for peers in its directory."""

    run: DigestField | None
    """Only peers of this run; null: of any run or none."""
    most: Annotated[int, msgspec.Meta(ge=1, le=MAX_LISTED)]
    """The largest number of peers to list."""


class Listing(Wire, frozen=True, kw_only=True):
    """A random sample of the directory; each record is signed by its own peer."""

    MOST_BYTES: ClassVar = 64 + MAX_LISTED * signed_bytes(PeerRecord)

    records: Annotated[tuple[Signed, ...], msgspec.Meta(max_length=MAX_LISTED)]
    """Signed `PeerRecord`s."""


class Item(Wire, frozen=True, kw_only=True):
    """Names one value that a node holds and passes on."""

    kind: Kind
    """`manifest`, `spec`, `receipt` or `ledger`."""
    run: DigestField
    """The run it belongs to."""
    digest: DigestField
    """SHA-256 of the envelope; for a ledger, the body digest of its last record."""
    seq: Count
    """A ledger's length; 0 for everything else."""


class Announcement(Wire, frozen=True, kw_only=True):
    """Gossip: its author now holds a new value."""

    item: Item
    """The new value's name."""
    size: Count
    """The new value's size in bytes."""


class AskInventory(Wire, frozen=True, kw_only=True):
    """Asks for the peer's inventory, unless it equals the asker's."""

    summary: DigestField
    """Digest over the asker's own sorted inventory."""


class Inventory(Wire, frozen=True, kw_only=True):
    """The values that a node holds."""

    same: bool
    """True: the inventory equals the asker's, and `items` is empty."""
    items: Annotated[tuple[Item, ...], msgspec.Meta(max_length=MAX_ITEMS * MAX_KINDS)]
    """At most `MAX_ITEMS` of each kind, the most recent."""


class ReadValue(Wire, frozen=True, kw_only=True):
    """Asks for one value."""

    item: Item
    """As an inventory lists it; never a ledger."""


class Value(Wire, frozen=True, kw_only=True):
    """One signed value, or null if the node no longer holds it."""

    data: Annotated[bytes, msgspec.Meta(max_length=MAX_ENVELOPE)] | None
    """The bytes as their author signed them."""


class ReadLedger(Wire, frozen=True, kw_only=True):
    """Asks for a run's ledger records from `first` on."""

    run: DigestField
    """The run."""
    first: Count
    """Sequence number of the first record wanted."""


class LedgerPart(Wire, frozen=True, kw_only=True):
    """Consecutive signed records, as many as fit; none when there are no more."""

    MOST_BYTES: ClassVar = LEDGER_PART + 5 * MAX_RECORDS + MAX_CERTIFICATE + 64

    records: Annotated[
        tuple[Annotated[bytes, msgspec.Meta(max_length=LEDGER_PART)], ...],
        msgspec.Meta(max_length=MAX_RECORDS),
    ]
    """Signed `LedgerRecord`s, verbatim."""
    certificate: (
        Annotated[tuple[Signed, ...], msgspec.Meta(min_length=1, max_length=MAX_KEEPERS)]
        | UnsetType
    ) = UNSET
    """In a run with keepers: signed `Cosigned` of a quorum, of the head at which these records end.
    Left out in a run without."""


class AskHave(Wire, frozen=True, kw_only=True):
    """Asks whether the peer holds a blob."""

    blob: DigestField
    """Its digest."""


class Have(Wire, frozen=True, kw_only=True):
    """Says whether the peer holds the blob."""

    held: bool
    """True: it holds the whole blob and can send it."""


Presence = Literal["absent", "wanted", "coming", "held"]
"""`held`: the peer has the whole blob and can send it; `coming`: it is fetching the blob; `wanted`:
it will fetch the blob, or take it from whoever has it first; `absent`: none of these."""


class AskPresence(Wire, frozen=True, kw_only=True):
    """Asks for the presence of several blobs at the peer."""

    blobs: Annotated[tuple[DigestField, ...], msgspec.Meta(min_length=1, max_length=MAX_ASKED)]
    """Their digests."""


class PresenceIs(Wire, frozen=True, kw_only=True):
    """The answer to an `AskPresence`; it binds nobody."""

    blobs: Annotated[tuple[Presence, ...], msgspec.Meta(max_length=MAX_ASKED)]
    """One for each blob, in the order of the question."""


class AskOutline(Wire, frozen=True, kw_only=True):
    """The first message on a blob stream; it names the blob."""

    blob: DigestField
    """Its digest."""


class Outline(Wire, frozen=True, kw_only=True):
    """How a blob is cut into chunks; chunk i is bytes [i * chunk, min((i + 1) * chunk, length))."""

    length: Count
    """Bytes of the blob."""
    chunk: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    """Bytes of every chunk but the last; follows from `length`."""
    digests: Annotated[tuple[DigestField, ...], msgspec.Meta(max_length=MAX_CHUNKS)]
    """SHA-256 of each chunk."""


class Absent(Wire, frozen=True, kw_only=True):
    """The peer does not hold the blob."""


class AskChunk(Wire, frozen=True, kw_only=True):
    """Asks for one chunk. Its bytes follow without a frame, since their number is known."""

    index: Annotated[int, msgspec.Meta(ge=0, lt=MAX_CHUNKS)]
    """The chunk's number, from 0."""
