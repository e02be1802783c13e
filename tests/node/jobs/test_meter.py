"""Rules of this file: the clock is the test's own."""

from dipaco.node.jobs.meter import Meter
from dipaco.node.jobs.values import Progress


def test_reports_are_a_quarter_second_apart_and_the_end_is_always_told() -> None:
    now = 100.0
    told: list[Progress] = []
    meter = Meter(told.append, "read", 1000, clock=lambda: now)
    for done in range(1, 1001):
        now += 0.01
        meter.at(done)
    assert [report.done for report in told] == [*range(25, 1000, 25), 1000]
    assert {round(report.per_second, 6) for report in told} == {100.0}
