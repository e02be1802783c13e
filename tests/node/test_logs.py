"""Rules of this file: what is configured is Python's own logging, and it is put back afterwards.

Lines are written to the real stderr, or to a pipe whose reader stops.
"""

import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dipaco.node.config import LogSection
from dipaco.node.log_file import LogFile
from dipaco.node.logs import (
    MOST_LINES,
    LineWriter,
    logging_to,
)
from dipaco.protocol.errors import ConfigError

OURS = logging.getLogger("dipaco.node.volunteer")
THEIRS = logging.getLogger("library.part")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("dipaco")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
    logging.captureWarnings(capture=False)


def entries(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return the lines of stderr, each of which is one JSON object."""
    out, err = capfd.readouterr()
    assert out == "" and err.endswith("\n")
    return [json.loads(line) for line in err.splitlines()]


def test_every_record_is_one_object(capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to(LogSection(format="json")):
        OURS.info("state %s: %s", "task", 'path 1, "two"\nlines, naïve')
        OURS.warning("loss %.1f", 2.5)
    first, second = entries(capfd)
    assert first.keys() == {"time", "level", "logger", "message"}
    assert (first["level"], first["logger"]) == ("info", OURS.name)
    assert first["message"] == 'state task: path 1, "two"\nlines, naïve'
    assert (second["level"], second["message"]) == ("warning", "loss 2.5")


def test_the_time_of_a_record_is_unix_time(capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to(LogSection(format="json")):
        record = OURS.makeRecord(OURS.name, logging.INFO, "", 0, "words", (), None)
        record.created = 1_800_000_000.12345
        OURS.handle(record)
    assert entries(capfd)[0]["time"] == 1_800_000_000.123


def test_a_traceback_stays_in_the_object(capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to(LogSection(format="json")):
        try:
            raise ValueError("no such path")
        except ValueError:
            OURS.exception("a bug")
    (entry,) = entries(capfd)
    assert (entry["level"], entry["message"]) == ("error", "a bug")
    assert entry["error"].startswith("Traceback") and "ValueError: no such path" in entry["error"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_other_libraries_are_kept_to_warnings(form: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to(LogSection(level="debug", format=form)):
        THEIRS.info("chatter")
        OURS.debug("detail")
        THEIRS.warning("trouble")
        with warnings.catch_warnings():
            warnings.simplefilter("always")  # for this process they are errors
            warnings.warn("old call", stacklevel=1)
    out, err = capfd.readouterr()
    assert out == "" and "chatter" not in err
    lines = [line for line in err.splitlines() if re.match(r"[\d{]", line)]
    assert [[word in line for word in ("detail", "trouble", "old call")] for line in lines] == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]


def test_below_the_level_nothing_is_written(capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to(LogSection(level="warning", format="json")):
        OURS.info("detail")
        OURS.warning("trouble")
    assert [entry["message"] for entry in entries(capfd)] == ["trouble"]


def test_configuring_again_writes_no_line_twice(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        logging_to(LogSection(format="text")),
        logging_to(LogSection(format="json")),
    ):
        OURS.info("once")
    assert len(entries(capfd)) == 1


def test_what_the_person_must_read_is_an_object_at_every_level(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with logging_to(LogSection(level="error", format="json")) as say:
        say("ready    api unix:/home/v/api.sock")
    (entry,) = entries(capfd)
    assert entry.keys() == {"time", "level", "message"}
    assert (entry["level"], entry["message"]) == ("info", "ready    api unix:/home/v/api.sock")


def test_text_is_time_level_and_message_with_the_traceback_below(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with logging_to(LogSection(format="text")) as say:
        say("ready    api")
        try:
            raise ValueError("no such path")
        except ValueError:
            OURS.exception("a bug in %s", "path 1")
    said, line, *traceback = capfd.readouterr().err.splitlines()
    assert said == "ready    api"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d error   a bug in path 1", line)
    assert traceback[0].startswith("  Traceback")
    assert traceback[-1] == "  ValueError: no such path"


def test_an_exception_that_quotes_a_peer_forges_no_line(capfd: pytest.CaptureFixture[str]) -> None:
    with logging_to(LogSection(format="text")):
        try:
            raise ValueError("a\x1b[2J\n2026-01-01T00:00:00 info    all is well" + "!" * 100_000)
        except ValueError:
            OURS.exception("a bug")
    err = capfd.readouterr().err
    assert len(err) < 20_000 and "\x1b" not in err
    first, *below = err.splitlines()
    assert first.endswith("error   a bug") and all(line.startswith("  ") for line in below)


def test_a_text_line_of_a_stranger_moves_no_terminal_and_forges_no_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with logging_to(LogSection(format="text")):
        OURS.info("field %s", "a\x1b[2J\x9b\u202e\n2026-01-01T00:00:00 info forged ï")
    (line,) = capfd.readouterr().err.splitlines()
    assert line.isprintable() and line.endswith("forged ï")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_file_name_that_is_no_text_is_escaped(
    form: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"/home/caf\xe9")
    with logging_to(LogSection(format=form)) as say:
        say(f"home {name}")
        OURS.info("home %s", name)
    first, second = capfd.readouterr().err.splitlines()
    assert r"/home/caf\udce9" in first and r"/home/caf\udce9" in second


def told(count: int) -> str:
    return f"{count} lost"


def test_a_reader_that_stops_costs_lines_and_no_time() -> None:
    reading, writing = os.pipe()
    lines = LineWriter(partial(os.write, writing), told)
    line, written = "x" * 99, 2 * MOST_LINES + 5000  # the pipe holds 656 of them
    for _ in range(written):
        lines.write(line)  # would wait for ever
    received = b""
    while received.count(b"\n") < MOST_LINES:
        received += os.read(reading, 1 << 16)
    lines.flush()
    lines.write("the next")
    lines.close()
    while not received.endswith(b"the next\n"):
        received += os.read(reading, 1 << 16)
    *found, last, after = received.decode().splitlines()
    lost = sum(int(each.split()[0]) for each in [*found, last] if each != line)
    assert last.endswith(" lost") and after == "the next"
    assert lost and lost + found.count(line) == written
    os.close(reading)
    os.close(writing)


def test_a_reader_that_left_is_no_error_and_the_next_learns_of_it() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    lines = LineWriter(partial(os.write, writing), told)
    lines.write("one")
    lines.write("two")
    lines.flush()
    reading, again = os.pipe()
    os.dup2(again, writing)
    lines.write("three")
    lines.close()
    assert os.read(reading, 999) == b"2 lost\nthree\n"
    for descriptor in (reading, writing, again):
        os.close(descriptor)


def test_a_file_gets_the_lines_and_the_person_what_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "node.log"
    file.write_text("before\n")
    with logging_to(LogSection(), file) as say:
        say("ready    api")
        OURS.info("state task")
    assert capfd.readouterr().err == "ready    api\n"
    before, said, line = file.read_text().splitlines()
    assert (before, said) == ("before", "ready    api") and line.endswith("info    state task")


def test_a_full_file_is_kept_under_a_number_and_the_oldest_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "node.log"
    log = LogFile(file, most=30, keep=2)
    for number in range(10):
        assert log.write(b"line number %d\n" % number) == 14
    log.close()
    found = {each.name: each.read_text().splitlines() for each in tmp_path.iterdir()}
    assert found == {
        "node.log": ["line number 8", "line number 9"],
        "node.log.1": ["line number 6", "line number 7"],
        "node.log.2": ["line number 4", "line number 5"],
    }
    assert file.stat().st_mode & 0o777 == 0o600


def test_without_older_files_the_bound_holds_as_well(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "node.log", most=30, keep=0)
    for number in range(5):
        log.write(b"line number %d\n" % number)
    log.close()
    assert [each.read_text() for each in tmp_path.iterdir()] == ["line number 4\n"]


def test_a_file_that_cannot_be_written_is_told_before_the_start(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"cannot write the log to .*: Is a directory"),
        logging_to(LogSection(), tmp_path),
    ):
        pass
