"""Moments in words and back: the time zone is Berlin's; no clock."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from dipaco.node.limits.moments import moment_text, parse_moment

BERLIN = ZoneInfo("Europe/Berlin")


def unix(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


NOW = unix("2026-11-28 14:30")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("14:05", "2026-11-28 14:05"),
        ("today 8:00", "2026-11-28 08:00"),
        ("yesterday 14:05", "2026-11-27 14:05"),
        ("Tomorrow  18:00", "2026-11-29 18:00"),
        ("2026-10-25 14:05", "2026-10-25 14:05"),
        ("2026-10-25T04:05", "2026-10-25 04:05"),
        ("2h ago", "2026-11-28 12:30"),
        ("90 min ago", "2026-11-28 13:00"),
    ],
)
def test_a_person_writes_a_moment_in_these_ways(text: str, moment: str) -> None:
    assert parse_moment(text, NOW, BERLIN) == unix(moment)


@pytest.mark.parametrize("text", ["", "noon", "25:00", "14:60", "2026-02-30 12:00", "2 ago", "14"])
def test_what_is_no_moment_is_refused_with_the_forms_of_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"write it as 14:05, 'yesterday 14:05'"):
        parse_moment(text, NOW, BERLIN)


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        ("2026-11-28 18:00", "18:00"),
        ("2026-11-30 08:05", "Mon 08:05"),
        ("2026-11-22 08:05", "Sun 08:05"),
        ("2026-11-21 08:05", "2026-11-21 08:05"),
    ],
)
def test_a_moment_is_told_as_short_as_its_distance_allows(moment: str, text: str) -> None:
    assert moment_text(unix(moment), NOW, BERLIN) == text
