"""Rules of this file: pure; what msgspec refuses is told in words that a person can act on."""

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta, inspect

from dipaco.node.api.values import FetchRequest
from dipaco.node.config import KEYS, TEXT_LISTS
from dipaco.node.runs.tables import TABLES
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.canonical import Wire, decode, encode
from dipaco.protocol.wire.digest import sha256
from dipaco.protocol.wire.faults import fault_of, nearest, shown
from dipaco.protocol.wire.messages import Item

D = sha256(b"a blob")


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    share: Annotated[float, Meta(ge=0, lt=1)]
    rate: Annotated[float, Meta(gt=0, le=1e3)] = 1.0
    size: Annotated[int, Meta(ge=8, le=64, multiple_of=8)] = 8
    word: Annotated[str, Meta(pattern=r"^a+\Z", description="a word of a's")] = "a"
    kind: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        if self.rate == 2:
            raise ValueError("rate: 2 is taken")


class Outer(msgspec.Struct, frozen=True):
    inners: Annotated[tuple[Inner, ...], Meta(min_length=1, max_length=3)]
    one: Inner | None = None


@pytest.mark.parametrize(
    ("inner", "place", "words"),
    [
        ({"share": 1.0}, "share", "1.0 is not a number from 0 to below 1"),
        ({"share": math.nan}, "share", "nan is not a number from 0 to below 1"),
        ({"share": 0, "rate": 0}, "rate", "0 is not a number above 0 and up to 1000"),
        ({"share": 0, "size": 9}, "size", "9 is not a multiple of 8 from 8 to 64"),
        ({"share": 0, "size": "8"}, "size", "the text '8' is not a multiple of 8 from 8 to 64"),
        ({"share": 0, "word": "b\n"}, "word", r"the text 'b\n' is not a word of a's"),
        (
            {"share": 0, "kind": "men"},
            "kind",
            "the text 'men' is not one of mean, sum; did you mean mean?",
        ),
        ({"share": 0, "rate": 2}, "rate", "2 is taken"),
        ({"share": 0, "shape": 2}, "shape", "no such field"),
        ({}, "share", "is missing: a number from 0 to below 1"),
    ],
)
def test_a_fault_is_told_with_its_place_its_value_and_what_belongs_there(
    inner: dict[str, Any], place: str, words: str
) -> None:
    wholes: dict[str, dict[str, Any]] = {
        "inners[0].": {"inners": [inner]},
        "one.": {"inners": [{"share": 0}], "one": inner},
    }
    for prefix, whole in wholes.items():
        with pytest.raises(msgspec.ValidationError) as caught:
            msgspec.convert(whole, Outer)
        assert fault_of(caught.value, whole, Outer) == (f"{prefix}{place}", words)


def test_a_value_is_shown_in_one_short_line_of_ascii() -> None:
    odd: list[Any] = [
        "x" * 500,
        "a\nb\x1b[31m",
        "caf\u00e9",
        10**5000,
        {},
        [1] * 99,
        True,
        b"\0" * 9,
    ]
    for value in odd:
        text = shown(value)
        assert len(text) < 64 and text.isascii() and text.isprintable()
    assert shown(False) == "false" and shown([]) == "an empty list"


def test_the_nearest_name_is_offered_and_none_where_none_is_near() -> None:
    assert nearest("rounts", ["rounds", "batch"]) == "; did you mean rounds?"
    assert nearest("xyz", ["rounds", "batch"]) == ""


def strings(info: inspect.Type, described: bool, seen: set[type]) -> Iterator[tuple[str, bool]]:
    """Yield every pattern within a type, and whether a description stands with it."""
    if isinstance(info, inspect.Metadata):
        yield from strings(info.type, bool((info.extra_json_schema or {}).get("description")), seen)
    elif isinstance(info, inspect.StrType) and info.pattern:
        yield info.pattern, described
    elif isinstance(info, inspect.StructType):
        if info.cls not in seen:
            seen.add(info.cls)
            for field in info.fields:
                yield from strings(field.type, False, seen)
    elif isinstance(info, inspect.UnionType):
        for part in info.types:
            yield from strings(part, False, seen)
    elif isinstance(info, inspect.VarTupleType):
        yield from strings(info.item_type, False, seen)


def wire_types(base: type[Any]) -> Iterator[type[Any]]:
    for kind in base.__subclasses__():
        if kind.__module__.startswith("dipaco."):  # tests have types of their own
            yield kind
        yield from wire_types(kind)


def test_every_pattern_has_words_that_stand_in_a_message_instead() -> None:
    keys = [kind for key, kind in KEYS.items() if key not in TEXT_LISTS]  # these are parsed by us
    kinds: list[Any] = [*wire_types(Wire), *keys, *TABLES.values(), FetchRequest]
    found = {
        pattern: described
        for kind in kinds
        for pattern, described in strings(inspect.type_info(kind), False, set())
    }
    assert len(found) > 8
    assert not [pattern for pattern, described in found.items() if not described]


def test_a_refused_message_quotes_no_regular_expression() -> None:
    kind = "a" * 32
    data = encode(Item(kind=kind, run=D, digest=D, seq=0)).replace(kind.encode(), b"/" * 32)
    with pytest.raises(RemoteProtocolError) as caught:
        decode(data, Item, limit=1000)
    assert str(caught.value) == (
        f"malformed Item: kind: the text '{'/' * 32}' is not the name of a kind: at most 32 "
        "letters, digits, '_' and '-'"
    )


def test_bytes_behind_a_value_and_a_value_cut_off_are_told_as_such() -> None:
    data = encode(Item(kind="spec", run=D, digest=D, seq=0))
    with pytest.raises(RemoteProtocolError, match="malformed Item: 2 bytes after its end"):
        decode(data + b"\0\0", Item)
    with pytest.raises(RemoteProtocolError, match="malformed Item: the bytes end too early"):
        decode(data[:-2], Item)
