"""The limit on battery: no work while this machine runs on it."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from dipaco.node.limits.values import Closed, Observed

SUPPLIES = Path("/sys/class/power_supply")
MAINS = frozenset({"Mains", "USB", "Wireless"})


@dataclass(frozen=True)
class BatteryLimit:
    """Forbids work on battery."""

    def closed(self, seen: Observed, now: float, *, before: bool) -> Closed | None:
        """Return that the machine runs on battery, or None."""
        if not seen.on_battery:
            return None
        return Closed(
            code="battery", why="on battery", opens="goes on when it is plugged in", quiet=True
        )


def on_battery(supplies: Path = SUPPLIES) -> bool | None:
    """Return whether this machine runs on battery; None: it has none, or cannot tell."""
    if not supplies.is_dir():
        found = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
        return None if found is None or found.power_plugged is None else not found.power_plugged
    kinds = list(_supplies(supplies))
    if any(kind in MAINS and state == "1" for kind, state in kinds):
        return False
    states = [state for kind, state in kinds if kind == "Battery"]
    return "Discharging" in states if states else None


def _supplies(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the kind of each supply, and whether it is online or what a battery does.

    The batteries of mice and keyboards have the scope `Device`.
    """
    with suppress(OSError):  # a container may show the folder and not what is in it
        for supply in folder.iterdir():
            kind = _line(supply / "type")
            if _line(supply / "scope") != "Device":
                yield kind, _line(supply / ("status" if kind == "Battery" else "online"))


def _line(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):  # gone meanwhile, or a file that it does not have
        return path.read_text().strip()
    return ""
