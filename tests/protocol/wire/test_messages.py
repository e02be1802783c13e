"""The network's messages.

Rules of this file: bounds are tried at their edge; whatever mutated bytes are fed to the decoder,
only the declared error comes out.
"""

from functools import reduce
from operator import or_
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire import messages
from dipaco.protocol.wire.canonical import Wire, decode, encode
from dipaco.protocol.wire.digest import Digest, sha256
from dipaco.protocol.wire.identity import peer_id
from dipaco.protocol.wire.messages import (
    MAX_ADDRESSES,
    MAX_CHUNKS,
    MAX_ITEMS,
    MAX_KINDS,
    MAX_LISTED,
    MAX_RECORDS,
    Absent,
    Announcement,
    AskChunk,
    AskHave,
    AskInventory,
    AskOutline,
    AskOutside,
    AskPresence,
    Failure,
    Have,
    Inventory,
    Item,
    LedgerPart,
    Listing,
    ListPeers,
    Outline,
    Outside,
    PeerRecord,
    Ping,
    Pong,
    PresenceIs,
    ReadLedger,
    ReadValue,
    Register,
    Registered,
    Reply,
    Request,
    Value,
    open_record,
)
from dipaco.protocol.wire.signed import sign

KEY = Ed25519PrivateKey.from_private_bytes(sha256(b"a peer"))
ME = peer_id(KEY)
D = sha256(b"digest")
ITEM = Item(kind="manifest", run=D, digest=D, seq=0)
RECORD = PeerRecord(
    peer=ME, addresses=("/ip4/127.0.0.1/tcp/4410",), roles=("keeper",), runs=(D,), sequence=7
)
SIGNED = sign(RECORD, KEY)

EXAMPLES: tuple[Wire, ...] = (
    Request(id=1, kind="Ping", body=b"x"),
    Reply(id=1, body=b"x"),
    Failure(id=1, fault="refusal", reason="no"),
    Ping(),
    Pong(),
    RECORD,
    Register(records=(SIGNED,)),
    Registered(observed="127.0.0.1", life=30),
    AskOutside(port=4410),
    Outside(observed="127.0.0.1", time=1, port="not-dialled"),
    ListPeers(run=None, most=50),
    Listing(records=(SIGNED, SIGNED)),
    ITEM,
    Announcement(item=ITEM, size=10),
    AskInventory(summary=D),
    Inventory(same=False, items=(ITEM,)),
    ReadValue(item=ITEM),
    Value(data=b"signed"),
    ReadLedger(run=D, first=3),
    LedgerPart(records=(b"one", b"two")),
    AskHave(blob=D),
    Have(held=True),
    AskPresence(blobs=(D, D)),
    PresenceIs(blobs=("held", "coming", "wanted", "absent")),
    AskOutline(blob=D),
    Outline(length=5, chunk=4, digests=(D, D)),
    Absent(),
    AskChunk(index=1),
)
ANY: Any = reduce(or_, map(type, EXAMPLES))


def test_every_message_has_an_example_here() -> None:
    declared = {
        kind
        for kind in vars(messages).values()
        if isinstance(kind, type)
        and issubclass(kind, Wire)
        and kind.__module__ == messages.__name__
    }
    assert declared == set(map(type, EXAMPLES))


@pytest.mark.parametrize("value", EXAMPLES, ids=lambda value: type(value).__name__)
def test_a_message_survives_the_wire(value: Wire) -> None:
    assert decode(encode(value), type(value), limit=4096) == value
    assert decode(encode(value), ANY, limit=4096) == value


@given(st.sampled_from(EXAMPLES), st.data())
def test_mutated_bytes_give_a_message_or_the_peers_error(value: Wire, data: st.DataObject) -> None:
    raw = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(1, len(raw)))]
    try:
        decoded: Wire = decode(bytes(raw), ANY, limit=4096)
    except RemoteProtocolError:
        return
    assert encode(decoded) == raw


@given(st.binary(max_size=64))
def test_random_bytes_give_a_message_or_the_peers_error(raw: bytes) -> None:
    try:
        decoded: Wire = decode(raw, ANY, limit=64)
    except RemoteProtocolError:
        return
    assert encode(decoded) == raw


@pytest.mark.parametrize(
    "too_much",
    [
        lambda: Request(id=-1, kind="Ping", body=b""),
        lambda: Request(id=1 << 53, kind="Ping", body=b""),
        lambda: Request(id=1, kind="", body=b""),
        lambda: Failure(id=1, fault="unavailable", reason="x" * 501),
        lambda: PeerRecord(
            peer=ME,
            addresses=("/ip4/1.1.1.1/tcp/1",) * (MAX_ADDRESSES + 1),
            roles=(),
            runs=(),
            sequence=0,
        ),
        lambda: PeerRecord(peer=ME, addresses=("no multiaddr",), roles=(), runs=(), sequence=0),
        lambda: PeerRecord(peer=ME, addresses=("/ip4/1\n2",), roles=(), runs=(), sequence=0),
        lambda: Register(records=()),
        lambda: Register(records=(SIGNED,) * 4),
        lambda: ListPeers(run=None, most=MAX_LISTED + 1),
        lambda: Listing(records=(SIGNED,) * (MAX_LISTED + 1)),
        lambda: Item(kind="../../etc", run=D, digest=D, seq=0),
        lambda: Item(kind="spec", run=Digest(D[:31]), digest=D, seq=0),
        lambda: Inventory(same=False, items=(ITEM,) * (MAX_ITEMS * MAX_KINDS + 1)),
        lambda: LedgerPart(records=(b"",) * (MAX_RECORDS + 1)),
        lambda: Outline(length=1, chunk=0, digests=()),
        lambda: Outline(length=1, chunk=(1 << 20) + 1, digests=()),
        lambda: AskChunk(index=MAX_CHUNKS),
    ],
)
def test_what_is_out_of_bounds_is_no_value(too_much: Any) -> None:
    with pytest.raises(ValueError, match=" is not "):
        too_much()


def test_a_record_is_the_peers_own_or_none() -> None:
    assert open_record(SIGNED) == RECORD
    other = Ed25519PrivateKey.from_private_bytes(sha256(b"another"))
    with pytest.raises(RemoteProtocolError, match="is signed by"):
        open_record(sign(RECORD, other))
    with pytest.raises(RemoteProtocolError, match="signature"):
        open_record(sign(ITEM, KEY))  # signed, but as something else


def test_the_largest_messages_fit_their_frames() -> None:
    inventory = Inventory(same=False, items=(ITEM,) * (MAX_ITEMS * MAX_KINDS))
    assert len(encode(inventory)) < 4 << 20
    outline = Outline(length=MAX_CHUNKS << 20, chunk=1 << 20, digests=(D,) * MAX_CHUNKS)
    assert len(encode(outline)) <= (1 << 20) + 256
    longest = "/" + "a" * 255
    record = PeerRecord(
        peer=ME, addresses=(longest,) * 8, roles=("r" * 32,) * 8, runs=(D,) * 16, sequence=1 << 52
    )
    assert len(encode(Listing(records=(sign(record, KEY),) * MAX_LISTED))) < 1 << 20
