"""Hours of the week. 2026-11-27 is a Friday."""

import re
from datetime import datetime

import pytest

from dipaco.node.hours import is_open, next_change, parse_hours

NIGHTS = (parse_hours("mon-fri 18:00-08:00"), parse_hours("sat,sun"))
FRIDAY = datetime(2026, 11, 27)


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-{text}")


@pytest.mark.parametrize(
    ("moment", "open_"),
    [
        ("11-27T17:59:59", False),
        ("11-27T18:00", True),
        ("11-28T07:59", True),  # of Friday's night, and Saturday
        ("11-29T23:59", True),
        ("11-30T00:00", False),  # Sunday is no day on which a night begins
        ("12-01T07:59", True),  # of Monday's night
        ("12-01T08:00", False),
    ],
)
def test_a_span_over_midnight_belongs_to_the_day_on_which_it_begins(
    moment: str, open_: bool
) -> None:
    assert is_open(NIGHTS, at(moment)) == open_


def test_the_next_change_is_told_from_either_side() -> None:
    assert next_change(NIGHTS, at("11-27T10:00")) == at("11-27T18:00")
    assert next_change(NIGHTS, at("11-27T18:00")) == at("11-30T00:00")
    assert next_change((parse_hours("fri 9:00-10:00"),), at("11-27T09:59")) == at("11-27T10:00")
    assert next_change((parse_hours("fri 9:00-10:00"),), at("11-27T10:00")) == at("12-04T09:00")


def test_without_hours_or_with_all_of_them_nothing_ever_changes() -> None:
    assert is_open((), FRIDAY) and next_change((), FRIDAY) is None
    assert next_change((parse_hours("mon-sun"),), FRIDAY) is None
    assert next_change((parse_hours("mon-sun 0:00-24:00"),), FRIDAY) is None


def test_days_may_go_over_the_end_of_the_week() -> None:
    assert parse_hours("sat-mon").days == {5, 6, 0}
    assert parse_hours("sat,mon-tue 1:00-2:00").days == {5, 0, 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mon 8:00-8:00", "never opens"),
        ("mon 24:00-8:00", "never opens"),
        ("mon 25:00-26:00", "25:00 is no time of a day"),
        ("mon 8:60-9:00", "8:60 is no time of a day"),
        ("mon 8-9", "8-9 is no time such as 18:00-08:00"),
        ("monday", "'monday' is no day"),
        ("18:00-08:00", "no span such as"),
        ("", "no span such as"),
    ],
)
def test_a_faulty_span_says_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_hours(text)
