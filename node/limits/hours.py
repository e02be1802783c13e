"""The limit on hours: work runs in the hours of the week that the configuration lists."""

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from dipaco.node.hours import Hours, is_open, next_change
from dipaco.node.limits.moments import moment_text
from dipaco.node.limits.values import Closed, Observed


@dataclass(frozen=True)
class HoursLimit:
    """Forbids work outside of hours, in local time."""

    hours: tuple[Hours, ...]
    """`when.hours`; without any the limit never closes."""
    zone: tzinfo | None = None
    """None: that of this machine."""

    def closed(self, seen: Observed, now: float, *, before: bool) -> Closed | None:
        """Return which hours are waited for, and when they begin."""
        local = self._local(now)
        if is_open(self.hours, local):
            return None
        change = next_change(self.hours, local)
        assert change is not None  # hours that never open are refused with the configuration
        until = change.replace(tzinfo=self.zone).timestamp()
        return Closed(
            code="hours",
            why=f"outside {'; '.join(span.text for span in self.hours)}",
            opens=f"starts {moment_text(until, now, self.zone)}",
            until=until,
            quiet=True,
        )

    def _local(self, now: float) -> datetime:
        """Return the time on a clock on the wall."""
        return datetime.fromtimestamp(now, UTC).astimezone(self.zone).replace(tzinfo=None)
