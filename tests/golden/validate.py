"""Holds a JSON document against the published schema: the keywords that the schema uses, no others.

A keyword that is not known here is an error, so that nothing is taken for checked that is not.
"""

import re
from collections.abc import Callable
from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
SILENT = {"description", "title", "default", "$defs", "$schema", "verbs", "format"}


def faults(value: Any, schema: dict[str, Any], defs: dict[str, Any], at: str = "$") -> list[str]:
    """Return what is wrong with `value`, one line each; empty: nothing."""
    found: list[str] = []
    for keyword, wanted in schema.items():
        if keyword in SILENT:
            continue
        found += CHECKS[keyword](value, wanted, schema, defs, at)
    return found


def _ref(value: Any, wanted: str, schema: Any, defs: Any, at: str) -> list[str]:
    return faults(value, defs[wanted.rpartition("/")[2]], defs, at)


def _any_of(value: Any, wanted: list[Any], schema: Any, defs: Any, at: str) -> list[str]:
    tried = [faults(value, each, defs, at) for each in wanted]
    return (
        [] if any(not each for each in tried) else [f"{at}: none of {len(wanted)} forms", *tried[0]]
    )


def _type(value: Any, wanted: str, schema: Any, defs: Any, at: str) -> list[str]:
    right = isinstance(value, TYPES[wanted])
    if isinstance(value, bool) and wanted != "boolean":
        right = False
    return [] if right else [f"{at}: {value!r} is no {wanted}"]


def _enum(value: Any, wanted: list[Any], schema: Any, defs: Any, at: str) -> list[str]:
    return [] if value in wanted else [f"{at}: {value!r} is none of {wanted}"]


def _const(value: Any, wanted: Any, schema: Any, defs: Any, at: str) -> list[str]:
    return [] if value == wanted else [f"{at}: {value!r} is not {wanted!r}"]


def _items(value: Any, wanted: Any, schema: Any, defs: Any, at: str) -> list[str]:
    if not isinstance(value, list):
        return []
    rest = value[len(schema.get("prefixItems", ())) :]
    if wanted is False:
        return [f"{at}: more items than there may be"] if rest else []
    return [
        line for n, each in enumerate(rest) for line in faults(each, wanted, defs, f"{at}[{n}]")
    ]


def _prefix(value: Any, wanted: list[Any], schema: Any, defs: Any, at: str) -> list[str]:
    pairs = zip(value, wanted, strict=False) if isinstance(value, list) else ()
    return [line for n, (v, w) in enumerate(pairs) for line in faults(v, w, defs, f"{at}[{n}]")]


def _properties(value: Any, wanted: dict[str, Any], schema: Any, defs: Any, at: str) -> list[str]:
    if not isinstance(value, dict):
        return []
    found = [f"{at}: {name} is not described" for name in sorted(value.keys() - wanted.keys())]
    for name in sorted(value.keys() & wanted.keys()):
        found += faults(value[name], wanted[name], defs, f"{at}.{name}")
    return found


def _required(value: Any, wanted: list[str], schema: Any, defs: Any, at: str) -> list[str]:
    missing = sorted(set(wanted) - value.keys()) if isinstance(value, dict) else []
    return [f"{at}: {name} is missing" for name in missing]


def _others(value: Any, wanted: Any, schema: Any, defs: Any, at: str) -> list[str]:
    if not isinstance(value, dict) or "properties" in schema:
        return []  # every property is described, which `_properties` checks
    return [
        line for key, each in value.items() for line in faults(each, wanted, defs, f"{at}.{key}")
    ]


def _pattern(value: Any, wanted: str, schema: Any, defs: Any, at: str) -> list[str]:
    right = not isinstance(value, str) or re.search(wanted, value)
    return [] if right else [f"{at}: {value!r} has other characters"]


def _least(value: Any, wanted: float, schema: Any, defs: Any, at: str) -> list[str]:
    return (
        [] if not isinstance(value, int | float) or value >= wanted else [f"{at}: {value} is small"]
    )


def _most(value: Any, wanted: float, schema: Any, defs: Any, at: str) -> list[str]:
    return (
        [] if not isinstance(value, int | float) or value <= wanted else [f"{at}: {value} is large"]
    )


def _fewest(value: Any, wanted: int, schema: Any, defs: Any, at: str) -> list[str]:
    return [] if not isinstance(value, list | str) or len(value) >= wanted else [f"{at}: too short"]


def _longest(value: Any, wanted: int, schema: Any, defs: Any, at: str) -> list[str]:
    return [] if not isinstance(value, list | str) or len(value) <= wanted else [f"{at}: too long"]


CHECKS: dict[str, Callable[[Any, Any, Any, Any, str], list[str]]] = {
    "$ref": _ref,
    "anyOf": _any_of,
    "type": _type,
    "enum": _enum,
    "const": _const,
    "items": _items,
    "prefixItems": _prefix,
    "properties": _properties,
    "required": _required,
    "additionalProperties": _others,
    "pattern": _pattern,
    "minimum": _least,
    "maximum": _most,
    "minItems": _fewest,
    "maxItems": _longest,
    "minLength": _fewest,
    "maxLength": _longest,
}
