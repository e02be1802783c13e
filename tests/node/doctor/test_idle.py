"""The proof of idleness: a folder laid out as /proc by the test; and this process, as it is."""

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dipaco.node.doctor.idle import (
    IDLE_PERCENT,
    PAUSED_PERCENT,
    TICK_SECONDS,
    Snapshot,
    Usage,
    judged,
    snapshot,
    used_between,
)
from dipaco.protocol.errors import ConfigError

EMPTY = Snapshot(threads={}, processes={}, devices=())
NOTHING = Usage(processes=1, cpu_seconds=0.0, wakes=0, read=0, written=0, devices=())


def process(proc: Path, pid: int, parent: int, *, devices: tuple[str, ...] = ()) -> None:
    """A process of two threads, with 1.5 s on the CPU and 7 wakes each."""
    folder = proc / str(pid)
    for thread in (pid, pid + 1000):
        task = folder / "task" / str(thread)
        task.mkdir(parents=True)
        (task / "schedstat").write_text("1500000000 12 34\n")
        (task / "status").write_text(
            "voluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t9\n"
        )
    (folder / "status").write_text(f"Name:\tx\nPPid:\t{parent}\n")
    (folder / "io").write_text("rchar: 1\nread_bytes: 4096\nwrite_bytes: 8192\n")
    (folder / "stat").write_text(f"{pid} (a (b) c) S {'0 ' * 10}200 100 0\n")
    (folder / "fd").mkdir()
    for number, target in enumerate(("/dev/null", "socket:[1]", "/dev/pts/3", *devices)):
        (folder / "fd" / str(number)).symlink_to(target)


def test_the_processes_that_the_daemon_started_count_and_no_others(tmp_path: Path) -> None:
    process(tmp_path, 10, 1)
    process(tmp_path, 20, 10, devices=("/dev/nvidia0", "/dev/nvidiactl"))
    process(tmp_path, 30, 20)
    process(tmp_path, 40, 1, devices=("/dev/dri/card0",))
    assert used_between(EMPTY, snapshot(10, tmp_path)) == Usage(
        processes=3,
        cpu_seconds=9.0,
        wakes=42,
        read=3 * 4096,
        written=3 * 8192,
        devices=("/dev/nvidia0", "/dev/nvidiactl"),
    )


def test_a_system_without_these_figures_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this needs Linux"):
        snapshot(10, tmp_path)


def test_this_process_uses_the_time_that_it_computes() -> None:
    before, begun = snapshot(os.getpid()), time.thread_time()
    while time.thread_time() - begun < 0.05:
        pass
    used = used_between(before, snapshot(os.getpid()))
    assert 0.045 <= used.cpu_seconds < 5.0 and used.processes >= 1


def test_what_has_ended_meanwhile_takes_nothing_away_from_the_rest(tmp_path: Path) -> None:
    process(tmp_path, 10, 1, devices=("/dev/nvidia0",))
    process(tmp_path, 20, 10)
    before = snapshot(10, tmp_path)
    shutil.rmtree(tmp_path / "20")
    shutil.rmtree(tmp_path / "10" / "task" / "1010")
    (tmp_path / "10" / "task" / "10" / "schedstat").write_text("1700000000 12 34\n")
    used = used_between(before, snapshot(10, tmp_path))
    assert used.cpu_seconds == pytest.approx(0.2) and used.processes == 1
    assert (used.wakes, used.read, used.written, used.devices) == (0, 0, 0, ("/dev/nvidia0",))


def test_the_work_of_a_thread_that_has_ended_is_in_the_ticks_of_its_process(
    tmp_path: Path,
) -> None:
    process(tmp_path, 10, 1)
    before = snapshot(10, tmp_path)
    shutil.rmtree(tmp_path / "10" / "task" / "1010")
    (tmp_path / "10" / "stat").write_text(f"10 (a (b) c) S {'0 ' * 10}250 80 0\n")
    used = used_between(before, snapshot(10, tmp_path))
    assert used.cpu_seconds == pytest.approx((330 - 300 - 1) * TICK_SECONDS)


@pytest.mark.parametrize(
    ("state", "percent", "verdict"),
    [
        ("paused", PAUSED_PERCENT - 0.01, "ok"),
        ("paused", PAUSED_PERCENT, "fail"),
        ("waiting", PAUSED_PERCENT, "ok"),
        ("waiting", IDLE_PERCENT, "fail"),
    ],
)
def test_a_paused_node_has_a_narrower_mark_than_one_that_waits(
    state: str, percent: float, verdict: str
) -> None:
    used = replace(NOTHING, cpu_seconds=percent / 100 * 30)
    checks = {c.name: c for c in judged(used, 30.0, state=state, reason="words", traffic=0)}
    assert checks["cpu"].verdict == verdict
    assert checks["state"].verdict == ("ok" if state == "paused" else "warn")


def test_a_device_that_a_paused_node_holds_open_is_a_fault() -> None:
    used = replace(NOTHING, devices=("/dev/nvidia0",))
    checks = {c.name: c for c in judged(used, 30.0, state="paused", reason="r", traffic=5)}
    assert checks["devices"].verdict == "fail" and "/dev/nvidia0" in checks["devices"].words
    assert [c.verdict for n, c in checks.items() if n != "devices"] == ["ok"] * 5
