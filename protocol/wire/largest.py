"""The largest encoding of a type, derived from its annotations: bytes, items, depth.

A receiver knows which type is due, so nothing longer need be read, and nothing with more items
decoded. Rules between fields are not looked at: the result is an upper bound. A field without a
bound makes its type infinite, and then the frame that carries it is the limit.
"""

import math
import operator
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any, Final

from msgspec import inspect

_CHARACTER_BYTES = 4  # the longest in UTF-8
STATED: Final = "MOST_BYTES"
"""The class variable of a type that has fewer bytes than its fields would allow."""


@dataclass(frozen=True, slots=True)
class Largest:
    """The most that an encoding may have."""

    size: float
    """Bytes; infinite where a field has no bound."""
    items: float
    """CBOR items: the value itself, and keys and values of maps each."""
    depth: int
    """Nested arrays and maps; 0: a number or a text."""

    def __or__(self, other: "Largest") -> "Largest":
        """Return the larger of each: the largest of a union."""
        return Largest(
            max(self.size, other.size), max(self.items, other.items), max(self.depth, other.depth)
        )


def largest(kind: Any) -> Largest:
    """Return the largest encoding of a wire type, or of a union of them."""
    return _derived(kind)


@cache
def _derived(kind: Any) -> Largest:
    return _largest(inspect.type_info(kind))


def _largest(info: inspect.Type) -> Largest:
    match info:
        case inspect.Metadata(type=inner):
            return _largest(inner)
        case inspect.StructType():
            return _struct(info)
        case inspect.UnionType(types=parts):
            return reduce(operator.or_, map(_largest, parts))
        case inspect.LiteralType(values=values):
            return _one(max(_scalar_bytes(each) for each in values))
        case inspect.EnumType(cls=cls):
            return _one(max(_scalar_bytes(each.value) for each in cls))
        case inspect.VarTupleType(item_type=item, max_length=most):
            return _list(_largest(item), most)
        case inspect.BoolType() | inspect.NoneType():
            return _one(1)
        case inspect.FloatType():
            return _one(9)
        case inspect.IntType():
            return _one(_integer_bytes(info))
        case inspect.BytesType(max_length=most):
            return _one(_string_bytes(most, 1))
        case inspect.StrType(max_length=most):
            return _one(_string_bytes(most, 1 if _is_ascii(info.pattern) else _CHARACTER_BYTES))
    return Largest(math.inf, math.inf, 0)  # a type that no value of the wire has


def _struct(info: inspect.StructType) -> Largest:
    fields = [(field.encode_name, _largest(field.type)) for field in info.fields]
    if info.tag_field is not None:  # a struct of the configuration has none
        fields.append((info.tag_field, _one(_scalar_bytes(info.tag))))
    keys = sum(_text_bytes(name) for name, _ in fields)
    size = head_bytes(len(fields)) + keys + sum(each.size for _, each in fields)
    return Largest(
        size=min(size, getattr(info.cls, STATED, math.inf)),
        items=1 + len(fields) + sum(each.items for _, each in fields),
        depth=1 + max((each.depth for _, each in fields), default=0),
    )


def _list(item: Largest, most: int | None) -> Largest:
    if most is None:
        return Largest(math.inf, math.inf, 1 + item.depth)
    return Largest(head_bytes(most) + most * item.size, 1 + most * item.items, 1 + item.depth)


def _one(size: float) -> Largest:
    return Largest(size, 1, 0)


def _integer_bytes(info: inspect.IntType) -> int:
    if info.ge is None or (info.le is None and info.lt is None):
        return 9  # of 64 bits: others have no encoding here
    most = info.le if info.le is not None else info.lt or 0
    return head_bytes(max(int(most), -1 - int(info.ge)))


def _string_bytes(most: int | None, each: int) -> float:
    return math.inf if most is None else head_bytes(each * most) + each * most


def _text_bytes(text: str) -> int:
    return int(_string_bytes(len(text.encode()), 1))


def _scalar_bytes(value: Any) -> int:
    return _text_bytes(value) if isinstance(value, str) else head_bytes(abs(int(value)))


def head_bytes(number: int) -> int:
    """Return the bytes of an item's head that tells a length, a count or a number."""
    return 1 if number < 24 else 1 + next(n for n in (1, 2, 4, 8) if number < 1 << 8 * n)


def _is_ascii(pattern: str | None) -> bool:
    """Return whether every text of a pattern is ASCII: it names all the characters it takes."""
    return (
        pattern is not None and pattern.isascii() and "[^" not in pattern and "\\w" not in pattern
    )
