"""The shell of the tests of command lines."""

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.shell import Shell


@pytest.fixture
def shell(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shell]:
    for name in [name for name in os.environ if name.startswith("DIPACO_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DIPACO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()  # `start` configures it for the process it thinks is its own
    handlers, level, on_interrupt = root.handlers[:], root.level, signal.getsignal(signal.SIGINT)
    yield Shell(tmp_path, capfd)
    root.handlers[:] = handlers
    root.setLevel(level)
    signal.signal(signal.SIGINT, on_interrupt)
    logging.captureWarnings(capture=False)
