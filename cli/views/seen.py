"""The content of the terminal view: the daemon's latest answers, and what the view remembers.

Every value is frozen; a new answer makes a new one. Nothing here reads a clock or a terminal.
"""

from dataclasses import dataclass, replace
from typing import Final

from dipaco.node.api.values import LedgerView
from dipaco.node.status.document import Status
from dipaco.node.status.events import LogLine
from dipaco.protocol.work.losses import perplexity

MAX_LOG: Final = 200  # lines: more than any terminal shows


@dataclass(frozen=True, kw_only=True)
class Seen:
    """All that the view shows."""

    status: Status
    losses: tuple[float, ...] = ()
    """Held-out perplexity by round, the seed model's first."""
    log: tuple[LogLine, ...] = ()
    """The oldest first."""
    shows_log: bool = False
    note: str = ""
    """The answer to the last key."""
    away: str = ""
    """Why the daemon does not answer; empty: it does."""

    def with_status(self, status: Status) -> "Seen":
        """Take up a new document."""
        return replace(self, status=status, away="")

    def without_daemon(self, why: str) -> "Seen":
        """Keep the last document, and say that the daemon does not answer."""
        return replace(self, away=why)

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
        nll, tokens = map(sum, zip(*paths.values(), strict=True))
        whole = perplexity(nll, tokens)
        if len(paths) == most and whole is not None:
            found.append(whole)
    return tuple(found)
