"""Repeated log lines.

Rules of this file: a logger of its own, a clock that the test sets.
"""

import itertools
import logging

import pytest

from dipaco.node.network.paced import FIRST_PAUSE, LONGEST_PAUSE, MAX_THINGS, Paced

LOG = logging.getLogger("dipaco.test_paced")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_line_that_repeats_comes_at_once_and_then_ever_less_often(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    paced = Paced(LOG, now=clock)
    times = []
    for second in range(4 * 3600):
        clock.now = float(second)
        before = len(caplog.records)
        paced.say("disk", "it is full")
        if len(caplog.records) > before:
            times.append(second)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert times[0] == 0 and pauses[0] == FIRST_PAUSE
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE
    assert caplog.messages[0] == "it is full"
    assert caplog.messages[1] == "it is full (59 more since the last line)"


def test_each_thing_has_its_own_pauses_and_few_are_remembered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    paced = Paced(LOG, now=clock)
    for number in range(MAX_THINGS + 1):
        paced.say(str(number), "it happened")
    assert len(caplog.records) == MAX_THINGS + 1
    paced.say(str(MAX_THINGS), "it happened")
    assert len(caplog.records) == MAX_THINGS + 1
    paced.say("0", "it happened")  # forgotten meanwhile
    assert len(caplog.records) == MAX_THINGS + 2
    clock.now = 3 * LONGEST_PAUSE
    paced.say("0", "after a silence it is a new thing")
    clock.now += FIRST_PAUSE
    paced.say("0", "and again")
    assert caplog.messages[-2:] == ["after a silence it is a new thing", "and again"]
