"""Rules of this file: the clock is a variable; a console that records stands for stderr."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from rich.console import Console

from dipaco.cli.views.pace import LEAST_SECONDS, LINE_SECONDS, LinePacing, Pace, time_left
from dipaco.cli.views.progress import Work, display, job_work
from dipaco.node.jobs.values import Progress


class Time:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return the time that was set."""
        return self.now


def pipe() -> Console:
    return Console(record=True, width=60, force_terminal=False)


def steps(done: int, part: str = "", *notes: str) -> Work:
    return Work(title="demo", done=done, total=80, unit="steps", part=part, notes=notes)


def test_the_time_left_follows_from_what_is_done() -> None:
    assert time_left(0, 10, 5.0) is None
    assert time_left(3, 0, 5.0) is None
    assert time_left(2, 10, 4.0) == 16.0
    assert time_left(12, 10, 4.0) == 0.0


def test_a_pace_counts_from_its_first_report_and_anew_for_another_count() -> None:
    pace = Pace()
    assert pace.left("read", 10, 50, 0.0) is None
    assert pace.left("read", 20, 50, 5.0) == 15.0
    assert pace.left("write", 20, 50, 6.0) is None
    assert pace.left("write", 40, 50, 8.0) == 1.0


def test_a_line_is_due_for_news_and_after_a_while_without_any() -> None:
    pacing = LinePacing(began=0.0)
    assert not pacing.is_due("", 0.0)
    assert pacing.is_due("round 1", 0.0)
    assert not pacing.is_due("round 1", LINE_SECONDS - 0.1)
    assert pacing.is_due("round 1", LINE_SECONDS)
    assert pacing.is_due("round 2", LINE_SECONDS + LEAST_SECONDS)


@pytest.mark.parametrize("changes", [lambda _: "same", str])
def test_no_more_lines_come_than_one_a_second(changes: Callable[[int], str]) -> None:
    pacing = LinePacing(began=0.0)
    due = [now / 100 for now in range(3000) if pacing.is_due(changes(now), now / 100)]
    assert 3 <= len(due) <= 30
    assert min(b - a for a, b in pairwise(due)) >= LEAST_SECONDS


def test_a_pipe_gets_a_line_for_each_part_and_one_every_few_seconds() -> None:
    console, time = pipe(), Time()
    with display("demo", console, now=time) as shown:
        shown.show(steps(0, "round 1"))
        time.now += 5.0
        shown.show(steps(10, "round 1"))
        time.now += 5.0
        shown.show(steps(20, "round 1", "loss 3.210"))
        time.now += 2.0
        shown.show(steps(24, "round 2"))
    assert console.export_text().splitlines() == [
        "0:00  demo: 0 of 80 steps, round 1",
        "0:10  demo: 20 of 80 steps, 0:30 left, round 1, loss 3.210",
        "0:12  demo: 24 of 80 steps, 0:28 left, round 2",
    ]


def test_short_work_prints_nothing_to_a_pipe() -> None:
    console, time = pipe(), Time()
    with display("demo", console, now=time) as shown:
        for done in range(9):
            time.now += 1.0
            shown.show(steps(done))
    assert console.export_text() == ""


def test_a_terminal_gets_a_bar_with_the_time_left() -> None:
    console, time = Console(record=True, width=120, force_terminal=True), Time()
    with display("demo", console, now=time) as shown:
        shown.show(steps(0))
        time.now += 5.0
        shown.show(steps(20, "round [1]", "loss 3.210"))
        shown.say("node [1] is there")
    text = console.export_text()
    assert "demo" in text and "20 of 80 steps, 0:15 left, round [1], loss 3.210" in text
    assert "node [1] is there" in text


def test_silent_work_prints_its_lines_alone() -> None:
    console, time = pipe(), Time()
    with display("demo", console, silent=True, now=time) as shown:
        shown.show(steps(3, "round 1"))
        shown.say("the context is full")
    assert console.export_text() == "the context is full\n"


def test_what_a_bar_prints_to_stdout_stays_there(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(stderr=True, force_terminal=True)
    with display("demo", console) as shown:
        shown.show(steps(1))
        print("the text")
    assert capsys.readouterr().out == "the text\n"


def test_a_job_counts_in_its_own_unit_and_tells_of_a_loss() -> None:
    copied = Progress(stage="write", done=1_500_000, total=6_000_000, unit="bytes")
    work = job_work("export", copied)
    assert (work.title, work.count) == ("export: write", "1.5 MB of 6.0 MB")
    assert job_work("fetch", Progress(stage="wait", done=0, total=0)).details(None) == ""
    unknown = Progress(stage="read", done=2000, total=0, unit="documents")
    assert job_work("router", unknown).details(None) == "2,000 documents"
    trained = Progress(
        stage="train", done=3, total=8, unit="steps", tokens_per_second=1200.0, loss=3.2
    )
    told = "3 of 8 steps, 1:01 left, 1,200 tokens/s, loss 3.200"
    assert job_work("run", trained).details(61.0) == told
