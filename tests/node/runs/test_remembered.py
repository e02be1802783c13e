"""The run that a home worked for last: real files."""

import logging
from pathlib import Path

import pytest

from dipaco.node.runs.remembered import FILE, last_run, remember_run
from tests.values import digest


def test_a_home_remembers_the_run_of_last_time(tmp_path: Path) -> None:
    assert last_run(tmp_path) is None
    for name in ("one", "other", "other"):
        remember_run(tmp_path, digest(name))
        assert last_run(tmp_path) == digest(name)
    assert (tmp_path / FILE).read_text() == digest("other").hex() + "\n"


@pytest.mark.parametrize("text", [b"", b"tiny\n", b"ab" * 31, b"\xff" * 64, b"ab" * 4000])
def test_a_damaged_file_is_told_of_and_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: bytes
) -> None:
    (tmp_path / FILE).write_bytes(text)
    assert last_run(tmp_path) is None
    assert str(tmp_path / FILE) in caplog.text
    remember_run(tmp_path, digest("one"))
    assert last_run(tmp_path) == digest("one")


def test_a_home_that_cannot_be_written_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).mkdir()
    with caplog.at_level(logging.WARNING):
        remember_run(tmp_path, digest("one"))
    assert "not remembered" in caplog.text
