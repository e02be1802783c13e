"""Moments as people write and read them, in local time. Pure, but for the time zone."""

import re
from datetime import datetime, timedelta, tzinfo

from dipaco.node.quantities import parse_duration

FORMS = "14:05, 'yesterday 14:05', 'tomorrow 8:00', '2026-11-27 14:05' or '2h ago'"
NEAR_DAYS = 6  # within them the name of a day is told, beyond them the date
_SHIFTS = {"": 0, "today ": 0, "yesterday ": -1, "tomorrow ": 1}


def moment_text(moment: float, now: float, zone: tzinfo | None = None) -> str:
    """Return a Unix time as `18:00` of today, `Mon 18:00` of a near day, or with its date.

    zone   None: the local one.
    """
    then, today = datetime.fromtimestamp(moment, zone), datetime.fromtimestamp(now, zone)
    days = (then.date() - today.date()).days
    if days == 0:
        return f"{then:%H:%M}"
    return f"{then:%a %H:%M}" if abs(days) <= NEAR_DAYS else f"{then:%Y-%m-%d %H:%M}"


def parse_moment(text: str, now: float, zone: tzinfo | None = None) -> float:
    """Return the Unix time that a person means; raises ValueError, with the forms that it knows.

    A time of day without a day is today's.
    """
    given = " ".join(text.split()).lower()
    try:
        if given.endswith(" ago"):
            return now - parse_duration(given.removesuffix(" ago"))
        if found := re.fullmatch(r"(\d{4}-\d{2}-\d{2})[ t](\d{1,2}:\d{2})", given):
            date = datetime.strptime(found[1], "%Y-%m-%d").date()
        elif found := re.fullmatch(r"((?:today|yesterday|tomorrow) |)(\d{1,2}:\d{2})", given):
            today = datetime.fromtimestamp(now, zone).date()
            date = today + timedelta(days=_SHIFTS[found[1]])
        else:
            raise ValueError
        time = datetime.strptime(found[2], "%H:%M").time()
        return datetime.combine(date, time, zone).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no moment: write it as {FORMS}") from None
