"""Small pieces of text that several views share: times, paths, long lists."""

from collections.abc import Sequence
from typing import Final

MAX_NAMED: Final = 8  # names of a list in a message


def clock(seconds: float) -> str:
    """Return minutes and seconds, `2:05`, with hours from an hour on, `1:02:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def label(experts: tuple[int, ...]) -> str:
    """Return `(0,1)`: a path by its experts."""
    return f"({','.join(map(str, experts))})"


def listed(names: Sequence[str]) -> str:
    """Return the first names, and the number of the others."""
    more = len(names) - MAX_NAMED
    return ", ".join([*names[:MAX_NAMED], f"{more} more"] if more > 0 else names)
