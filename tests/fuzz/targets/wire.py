"""Every type that peers exchange, the unions in which they come, and signed bodies."""

from collections.abc import Iterator
from functools import cache, partial
from typing import Any, cast

from dipaco.node.network import blob_stream, gossip, rpc
from dipaco.node.network.addresses import addresses_of, record_scope
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.routing.spec import RouterSpec, misfit, spec_digest
from dipaco.protocol.routing.verdict import Receipt
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.canonical import PROTOCOL_VERSION, Wire, decode, encode
from dipaco.protocol.wire.largest import largest
from dipaco.protocol.wire.messages import (
    Absent,
    Failure,
    Outline,
    PeerRecord,
    Reply,
    Request,
    open_record,
)
from dipaco.protocol.wire.signed import MAX_BODY, Signed, decode_signed
from dipaco.protocol.work.calls import Fallen, Granted, NoLease, Stands
from dipaco.protocol.work.kinds import Lease, decode_lease
from dipaco.protocol.work.ledger import Entry, LedgerRecord
from tests.fuzz.bounds import bounds_of
from tests.fuzz.mutate import Cbor
from tests.fuzz.target import Target, hold
from tests.golden.values import values, wire_types
from tests.values import key

UNIONS: dict[str, tuple[Any, int]] = {
    "Frame": (Request | Reply | Failure, rpc.CONTROL_LIMIT),
    "LeaseAnswer": (Granted | NoLease, rpc.CONTROL_LIMIT),
    "Outcome": (Stands | Fallen, rpc.CONTROL_LIMIT),
    "OutlineAnswer": (Outline | Absent, blob_stream.OUTLINE_LIMIT),
    "Entry": (Entry, MAX_BODY),
}
SHORT_TURN = 0.1  # seconds: there are many such targets, and each is quick
BODIES: dict[type[Wire], str] = {
    Manifest: "owner",
    RouterSpec: "scheduler",
    LedgerRecord: "scheduler",
    Receipt: "volunteer",
    PeerRecord: "volunteer",
}
"""The types of signed values, and whose key signs them."""
LARGE = {"Value": gossip.SYNC_LIMIT, "LedgerPart": gossip.SYNC_LIMIT, "Signed": gossip.SYNC_LIMIT}
LEASE_LIMIT = 64 << 10  # more than the journal or a worker's frame has of one
SMALL = {"AskOutline": blob_stream.ASK_LIMIT, "AskChunk": blob_stream.ASK_LIMIT}


@cache
def examples() -> dict[str, tuple[bytes, ...]]:
    """Return valid encodings by the name of their type."""
    return {name: tuple(map(encode, each)) for name, each in values().items()}


def of(*names: str) -> tuple[bytes, ...]:
    """Return the valid encodings of types."""
    return tuple(data for name in names for data in examples()[name])


def grammar(kind: Any) -> Cbor:
    """Return the mutator of a type, which also takes items of the other types."""
    return Cbor(bounds_of(kind), [data for each in examples().values() for data in each])


def most_of(kind: Any, frame: int) -> int:
    """Return the bytes of the largest input: of the type, or of the frame for one without bounds.

    One byte more, so that some are too long.
    """
    return int(min(largest(kind).size + 1, frame))


def decoding(kind: Any, limit: int, data: bytes) -> None:
    """Decode, and encode again."""
    value = decode(data, kind, limit=limit)
    hold(encode(cast(Wire, value)) == data, "it encodes to other bytes")


def envelope(kind: type[Wire], body: bytes) -> Signed:
    """Return an envelope with the valid signature of an author of such values over any bytes."""
    domain = f"dipaco/{PROTOCOL_VERSION}/signed/{kind.__name__}\0".encode()
    author = key(BODIES[kind])
    return Signed(
        body=body[:MAX_BODY],
        public_key=author.public_key().public_bytes_raw(),
        signature=author.sign(domain + body[:MAX_BODY]),
    )


def opening(kind: type[Wire], body: bytes) -> None:
    """Sign a body, open it as a peer would, and ask what a peer asks of such a value first."""
    signed, value = decode_signed(encode(envelope(kind, body)), kind)
    match value:
        case PeerRecord():
            open_record(signed)
            addresses_of(value)
            record_scope(value)
        case RouterSpec():
            spec_digest(value)
            misfit(value)


def lease(data: bytes) -> None:
    """Read a lease, as a node does that finds one in its journal."""
    hold(encode(decode_lease(data)) == data, "it encodes to other bytes")


def targets() -> Iterator[Target]:
    """Yield one target a type, one a union, and one a body."""
    for kind in wire_types():
        name = kind.__name__
        frame = LARGE.get(name) or SMALL.get(name) or rpc.CONTROL_LIMIT
        limit = most_of(kind, frame)
        yield Target(
            name=f"wire/{name}",
            seeds=partial(of, name),
            call=partial(decoding, kind, limit),
            declared=(RemoteProtocolError,),
            mutator=partial(grammar, kind),
            limit=limit,
            turn=SHORT_TURN,
        )
    for name, (union, limit) in UNIONS.items():
        yield Target(
            name=f"wire/{name}",
            seeds=partial(of, *(each.__name__ for each in union.__args__)),
            call=partial(decoding, union, limit),
            declared=(RemoteProtocolError,),
            mutator=partial(grammar, union),
            limit=most_of(union, limit),
            turn=SHORT_TURN,
        )
    yield Target(
        name="wire/Lease",
        seeds=partial(of, *(each.__name__ for each in Lease.__args__)),
        call=lease,
        declared=(RemoteProtocolError,),
        mutator=partial(grammar, Lease),
        limit=LEASE_LIMIT,
    )
    for kind in BODIES:
        yield Target(
            name=f"signed/{kind.__name__}",
            seeds=partial(of, kind.__name__),
            call=partial(opening, kind),
            declared=(RemoteProtocolError,),
            mutator=partial(grammar, kind),
            limit=MAX_BODY,
        )
