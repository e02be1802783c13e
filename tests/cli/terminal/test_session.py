"""The terminal view on a real terminal: a pseudo-terminal, a process, and a served home."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from dipaco.cli.terminal.keyboard import keys_in
from dipaco.node.api.values import Ordered
from tests.e2e.tiny import LOOPBACK
from tests.node.api.served import Served, serving

pytestmark = pytest.mark.slow

ENTRY = (sys.executable, "-P", "-m", "dipaco.cli.entry")
VIEW = (*ENTRY, "status", "--watch", "--home")
START = (*ENTRY, "start", "--rendezvous", "--ui-listen", "", *LOOPBACK)
BIG, RESTORED = b"\x1b[?1049h", b"\x1b[?1049l"
"""What opens the screen of a full-screen program, and what closes it."""
CURSOR_SHOWN = b"\x1b[?25h"


class Terminal:
    """A pseudo-terminal in which one process runs."""

    def __init__(self, arguments: tuple[str, ...], **environment: str) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(80, 24)
        self.mode = termios.tcgetattr(self.slave)
        self.shown = b""
        self.process = subprocess.Popen(
            arguments,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            process_group=0,  # of our session: a new one would ignore SIGTSTP
            env={**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8", **environment},
        )

    def resize(self, width: int, height: int) -> None:
        """Have another size, as when a person pulls at the window."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    async def until(self, words: bytes) -> bytes:
        """Return what was shown up to and with `words`, and begin anew behind them."""
        while words not in self.shown:
            await trio.lowlevel.wait_readable(self.master)
            self.shown += os.read(self.master, 65536)
        before, words, self.shown = self.shown.partition(words)
        return before + words

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self.master, keys)

    async def ended(self) -> int:
        """Return the exit code, when the process has ended and all it wrote was read."""
        code: int = await trio.to_thread.run_sync(self.process.wait)
        os.set_blocking(self.master, False)
        try:
            while data := os.read(self.master, 65536):
                self.shown += data
        except BlockingIOError:
            pass
        return code

    def is_as_before(self) -> bool:
        """Return whether the screen was closed, and the mode of the terminal is the old one."""
        ended = RESTORED in self.shown and self.shown.rindex(CURSOR_SHOWN) > 0
        return ended and termios.tcgetattr(self.slave) == self.mode


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path / "served") as served:
        yield served


@pytest.fixture
async def terminal(served: Served) -> AsyncIterator[Terminal]:
    terminal = Terminal((*VIEW, str(served.home.root)))
    yield terminal
    terminal.process.kill()
    terminal.process.wait()
    os.close(terminal.master)
    os.close(terminal.slave)


async def test_keys_pause_resume_finish_show_the_log_and_close_the_view(
    served: Served, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused: list[float | None] = []

    def pause(until: float | None) -> Ordered:
        paused.append(until)
        return Ordered(mode="user", since=1_800_000_000.0, until=until)

    monkeypatch.setattr(served.node, "pause", pause)
    assert BIG in await terminal.until(b"close the view")
    terminal.type(b"\x1b[A\x1bOPz")  # an arrow and a function key, and a letter of no meaning
    terminal.type(b"p")
    await terminal.until(b"paused until you resume")
    assert paused == [None]
    terminal.type(b"r")
    await terminal.until(b"resumed: works")
    terminal.type(b"F")
    await terminal.until(b"finishing: no new lease")
    terminal.type(b"l")
    await terminal.until(b"no line yet")
    terminal.resize(40, 12)
    terminal.process.send_signal(signal.SIGWINCH)
    await terminal.until(b"q\x1b[0m close")
    terminal.type(b"q")
    assert await terminal.ended() == 0 and terminal.is_as_before()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
async def test_a_signal_ends_the_view_and_the_terminal_is_as_before(
    number: signal.Signals, terminal: Terminal
) -> None:
    await terminal.until(b"close the view")
    terminal.process.send_signal(number)
    ended_by = await terminal.ended()
    assert ended_by == (130 if number == signal.SIGINT else -number)
    assert terminal.is_as_before() and b"Traceback" not in terminal.shown


async def test_a_suspended_view_leaves_the_terminal_as_before_and_comes_back(
    terminal: Terminal,
) -> None:
    await terminal.until(b"close the view")
    terminal.process.send_signal(signal.SIGTSTP)
    wait: Any = partial(os.waitpid, terminal.process.pid, os.WUNTRACED)
    _, how = await trio.to_thread.run_sync(wait)
    assert os.WIFSTOPPED(how)
    assert termios.tcgetattr(terminal.slave) == terminal.mode
    terminal.process.send_signal(signal.SIGCONT)
    assert RESTORED in await terminal.until(BIG)
    await terminal.until(b"close the view")
    terminal.type(b"q")
    assert await terminal.ended() == 0 and terminal.is_as_before()


async def test_a_daemon_that_ends_and_comes_back_is_told_and_survived(tmp_path: Path) -> None:
    root = tmp_path / "served"
    async with serving(root):
        terminal = Terminal((*VIEW, str(root)))
        await terminal.until(b"close the view")
    await terminal.until(b"looks again")
    async with serving(root) as served:
        await terminal.until(b"training")
        terminal.type(b"p")
        await terminal.until(b"paused until you resume")
        assert served.node.stops == []
        terminal.type(b"q")
        assert await terminal.ended() == 0 and terminal.is_as_before()


@pytest.mark.parametrize(("variable", "value"), [("TERM", "dumb"), ("TERM", ""), ("NO_COLOR", "1")])
async def test_a_poor_terminal_gets_lines_and_no_color_no_colour(
    variable: str, value: str, served: Served
) -> None:
    terminal = Terminal((*VIEW, str(served.home.root)), **{variable: value})
    shown = await terminal.until(b"1 round 1" if variable == "TERM" else b"close the view")
    terminal.process.send_signal(signal.SIGINT)
    assert await terminal.ended() == 130
    if variable == "TERM":
        assert b"\x1b" not in shown + terminal.shown
    else:
        assert not any(b"\x1b[3%d" % colour in shown for colour in range(8))


async def test_a_daemon_with_a_view_logs_to_its_file_and_stays_when_the_view_is_closed(
    tmp_path: Path,
) -> None:
    home = str(tmp_path / "home")
    terminal = Terminal((*START, "--tui", "--home", home))
    await terminal.until(b"close the view")
    terminal.type(b"q")
    assert b" info " not in await terminal.until(RESTORED)
    await terminal.until(b"the view is closed, the daemon goes on")
    await trio.to_thread.run_sync(subprocess.run, (*ENTRY, "stop", "--home", home))
    assert await terminal.ended() == 0
    assert termios.tcgetattr(terminal.slave) == terminal.mode
    log = (tmp_path / "home" / "node.log").read_text()
    assert "ready    api" in log and " info " in log
    assert b" info " not in terminal.shown


async def test_the_end_of_a_daemon_closes_its_view(tmp_path: Path) -> None:
    terminal = Terminal((*START, "--tui", "--home", str(tmp_path / "home")))
    await terminal.until(b"close the view")
    terminal.process.send_signal(signal.SIGTERM)
    assert await terminal.ended() == 0 and terminal.is_as_before()
    assert b"the daemon goes on" not in terminal.shown


def test_keys_that_send_sequences_are_no_letters() -> None:
    assert keys_in(b"\x1b[A\x1b[1;5Bp\x1bOPQ\xff\x1b") == "pq"
