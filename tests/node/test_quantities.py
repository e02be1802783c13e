"""Sizes, rates, durations and shares of memory as people write them."""

import re

import pytest

from dipaco.node.quantities import (
    MemoryBound,
    parse_duration,
    parse_memory,
    parse_rate,
    parse_size,
    rate_text,
    size_text,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1 B", 1), ("10 GB", 10**10), ("1.5kB", 1500), ("2KiB", 2048), ("1 TiB", 1 << 40)],
)
def test_sizes_are_read_with_their_units_and_written_so_that_they_are_read_again(
    text: str, size: int
) -> None:
    assert parse_size(text) == size
    assert parse_size(size_text(size)) == size


@pytest.mark.parametrize(
    ("text", "rate"),
    [("4 Mbit/s", 500_000), ("256kbit/s", 32_000), ("1.5 MB/s", 1_500_000), ("32 KiB/s", 32_768)],
)
def test_rates_are_bytes_per_second(text: str, rate: int) -> None:
    assert parse_rate(text) == rate
    assert parse_rate(rate_text(rate)) == rate


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("4 mb/s", "did you mean Mbit/s or MB/s?"),
        ("4 Mbps", "did you mean Mbit/s or MB/s?"),
        ("4 MB", "'MB' is no unit; did you mean Mbit/s or MB/s?"),
        ("4", "the unit is missing"),
        ("255 kbit/s", "less than 256 kbit/s"),
        ("-4 Mbit/s", "not a rate such as '4 Mbit/s'"),
        ("fast", "not a rate such as '4 Mbit/s'"),
    ],
)
def test_a_faulty_rate_names_the_units_that_were_meant(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5 min", 300), ("1.5 h", 5400), ("2 d", 172_800)]
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "words"), [("5 m", "did you mean min?"), ("2 hours", "mean h?"), ("5", "is missing")]
)
def test_a_faulty_duration_names_the_unit_that_was_meant(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_duration(text)


def test_a_bound_on_memory_is_a_share_or_a_size() -> None:
    assert parse_memory("75%").of(8000) == 6000
    assert parse_memory("1 kB").of(8000) == 1000
    assert parse_memory("9 kB").of(8000) == 8000
    assert [str(MemoryBound(percent=75)), str(MemoryBound(size=6 * 10**9))] == ["75%", "6 GB"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0%", "not a share from 1% to 100%"),
        ("101%", "not a share from 1% to 100%"),
        ("0 GB", "no memory at all"),
        ("6", "the unit is missing"),
        ("all", "not a size such as '10 GB'"),
    ],
)
def test_no_memory_or_more_than_all_is_no_bound(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_memory(text)
