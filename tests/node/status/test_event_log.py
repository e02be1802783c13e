"""Rules of this file: events outlive a restart, and nothing that happens to their files hurts."""

import os
from pathlib import Path

import pytest

from dipaco.node.status import event_log as module
from dipaco.node.status.event_log import (
    FILE_BYTES,
    KEPT_SECONDS,
    MAX_FILES,
    RECENT,
    EventLog,
    latest_tasks,
    page_of,
)
from dipaco.node.status.events import MAX_TEXT, Event
from dipaco.node.status.tasks import Tasks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "events"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files have room for about ten events."""
    monkeypatch.setattr(module, "FILE_BYTES", 1000)


def noted(event_log: EventLog, count: int) -> EventLog:
    for _ in range(count):
        event_log.add("state", "no-lease", f"event {event_log.number + 1}", state="waiting")
    return event_log


def numbers(events: list[Event]) -> list[int]:
    return [event.number for event in events]


def everything(folder: Path) -> list[int]:
    return numbers(page_of(folder, 0, 0.0, 10_000))


def test_what_is_read_again_is_what_was_written(folder: Path) -> None:
    event_log = noted(EventLog(folder), 3)
    assert page_of(folder, 0, 0.0, 10) == list(event_log.recent)


def test_numbers_go_on_over_restarts(folder: Path) -> None:
    noted(EventLog(folder), 3)
    again = EventLog(folder)
    assert again.number == 3
    noted(again, 2)
    assert everything(folder) == [1, 2, 3, 4, 5]


@pytest.mark.usefixtures("small")
def test_pages_follow_each_other_through_all_files(folder: Path) -> None:
    noted(EventLog(folder), 100)
    assert len(list(folder.iterdir())) > 5
    found, after = [], 0
    while page := numbers(page_of(folder, after, 0.0, 7)):
        found += page
        after = page[-1]
    assert found == list(range(1, 101))


@pytest.mark.usefixtures("small")
def test_all_files_stay_within_a_bound(folder: Path) -> None:
    noted(EventLog(folder), 20 * MAX_FILES)
    files = sorted(folder.iterdir())
    assert len(files) == MAX_FILES
    found = everything(folder)
    assert found == list(range(found[0], 20 * MAX_FILES + 1)) and found[0] > 1


def test_a_month_of_a_task_every_half_minute_has_room(folder: Path) -> None:
    event_log = EventLog(folder)
    tasks = Tasks(event_log)
    number = tasks.begin(run="ab" * 32, name="z" * 64, kind="evaluate", path=63, round_=1000)
    tasks.end(number, "accepted", "path 63 round 1000")
    (line,) = (path.read_bytes() for path in folder.iterdir())
    assert len(line) * KEPT_SECONDS / 30 < 1.5 * MAX_FILES * FILE_BYTES


def test_events_of_last_month_are_not_told_and_their_files_go(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 1)
    event_log = noted(EventLog(folder), 3)
    first, *_ = sorted(folder.iterdir())
    last_month = first.stat().st_mtime - KEPT_SECONDS - 60
    os.utime(first, (last_month, last_month))
    assert everything(folder) == [2, 3] and first.exists()
    noted(event_log, 1)
    assert everything(folder) == [2, 3, 4] and not first.exists()


def test_events_since_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    event_log = EventLog(folder)
    for second in range(10):
        moment = 2_000_000_000.0 + second
        monkeypatch.setattr("time.time", lambda moment=moment: moment)
        noted(event_log, 1)
    os.utime(next(folder.iterdir()), (2_000_000_009.0, 2_000_000_009.0))
    assert numbers(page_of(folder, 0, 2_000_000_007.0, 10)) == [8, 9, 10]
    assert numbers(page_of(folder, 9, 2_000_000_007.0, 10)) == [10]
    assert page_of(folder, 0, 2_000_000_010.0, 10) == []


@pytest.mark.parametrize("torn", [b'{"number":4', b"\xff\xfe\n", b"[]\n", b"{}", b"\0" * 5000])
def test_a_torn_or_damaged_line_costs_itself_alone(folder: Path, torn: bytes) -> None:
    noted(EventLog(folder), 3)
    with next(folder.iterdir()).open("ab") as file:
        file.write(torn)
    assert everything(folder) == [1, 2, 3]
    again = noted(EventLog(folder), 2)
    assert again.number == 5 and everything(folder) == [1, 2, 3, 4, 5]


def test_a_file_without_any_event_is_no_reason_to_begin_anew(folder: Path) -> None:
    folder.mkdir()
    (folder / "000000000042.jsonl").write_bytes(b"garbage")
    assert noted(EventLog(folder), 1).number == 43
    assert everything(folder) == [43]


def test_a_folder_that_cannot_be_used_costs_the_events_alone(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(b"a file")
    event_log = noted(EventLog(tmp_path / "events"), 2)
    assert numbers(event_log.after(0)) == [1, 2]


def test_other_files_in_the_folder_are_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.jsonl").write_bytes(b"mine")
    noted(EventLog(folder), 1)
    assert everything(folder) == [1] and (folder / "notes.jsonl").exists()


def test_the_text_of_a_peer_is_one_bounded_line(folder: Path) -> None:
    event_log = EventLog(folder)
    event_log.add("state", "blocked", "\x1b[31m\n\u202e" * 9999)
    (event,) = page_of(folder, 0, 0.0, 10)
    assert len(event.text) <= MAX_TEXT and event.text.isprintable() and event.text.isascii()


def test_the_latest_events_are_in_memory(folder: Path) -> None:
    event_log = noted(EventLog(folder), RECENT + 10)
    assert not event_log.holds(9) and event_log.holds(10)
    assert numbers(event_log.after(RECENT + 8)) == [RECENT + 9, RECENT + 10]


def test_the_last_events_of_the_start_before_are_in_memory(folder: Path) -> None:
    noted(EventLog(folder), 20)
    assert numbers(EventLog(folder).after(10)) == list(range(11, 21))


def test_events_before_a_gap_are_not_taken_for_those_in_memory(folder: Path) -> None:
    noted(EventLog(folder), 9)
    (path,) = folder.iterdir()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], b"damaged\n", *lines[5:]]))
    again = EventLog(folder)
    assert numbers(again.after(0)) == [6, 7, 8, 9]
    assert again.holds(5) and not again.holds(4)


@pytest.mark.usefixtures("small")
def test_the_latest_tasks_are_found_newest_first_over_restarts(folder: Path) -> None:
    tasks = Tasks(EventLog(folder))
    for path in range(12):
        number = tasks.begin(run="ab", name="demo", kind="train", path=path, round_=1)
        tasks.note(number, steps=path)
        tasks.end(number, "accepted" if path % 2 else "lost", f"path {path}", "late")
    again = EventLog(folder)
    assert again.begin_task() == 13
    found = latest_tasks(folder, 5)
    assert [(task.number, task.path, task.steps) for task in found] == [
        (number, number - 1, number - 1) for number in (12, 11, 10, 9, 8)
    ]
    assert [task.outcome for task in found[:2]] == ["accepted", "lost"]
    assert len(latest_tasks(folder, 100)) == 12


def test_tasks_in_work_are_told_newest_first() -> None:
    tasks = Tasks(EventLog())
    first = tasks.begin(run="ab", name="demo", kind="train", path=0, round_=1)
    second = tasks.begin(run="ab", name="demo", kind="train", path=1, round_=1)
    assert [task.number for task in tasks.working] == [second, first]
    tasks.end(first, "handed-back", "path 0", "stopped")
    assert [task.number for task in tasks.working] == [second]
