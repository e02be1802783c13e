"""Rules of this file: the daemon as a real process; what it prints is waited for, never a time."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dipaco.cli.exits import Exit
from tests.e2e.tiny import LOOPBACK, TIMEOUT, dipaco_node

pytestmark = pytest.mark.slow

START = (sys.executable, "-m", "dipaco.cli.entry", "start", "--rendezvous", *LOOPBACK)
FEW = 32  # descriptors


@contextmanager
def daemon(home: Path, **options: object) -> Iterator[subprocess.Popen[str]]:
    """Start a daemon; its lines are in `stderr`."""
    process = subprocess.Popen(
        [*START, "--home", str(home)],
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def lines_to(process: subprocess.Popen[str], word: str) -> str:
    """Return all lines up to the one that begins with `word`."""
    assert process.stderr is not None
    lines = ""
    for line in process.stderr:
        lines += line
        if line.startswith(word):
            return lines
    raise AssertionError(lines)


def lines_to_part(process: subprocess.Popen[str], part: str) -> str:
    """Return the line that has a part."""
    assert process.stderr is not None
    return next(line for line in process.stderr if part in line)


def limit_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, FEW))


def test_a_closed_terminal_ends_a_node_in_order_even_one_with_few_descriptors(
    tmp_path: Path,
) -> None:
    with daemon(tmp_path, preexec_fn=limit_descriptors) as process:
        assert f"warning only {FEW} files may be open at once" in lines_to(process, "ready")
        assert dipaco_node("status", "--home", str(tmp_path)).returncode == 0
        process.send_signal(signal.SIGUSR1)
        assert '"state":"' in lines_to(process, "status ")
        (tmp_path / "config.toml").write_text("[log]\nlevel = 'rubbish'\n")
        process.send_signal(signal.SIGHUP)
        assert "the old one goes on" in lines_to_part(process, "is not taken")
        (tmp_path / "config.toml").write_text("[log]\nlevel = 'info'\n")
        process.send_signal(signal.SIGHUP)
        lines_to_part(process, "was read again")
        process.send_signal(signal.SIGHUP)
        _, said = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert "signal SIGHUP: leaving" in said
    assert not (tmp_path / "api.sock").exists() and "Traceback" not in said


def test_an_interrupt_before_it_is_ready_ends_a_node_in_order(tmp_path: Path) -> None:
    with daemon(tmp_path) as process:
        lines_to(process, "dipaco-node 0.")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0 and "Traceback" not in said


def test_a_node_that_is_to_start_again_ends_with_the_code_for_it(tmp_path: Path) -> None:
    with daemon(tmp_path) as process:
        lines_to(process, "ready")
        assert dipaco_node("stop", "--restart", "--home", str(tmp_path)).returncode == 0
        process.communicate(timeout=TIMEOUT)
    assert process.returncode == Exit.RESTART


def test_a_log_reader_that_has_stopped_does_not_keep_a_node_from_leaving(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with subprocess.Popen([*START, "--home", str(tmp_path)], stderr=writing) as process:
        try:
            received = b""
            while b"ready" not in received:
                received += os.read(reading, 4096)
            os.set_blocking(writing, False)  # the daemon has the same open pipe
            try:
                while os.write(writing, b"x" * 4096):
                    pass
            except BlockingIOError:
                os.set_blocking(writing, True)
            process.terminate()
            assert process.wait(TIMEOUT) == 0
        finally:
            process.kill()
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    "module",
    [
        "dipaco.cli.main",
        "click",
        "dipaco.cli.commands.start",
        "dipaco.node.settings",
        "dipaco.node.daemon",
        "libp2p",
    ],
)
def test_an_interrupt_in_an_import_ends_the_start_without_a_traceback(
    tmp_path: Path, module: str
) -> None:
    program = f"""
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            print(name, flush=True)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from dipaco.cli.entry import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *START[3:], "--home", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.stdout == f"{module}\n"
    assert done.returncode in (-signal.SIGINT, 130)
    assert done.stderr in ("", "\n")  # click ends the line in which ^C was typed
