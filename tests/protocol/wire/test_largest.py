"""Rules of this file: the largest values are built, and compared with what the types imply."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.canonical import MAX_DEPTH, Wire, decode, encode
from dipaco.protocol.wire.digest import DigestField, sha256
from dipaco.protocol.wire.identity import PeerIdField
from dipaco.protocol.wire.largest import Largest, head_bytes, largest
from dipaco.protocol.wire.messages import LEDGER_PART, MAX_CALL_BODY, Reply, Request
from dipaco.protocol.wire.scan import scan
from dipaco.protocol.wire.signed import MAX_BODY, MAX_ENVELOPE, Signed, signed_bytes
from dipaco.protocol.work.ledger import LedgerRecord
from dipaco.protocol.work.streams import CONTROL_CALLS, SYNC_CALLS, frame_bytes
from tests.golden.largest_table import BEGIN, END, SIGNED, table
from tests.golden.values import values, wire_types
from tests.values import peer

DOC = Path(__file__).parents[3] / "docs" / "protocol.md"
D = sha256(b"digest")


class Inner(Wire, frozen=True, kw_only=True):
    number: Annotated[int, Meta(ge=0, le=300)]
    signed: Annotated[int, Meta(ge=-(1 << 20), lt=5)] | None


class Outer(Wire, frozen=True, kw_only=True):
    word: Literal["a", "longest"]
    text: Annotated[str, Meta(max_length=10)]
    name: Annotated[str, Meta(max_length=10, pattern=r"^[a-z]*\Z")]
    data: Annotated[bytes, Meta(max_length=300)]
    share: float
    flag: bool
    peer: PeerIdField
    digest: DigestField
    inner: Annotated[tuple[Inner, ...], Meta(max_length=30)]


class Endless(Wire, frozen=True, kw_only=True):
    data: bytes


def test_the_largest_value_of_a_type_has_exactly_the_bytes_items_and_depth_derived() -> None:
    inner = Inner(number=300, signed=-(1 << 20))
    value = Outer(
        word="longest",
        text="\U0001f600" * 10,
        name="z" * 10,
        data=bytes(300),
        share=0.1,
        flag=True,
        peer=peer("a"),
        digest=D,
        inner=(inner,) * 30,
    )
    data, most = encode(value), largest(Outer)
    assert most == Largest(len(data), scan(data, items=math.inf, depth=3), 3)
    assert decode(data, Outer) == value


def test_a_union_is_as_large_as_its_largest_part() -> None:
    either: Any = Inner | Outer
    assert largest(either) == largest(Outer)


def test_a_type_without_a_bound_is_bounded_by_its_frame_alone() -> None:
    assert largest(Endless).size == math.inf
    data = encode(Endless(data=bytes(100)))
    assert decode(data, Endless, limit=len(data)).data == bytes(100)
    with pytest.raises(RemoteProtocolError, match=r"bytes where \d+ are allowed"):
        decode(data, Endless, limit=len(data) - 1)


@pytest.mark.parametrize("number", [0, 23, 24, 255, 256, 65535, 65536, (1 << 32) - 1, 1 << 32])
def test_the_head_of_a_number_has_the_bytes_of_its_encoding(number: int) -> None:
    import cbor2

    assert head_bytes(number) == len(cbor2.dumps(number))


@pytest.mark.parametrize("kind", wire_types(), ids=lambda kind: kind.__name__)
def test_every_wire_type_has_a_largest_value_and_no_example_is_larger(kind: type[Wire]) -> None:
    most = largest(kind)
    assert most.size < 2.4e6 and most.items < 50_000 and most.depth <= 6 < MAX_DEPTH
    for value in values()[kind.__name__]:
        data = encode(value)
        assert len(data) <= most.size
        assert scan(data, items=most.items, depth=most.depth) <= most.items


def test_every_signed_value_fits_its_envelope_and_every_envelope_its_frame() -> None:
    assert max(largest(kind).size for kind in SIGNED) <= MAX_BODY
    around = largest(Signed).size - MAX_BODY
    assert around < MAX_ENVELOPE - MAX_BODY
    assert signed_bytes(LedgerRecord) < LEDGER_PART, "a record that is too long would never come"


def test_every_request_and_answer_fits_its_call() -> None:
    for calls in (CONTROL_CALLS, SYNC_CALLS):
        kinds = [kind for request, answers in calls.items() for kind in (request, *answers)]
        assert all(largest(kind).size <= MAX_CALL_BODY for kind in kinds)
        for kind in (Request, Reply):
            body = bytes(int(max(largest(each).size for each in kinds)))
            fields: dict[str, Any] = {"id": (1 << 53) - 1, "body": body}
            fields |= {"kind": "\U0001f600" * 64} if kind is Request else {}
            assert len(encode(kind(**fields))) <= frame_bytes(calls)


def test_the_documented_sizes_are_the_types_own() -> None:
    assert table() == DOC.read_text().partition(BEGIN)[2].partition(END)[0].strip()


def test_a_value_built_while_another_is_read_in_another_thread_is_still_checked() -> None:
    """The second check is left out inside `decode` alone, and of that thread alone."""
    data = encode(Inner(number=1, signed=None))
    assert decode(data, Inner) == Inner(number=1, signed=None)
    with pytest.raises(ValueError, match="number"):
        Inner(number=301, signed=None)
    with pytest.raises(RemoteProtocolError):
        decode(data.replace(b"\x01", b"\x61a"), Inner)
    with pytest.raises(ValueError, match="number"):
        msgspec.structs.replace(Inner(number=1, signed=None), number=-1)
