"""Sizes, rates and durations as people write them: a number and a unit, with or without a space."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

SIZE_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}
"""In bytes."""
RATE_UNITS = {"kbit/s": 125.0, "Mbit/s": 125e3, "Gbit/s": 125e6} | {
    f"{unit}/s": float(size) for unit, size in SIZE_UNITS.items()
}
"""In bytes per second."""
DURATION_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
"""In seconds."""
MIN_RATE = 32_000  # bytes/s: below it a peer gives up before a chunk of a blob has passed


class MemoryBound(msgspec.Struct, frozen=True, kw_only=True):
    """A bound on memory: a share of what the machine has, or a size."""

    percent: int = 0
    """1 to 100; 0: `size` counts."""
    size: int = 0
    """Bytes."""

    def of(self, total: int) -> int:
        """Return the bound in bytes on a machine of `total` bytes."""
        return total * self.percent // 100 if self.percent else min(self.size, total)

    def __str__(self) -> str:
        return f"{self.percent}%" if self.percent else size_text(self.size)


def parse_size(value: Any) -> int:
    """Return the bytes of `10 GB`, `1.5GiB`, ...; raises ValueError without a known unit."""
    return int(_quantity(value, "a size such as '10 GB'", SIZE_UNITS))


def parse_rate(value: Any) -> int:
    """Return the bytes per second of `4 Mbit/s`, `500kB/s`, ...; raises ValueError."""
    rate = int(_quantity(value, "a rate such as '4 Mbit/s'", RATE_UNITS))
    if rate < MIN_RATE:
        raise ValueError("less than 256 kbit/s, which a chunk of a blob needs to arrive in time")
    return rate


def parse_duration(value: Any) -> float:
    """Return the seconds of `90 s`, `1.5h`, ...; raises ValueError without a known unit."""
    return _quantity(value, "a time such as '2 h'", DURATION_UNITS)


def parse_memory(value: Any) -> MemoryBound:
    """Return the bound that `75%` or `6 GB` stands for; raises ValueError."""
    if share := re.fullmatch(r"([0-9]{1,3}) ?%", str(value).strip()):
        if not 1 <= int(share[1]) <= 100:
            raise ValueError("not a share from 1% to 100%")
        return MemoryBound(percent=int(share[1]))
    try:
        return MemoryBound(size=parse_size(value) or _no_memory())
    except ValueError as error:
        raise ValueError(f"{error}; or a share such as '75%'") from None


def _no_memory() -> int:
    raise ValueError("no memory at all")


def size_text(size: int) -> str:
    """Return a size so that `parse_size` reads the same bytes: in its largest exact unit."""
    return _exact(size, SIZE_UNITS)


def rate_text(rate: int) -> str:
    """Return a rate so that `parse_rate` reads the same: in its largest exact unit."""
    return _exact(rate, RATE_UNITS)


def _exact(number: int, units: Mapping[str, float]) -> str:
    fitting = [unit for unit, each in units.items() if number >= each and number % each == 0]
    unit = max(fitting, key=lambda each: units[each], default=min(units, key=lambda u: units[u]))
    return f"{number / units[unit]:.15g} {unit}"


def _quantity(value: Any, kind: str, units: Mapping[str, float]) -> float:
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?([A-Za-z/]*)", str(value).strip())
    if not found:
        raise ValueError(f"not {kind} (units: {', '.join(units)})")
    number, unit = found.groups()
    if unit not in units:
        like = [known for known in units if unit and _loose(known) == _loose(unit)]
        hint = f"did you mean {' or '.join(like)}?" if like else f"units: {', '.join(units)}"
        fault = f"{unit!r} is no unit" if unit else "the unit is missing"
        raise ValueError(f"{fault}; {hint}")
    return float(number) * units[unit]


def _loose(unit: str) -> str:
    """Return a unit so that what people confuse is equal: mbps, MB and Mbit/s, or m and min."""
    plain = unit.lower().replace("bit", "b").removesuffix("/s")
    plain = plain[:-2] if plain.endswith("ps") else plain
    words = {"sec": "s", "seconds": "s", "m": "min", "minutes": "min"} | {
        "hour": "h",
        "hours": "h",
        "day": "d",
        "days": "d",
    }
    return words.get(plain, plain)
