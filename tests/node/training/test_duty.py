"""Rests between inner steps: a clock that is moved by hand; the digest is that of a run without."""

import itertools

import pytest

from dipaco.node.training.duty import TELL_SECONDS, Duty, rest_after


@pytest.mark.parametrize(
    ("percent", "rest"), [(100, 0.0), (80, 0.25), (50, 1.0), (20, 4.0), (1, 99.0)]
)
def test_a_rest_is_in_proportion_to_the_work_before_it(percent: int, rest: float) -> None:
    assert rest_after(1.0, percent) == pytest.approx(rest)
    assert rest_after(-1.0, percent) == 0.0  # a clock that went back


class Time:
    def __init__(self) -> None:
        self.now = 0.0
        self.rested = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.rested += seconds


def test_a_share_of_the_time_is_work_whatever_a_step_takes() -> None:
    time, told = Time(), list[float]()
    duty = Duty(80, clock=lambda: time.now, sleep=time.sleep)
    for worked in (0.01, 3.0, 40.0):
        time.now += worked
        duty.rest(lambda: told.append(time.now))
    assert time.rested == pytest.approx(0.2 * time.now)
    pauses = [late - early for early, late in itertools.pairwise(told[2:])]
    assert max(pauses) <= TELL_SECONDS + 1e-9


def test_full_duty_never_rests() -> None:
    time = Time()
    duty = Duty(100, clock=lambda: time.now, sleep=time.sleep)
    time.now += 5
    duty.rest(lambda: pytest.fail("nothing to tell"))
    assert time.rested == 0
