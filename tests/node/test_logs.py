"""Rules of this file: what is configured is Python's own logging, and it is put back afterwards."""

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from dipaco.node.config import LogSection
from dipaco.node.logs import configure_logging, sayer

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


def entries(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return the lines of stderr, each of which is one JSON object."""
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("\n")
    return [json.loads(line) for line in err.splitlines()]


def test_every_record_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSection(format="json"))
    OURS.info("state %s: %s", "task", 'path 1, "two"\nlines, naïve')
    OURS.warning("loss %.1f", 2.5)
    first, second = entries(capsys)
    assert first.keys() == {"time", "level", "logger", "message"}
    assert (first["level"], first["logger"]) == ("info", OURS.name)
    assert first["message"] == 'state task: path 1, "two"\nlines, naïve'
    assert (second["level"], second["message"]) == ("warning", "loss 2.5")


def test_the_time_of_a_record_is_unix_time(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSection(format="json"))
    record = OURS.makeRecord(OURS.name, logging.INFO, "", 0, "words", (), None)
    record.created = 1_800_000_000.12345
    OURS.handle(record)
    assert entries(capsys)[0]["time"] == 1_800_000_000.123


def test_a_traceback_stays_in_the_object(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSection(format="json"))
    try:
        raise ValueError("no such path")
    except ValueError:
        OURS.exception("a bug")
    (entry,) = entries(capsys)
    assert (entry["level"], entry["message"]) == ("error", "a bug")
    assert entry["error"].startswith("Traceback") and "ValueError: no such path" in entry["error"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_other_libraries_are_kept_to_warnings(
    form: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(LogSection(level="debug", format=form))
    THEIRS.info("chatter")
    OURS.debug("detail")
    THEIRS.warning("trouble")
    out, err = capsys.readouterr()
    assert out == "" and "chatter" not in err
    assert [("detail" in line, "trouble" in line) for line in err.splitlines()] == [
        (True, False),
        (False, True),
    ]


def test_below_the_level_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSection(level="warning", format="json"))
    OURS.info("detail")
    OURS.warning("trouble")
    assert [entry["message"] for entry in entries(capsys)] == ["trouble"]


def test_configuring_again_writes_no_line_twice(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSection(format="text"))
    configure_logging(LogSection(format="json"))
    OURS.info("once")
    assert len(entries(capsys)) == 1


def test_what_the_person_must_read_is_an_object_at_every_level(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = LogSection(level="error", format="json")
    configure_logging(config)
    sayer(config)("ready    api unix:/home/v/api.sock")
    (entry,) = entries(capsys)
    assert entry.keys() == {"time", "level", "message"}
    assert (entry["level"], entry["message"]) == ("info", "ready    api unix:/home/v/api.sock")


def test_text_is_time_level_and_message_with_the_traceback_below(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = LogSection(format="text")
    configure_logging(config)
    sayer(config)("ready    api")
    try:
        raise ValueError("no such path")
    except ValueError:
        OURS.exception("a bug in %s", "path 1")
    said, line, *traceback = capsys.readouterr().err.splitlines()
    assert said == "ready    api"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d error   a bug in path 1", line)
    assert traceback[0].startswith("Traceback") and traceback[-1] == "ValueError: no such path"


def test_a_text_line_of_a_stranger_moves_no_terminal_and_forges_no_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(LogSection(format="text"))
    OURS.info("field %s", "a\x1b[2J\x9b\u202e\n2026-01-01T00:00:00 info forged ï")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable() and line.endswith("forged ï")
