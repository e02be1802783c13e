"""The daemon as its local API sees it."""

from collections.abc import Callable
from typing import Protocol

from dipaco.node.api.values import ConfigView, LedgerView, LossView, Ordered, RecordPage, Why
from dipaco.node.status.document import Status
from dipaco.node.status.event_log import EventLog
from dipaco.node.status.events import EventPage, TaskPage
from dipaco.node.status.log_lines import LogLines


class Handler(Protocol):
    """The daemon, as the server calls it; methods that are not async are quick and read no disk."""

    @property
    def event_log(self) -> EventLog:
        """The events of the node, the latest of them in memory."""
        ...

    @property
    def log_lines(self) -> LogLines:
        """The latest lines of the log."""
        ...

    def status(self) -> Status:
        """Return the node's status."""
        ...

    def ledger(self) -> LedgerView:
        """Return the summary of the run's ledger."""
        ...

    def losses(self, run: str | None, most: int) -> LossView:
        """Return the held-out losses of a run (None: the busiest) at no more than `most` versions.

        Raises Unavailable for a run that this node does not know.
        """
        ...

    def records(self, run: str | None, first: int | None, most: int) -> RecordPage:
        """Return at most `most` records of a ledger from number `first` on (None: the last ones).

        It reads the journal, a few rows by their key. Raises Unavailable as `losses`.
        """
        ...

    def settings(self) -> ConfigView:
        """Return the settings that the daemon runs with."""
        ...

    def stop(self, *, now: bool, restart: bool) -> None:
        """Begin to stop, as after a TERM signal (`now`: as after a second one).

        restart   whether the exit code asks a service manager for a new start.
        """
        ...

    def pause(self, until: float | None) -> Ordered:
        """Stop working until a Unix time, or until `resume`; raises ConfigError for the past."""
        ...

    def resume(self) -> Ordered:
        """Work again."""
        ...

    def finish(self) -> Ordered:
        """Pause when the lease that is held has ended."""
        ...

    async def why(self, at: float | None) -> Why:
        """Return the reasons that held at a Unix time; None: now."""
        ...

    async def fetch(self, run: str, blob: str, on_progress: Callable[[int, int], None]) -> int:
        """Fetch a blob of a run into the store and return its bytes; raises Unavailable.

        on_progress   gets the bytes received so far, and the blob's length.
        """
        ...

    async def events(self, after: int, since: float, most: int) -> EventPage:
        """Return at most `most` events after a number and a Unix time, the oldest first."""
        ...

    async def tasks(self, most: int) -> TaskPage:
        """Return the latest `most` tasks."""
        ...
