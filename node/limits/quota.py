"""The limit on the traffic of a day, and its account: bytes on the wire, kept over restarts.

The account begins anew at local midnight. It is kept in the journal every minute and at the end: a
kill loses a minute of it. Peers of the local network count as far as the caps count them.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING

import trio

from dipaco.node.limits.moments import moment_text
from dipaco.node.limits.values import Closed, Observed
from dipaco.node.status.totals import save_regularly
from dipaco.node.storage.journal import Journal
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.numbers import size

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

DAY, BYTES = "traffic_day", "traffic_bytes"
"""The names of the account among the node's sums: a date as a number, and bytes."""


@dataclass(frozen=True)
class Spent:
    """The traffic of one day."""

    day: int = 0
    """The number of the date in local time, 1 for 1 January of the year 1."""
    bytes: int = 0

    def with_more(self, more: int, day: int) -> "Spent":
        """Return the account after `more` bytes on `day`; another day begins with none."""
        return Spent(day, more + (self.bytes if day == self.day else 0))


@dataclass(frozen=True)
class QuotaLimit:
    """Forbids work, and the transfer of blobs, when the traffic of the day is spent."""

    most: int
    """`network.daily_quota`, bytes."""
    zone: tzinfo | None = None
    """None: that of this machine."""

    def closed(self, seen: Observed, now: float, *, before: bool) -> Closed | None:
        """Return that the quota is spent, and when the next day begins."""
        if seen.traffic is None or seen.traffic < self.most:
            return None
        until = next_midnight(now, self.zone)
        return Closed(
            code="quota",
            why=f"{size(self.most)} of today spent",
            opens=f"goes on {moment_text(until, now, self.zone)}",
            until=until,
            quiet=True,
        )


def day_of(now: float, zone: tzinfo | None = None) -> int:
    """Return the number of the date at a Unix time, in local time unless `zone` is given."""
    return datetime.fromtimestamp(now, UTC).astimezone(zone).toordinal()


def next_midnight(now: float, zone: tzinfo | None = None) -> float:
    """Return the Unix time at which the next day begins."""
    today = datetime.fromtimestamp(now, UTC).astimezone(zone).replace(tzinfo=None)
    midnight = today.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return midnight.replace(tzinfo=zone).timestamp()


class Account:
    """The traffic of today."""

    def __init__(
        self, journal: Journal, carried: Callable[[], int], clock: Callable[[], float]
    ) -> None:
        """Go on where `journal` ends.

        carried   returns the bytes since this start.
        clock     returns Unix time, seconds.
        """
        self._journal, self._carried, self._clock = journal, carried, clock
        sums = journal.totals()
        self._spent = self._saved = Spent(int(sums.get(DAY, 0)), int(sums.get(BYTES, 0)))
        self._seen = carried()

    def today(self) -> int:
        """Return the bytes of today."""
        now = self._carried()
        self._spent = self._spent.with_more(now - self._seen, day_of(self._clock()))
        self._seen = now
        return self._spent.bytes

    def save(self) -> None:
        """Keep the account; on a full disk it is kept later."""
        self.today()
        if self._spent == self._saved:
            return
        try:
            self._journal.save_totals({DAY: self._spent.day, BYTES: self._spent.bytes})
            self._saved = self._spent
        except Unavailable as full:
            log.debug("the traffic of today is not kept: %s", full)

    async def run(self, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Keep it from time to time, and at the end."""
        task_status.started()
        await save_regularly(self.save)
