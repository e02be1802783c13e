"""The history of reasons: a real file in a temporary home, the clock is a number of the test."""

import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.status import history
from dipaco.node.status.activity import Activity
from dipaco.node.status.document import Reason
from dipaco.node.status.history import FILE, KEEP_SECONDS, TOUCH_SECONDS, History

DAY = 86400.0
T = 1_800_000_000.0


class Clock:
    now = T

    def __call__(self) -> float:
        return self.now


def reason(code: str, text: str = "words") -> Reason:
    return Reason(code=code, text=text, since=T)


def code_at(kept: History, moment: float) -> str:
    found = kept.at(moment)
    return found[0].reasons[0].code if found else ""


def test_every_change_of_the_reasons_is_found_again_by_its_time(tmp_path: Path) -> None:
    clock = Clock()
    kept = History(tmp_path, clock=clock)
    told = [("paused", ("hot",)), ("paused", ("hot", "hours")), ("waiting", ("no-lease",))]
    for hour, (state, codes) in enumerate(told):
        clock.now = T + 3600 * hour
        kept.note(state, tuple(map(reason, codes)))
    assert History(clock=clock).at(T) is None  # of no home
    for hour, (state, codes) in enumerate(told):
        for moment in (T + 3600 * hour, T + 3600 * hour + 3599):
            found = kept.at(moment)
            assert found and found[0].state == state
            assert tuple(each.code for each in found[0].reasons) == codes
            assert found[1] == (T + 3600 * (hour + 1) if hour < 2 else None)
    assert kept.at(T - 1) is None


def test_the_same_reasons_and_the_steps_of_work_are_told_once(tmp_path: Path) -> None:
    kept = History(tmp_path, clock=Clock())
    kept.note("paused", (reason("hot", "86 C"),))
    kept.note("paused", (reason("hot", "87 C"),))
    for state, code in (("fetching", "modules"), ("training", "task"), ("waiting", "asking")):
        kept.note(state, (reason(code),))
    lines = (tmp_path / FILE).read_bytes().splitlines()
    assert len(lines) == 2 and b"86 C" in lines[0] and b'"working"' in lines[1]
    kept.note("training", (reason("task"), reason("scheduler-away")))
    assert len((tmp_path / FILE).read_bytes().splitlines()) == 3


def test_where_a_clock_was_set_back_the_later_word_counts(tmp_path: Path) -> None:
    clock = Clock()
    kept = History(tmp_path, clock=clock)
    kept.note("paused", (reason("hot"),))
    clock.now = T - 3600
    kept.note("paused", (reason("user"),))
    assert code_at(kept, T - 1800) == code_at(kept, T + 5) == "user"


async def test_the_end_of_a_node_is_kept_and_so_is_that_of_a_killed_one(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    clock = Clock()
    kept = History(tmp_path, clock=clock)
    kept.note("paused", (reason("user"),))
    async with trio.open_nursery() as nursery:
        await nursery.start(kept.run)
        clock.now = T + 100
        nursery.cancel_scope.cancel()
    assert "it was stopped" in kept.at(T + 100)[0].reasons[0].text  # type: ignore[index]
    kept.note("paused", (reason("user"),))
    os.utime(tmp_path / FILE, (T + 500, T + 500))  # its last sign of life
    clock.now = T + 9000
    again = History(tmp_path, clock=clock)
    assert code_at(again, T + 499) == "user" and code_at(again, T + 500) == "not-running"
    assert "without a goodbye" in again.at(T + 8000)[0].reasons[0].text  # type: ignore[index]


async def test_a_node_that_runs_gives_a_sign_of_life_every_minute(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    kept = History(tmp_path, clock=Clock())
    kept.note("paused", (reason("user"),))
    os.utime(tmp_path / FILE, (5.0, 5.0))
    async with trio.open_nursery() as nursery:
        await nursery.start(kept.run)
        await trio.sleep(TOUCH_SECONDS - 1)
        assert (tmp_path / FILE).stat().st_mtime == 5.0
        await trio.sleep(2)
        assert (tmp_path / FILE).stat().st_mtime > 5.0
        nursery.cancel_scope.cancel()


def test_thirty_days_are_kept_with_what_held_at_their_beginning(tmp_path: Path) -> None:
    clock = Clock()
    kept = History(tmp_path, clock=clock)
    for day in range(40):
        clock.now = T + day * DAY
        kept.note("paused", (reason("hot" if day % 2 else "hours"),))
    kept.tidy()
    assert code_at(kept, clock.now - KEEP_SECONDS + 1) == "hot"
    assert len((tmp_path / FILE).read_bytes().splitlines()) == 31


def test_the_file_has_its_bound_whatever_flaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MAX_BYTES", 4000)
    clock = Clock()
    kept = History(tmp_path, clock=clock)
    for second in range(200):
        clock.now = T + second
        kept.note("paused", (reason("hot" if second % 2 else "hours"),))
        assert (tmp_path / FILE).stat().st_size <= 4000
    assert code_at(kept, clock.now) == "hot"


def test_a_damaged_line_costs_itself_alone(tmp_path: Path) -> None:
    clock = Clock()
    kept = History(tmp_path, clock=clock)
    kept.note("paused", (reason("hot"),))
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"time": 18000\n\xff\xfe\n')
    clock.now = T + 60
    kept.note("paused", (reason("user"),))
    assert (code_at(kept, T), code_at(kept, T + 60)) == ("hot", "user")


def test_a_home_that_cannot_be_written_costs_the_history_alone(tmp_path: Path) -> None:
    kept = History(tmp_path / "gone", clock=Clock())
    kept.note("paused", (reason("hot"),))
    assert kept.at(T) is None


def test_the_activity_tells_it_every_change_also_of_what_holds_beside(tmp_path: Path) -> None:
    activity = Activity(history=History(tmp_path))
    activity.pause(reason("hot"), reason("hours"))
    activity.say("resuming")
    activity.say_beside("two-ledgers", problem="p")
    activity.no_longer("two-ledgers")
    found = activity.history._entries()
    assert [each.codes for each in found] == [
        ("paused", "hot", "hours"),
        ("training", "working"),
        ("training", "working", "two-ledgers"),
        ("training", "working"),
    ]
