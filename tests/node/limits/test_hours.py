"""The limit on hours: times are arguments, the time zone is Berlin's; no clock."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from dipaco.node.hours import parse_hours
from dipaco.node.limits.hours import HoursLimit
from dipaco.node.limits.values import Closed, Observed

BERLIN = ZoneInfo("Europe/Berlin")
NIGHTS = HoursLimit((parse_hours("mon-fri 18:00-08:00"),), BERLIN)
SMALL_HOURS = HoursLimit((parse_hours("mon-sun 02:30-05:00"),), BERLIN)


def unix(text: str, *, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()


def closed(limit: HoursLimit, text: str, *, fold: int = 0) -> Closed | None:
    return limit.closed(Observed(), unix(text, fold=fold), before=False)


def test_without_hours_work_always_runs() -> None:
    assert closed(HoursLimit((), BERLIN), "2026-11-28 12:00") is None


def test_outside_of_the_hours_the_reason_says_when_they_begin() -> None:
    found = closed(NIGHTS, "2026-11-27 17:59")
    assert found and str(found) == "outside mon-fri 18:00-08:00; starts 18:00"
    assert (found.code, found.by, found.quiet) == ("hours", "limit", True)
    assert found.until == unix("2026-11-27 18:00")
    assert closed(NIGHTS, "2026-11-27 18:00") is None


def test_hours_run_over_midnight_into_a_day_that_they_do_not_begin_on() -> None:
    assert closed(NIGHTS, "2026-11-28 07:59") is None  # Saturday
    found = closed(NIGHTS, "2026-11-28 08:00")
    assert found and found.opens == "starts Mon 18:00"
    assert found.until == unix("2026-11-30 18:00")


def test_an_hour_that_the_clock_skips_is_no_hour_of_work_but_the_next_one_is() -> None:
    found = closed(SMALL_HOURS, "2026-03-29 01:59")  # at 2:00 the clock jumps to 3:00
    assert found and found.until == pytest.approx(unix("2026-03-29 03:30"))
    assert closed(SMALL_HOURS, "2026-03-29 03:00") is None


def test_an_hour_that_comes_twice_is_twice_an_hour_of_work() -> None:
    for fold in (0, 1):  # at 3:00 the clock goes back to 2:00
        assert closed(SMALL_HOURS, "2026-10-25 02:31", fold=fold) is None
        assert closed(SMALL_HOURS, "2026-10-25 02:29", fold=fold)
