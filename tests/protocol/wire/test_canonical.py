"""Rules of this file: types of its own show what the base class does for every wire type; what
all real types have in common is tried on them in test_wire.py."""

from typing import Annotated, Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import replace

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.canonical import MAX_DEPTH, Wire, decode, encode


class Leaf(Wire, frozen=True, kw_only=True):
    number: Annotated[int, Meta(ge=0, le=1 << 62)] = 0
    share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    name: Annotated[str, Meta(max_length=8)] = ""
    data: Annotated[bytes, Meta(max_length=8)] = b""


class Tree(Wire, frozen=True, kw_only=True):
    leaves: Annotated[tuple[Leaf, ...], Meta(max_length=4)] = ()
    other: Leaf | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.other in self.leaves:
            raise ValueError("other: is one of the leaves")


LEAVES = st.builds(
    Leaf,
    number=st.integers(0, 1 << 62),
    share=st.floats(0, 1),
    name=st.text(max_size=8),
    data=st.binary(max_size=8),
)


def limited(data: bytes, kind: type[Any] = Leaf) -> Any:
    return decode(data, kind, limit=1000)


@given(LEAVES)
def test_a_value_survives_the_wire(leaf: Leaf) -> None:
    tree = Tree(leaves=(leaf, leaf))
    assert limited(encode(leaf)) == leaf
    assert decode(encode(tree), Tree, limit=1000) == tree


@given(LEAVES, LEAVES)
def test_values_are_equal_when_their_encodings_are(one: Leaf, other: Leaf) -> None:
    assert (encode(one) == encode(other)) == (one == other)


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        (23, "17"),
        (24, "1818"),
        (256, "190100"),
        (65536, "1a00010000"),
        (1 << 32, "1b0000000100000000"),
        (0.0, "f90000"),
        (0.5, "f93800"),
        (0.1, "fb3fb999999999999a"),
        (100000.0, "fa47c35000"),
        (b"\1", "4101"),
        ("a", "6161"),
        (None, "f6"),
        (False, "f4"),
    ],
)
def test_numbers_take_their_shortest_form(value: object, encoding: str) -> None:
    """RFC 8949, appendix A and section 4.2.1, through the library that we rely on for it."""
    assert cbor2.dumps(value, canonical=True).hex() == encoding


def test_keys_stand_in_the_order_of_their_encodings() -> None:
    keys = list(cbor2.loads(encode(Leaf())))
    assert keys == ["data", "name", "type", "share", "number"]
    assert keys == sorted(keys, key=lambda key: cbor2.dumps(key))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"number": -1}, "number"),
        ({"number": 1 << 63}, "number"),
        ({"number": "1"}, "number"),
        ({"number": True}, "number"),
        ({"share": 1.5}, "share"),
        ({"share": float("nan")}, "share"),
        ({"share": float("inf")}, "share"),
        ({"name": "a" * 9}, "name"),
        ({"name": b"a"}, "name"),
        ({"data": bytes(9)}, "data"),
        ({"data": "a"}, "data"),
    ],
)
def test_a_bad_value_is_our_bug_when_we_make_it_and_the_peers_when_it_comes(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Leaf(**changes)
    with pytest.raises(ValueError, match=words):
        replace(Leaf(), **changes)
    sent = cbor2.loads(encode(Leaf())) | changes
    with pytest.raises(RemoteProtocolError, match=words):
        limited(cbor2.dumps(sent, canonical=True))


def test_a_whole_number_becomes_a_float_where_one_belongs() -> None:
    assert encode(Leaf(share=1)) == encode(Leaf(share=1.0))
    sent = cbor2.loads(encode(Leaf())) | {"share": 1}
    with pytest.raises(RemoteProtocolError, match="canonical"):
        limited(cbor2.dumps(sent, canonical=True))


def test_a_list_becomes_a_tuple_so_values_can_be_hashed() -> None:
    tree = Tree(leaves=[Leaf()])  # type: ignore[arg-type]
    assert tree.leaves == (Leaf(),) and hash(tree) == hash(Tree(leaves=(Leaf(),)))


def test_rules_between_fields_hold_on_both_sides() -> None:
    with pytest.raises(ValueError, match="other: is one of the leaves"):
        Tree(leaves=(Leaf(),), other=Leaf())
    inner = cbor2.loads(encode(Leaf()))
    sent = {"type": "Tree", "leaves": [inner], "other": inner}
    with pytest.raises(RemoteProtocolError, match="other: is one of the leaves"):
        limited(cbor2.dumps(sent, canonical=True), Tree)


def test_a_bad_value_deep_inside_is_named_by_its_place() -> None:
    inner = cbor2.loads(encode(Leaf()))
    sent = {"type": "Tree", "leaves": [inner, inner | {"number": -1}], "other": None}
    with pytest.raises(RemoteProtocolError, match=r"leaves\[1\]"):
        limited(cbor2.dumps(sent, canonical=True), Tree)


def test_one_of_several_types_is_told_by_its_tag() -> None:
    assert limited(encode(Tree()), Leaf | Tree) == Tree()  # type: ignore[arg-type]
    assert limited(encode(Leaf()), Leaf | Tree) == Leaf()  # type: ignore[arg-type]


def test_nesting_ends_before_the_stack_does() -> None:
    for depth in (MAX_DEPTH, MAX_DEPTH + 1, 900):
        with pytest.raises(RemoteProtocolError, match="malformed"):
            limited(b"\x81" * depth + b"\0")


def test_the_limit_is_of_bytes_and_is_checked_first() -> None:
    data = encode(Leaf())
    assert decode(data, Leaf, limit=len(data)) == Leaf()
    with pytest.raises(RemoteProtocolError, match=f"{len(data)} bytes where 10 are allowed"):
        decode(data, Leaf, limit=10)


class Early(Wire, frozen=True, kw_only=True, tag="Grown"):
    number: Annotated[int, Meta(ge=0, le=9)] = 0


class Grown(Wire, frozen=True, kw_only=True, tag="Grown"):
    number: Annotated[int, Meta(ge=0, le=9)] = 0
    added: Annotated[int, Meta(ge=1, le=9)] | UnsetType = UNSET


def test_a_field_that_came_later_leaves_the_bytes_of_earlier_values_as_they_were() -> None:
    assert encode(Grown(number=3)) == encode(Early(number=3))
    assert decode(encode(Early(number=3)), Grown) == Grown(number=3)
    assert decode(encode(Grown(added=2)), Grown) == Grown(added=2)
    with pytest.raises(ValueError, match="added: 0"):
        Grown(added=0)
    with pytest.raises(ValueError, match="number: is missing"):
        Grown(number=UNSET)  # type: ignore[arg-type]
