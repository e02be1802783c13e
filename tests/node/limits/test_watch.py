"""The watch: virtual time; the machine is numbers of the test, in place of the readers of files."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.config import NetworkSection, NodeConfig, WhenSection
from dipaco.node.limits import watch as module
from dipaco.node.limits.device import Device
from dipaco.node.limits.disk import Disk
from dipaco.node.limits.order import Orders
from dipaco.node.limits.values import Memory
from dipaco.node.limits.watch import (
    APPS_SECONDS,
    BATTERY_SECONDS,
    COOLING_SECONDS,
    HEAT_SECONDS,
    METERED_SECONDS,
    USE_SECONDS,
    Watch,
)

ALL = WhenSection(idle_only=True, exclusive_apps=("game.exe",))
NONE = WhenSection(on_battery=True)


class Machine:
    """What is read, and how often."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pids: tuple[int, ...] = (7,)
        self.device = "cpu"
        self.celsius: float | None = 60.0
        self.reads: Counter[str] = Counter()
        self.now = 1000.0
        reads: dict[str, Callable[..., Any]] = {
            "on_battery": lambda: False,
            "running": lambda names: ("game.exe",),
            "cpu_celsius": lambda: self.celsius,
            "gpu_celsius": lambda device: at_once(lambda: self.celsius),
            "memory": lambda worker: Memory(total=9, free=8, worker=worker),
        }
        for name, read in reads.items():
            monkeypatch.setattr(module, name, self.counted(name, read))

    def counted(self, name: str, read: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any) -> Any:
            self.reads[name] += 1
            return read(*arguments)

        return counting

    async def read(self, name: str, path: str, interface: str, value: str) -> Any:
        """As `Bus`."""
        await trio.lowlevel.checkpoint()
        self.reads[value] += 1
        return {"IdleHint": True, "IdleSinceHint": 940_000_000, "Metered": 1}[value]

    def watch(self, home: Path, when: WhenSection, metered: Any = "pause") -> tuple[Watch, Orders]:
        orders = Orders(home, clock=lambda: self.now)
        config = NodeConfig(home=home, when=when, network=NetworkSection(metered=metered))
        watch = Watch(
            config,
            orders,
            Disk(lambda: 10**12),
            lambda: self.pids,
            traffic=lambda: 5,
            device=Device(self.device),
            in_thread=at_once,
            bus=self,
            clock=lambda: self.now,
        )
        return watch, orders


async def at_once(function: Callable[[], Any]) -> Any:
    await trio.lowlevel.checkpoint()
    return function()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


async def look_for(watch: Watch, seconds: float) -> None:
    """Look as often as a gate does."""
    for _ in range(round(seconds / 5)):
        await watch.look()
        await trio.sleep(5.0)


async def test_each_measure_is_read_at_its_own_pace(
    machine: Machine, tmp_path: Path, autojump_clock: MockClock
) -> None:
    watch, _ = machine.watch(tmp_path, ALL)
    await look_for(watch, 120.0)
    paces = {
        "on_battery": BATTERY_SECONDS,
        "running": APPS_SECONDS,
        "IdleHint": USE_SECONDS,
        "cpu_celsius": HEAT_SECONDS,
        "Metered": METERED_SECONDS,
    }
    assert {name: machine.reads[name] for name in paces} == {
        name: 120.0 / seconds for name, seconds in paces.items()
    }
    seen = watch.observed()
    assert (seen.on_battery, seen.apps, seen.metered, seen.celsius) == (
        *(False, ("game.exe",), True, 60.0),
    )
    assert (seen.idle_seconds, seen.traffic, seen.disk_free) == (60.0, 5, 10**12)


async def test_what_no_limit_needs_is_not_read(
    machine: Machine, tmp_path: Path, autojump_clock: MockClock
) -> None:
    watch, _ = machine.watch(tmp_path, NONE, metered="ignore")
    machine.pids = ()
    await look_for(watch, 60.0)
    assert machine.reads.keys() == {"memory"}


async def test_while_a_person_has_paused_nothing_is_read_and_afterwards_all_anew(
    machine: Machine, tmp_path: Path, autojump_clock: MockClock
) -> None:
    watch, orders = machine.watch(tmp_path, ALL)
    await watch.look()
    orders.pause(until=2000.0)
    before = machine.reads.copy()
    await look_for(watch, 300.0)
    assert machine.reads == before
    seen = watch.observed()
    assert seen.apps == () and seen.metered is None and seen.memory is None
    machine.now = 2000.0
    await watch.look()
    assert all(machine.reads[name] == 2 * number for name, number in before.items())
    assert watch.observed().apps == ("game.exe",)


async def test_heat_is_read_while_the_device_works_or_is_too_hot_to(
    machine: Machine, tmp_path: Path, autojump_clock: MockClock
) -> None:
    watch, _ = machine.watch(tmp_path, NONE)
    machine.celsius = 90.0
    await look_for(watch, 30.0)
    assert machine.reads["cpu_celsius"] == 30.0 // HEAT_SECONDS
    machine.pids = ()  # it was ended for the heat
    await look_for(watch, 10 * COOLING_SECONDS)
    assert machine.reads["cpu_celsius"] == 2 + 10 and watch.observed().celsius == 90.0
    machine.celsius = 70.0
    await look_for(watch, 3600.0)
    assert machine.reads["cpu_celsius"] == 13 and watch.observed().celsius is None


async def test_a_hot_gpu_is_asked_once_a_minute_and_one_that_is_off_or_paused_never(
    machine: Machine, tmp_path: Path, autojump_clock: MockClock
) -> None:
    machine.device, machine.celsius = "cuda:1", 90.0
    watch, orders = machine.watch(tmp_path, NONE)
    await watch.look()
    machine.pids = ()
    await look_for(watch, COOLING_SECONDS + 5)
    assert machine.reads["gpu_celsius"] == 2
    orders.switch_gpu(1, on=False)
    await look_for(watch, 3600.0)
    orders.resume()
    await look_for(watch, 3600.0)  # it rests, and nobody knows it to be hot any more
    machine.pids, machine.celsius = (7,), 90.0
    await watch.look()
    assert machine.reads["gpu_celsius"] == 3
    machine.pids = ()
    orders.pause()
    await look_for(watch, 3600.0)
    assert machine.reads["gpu_celsius"] == 3


async def test_another_configuration_is_followed_at_once(
    machine: Machine, tmp_path: Path, autojump_clock: MockClock
) -> None:
    watch, _ = machine.watch(tmp_path, NONE)
    await watch.look()
    assert watch.observed().apps == ()
    watch.follow(NodeConfig(home=tmp_path, when=ALL))
    await watch.look()
    assert watch.observed().apps == ("game.exe",)
