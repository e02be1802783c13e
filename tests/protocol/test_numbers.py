"""Numbers as people read them."""

import pytest

from dipaco.protocol.numbers import amount, count, plural, size, span


def test_a_count_has_its_noun_in_the_right_number() -> None:
    found = [count(number, "peer") for number in (0, 1, 2, 1000)]
    assert found == ["0 peers", "1 peer", "2 peers", "1,000 peers"]
    found = [plural(noun) for noun in ("process", "batch", "entry", "day", "more peer")]
    assert found == ["processes", "batches", "entries", "days", "more peers"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (3_140_000, "3.1 MB"),
        (999_949_999, "999.9 MB"),
        (999_960_000, "1.0 GB"),
        (5 * 10**12, "5.0 TB"),
    ],
)
def test_a_size_has_the_largest_unit_that_it_reaches(given: int, text: str) -> None:
    assert size(given) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (1.54, "1.5 s"),
        (9.96, "10 s"),
        (59.7, "1 min"),
        (125.0, "2 min 5 s"),
        (3600.0, "1 h"),
        (3725.0, "1 h 2 min"),
        (90_000.0, "1 d 1 h"),
        (float("inf"), "ever"),
    ],
)
def test_a_time_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_progress_says_as_much_as_is_known() -> None:
    assert amount(0, 0, "steps") == amount(0, 0, "bytes") == ""
    assert amount(0, 25, "steps") == "0 of 25 steps" and amount(1, 1, "steps") == "1 of 1 step"
    assert amount(1, 0, "documents") == "1 document"
    assert amount(1_500_000, 6_000_000, "bytes") == "1.5 MB of 6.0 MB"
    assert amount(3, 4, "") == "3 of 4" and amount(3, 0, "") == "3"
