"""Words for a value that its type refuses: the place, the value, and a description of the type.

msgspec's own messages tell one bound of two, leave out the value and quote regular expressions. A
type with a pattern has a `description` in its `Meta`, which stands in the message instead.
"""

import datetime
import difflib
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import inspect

from dipaco.protocol.wire.text import escaped, printable

MAX_SHOWN = 48  # characters of a value in a message


def fault_of(error: msgspec.ValidationError, value: Any, kind: Any) -> tuple[str, str]:
    """Return the place of a fault and its reason, such as `model.heads` and `0 is not ...`.

    value, kind   what `msgspec.convert` was given. An empty place stands for the value itself.
    """
    words, _, place = str(error).partition(" - at `$")
    place = place.strip("`.")
    if error.__cause__ is not None:  # raised by a `__post_init__`, with the field in front
        named = re.fullmatch(r"([a-z_0-9.]+): (.+)", words, re.DOTALL)
        return (_joined(place, named[1]), named[2]) if named else (place, words)
    if unknown := re.fullmatch(r"Object contains unknown field `(.+)`", words, re.DOTALL):
        return _joined(place, escaped(unknown[1][:MAX_SHOWN])), "no such field"
    missing = re.fullmatch(r"Object missing required field `(.+)`", words)
    if missing:
        place = _joined(place, missing[1])
    try:
        found, info = _step_to(place, value, _info(kind))
    except LookupError:
        return place, "is missing" if missing else printable(without_pattern(words))
    if missing:
        return place, f"is missing: {wanted(info)}"
    return place, f"{shown(found)} is not {wanted(info)}{_hint(found, info)}"


def refusal_of(error: msgspec.ValidationError, value: Any, kind: Any) -> str:
    """Return place and reason of `fault_of` as one text."""
    place, reason = fault_of(error, value, kind)
    return f"{place}: {reason}" if place else reason


def without_pattern(words: str) -> str:
    """Return msgspec's message without the regular expression that it quotes."""
    return re.sub(r" matching regex '.*'(?= - at |$)", " of other characters", words, flags=re.S)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean ...?` with the known name nearest to `name`, or an empty string."""
    like = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {like[0]}?" if like else ""


def shown(value: Any) -> str:
    """Return a value as a message shows it: short, in one line of printable ASCII."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "an empty list" if not value else f"a list of {len(value)}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime.date | datetime.time):
        return f"the date or time {value}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, int) and value.bit_length() > 8 * MAX_SHOWN:  # slow, or refused, as text
        return "a number of more than a hundred digits"
    text = ascii(value[:MAX_SHOWN] if isinstance(value, str) else value)
    short = text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 4]}..."
    return f"the text {short}" if isinstance(value, str) else short


def wanted(info: inspect.Type) -> str:
    """Return the description of a type: `a whole number from 1 to 256`, `one of a, b`, ..."""
    if isinstance(info, inspect.Metadata):
        described = (info.extra_json_schema or {}).get("description")
        return str(described) if described else wanted(info.type)
    if isinstance(info, inspect.UnionType):
        return " or ".join(wanted(each) for each in info.types if not _is_none(each))
    if isinstance(info, inspect.LiteralType):
        return f"one of {', '.join(map(str, info.values))}"
    if isinstance(info, inspect.IntType):
        multiple = f"a multiple of {info.multiple_of}" if info.multiple_of else "a whole number"
        return multiple + _range(info)
    if isinstance(info, inspect.FloatType):
        return f"a number{_range(info)}"
    if isinstance(info, inspect.StrType):
        return f"a text in quotes{_length(info.min_length, info.max_length, 'characters')}"
    if isinstance(info, inspect.VarTupleType | inspect.ListType):
        item = wanted(info.item_type)
        unit = item.replace("a table", "tables", 1) if item.startswith("a table") else "items"
        return f"a list{_length(info.min_length, info.max_length, unit)}"
    if isinstance(info, inspect.StructType):
        return f"a table with {', '.join(field.encode_name for field in info.fields)}"
    if isinstance(info, inspect.BytesType):
        return f"a value{_length(info.min_length, info.max_length, 'bytes')}"
    return "true or false" if isinstance(info, inspect.BoolType) else "of its type"


def _range(info: inspect.IntType | inspect.FloatType) -> str:
    low = _bound("from", info.ge) or _bound("above", info.gt)
    high = _bound("to", info.le) or _bound("to below", info.lt)
    if info.gt is not None and high:
        return f"{low} and {high.replace('to', 'up to', 1).strip()}"
    return low + high


def _bound(word: str, bound: float | None) -> str:
    if bound is None:
        return ""
    return f" {word} {bound:.15g}" if isinstance(bound, float) else f" {word} {bound}"


def _length(least: int | None, most: int | None, unit: str) -> str:
    if most is None:
        return f" of at least {least} {unit}" if least else ""
    if least == most:
        return f" of exactly {most} {unit}"
    return f" of {least} to {most} {unit}" if least else f" of at most {most} {unit}"


def _hint(value: Any, info: inspect.Type) -> str:
    if isinstance(info, inspect.LiteralType) and isinstance(value, str):
        return nearest(value[:MAX_SHOWN], [str(each) for each in info.values])
    return ""


@lru_cache(maxsize=64)
def _info(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _step_to(place: str, value: Any, info: inspect.Type) -> tuple[Any, inspect.Type]:
    """Return value and type at a place; the value is None if it is missing. Raises LookupError."""
    for name, index in re.findall(r"\.?([A-Za-z_]\w*)|\[(\d+)\]", place):
        bare = _container(info, value)
        if name and isinstance(bare, inspect.StructType):
            value = value.get(name) if isinstance(value, dict) else getattr(value, name, None)
            info = next((f.type for f in bare.fields if f.encode_name == name), None) or _lost()
        elif isinstance(bare, inspect.VarTupleType) and isinstance(value, list | tuple):
            value, info = value[int(index)], bare.item_type
        else:
            _lost()
    if "[..." in place:
        _lost()
    return value, info


def _container(info: inspect.Type, value: Any) -> inspect.Type:
    """Return the type without metadata; of a union, the part that `value` belongs to."""
    if isinstance(info, inspect.Metadata):
        return _container(info.type, value)
    if not isinstance(info, inspect.UnionType):
        return info
    parts = [each for each in info.types if not _is_none(each)]
    tag = value.get("type") if isinstance(value, dict) else None
    tagged = [each for each in parts if isinstance(each, inspect.StructType) and each.tag == tag]
    return _container((tagged or parts)[0], value)


def _is_none(info: inspect.Type) -> bool:
    return isinstance(info, inspect.NoneType)


def _lost() -> inspect.Type:
    raise LookupError


def _joined(place: str, field: str) -> str:
    return f"{place}.{field}" if place else field
