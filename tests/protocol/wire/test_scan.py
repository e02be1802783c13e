"""Rules of this file: costs are counted, in items and in allocated bytes, never timed."""

import tracemalloc
from contextlib import suppress

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.decode import places
from benchmarks.worst import worst_inputs
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.canonical import MAX_DEPTH, Wire, decode, encode, field_of
from dipaco.protocol.wire.largest import largest
from dipaco.protocol.wire.scan import scan
from tests.golden.values import values, wire_types

LARGE = 50_000  # bytes of a place that is tried with these inputs alone:
GREEDY = {"the largest value", "empty maps", "empty lists", "a long key"}
FREE = 8 << 10  # bytes that a refusal may take whatever came: the error and its text

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.floats()
    | st.binary(max_size=300)
    | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(st.text(max_size=30), inner),
    max_leaves=20,
)


def items_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + sum(items_of(each) for pair in value.items() for each in pair)
    return 1 + (sum(map(items_of, value)) if isinstance(value, list) else 0)


def look(data: bytes, items: float = 1000, depth: int = MAX_DEPTH) -> int:
    return scan(data, items=items, depth=depth)


@given(PLAIN)
def test_plain_values_pass_and_their_items_are_counted(value: object) -> None:
    assert look(cbor2.dumps(value), 1 << 20) == items_of(value)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_pass_or_are_the_peers_fault(data: bytes) -> None:
    with suppress(RemoteProtocolError):
        assert 1 <= look(data) <= len(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "end too early"),
        (b"\x18", "end too early"),
        (b"\x58\x20" + bytes(31), "end too early"),
        (b"\x58", "end too early"),
        (b"\x7b\x7f" + b"\xff" * 7, "end too early"),
        (b"\x5b\xff", "end too early"),
        (b"\x82\x00", "end too early"),
        (b"\x00\x00", "1 bytes after its end"),
        (b"\xc4\x82\x01\xc2\x41\x01", "a tag"),
        (b"\xd8\x1c\x80", "a tag"),
        (b"\x81\xd9\xd9\xf7\x00", "a tag"),
        (b"\x9f\xff", "indefinite"),
        (b"\xbf\xff", "indefinite"),
        (b"\x5f\xff", "indefinite"),
        (b"\x7f\xff", "indefinite"),
        (b"\x5c", "reserved"),
        (b"\x1c", "simple value"),
        (b"\x1f", "simple value"),
        (b"\xf7", "simple value"),
        (b"\xe0", "simple value"),
        (b"\xf8\xff", "simple value"),
        (b"\xff", "simple value"),
        (b"\xa1\x00\x00", "no text"),
        (b"\xa1\x41a\x00", "no text"),
        (b"\xa1\x7f\x00", "no text"),
        (b"\xa1\x80\x00", "no text"),
        (b"\xa2\x61a\x00\x01\x00", "no text"),
        (b"\x9b" + b"\xff" * 8, "more than the 1000 items"),
        (b"\xbb" + b"\xff" * 8, "more than the 1000 items"),
        (b"\x81" * (MAX_DEPTH + 1) + b"\0", "nested deeper"),
    ],
    ids=lambda value: value.hex()[:24] if isinstance(value, bytes) else "",
)
def test_a_form_that_no_value_has_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        look(data)


def test_the_bounds_are_the_last_that_pass() -> None:
    assert look(b"\x81" * MAX_DEPTH + b"\0") == MAX_DEPTH + 1
    assert look(b"\x83\0\0\0", items=4) == 4
    with pytest.raises(RemoteProtocolError, match="more than the 3 items"):
        look(b"\x83\0\0\0", items=3)


def test_a_field_of_a_refused_value_is_read_within_the_same_bounds() -> None:
    assert field_of(cbor2.dumps({"format": 7}), "format") == 7
    tagged = b"\xa1\x66format\xc4\x82\x01\xc2\x41\x01"
    assert field_of(tagged, "format") is None
    assert field_of(b"\x9a\x00\x40\x00\x00" + b"\xa0" * (4 << 20), "format") is None


# ------------------------------------------------------------------------------ cost by place


def read(data: bytes, kind: type[Wire]) -> None:
    """Decode bytes, or have them refused."""
    with suppress(RemoteProtocolError):
        decode(data, kind)


@pytest.mark.parametrize("kind", places(), ids=lambda kind: kind.__name__)
def test_no_input_allocates_more_than_twenty_times_the_largest_value(kind: type[Wire]) -> None:
    most = largest(kind).size
    for name, data in worst_inputs(kind).items():
        if most > LARGE and name not in GREEDY:
            continue  # counting allocations is slow; `python -m benchmarks decode` tries all
        if most < LARGE:
            read(data, kind)  # before counting: the first time, types are looked into
        tracemalloc.start()
        read(data, kind)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak <= 20 * most + FREE, name


def test_a_ping_has_a_few_bytes_and_a_list_of_four_million_maps_is_not_looked_at() -> None:
    names = {kind.__name__: kind for kind in wire_types()}
    with pytest.raises(RemoteProtocolError, match="12 bytes where 11 are allowed"):
        decode(bytes(12), names["Ping"], limit=1 << 20)
    flood = b"\x9a\x00\x0f\x00\x00" + b"\xa0" * 0xF0000
    tracemalloc.start()
    with pytest.raises(RemoteProtocolError, match="items that are allowed"):
        decode(flood, names["Manifest"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < FREE


HOSTILE = {
    "ESC": "\x1b[2J\x1b]0;owned\x07",
    "a C1 control": "\x9b31m",
    "bidi": "\u202eevil\u2066",
    "lines": "x\r\n2026-01-01 forged log line\u2028y\x85z",
    "invisible": "a\u200b\ufeffb",
    "long": "k" * 900_000,
    "long and hostile": "\x1b" * 900_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("place", ["key", "type", "value", "literal", "number", "inner key"])
def test_a_refusal_quotes_a_peers_text_in_one_short_printable_line(text: str, place: str) -> None:
    names = {kind.__name__: kind for kind in wire_types()}
    content = cbor2.loads(encode(values()["Manifest"][0]))
    changed = {
        "key": content | {text: 0},
        "type": content | {"type": text},
        "value": content | {"name": text},
        "literal": content | {"training": content["training"] | {"precision": text}},
        "number": content | {"seed": text},
        "inner key": content | {"grid": content["grid"] | {text: 0}},
    }
    with pytest.raises(RemoteProtocolError) as caught:
        decode(cbor2.dumps(changed[place], canonical=True), names["Manifest"])
    message = str(caught.value)
    assert message.isprintable() and len(message) < 600


def test_half_a_surrogate_is_no_text() -> None:
    names = {kind.__name__: kind for kind in wire_types()}
    with pytest.raises(RemoteProtocolError, match="malformed Item") as caught:
        decode(b"\xa1\x64type\x63\xed\xa0\x80", names["Item"])
    assert str(caught.value).isprintable()
