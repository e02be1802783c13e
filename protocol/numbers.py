"""Numbers as people read them: counts, sizes, times and progress, for texts, logs and views."""

import math

_SIZES = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def count(number: int, noun: str) -> str:
    """Return a number and its noun, in the plural unless the number is 1: `1 step`, `2,000 steps`.

    noun   in the singular.
    """
    return f"{number:,} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """Return the regular plural of an English noun."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def size(number: float) -> str:
    """Return a number of bytes in the largest unit that it reaches: `3.1 MB`, `1 byte`."""
    for unit, name in _SIZES:
        if round(number * 1000 / unit, 1) >= 1000:  # else the unit below says it
            return f"{number / unit:.1f} {name}"
    return count(round(number), "byte")


def span(seconds: float) -> str:
    """Return a time in its two largest units: `1.5 s`, `45 s`, `2 min 5 s`, `1 h 2 min`, `3 d`."""
    if not math.isfinite(seconds):
        return "ever"
    if round(seconds, 1) < 10:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    for unit, name, part, smaller in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= unit:
            number, rest = whole // unit, whole % unit // part
            return f"{number} {name} {rest} {smaller}" if rest else f"{number} {name}"
    return f"{whole} s"


def amount(done: int, total: int, unit: str) -> str:
    """Return what is done of how much: `12 of 25 steps`; empty if neither is known.

    unit    a plural such as `steps`; `bytes` are shown in kB, MB, ...
    total   0: not known.
    """
    if not done and not total:
        return ""
    if unit == "bytes":
        return f"{size(done)} of {size(total)}" if total else size(done)
    noun = unit.removesuffix("s")
    if not noun:
        return f"{done:,} of {total:,}" if total else f"{done:,}"
    return f"{done:,} of {count(total, noun)}" if total else count(done, noun)
