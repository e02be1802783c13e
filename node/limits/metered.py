"""The limit on metered networks: no work on a connection that is paid by traffic."""

from dataclasses import dataclass

from dipaco.node.limits.bus import Bus
from dipaco.node.limits.values import Closed, Observed

MANAGER = (
    "org.freedesktop.NetworkManager",
    "/org/freedesktop/NetworkManager",
    "org.freedesktop.NetworkManager",
)
ANSWERS = {1: True, 2: False, 3: True, 4: False}
"""NMMetered: yes, no, and the guesses of both; 0 is unknown."""


@dataclass(frozen=True)
class MeteredLimit:
    """Forbids work on a metered connection."""

    def closed(self, seen: Observed, now: float, *, before: bool) -> Closed | None:
        """Return that the connection is metered, or None."""
        if not seen.metered:
            return None
        return Closed(
            code="metered",
            why="metered connection",
            opens='goes on on another one, or with network.metered = "ignore"',
            quiet=True,
        )


async def is_metered(bus: Bus) -> bool | None:
    """Return whether NetworkManager calls the connection metered; None: it does not tell."""
    answer = await bus.read(*MANAGER, "Metered")
    return ANSWERS.get(answer) if isinstance(answer, int) else None
