"""Rules of this file: what is said of one wire type is tried on all, found by reflection.

The vectors in tests/golden/wire.json and the schema in docs/protocol.cddl are the protocol. Bytes
from a peer lead to a valid value or to RemoteProtocolError, and to nothing else.
"""

import re
import tracemalloc
from collections.abc import Iterator
from functools import cache

import cbor2
import msgspec
import pycddl  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.canonical import Wire, decode, encode
from dipaco.protocol.wire.digest import sha256
from tests.golden.cddl import schema
from tests.golden.values import values, wire_types
from tests.golden.wire_vectors import SCHEMA, Vector, saved, vectors

TYPES = {kind.__name__: kind for kind in wire_types()}
LIMIT = 1 << 20  # bytes; the longest vector has 1.4 KB
SAVED = saved()
each_vector = pytest.mark.parametrize(
    "vector", SAVED, ids=lambda v: f"{v['type']}-{v['sha256'][:6]}"
)
each_type = pytest.mark.parametrize("name", TYPES)


def data_of(vector: Vector) -> bytes:
    return bytes.fromhex(vector["encoding"])


def plain(value: Wire) -> dict[str, object]:
    """Return a value as maps and lists, which can be made to hold anything."""
    built: dict[str, object] = msgspec.to_builtins(value, builtin_types=(bytes,))
    return built


def without_a_field(value: Wire) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the value without one of its fields, each but those that may be left out."""
    content = plain(value)
    later = {each.name for each in msgspec.structs.fields(value) if each.default is msgspec.UNSET}
    for field in content.keys() - later:
        yield field, {key: content[key] for key in content if key != field}


def taken(data: bytes, kind: type[Wire]) -> Wire | None:
    """Return the value that bytes are taken for, of which they must be the encoding, or None."""
    try:
        value = decode(data, kind, limit=LIMIT)
    except RemoteProtocolError:
        return None
    assert encode(value) == data
    return value


def refused(data: bytes, kind: type[Wire]) -> bool:
    return taken(data, kind) is None


# ------------------------------------------------------------------------------ golden vectors


def test_two_types_never_share_a_name() -> None:
    assert len(TYPES) == len(wire_types())  # the name is what signatures tell them apart by


def test_every_type_has_a_vector() -> None:
    assert {vector["type"] for vector in SAVED} == set(TYPES) == set(values())


def test_the_code_gives_the_committed_vectors() -> None:
    assert vectors() == SAVED


@each_vector
def test_a_vector_decodes_to_its_value_and_back(vector: Vector) -> None:
    data, kind = data_of(vector), TYPES[vector["type"]]
    value = decode(data, kind, limit=len(data))
    assert value in values()[vector["type"]]
    assert encode(value) == data and sha256(data).hex() == vector["sha256"]


@each_vector
def test_no_byte_of_a_vector_can_be_changed_without_notice(vector: Vector) -> None:
    data, kind = data_of(vector), TYPES[vector["type"]]
    value = decode(data, kind, limit=len(data))
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= (0x01, 0x20, 0x80)[place % 3]
        assert taken(bytes(changed), kind) != value, place


@each_vector
def test_a_vector_cut_short_or_extended_is_refused(vector: Vector) -> None:
    data, kind = data_of(vector), TYPES[vector["type"]]
    assert all(refused(data[:length], kind) for length in range(len(data)))
    assert all(refused(data + tail, kind) for tail in (b"\0", b"\xf6", b"\xff", data))
    assert refused(b"\0" + data, kind)


@each_vector
def test_a_vector_above_the_limit_is_refused_unread(vector: Vector) -> None:
    data = data_of(vector)
    with pytest.raises(RemoteProtocolError, match="are allowed"):
        decode(data, TYPES[vector["type"]], limit=len(data) - 1)


# ------------------------------------------------------------------------------ one encoding


@each_vector
def test_the_same_value_in_another_encoding_is_refused(vector: Vector) -> None:
    data, kind = data_of(vector), TYPES[vector["type"]]
    assert all(refused(other, kind) for other in other_encodings(data))


def other_encodings(data: bytes) -> Iterator[bytes]:
    """Yield CBOR of the same map: other order of keys, long and indefinite lengths, a tag."""
    content = cbor2.loads(data)
    if len(content) > 1:
        yield cbor2.dumps(dict(reversed(content.items())))
    count = len(content)
    head, longer = (bytes([0xA0 + count]), 0xB8) if count < 24 else (bytes([0xB8, count]), 0xB9)
    assert data.startswith(head)
    body = data[len(head) :]
    yield bytes([longer]) + count.to_bytes(longer - 0xB7, "big") + body
    yield b"\xbf" + body + b"\xff"
    yield b"\xd9\xd9\xf7" + data  # self-described CBOR
    last = list(content)[-1]
    more = head[:-1] + bytes([head[-1] + 1])
    yield more + body + cbor2.dumps(last) + cbor2.dumps(content[last])


def came_later(value: Wire) -> set[str]:
    """Return the fields that may be left out."""
    fields = msgspec.structs.fields(type(value))
    return {each.name for each in fields if each.default is msgspec.UNSET}


@each_type
def test_unknown_and_missing_fields_are_refused(name: str) -> None:
    for value in values()[name]:
        content = plain(value)
        assert refused(cbor2.dumps(content | {"zz": 0}, canonical=True), TYPES[name])
        for field, rest in without_a_field(value):
            assert refused(cbor2.dumps(rest, canonical=True), TYPES[name]), field


@each_type
def test_a_type_is_not_taken_for_another(name: str) -> None:
    data = encode(values()[name][0])
    assert all(refused(data, kind) for other, kind in TYPES.items() if other != name)


# ------------------------------------------------------------------------------ hostile bytes

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.binary(max_size=40)
    | st.text(max_size=20)
    | st.sampled_from([cbor2.CBORTag(n, "x") for n in (0, 2, 4, 28, 29, 35, 36, 258, 55799)])
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(data=st.binary(max_size=200), kind=st.sampled_from(wire_types()))
def test_arbitrary_bytes_raise_the_declared_error_alone(data: bytes, kind: type[Wire]) -> None:
    assert refused(data, kind)  # to hit upon a type's name takes more than chance


@given(tree=TREES, name=st.sampled_from(sorted(TYPES)), draw=st.data())
def test_any_field_may_hold_anything_and_is_refused_or_read_as_it_stands(
    tree: object, name: str, draw: st.DataObject
) -> None:
    content = plain(values()[name][0])
    field = draw.draw(st.sampled_from(sorted(content)))
    changed = cbor2.dumps(content | {field: tree}, canonical=True)
    value = taken(changed, TYPES[name])
    assert value is None or cbor2.dumps(plain(value)[field], canonical=True) == cbor2.dumps(
        tree, canonical=True
    )


HOSTILE = {
    "a map of 2^64 - 1 pairs": b"\xbb" + b"\xff" * 8,
    "a text of 2^63 bytes": b"\xa1\x7b\x7f" + b"\xff" * 7,
    "an array of 2^32 items": b"\xa1\x64type\x9b" + (1 << 32).to_bytes(8, "big"),
    "nested 10,000 deep": b"\x81" * 10_000 + b"\0",
    "a map that holds itself": bytes.fromhex("d81ca16474797065d81d00"),
    "a regular expression": bytes.fromhex("a16474797065d8236428616129"),
    "a number of 10,000 digits": b"\xa1\x62id\xc2\x59\x10\x00" + b"\xff" * 4096,
    "not UTF-8": b"\xa1\x64type\x62\xff\xfe",
    "a key that is a list": b"\xa1\x81\x00\x00",
    "the same key twice": b"\xa2\x62id\x00\x62id\x00",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_are_refused_and_allocate_next_to_nothing(data: bytes) -> None:
    assert refused(data, TYPES["Ping"])  # before counting: decoding imports modules the first time
    tracemalloc.start()
    assert all(refused(data, kind) for kind in wire_types())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def patterns(info: object) -> Iterator[str]:
    """Yield the patterns of texts anywhere in a type, but for those of the types it names."""
    if isinstance(info, msgspec.inspect.StrType) and info.pattern is not None:
        yield info.pattern
    parts = [getattr(info, name, None) for name in ("type", "item_type", "key_type", "value_type")]
    for part in (*parts, *getattr(info, "types", ()), *getattr(info, "item_types", ())):
        if isinstance(part, msgspec.inspect.Type) and not isinstance(
            part, msgspec.inspect.StructType
        ):
            yield from patterns(part)


@cache
def all_patterns() -> dict[str, str]:
    return {
        f"{name}.{field.name}": pattern
        for name, kind in TYPES.items()
        for field in msgspec.inspect.type_info(kind).fields  # type: ignore[attr-defined]
        for pattern in patterns(field)
    }


def test_a_line_break_after_a_name_is_no_part_of_it() -> None:
    """Python's `$` would let one pass, and with it a second line into other people's logs."""
    found = all_patterns()
    assert len(found) > 20
    wrong = {f: p for f, p in found.items() if not (p.startswith("^") and p.endswith(r"\Z"))}
    assert not wrong


def test_a_pattern_takes_one_pass() -> None:
    """Characters and sets, of which one may repeat: nothing that a match could try in two ways."""
    repeats = re.compile(r"\^[A-Za-z0-9/]*(\[[^]]+\])?\[[^]]+\][*+]\\Z")
    assert not {f: p for f, p in all_patterns().items() if not repeats.fullmatch(p)}


# ------------------------------------------------------------------------------ the schema


@cache
def rules() -> dict[str, str]:
    """Return the committed schema's rules by name, without comments."""
    lines = SCHEMA.read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith(";"))
    found = (rule.partition(" = ") for rule in re.split(r"\n\n+", text.strip()))
    return {name: body for name, _, body in found}


@cache
def validator(name: str) -> pycddl.Schema:
    """Return a validator of one rule and of those that it names, one by one."""
    reached = [name]
    for each in reached:
        words = set(re.findall(r"[A-Za-z-]+", re.sub(r'"[^"]*"', "", rules()[each])))
        reached += sorted(words.intersection(rules()).difference(reached))
    text = "\n".join(f"{each} = {rules()[each]}" for each in reached)
    # RFC 8610's patterns match the whole text, pycddl's any part of it.
    return pycddl.Schema(re.sub(r'\.regexp "(.*?)"', r'.regexp "^(\1)$"', text))


def misfits(data: bytes, name: str) -> bool:
    try:
        validator(name).validate_cbor(data)
    except pycddl.ValidationError:
        return True
    return False


def test_the_committed_schema_is_the_codes() -> None:
    assert SCHEMA.read_text() == schema()


def test_every_type_has_a_rule_and_is_a_value() -> None:
    assert set(rules()) == {*TYPES, "value", "peer-id"}
    assert set(re.findall(r"\w+", rules()["value"])) == set(TYPES)


def test_the_whole_schema_can_be_read() -> None:
    pycddl.Schema(SCHEMA.read_text())


@each_vector
def test_the_schema_accepts_a_vector_under_no_other_rule(vector: Vector) -> None:
    other = "Ping" if vector["type"] != "Ping" else "Pong"
    assert not misfits(data_of(vector), vector["type"])
    assert misfits(data_of(vector), other)


@each_type
def test_the_schema_refuses_unknown_and_missing_fields(name: str) -> None:
    for value in values()[name]:
        content = plain(value)
        spoiled = (rest for _, rest in without_a_field(value))
        for each in (content | {"zz": 0}, *spoiled):
            assert misfits(cbor2.dumps(each, canonical=True), name)


SAME_TYPE: dict[type, tuple[object, ...]] = {
    int: (-1, 0, 1, 2, 3, 7, 9, 1 << 20, (1 << 20) + 1, 1 << 53, (1 << 53) + 1),
    float: (-1.0, 0.0, 0.5, 1.0, 1e3, 1.001e3, 1e12, 1.5e12, float("inf"), float("nan")),
    str: ("", "a", "A/b", "a\n", "é", "a" * 16, "a" * 33, "a" * 65, "a" * 5000, "12D3KooW"),
    bytes: (b"", b"a", b"a" * 16, b"a" * 32, b"a" * 33, b"a" * 64),
}
LENGTHS = (0, 1, 2, 3, 4, 9, 17, 51, 65, 1025)

BEYOND_CDDL = {
    "Capacity.den": "at most num",
    "Capacity.num": "at least den",
    "Grid.levels": "have the blocks that path_specific_blocks names",
    "Grid.path_specific_blocks": "ascending indices of blocks",
    "Head.digest": "of no record 0",
    "Head.length": "above 0 where term or digest are",
    "Head.term": "of no record 0",
    "Manifest.start": "the modules of path 0, in their order",
    "Model.d_model": "an even multiple of heads",
    "Model.heads": "divide d_model, evenly",
    "Model.kv_heads": "divide heads",
    "Quorum.den": "above num",
    "NoLease.place": "a place of a queue with fewer places",
    "NoLease.places": "a queue without a place in it",
    "Quorum.num": "below den",
    "Outside.observed": "counted in characters, not in bytes",
    "Registered.observed": "counted in characters, not in bytes",
    "Request.kind": "counted in characters, not in bytes",
    "RouterSpec.dimension": "a multiple of 8",
    "Routing.dimension": "a multiple of 8",
    "Routing.max_tokens": "at least min_tokens",
    "Routing.min_tokens": "at least prefix + 8 and scored_from + 8, at most prefix_bytes",
    "Routing.router_bp": "above 0 where there is re-sharding",
    "Routing.scored_from": "above prefix, at most min_tokens - 8",
    "Scheduling.copies": "at most the number of keepers, and not the default",
    "Scheduling.keepers": "distinct, and at least quorum and copies",
    "Scheduling.quorum": "more than half of the keepers, and not the default",
    "Source.config": "of a source of kind hub alone",
    "Source.dataset": "owner/name, of a source of kind hub alone",
    "Source.documents": "at least window, at most the rows of the files",
    "Source.files": "none for a synthetic source, else at least one",
    "Source.revision": "of a source of kind hub a commit",
    "Source.split": "of a source of kind hub alone",
    "Source.text_field": "of characters that can be printed",
    "Source.window": "at most documents",
    "SourceFile.name": "of characters that can be printed",
    "Tokenizer.end_of_text": "below vocabulary",
}
"""What the code asks for and CDDL cannot: rules between fields, and multiples."""


@pytest.mark.slow
def test_code_and_schema_refuse_the_same_values() -> None:
    beyond = set()
    for name, kind in TYPES.items():
        for field, data in changed_fields(name):
            by_schema, by_code = misfits(data, name), refused(data, kind)
            assert by_code or not by_schema, f"only the schema refuses {name}.{field}: {data.hex()}"
            if by_code and not by_schema:
                beyond.add(f"{name}.{field}")
    assert beyond == set(BEYOND_CDDL)


def changed_fields(name: str) -> Iterator[tuple[str, bytes]]:
    """Yield encodings with one field changed: pycddl takes values of other types for lengths."""
    for value in values()[name]:
        content = plain(value)
        for field, held in content.items():
            options = SAME_TYPE.get(type(held), ())
            if isinstance(held, (list, tuple)) and held:
                options = tuple([held[0]] * length for length in LENGTHS)
            for changed in options:
                yield field, cbor2.dumps(content | {field: changed}, canonical=True)
