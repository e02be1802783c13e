"""The lines that a type draws: every bound on a number or a length in it, at any depth."""

from functools import cache
from typing import Any

from msgspec import inspect

NAMES = ("ge", "gt", "le", "lt", "min_length", "max_length", "multiple_of")


@cache
def bounds_of(kind: Any) -> tuple[int, ...]:
    """Return the bounds in a type, ascending."""
    found: set[int] = set()
    seen: set[object] = set()
    waiting: list[Any] = [inspect.type_info(kind)]
    while waiting:
        info = waiting.pop()
        found |= {int(bound) for name in NAMES if (bound := getattr(info, name, None)) is not None}
        for name in ("type", "item_type"):
            if isinstance(each := getattr(info, name, None), inspect.Type):
                waiting.append(each)
        waiting += [each for each in getattr(info, "types", ())]
        if isinstance(info, inspect.StructType) and info.cls not in seen:
            seen.add(info.cls)
            waiting += [field.type for field in info.fields]
    return tuple(sorted(bound for bound in found if 0 <= bound < 1 << 64))
