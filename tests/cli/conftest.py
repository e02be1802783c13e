"""A person's shell for the tests of command lines, and the answer to a mistake."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dipaco.cli.exits import Exit
from dipaco.cli.main import run
from tests.cli.published import hold_to_schema
from tests.cli.shell import Shell

Answer = Callable[..., str]


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The verbs whose JSON was held against the published schema in this test, as they came."""
    return hold_to_schema(monkeypatch)


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


@pytest.fixture
def answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Answer]:
    """Return a function that runs a command line, and returns the line with which it fails.

    The exit code is 2, and nothing is left behind: no home, no key, no run file.
    """
    for name in [name for name in os.environ if name.startswith("DIPACO_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DIPACO_HOME", str(tmp_path / "new" / "home"))
    monkeypatch.chdir(tmp_path)
    handlers = logging.getLogger().handlers[:]

    def ask(*arguments: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        code = run(arguments)
        said = capsys.readouterr()
        assert code == Exit.USAGE, said.err
        assert said.out == "" and said.err.count("\n") == 1, said.err
        assert sorted(tmp_path.rglob("*")) == before
        return said.err.removeprefix("dipaco-node: ").rstrip("\n").replace(f"{tmp_path}/", "")

    yield ask
    logging.getLogger().handlers[:] = handlers
