"""Rules of this file: the pace of a run and the rates of traffic, from numbers and times alone."""

from pytest import approx

from dipaco.node.status.pace import WINDOW_SECONDS, Pace
from dipaco.node.status.rates import SECONDS, Rates


def pace_of(*looks: tuple[float, float]) -> Pace:
    pace = Pace()
    for now, done in looks:
        pace.note(now, done)
    return pace


def test_the_pace_is_that_of_the_rounds_that_were_seen() -> None:
    told = pace_of((0, 3), (60, 4), (120, 5)).now(120, 5, 20)
    assert told.per_hour == 60 and told.ends == 120 + 15 * 60 and told.done == 5


def test_before_a_round_was_seen_to_end_nothing_is_told() -> None:
    told = pace_of((0, 3), (60, 3)).now(3600, 3, 20)
    assert told.per_hour is None and told.ends is None


def test_a_standstill_lowers_the_pace() -> None:
    pace = pace_of((0, 3), (60, 4), (120, 5))
    assert pace.now(170, 5, 20).per_hour == 60  # within the time of a round
    assert pace.now(120 + 60 + 120, 5, 20).per_hour == 30


def test_a_run_that_is_over_has_no_end_to_come() -> None:
    assert pace_of((0, 3), (60, 4)).now(60, 4, 4).ends is None


def test_the_pace_is_that_of_the_last_hour() -> None:
    slow = [(600.0 * n, float(n)) for n in range(20)]
    fast = [(12_000 + 60.0 * n, 20.0 + n) for n in range(1, 121)]
    told = pace_of(*slow, *fast).now(12_000 + 2 * WINDOW_SECONDS, 140, 200)
    assert told.per_hour == 60


def test_a_ledger_that_begins_anew_is_watched_anew() -> None:
    assert pace_of((0, 3), (60, 4), (61, 0)).now(61, 0, 20).per_hour is None


def test_a_rate_is_the_mean_of_the_last_seconds() -> None:
    rates = Rates()
    assert rates.look(0, 0, 0) == (0, 0)
    assert rates.look(5, 500, 1000) == (100, 200)
    for second in range(6, 30):
        up, down = rates.look(second, 500, 1000)
    assert (up, down) == (0, 0)


def test_a_rate_is_over_the_time_since_a_look_long_ago() -> None:
    rates = Rates()
    rates.look(0, 0, 0)
    assert rates.look(100 * SECONDS, 1000, 0) == (1, 0)


def test_looks_in_a_row_do_not_push_out_those_before() -> None:
    rates = Rates()
    rates.look(0, 0, 0)
    for number in range(1000):
        rates.look(5 + number / 1000, number, 0)
    assert rates.look(6, 1000, 0)[0] == approx(1000 / 6)
