"""Hours of the week in local time, as `mon-fri 18:00-08:00` or `sat,sun`. Pure."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60
LOOK_AHEAD = 8  # days: a week, and the day that a span of the last one ends on


class Hours(msgspec.Struct, frozen=True, kw_only=True):
    """A span of time on some days of the week."""

    text: str
    """As a person wrote it."""
    days: frozenset[int]
    """The days on which it begins; 0: Monday."""
    start: int = 0
    """Minutes after midnight."""
    end: int = DAY_MINUTES
    """Minutes after midnight; of the next day, unless it is above `start`."""

    def hold(self, local: datetime) -> bool:
        """Return whether a moment lies in it."""
        minute, today = local.hour * 60 + local.minute, local.weekday()
        if self.start < self.end:
            return today in self.days and self.start <= minute < self.end
        begun_yesterday = (today - 1) % 7 in self.days and minute < self.end
        return begun_yesterday or (today in self.days and minute >= self.start)


def parse_hours(text: str) -> Hours:
    """Return the span that a text such as `mon-fri 18:00-08:00` stands for.

    Raises ValueError, also for a span that never opens.
    """
    found = re.fullmatch(r"([a-z,-]+)(?: +(\S+))?", text.strip().lower())
    if not found:
        raise ValueError(f"{text!r} is no span such as 'mon-fri 18:00-08:00' or 'sat,sun'")
    days = frozenset(day for part in found[1].split(",") for day in _days(part))
    if found[2] is None:
        return Hours(text=text.strip(), days=days)
    times = re.fullmatch(r"([0-9]{1,2}):([0-9]{2})-([0-9]{1,2}):([0-9]{2})", found[2])
    if not times:
        raise ValueError(f"{text!r}: {found[2]} is no time such as 18:00-08:00")
    start, end = _minute(times[1], times[2]), _minute(times[3], times[4])
    if start in (end, DAY_MINUTES):
        raise ValueError(f"{text!r} never opens: it ends when it begins")
    return Hours(text=text.strip(), days=days, start=start, end=end)


def _days(part: str) -> list[int]:
    first, dash, last = part.partition("-")
    if first not in DAYS or (dash and last not in DAYS):
        raise ValueError(f"{part!r} is no day or range of days such as mon or mon-fri")
    begin, end = DAYS.index(first), DAYS.index(last or first)
    return [day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)]


def _minute(hour: str, minute: str) -> int:
    found = int(hour) * 60 + int(minute)
    if int(minute) >= 60 or found > DAY_MINUTES:
        raise ValueError(f"{hour}:{minute} is no time of a day")
    return found


def next_clock(text: str, local: datetime) -> datetime:
    """Return the next moment after a local time whose clock shows `HH:MM`; raises ValueError."""
    found = re.fullmatch(r"([0-9]{1,2}):([0-9]{2})", text)
    minute = _minute(found[1], found[2]) if found else DAY_MINUTES
    if minute == DAY_MINUTES:
        raise ValueError(f"{text!r} is no time of a day such as 18:00")
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    today = midnight + timedelta(minutes=minute)
    return today if today > local else today + timedelta(days=1)


def is_open(hours: Sequence[Hours], local: datetime) -> bool:
    """Return whether work may run; without any hours it always may."""
    return not hours or any(span.hold(local) for span in hours)


def next_change(hours: Sequence[Hours], local: datetime) -> datetime | None:
    """Return the next moment at which `is_open` changes; None: it never does."""
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    minutes = sorted({minute for span in hours for minute in (span.start, span.end)})
    for day in range(LOOK_AHEAD):
        for minute in minutes:
            moment = midnight + timedelta(days=day, minutes=minute)
            if moment > local and is_open(hours, moment) != is_open(hours, local):
                return moment
    return None
