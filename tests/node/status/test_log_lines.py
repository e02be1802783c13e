"""The latest lines of the log."""

import logging
from collections.abc import Iterator

import pytest

from dipaco.node.status.log_lines import MAX_LINE, MAX_LINES, LogLines, listening

log = logging.getLogger("dipaco.test")


@pytest.fixture
def lines() -> Iterator[LogLines]:
    kept, level = LogLines(), log.level
    log.setLevel(logging.DEBUG)
    with listening(kept):
        yield kept
    log.setLevel(level)


def test_the_last_lines_are_kept(lines: LogLines) -> None:
    for number in range(MAX_LINES + 5):
        log.info("line %d", number)
    found = lines.after(0, "debug")
    assert (len(found), found[0].number, found[-1].text) == (MAX_LINES, 6, f"line {MAX_LINES + 4}")
    assert [line.text for line in lines.after(MAX_LINES + 4, "debug")] == [found[-1].text]
    assert [line.number for line in lines.after(0, "debug", 2)] == [MAX_LINES + 4, MAX_LINES + 5]


def test_a_level_leaves_out_what_is_below(lines: LogLines) -> None:
    log.debug("a")
    log.log(25, "b")
    log.warning("c")
    log.critical("d")
    assert [(each.level, each.text) for each in lines.after(0, "info")] == [
        ("info", "b"),
        ("warning", "c"),
        ("error", "d"),
    ]


def test_an_error_is_told_in_the_line_and_text_is_made_printable(lines: LogLines) -> None:
    try:
        raise ZeroDivisionError("\x1b[31m" * MAX_LINE)
    except ZeroDivisionError:
        log.exception("failed")
    (line,) = lines.after(0, "debug")
    assert line.text.startswith(r"failed (ZeroDivisionError: \x1b[31m")
    assert len(line.text) == MAX_LINE


def test_nothing_is_kept_afterwards() -> None:
    kept = LogLines()
    with listening(kept):
        pass
    log.warning("later")
    assert not kept.after(0, "debug")
