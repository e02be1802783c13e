"""The limit on use: no work while a person uses this machine, or used it a short while ago."""

from dataclasses import dataclass
from typing import Literal

from dipaco.node.limits.bus import Bus
from dipaco.node.limits.values import Closed, Observed
from dipaco.protocol.numbers import span

LOGIND = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")


@dataclass(frozen=True)
class UseLimit:
    """Forbids work until the machine was idle for some minutes."""

    minutes: int
    """`when.idle_minutes`."""

    def closed(self, seen: Observed, now: float, *, before: bool) -> Closed | None:
        """Return when it was used last, or that this cannot be told; or None."""
        idle = seen.idle_seconds
        if idle is None:
            return None
        if idle == "unknown":
            return Closed(
                code="idle-unknown",
                why="cannot tell whether it is in use, counts as in use",
                opens="to work nevertheless, set when.idle_only to false",
            )
        wait = 60 * self.minutes - idle
        if wait <= 0:
            return None
        used = f"used {span(idle)} ago" if idle >= 1 else "in use"
        return Closed(
            code="in-use",
            why=used,
            opens=f"waits for {self.minutes} min idle",
            until=now + wait if idle >= 1 else None,
        )


async def idle_seconds(bus: Bus, now: float) -> float | Literal["unknown"]:
    """Return the seconds since the last input, as logind tells it; `unknown` without it.

    now   Unix time, seconds.
    """
    hint = await bus.read(*LOGIND, "IdleHint")
    if not isinstance(hint, bool):
        return "unknown"
    if not hint:
        return 0.0
    since = await bus.read(*LOGIND, "IdleSinceHint")  # Unix time in microseconds; 0: nobody is here
    return max(0.0, now - since / 1e6) if isinstance(since, int) else "unknown"
