"""The inputs that cost a decoder most, for any wire type: as large as the type allows."""

import re
from typing import Any

import cbor2
import msgspec
from msgspec import inspect

from dipaco.protocol.wire.largest import largest

PEER = "12D3KooWA3sRJSUyBaDW1X1hiYKRt7QrE8HZaPLj3MTdi8vdBkjR"


def worst_inputs(kind: type[msgspec.Struct]) -> dict[str, bytes]:
    """Return inputs by name; the first is valid but for rules between its fields."""
    most = largest(kind)
    size, items = int(most.size), int(most.items)
    full = _full(kind, size)
    lists = max(0, min(items - 1, size - 9))
    count = lists.to_bytes(8, "big")
    pairs = max(0, min((items - 1) // 2, (size - 9) // 6, 1 << 16))
    keys = b"".join(b"\x64%04x\0" % number for number in range(pairs))
    long = max(0, size - 20)
    deep = max(0, most.depth - 1)
    return {
        "the largest value": full,
        "its last byte wrong": full[:-1] + bytes([full[-1] ^ 0x60]),
        "its last byte missing": full[:-1],
        "a byte too many": full + b"\0",
        "not canonical": _uncanonical(full),
        "empty maps": b"\x9b" + count + b"\xa0" * lists,
        "empty lists": b"\x9b" + count + b"\x80" * lists,
        "zeros": b"\x9b" + count + bytes(lists),
        "twice too many items": b"\x9b" + (2 * lists + 2).to_bytes(8, "big") + b"\xa0" * lists,
        "2^64 - 1 items": b"\x9b" + b"\xff" * 8 + b"\xa0" * lists,
        "a text of 2^63 bytes": b"\xa1\x64type\x7b\x7f" + b"\xff" * 7 + b"a" * long,
        "other keys": b"\xbb" + pairs.to_bytes(8, "big") + keys,
        "the same key": b"\xbb" + pairs.to_bytes(8, "big") + b"\x61a\0" * pairs,
        "a long key": b"\xa1\x7a" + long.to_bytes(4, "big") + b"k" * long + b"\0",
        "a long type": b"\xa1\x64type\x7a" + long.to_bytes(4, "big") + b"k" * long,
        "deepest": b"\x81" * deep + b"\x9b" + count + b"\x80" * (lists - deep),
        "a tag round a number": b"\xa1\x64type\xc4\x82\x3a\0\x0f\xff\xff\xc2\x5a"
        + long.to_bytes(4, "big")
        + b"\xff" * long,
    }


def _full(kind: type[msgspec.Struct], size: int) -> bytes:
    """Return the largest value; without the fields that may be left out, if they are too much."""
    content = filled(inspect.type_info(kind), size)
    full = cbor2.dumps(content, canonical=True)
    if len(full) <= size:
        return full
    fields = msgspec.structs.fields(kind)
    later = {field.encode_name for field in fields if field.default is msgspec.UNSET}
    return cbor2.dumps({k: v for k, v in content.items() if k not in later}, canonical=True)


def _uncanonical(full: bytes) -> bytes:
    """Return the value with its first key moved to the end."""
    content = cbor2.loads(full)
    first = next(iter(content))
    return cbor2.dumps({**{k: v for k, v in content.items() if k != first}, first: content[first]})


def filled(info: inspect.Type, size: int) -> Any:
    """Return maps and lists of a type: every list full, texts as long as `size` bytes allow."""
    match info:
        case inspect.Metadata(type=inner):
            return filled(inner, size)
        case inspect.StructType(fields=fields):
            assert isinstance(info.tag_field, str)
            return {info.tag_field: info.tag} | {
                field.encode_name: filled(field.type, size) for field in fields
            }
        case inspect.UnionType(types=parts):
            return filled(max(parts, key=_items), size)
        case inspect.LiteralType(values=values):
            return values[-1]
        case inspect.EnumType(cls=cls):
            return next(iter(cls)).value
        case inspect.VarTupleType(item_type=item, max_length=most):
            assert most is not None
            return [filled(item, size // most * 9 // 10 - 64)] * most
        case inspect.BoolType() | inspect.NoneType():
            return None if isinstance(info, inspect.NoneType) else True
        case inspect.IntType(le=le, lt=lt):
            return le if le is not None else lt - 1 if lt is not None else 1 << 53
        case inspect.FloatType(le=most):
            return 0.1 if most is None or most >= 1 else most / 3
        case inspect.BytesType(max_length=most):
            assert most is not None
            return bytes(most if info.min_length else min(most, max(size, 0)))
        case inspect.StrType():
            return _text(info, size)
    raise AssertionError(f"no value of {info}")


def _items(info: inspect.Type) -> float:
    return largest(info.cls).items if isinstance(info, inspect.StructType) else 0


def _text(info: inspect.StrType, size: int) -> str:
    assert info.max_length is not None
    length = max(info.min_length or 1, min(info.max_length, max(size, 0)))
    for text in ("a" * length, "/" + "a" * (length - 1), PEER):
        if info.pattern is None or re.search(info.pattern, text):
            return text
    raise AssertionError(f"no text of {info.pattern}")
