"""The content of the terminal view: the daemon's latest answers, and what the view remembers.

Every value is frozen; a new answer makes a new one. Nothing here reads a clock or a terminal.
"""

from dataclasses import dataclass, replace
from math import exp
from typing import Final

from dipaco.node.api.values import ConfigView, LedgerView
from dipaco.node.quantities import parse_rate
from dipaco.node.status.document import Status
from dipaco.node.status.events import LogLine

RATE_SECONDS: Final = 10.0  # of traffic that a rate is the mean of: a blob's chunks come in bursts
MAX_SAMPLES: Final = 32  # of traffic; a status comes once a second at most
MAX_LOG: Final = 200  # lines: more than any terminal shows


@dataclass(frozen=True)
class Sample:
    """The traffic of a daemon since its start, at a moment."""

    time: float
    """Unix time, seconds."""
    sent: int
    received: int
    """Bytes."""


@dataclass(frozen=True, kw_only=True)
class Caps:
    """The bounds on traffic."""

    up: int = 0
    down: int = 0
    """Bytes per second; 0: no bound."""
    quota: str = ""
    """Of a day, as the configuration has it; empty: no bound."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """All that the view shows."""

    status: Status
    samples: tuple[Sample, ...] = ()
    """The oldest first, of one process."""
    losses: tuple[float, ...] = ()
    """Held-out perplexity by round, the seed model's first."""
    caps: Caps = Caps()
    log: tuple[LogLine, ...] = ()
    """The oldest first."""
    shows_log: bool = False
    note: str = ""
    """The answer to the last key."""
    away: str = ""
    """Why the daemon does not answer; empty: it does."""

    def with_status(self, status: Status) -> "Seen":
        """Take up a new document."""
        same = status.pid == self.status.pid
        before = self.samples if same else ()
        sample = Sample(status.time, status.network.sent, status.network.received)
        kept = (*before, sample)[-MAX_SAMPLES:]
        while len(kept) > 2 and kept[1].time <= status.time - RATE_SECONDS:
            kept = kept[1:]
        return replace(self, status=status, samples=kept, away="")

    def without_daemon(self, why: str) -> "Seen":
        """Keep the last document, and say that the daemon does not answer."""
        return replace(self, away=why)

    def with_caps(self, caps: Caps) -> "Seen":
        """Take up the bounds of a daemon."""
        return replace(self, caps=caps)

    def with_losses(self, losses: tuple[float, ...]) -> "Seen":
        """Take up what the ledger has of losses."""
        return replace(self, losses=losses)

    def with_whole_log(self, lines: tuple[LogLine, ...]) -> "Seen":
        """Take up the log of a daemon in place of what was seen of another."""
        return replace(self, log=lines[-MAX_LOG:])

    def with_line(self, line: LogLine) -> "Seen":
        """Take up one more line of the log."""
        return replace(self, log=(*self.log, line)[-MAX_LOG:])

    def noted(self, note: str) -> "Seen":
        """Say something beside the keys."""
        return replace(self, note=note)

    def turned(self) -> "Seen":
        """Show the log instead of paths and events, or these again."""
        return replace(self, shows_log=not self.shows_log, note="")

    @property
    def rates(self) -> tuple[float, float] | None:
        """Bytes sent and received per second of late; None: not known yet."""
        if len(self.samples) < 2 or self.samples[-1].time <= self.samples[0].time:
            return None
        first, last = self.samples[0], self.samples[-1]
        seconds = last.time - first.time
        return (last.sent - first.sent) / seconds, (last.received - first.received) / seconds


def losses_of(ledger: LedgerView) -> tuple[float, ...]:
    """Return the held-out perplexity of each round at which every path was scored.

    It is that of all their documents together. A round of which a path's score is still due is
    left out.
    """
    scored: dict[int, dict[int, tuple[float, int]]] = {}
    for each in ledger.evaluations:
        scored.setdefault(each.version, {})[each.path] = (each.nll, each.tokens)
    most = max(map(len, scored.values()), default=0)
    found = []
    for _, paths in sorted(scored.items()):
        tokens = sum(tokens for _, tokens in paths.values())
        if len(paths) == most and tokens:
            found.append(exp(min(sum(nll for nll, _ in paths.values()) / tokens, 700.0)))
    return tuple(found)


def caps_of(view: ConfigView) -> Caps:
    """Return the bounds on traffic that a daemon runs with."""
    values = {setting.key: str(setting.value) for setting in view.settings}
    up, down = (values.get(f"network.max_{way}", "") for way in ("up", "down"))
    return Caps(
        up=parse_rate(up) if up else 0,
        down=parse_rate(down) if down else 0,
        quota=values.get("network.daily_quota", ""),
    )
