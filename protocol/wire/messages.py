"""What peers say to each other below the level of runs: calls, pings, directory, gossip, blobs.

Owns the wire form of each; who answers what, and when, is `dipaco.node.network`'s. The messages of
the scheduler stand with their own values (leases, ledger). Every list and text is bounded here, so
a decoder never allocates more than the frame's limit implies.
"""

from typing import Annotated, Literal

import msgspec

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.address import MAX_PLACE
from dipaco.protocol.wire.canonical import Wire
from dipaco.protocol.wire.digest import DigestField
from dipaco.protocol.wire.identity import PeerIdField
from dipaco.protocol.wire.signed import Signed, open_signed
from dipaco.protocol.wire.text import Text

MAX_ADDRESSES = 8  # of one peer; a home node has 2 to 4
MAX_LISTED = 50  # peers in one listing: a sample, not a census
MAX_ITEMS = 4096  # of one kind in an inventory; the most recent
MAX_KINDS = 4  # manifest, spec, receipt, ledger
MAX_RECORDS = 4096  # ledger records in one reply; bytes bound it first
MAX_CHUNKS = 30_000  # in an outline: 30 GB in chunks of 1 MiB, and 1 MB of digests
MAX_ANNOUNCEMENT = 4096  # bytes: gossip carries digests, never bodies

Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
Kind = Annotated[str, msgspec.Meta(min_length=1, max_length=32, pattern=r"^[A-Za-z0-9_-]+\Z")]
AddressText = Annotated[
    str, msgspec.Meta(min_length=1, max_length=MAX_PLACE, pattern=r"^/[!-~]+\Z")
]


class Request(Wire, frozen=True, kw_only=True):
    """A call on a kept stream."""

    id: Count
    """Chosen by the caller, never used twice on one stream."""
    kind: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    """The type of the value in `body`."""
    body: bytes
    """Canonical encoding of the value that is asked."""


class Reply(Wire, frozen=True, kw_only=True):
    """The answer to the `Request` with this id."""

    id: Count
    """The request's."""
    body: bytes
    """Canonical encoding of the value that answers."""


class Failure(Wire, frozen=True, kw_only=True):
    """Why the `Request` with this id has no answer."""

    id: Count
    """The request's."""
    fault: Literal["refusal", "unavailable"]
    """Never ask again; ask later. Whoever breaks the protocol is not answered but hung up."""
    reason: Text
    """One line for a person."""


class Ping(Wire, frozen=True, kw_only=True):
    """Are you there?"""


class Pong(Wire, frozen=True, kw_only=True):
    """I am."""


class PeerRecord(Wire, frozen=True, kw_only=True):
    """A node's own statement of how it is reached; travels signed with the node's key."""

    peer: PeerIdField
    """The node; its key must be the signer's."""
    addresses: Annotated[tuple[AddressText, ...], msgspec.Meta(max_length=MAX_ADDRESSES)]
    """Multiaddrs without the closing `/p2p/...`, none of them a wildcard; none: dials out only."""
    roles: Annotated[tuple[Kind, ...], msgspec.Meta(max_length=8)]
    """What it offers: `rendezvous`, `keeper`, `volunteer`."""
    runs: Annotated[tuple[DigestField, ...], msgspec.Meta(max_length=16)]
    """The runs it takes part in."""
    sequence: Count
    """Larger in each newer statement; milliseconds since 1970 will do."""


def open_record(signed: Signed) -> PeerRecord:
    """Return the record inside, proven to be that peer's own; raises RemoteProtocolError."""
    record = open_signed(signed, PeerRecord)
    if record.peer != signed.signer:
        raise RemoteProtocolError(f"the record of {record.peer} is signed by {signed.signer}")
    return record


class Register(Wire, frozen=True, kw_only=True):
    """Enter me into your directory."""

    records: Annotated[tuple[Signed, ...], msgspec.Meta(min_length=1, max_length=3)]
    """One per scope: of the public addresses; with the private ones; with loopback."""


class Registered(Wire, frozen=True, kw_only=True):
    """You are entered."""

    observed: Annotated[str, msgspec.Meta(max_length=64)]
    """The IP address that your connection comes from, or nothing."""
    life: Count
    """Seconds until the entry ends, unless a ping renews it."""


class ListPeers(Wire, frozen=True, kw_only=True):
    """Whom do you know?"""

    run: DigestField | None
    """Only those of this run."""
    most: Annotated[int, msgspec.Meta(ge=1, le=MAX_LISTED)]
    """How many at most."""


class Listing(Wire, frozen=True, kw_only=True):
    """A random sample of the directory; each record proves itself."""

    records: Annotated[tuple[Signed, ...], msgspec.Meta(max_length=MAX_LISTED)]
    """Signed `PeerRecord`s."""


class Item(Wire, frozen=True, kw_only=True):
    """One value that a node holds and hands on."""

    kind: Kind
    """`manifest`, `spec`, `receipt` or `ledger`."""
    run: DigestField
    """The run it belongs to."""
    digest: DigestField
    """Of the signed value's bytes; of a ledger, its head."""
    seq: Count
    """A ledger's length; 0 for everything else."""


class Announcement(Wire, frozen=True, kw_only=True):
    """Gossiped: the author now holds this."""

    item: Item
    """What is new."""
    size: Count
    """Bytes of it."""


class AskInventory(Wire, frozen=True, kw_only=True):
    """What do you hold, unless it is just what I hold?"""

    summary: DigestField
    """Digest over the asker's own sorted inventory."""


class Inventory(Wire, frozen=True, kw_only=True):
    """What a node holds."""

    same: bool
    """True: exactly what the asker holds, so nothing is listed."""
    items: Annotated[tuple[Item, ...], msgspec.Meta(max_length=MAX_ITEMS * MAX_KINDS)]
    """At most `MAX_ITEMS` of each kind, the most recent."""


class ReadValue(Wire, frozen=True, kw_only=True):
    """Send me this value."""

    item: Item
    """As listed in an inventory; no ledger."""


class Value(Wire, frozen=True, kw_only=True):
    """One signed value, or nothing when it is gone."""

    data: bytes | None
    """The bytes as their author signed them."""


class ReadLedger(Wire, frozen=True, kw_only=True):
    """Send me this run's records from `first` on."""

    run: DigestField
    """The run."""
    first: Count
    """Sequence number of the first record wanted."""


class LedgerPart(Wire, frozen=True, kw_only=True):
    """Consecutive signed records, as many as fit; none when there are no more."""

    records: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=MAX_RECORDS)]
    """Signed `LedgerRecord`s, verbatim."""


class AskHave(Wire, frozen=True, kw_only=True):
    """Do you hold this blob?"""

    blob: DigestField
    """Its digest."""


class Have(Wire, frozen=True, kw_only=True):
    """Whether the blob is here."""

    held: bool
    """True: whole and ready to send."""


class AskOutline(Wire, frozen=True, kw_only=True):
    """First word on a blob stream: which blob."""

    blob: DigestField
    """Its digest."""


class Outline(Wire, frozen=True, kw_only=True):
    """How a blob is cut; chunk i is bytes [i * chunk, min((i + 1) * chunk, length))."""

    length: Count
    """Bytes in all."""
    chunk: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    """Bytes of every chunk but the last; follows from `length`."""
    digests: Annotated[tuple[DigestField, ...], msgspec.Meta(max_length=MAX_CHUNKS)]
    """SHA-256 of each chunk."""


class Absent(Wire, frozen=True, kw_only=True):
    """The blob is not here."""


class AskChunk(Wire, frozen=True, kw_only=True):
    """Send this chunk: its bytes follow, without a frame, for their number is known."""

    index: Annotated[int, msgspec.Meta(ge=0, lt=MAX_CHUNKS)]
    """Which."""
