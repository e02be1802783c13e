"""Limits on what this machine is and does: observations are numbers, files stand in a folder.

The readers read real files under `tmp_path`, laid out as the kernel does; the GPU's tool is a
program of the test.
"""

from pathlib import Path
from typing import Any

import psutil
import pytest

from dipaco.node.limits.apps import AppsLimit, running
from dipaco.node.limits.battery import BatteryLimit, on_battery
from dipaco.node.limits.heat import HeatLimit, cpu_celsius, gpu_celsius
from dipaco.node.limits.in_use import UseLimit
from dipaco.node.limits.memory import MemoryLimit, memory
from dipaco.node.limits.metered import MeteredLimit
from dipaco.node.limits.values import Closed, Limit, Memory, Observed

GB = 10**9


def closed(limit: Limit, *, before: bool = False, **seen: Any) -> Closed | None:
    return limit.closed(Observed(**seen), 1000.0, before=before)


def files(folder: Path, **contents: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        (folder / name.replace("_dot_", ".")).write_text(text)


LIMITS = (
    BatteryLimit(),
    AppsLimit(),
    HeatLimit(83),
    UseLimit(3),
    MemoryLimit(),
    MeteredLimit(),
)


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: type(limit).__name__)
def test_what_was_not_looked_at_closes_nothing(limit: Limit) -> None:
    assert closed(limit) is None and closed(limit, before=True) is None


# ---------------------------------------------------------------------- battery


def test_on_battery_no_work_runs() -> None:
    assert closed(BatteryLimit(), on_battery=False) is None
    found = closed(BatteryLimit(), on_battery=True)
    assert found and str(found) == "on battery; goes on when it is plugged in"


def test_a_laptop_is_on_battery_while_it_discharges_and_nothing_feeds_it(tmp_path: Path) -> None:
    assert on_battery(tmp_path) is None  # a desktop: the folder is empty
    files(tmp_path / "BAT0", type="Battery\n", status="Discharging\n")
    assert on_battery(tmp_path) is True
    files(tmp_path / "AC", type="Mains\n", online="1\n")
    assert on_battery(tmp_path) is False
    files(tmp_path / "AC", online="0\n")
    assert on_battery(tmp_path) is True
    files(tmp_path / "BAT0", status="Full\n")
    assert on_battery(tmp_path) is False


def test_the_battery_of_a_mouse_is_none_of_this_machine(tmp_path: Path) -> None:
    files(tmp_path / "hidpp", type="Battery\n", status="Discharging\n", scope="Device\n")
    assert on_battery(tmp_path) is None


# ---------------------------------------------------------------------- programs


def test_a_listed_program_is_found_by_the_name_that_the_kernel_keeps_of_it(tmp_path: Path) -> None:
    files(tmp_path / "1", comm="systemd\n")
    files(tmp_path / "77", comm="a-very-long-gam\n")
    files(tmp_path / "sys", comm="game.exe\n")
    (tmp_path / "78").mkdir()  # it has ended meanwhile
    found = running(("game.exe", "a-very-long-game.exe"), tmp_path)
    assert found == ("a-very-long-game.exe",)
    reason = closed(AppsLimit(), apps=found)
    assert reason and str(reason) == "a-very-long-game.exe runs; goes on when it ends"


def test_this_very_process_is_found() -> None:
    assert running((psutil.Process().name(), "no such program")) == (psutil.Process().name(),)


# ---------------------------------------------------------------------- heat


def test_work_goes_on_only_five_degrees_below_the_limit() -> None:
    limit = HeatLimit(83)
    assert closed(limit, celsius=83.0) is None
    found = closed(limit, celsius=86.4)
    assert found and str(found) == "86 C, limit 83; goes on at 78 C"
    assert closed(limit, celsius=78.1, before=True)
    assert closed(limit, celsius=78.0, before=True) is None


def test_the_hottest_sensor_of_a_cpu_counts_and_that_of_a_disk_does_not(tmp_path: Path) -> None:
    assert cpu_celsius(tmp_path) is None
    files(tmp_path / "hwmon0", name="nvme\n", temp1_input="91000\n")
    assert cpu_celsius(tmp_path) is None
    files(tmp_path / "hwmon1", name="coretemp\n", temp1_input="61000\n", temp2_input="64500\n")
    assert cpu_celsius(tmp_path) == 64.5
    files(tmp_path / "hwmon1", temp2_input="no number")
    assert cpu_celsius(tmp_path) in (None, 61.0)  # whichever the folder lists first


@pytest.mark.parametrize(
    ("prints", "found"), [("71\n", 71.0), ("[N/A]\n", None), ("", None), ("No devices\n", None)]
)
async def test_the_gpu_is_asked_through_a_program_of_its_own(
    prints: str, found: float | None, tmp_path: Path
) -> None:
    tool = tmp_path / "tool"
    tool.write_text(f"#!/bin/sh\n[ $1 = --id=1 ] && printf '{prints}'\n")
    tool.chmod(0o755)
    assert await gpu_celsius("cuda:1", (str(tool),)) == found


async def test_a_machine_without_that_program_has_no_temperature(tmp_path: Path) -> None:
    assert await gpu_celsius("cuda", (str(tmp_path / "none"),)) is None


# ---------------------------------------------------------------------- use


def test_work_waits_until_nobody_used_the_machine_for_a_while() -> None:
    limit = UseLimit(3)
    assert closed(limit, idle_seconds=180.0) is None
    found = closed(limit, idle_seconds=40.0)
    assert found and str(found) == "used 40 s ago; waits for 3 min idle"
    assert found.until == 1140.0
    busy = closed(limit, idle_seconds=0.0)
    assert busy and str(busy) == "in use; waits for 3 min idle" and busy.until is None


def test_a_machine_that_cannot_tell_counts_as_in_use() -> None:
    found = closed(UseLimit(3), idle_seconds="unknown")
    assert found and found.code == "idle-unknown"
    assert found.why == "cannot tell whether it is in use, counts as in use"


# ---------------------------------------------------------------------- network


def test_a_metered_connection_carries_no_work() -> None:
    assert closed(MeteredLimit(), metered=False) is None
    found = closed(MeteredLimit(), metered=True)
    assert found and found.quiet and found.why == "metered connection"


# ---------------------------------------------------------------------- memory


def test_work_ends_before_the_memory_does_and_goes_on_when_there_is_room_for_all_of_it() -> None:
    limit, worker = MemoryLimit(), 6 * GB
    plenty = Memory(total=32 * GB, free=GB, worker=worker)
    assert closed(limit, memory=plenty) is None
    short = Memory(total=32 * GB, free=900 * 10**6, worker=worker)
    assert closed(limit, memory=short)
    freed = Memory(total=32 * GB, free=6_900_000_000, worker=worker)
    found = closed(limit, memory=freed, before=True)
    assert found and (found.code, found.by) == ("memory", "need")
    assert str(found) == "needs 7.0 GB, 6.9 GB free; goes on when other programs leave so much"
    assert (
        closed(limit, memory=Memory(total=32 * GB, free=7 * GB, worker=worker), before=True) is None
    )


def test_a_worker_as_large_as_the_machine_does_not_keep_the_gate_closed_for_good() -> None:
    empty = Memory(total=8 * GB, free=int(7.8 * GB), worker=8 * GB)
    assert closed(MemoryLimit(), memory=empty, before=True) is None


def test_the_limit_of_a_container_counts_and_what_the_kernel_can_drop_does_not(
    tmp_path: Path,
) -> None:
    cgroup, top = tmp_path / "cgroup", tmp_path / "top"
    cgroup.write_text("0::/box/inner\n")
    files(top / "box" / "inner", memory_dot_max="max\n", memory_dot_current="5\n")
    files(
        top / "box",
        memory_dot_max="64000000\n",
        memory_dot_current="50000000\n",
        memory_dot_stat="anon 30000000\ninactive_file 20000000\n",
    )
    assert memory(7, cgroup=cgroup, cgroups=top) == Memory(
        total=64_000_000, free=34_000_000, worker=7
    )


def test_without_a_container_the_memory_of_the_machine_counts(tmp_path: Path) -> None:
    found = memory(0, cgroup=tmp_path / "none", cgroups=tmp_path)
    assert found.total == psutil.virtual_memory().total and 0 < found.free <= found.total
