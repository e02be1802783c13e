"""The watch: it reads this machine for the limits that are set, each measure at its own slow pace.

The gate calls `look` before it asks its limits, so nothing is read that no limit needs. While a
person's pause holds, nothing is read at all, and what was read before is forgotten: the first look
after it reads everything anew. Files are read in a thread.
"""

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import trio

from dipaco.node.config import NodeConfig
from dipaco.node.limits.apps import running
from dipaco.node.limits.battery import on_battery
from dipaco.node.limits.bus import Bus, SystemBus
from dipaco.node.limits.device import Device
from dipaco.node.limits.disk import Disk
from dipaco.node.limits.heat import MARGIN_C, cpu_celsius, gpu_celsius
from dipaco.node.limits.in_use import idle_seconds
from dipaco.node.limits.memory import memory
from dipaco.node.limits.metered import is_metered
from dipaco.node.limits.order import Orders, gpu_off, holds
from dipaco.node.limits.values import Observed
from dipaco.node.network.blob_stream import InThread
from dipaco.node.status import counters

BATTERY_SECONDS = 10.0  # someone who pulls the plug waits so long at most
APPS_SECONDS = 10.0  # so is whoever starts a game
USE_SECONDS = 10.0  # and whoever comes back to the desk
METERED_SECONDS = 60.0
HEAT_SECONDS = 15.0  # a device heats up in a minute or more
# While a hot device rests: a GPU that is asked wakes up. One loses 5 degrees in less, so it is
# mostly asked once, and never again once it is cool.
COOLING_SECONDS = 60.0
MEMORY_SECONDS = 5.0  # memory fills up fast
Read = Callable[[], Awaitable[Any]]


@dataclass(eq=False)
class Probe:
    """One measure of this machine."""

    name: str
    """The field of `Observed`."""
    seconds: float
    """Between two readings while work runs."""
    read: Read
    needed: Callable[[], bool] = lambda: True
    """Whether a limit can need it now; else its field is None."""
    resting: float | None = None
    """Seconds between two readings while no work runs [as many]."""
    read_at: float = -math.inf
    """The last reading, on trio's clock."""

    def is_due(self, working: bool, now: float) -> bool:
        """Return whether it is to be read `now`."""
        pause = self.seconds if working or self.resting is None else self.resting
        return now >= self.read_at + pause


class Watch:
    """The last observations of this machine."""

    def __init__(
        self,
        config: NodeConfig,
        orders: Orders,
        disk: Disk,
        worker_pids: Callable[[], tuple[int, ...]],
        *,
        traffic: Callable[[], int] = lambda: 0,
        device: Device,
        in_thread: InThread = trio.to_thread.run_sync,
        bus: Bus | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Watch for the limits that `config` sets.

        worker_pids   returns the processes that work now.
        traffic       returns the bytes on the wire today.
        device        that they train on.
        clock         returns Unix time, seconds.
        """
        self._orders, self._disk, self._clock = orders, disk, clock
        self._in_thread, self._bus = in_thread, bus or SystemBus()
        self._worker_pids, self._traffic = worker_pids, traffic
        self._worker_most = 0
        self._seen = Observed()
        self._device = device
        self._probes = self._probes_for(config)

    def follow(self, config: NodeConfig) -> None:
        """Read what the limits of another configuration need from now on, all of it anew."""
        self._seen = Observed()
        self._probes = self._probes_for(config)

    @property
    def device(self) -> Device:
        """The device that trains."""
        return self._device

    def observed(self) -> Observed:
        """Return the last observations, from memory; of disk and traffic the present ones."""
        disk = self._disk.observed()
        return replace(
            self._seen,
            order=self._orders.order,
            device=self._device.name,
            no_device=self._device.missing,
            disk_free=disk.disk_free,
            disk_full=disk.disk_full,
            traffic=self._traffic(),
        )

    async def look(self) -> None:
        """Read what is due."""
        await trio.lowlevel.checkpoint()
        order = self._orders.order
        if holds(order, self._clock()) or gpu_off(order, self._device.name):
            self._seen = Observed()
            for probe in self._probes:
                probe.read_at = -math.inf
            return
        await self._device.look()
        for probe in self._probes:
            if not probe.needed():
                self._note(probe, None)
                probe.read_at = -math.inf
            elif probe.is_due(bool(self._worker_pids()), trio.current_time()):
                self._note(probe, await probe.read())
                probe.read_at = trio.current_time()

    def _note(self, probe: Probe, value: Any) -> None:
        self._seen = replace(self._seen, **{probe.name: value})

    def _probes_for(self, config: NodeConfig) -> tuple[Probe, ...]:
        when, heat = config.when, partial(self._heat_matters, config.compute.max_temp_c)
        probes = [
            Probe("memory", MEMORY_SECONDS, self._memory),
            Probe("celsius", HEAT_SECONDS, self._celsius, heat, COOLING_SECONDS),
        ]
        if when.idle_only:
            probes.append(Probe("idle_seconds", USE_SECONDS, self._idle))
        if not when.on_battery:
            probes.append(Probe("on_battery", BATTERY_SECONDS, self._file(on_battery)))
        if when.exclusive_apps:
            read = self._file(partial(running, when.exclusive_apps))
            probes.append(Probe("apps", APPS_SECONDS, read))
        if config.network.metered == "pause":
            probes.append(Probe("metered", METERED_SECONDS, partial(is_metered, self._bus)))
        return tuple(probes)

    def _heat_matters(self, most: int) -> bool:
        """Return whether the device works, or is still too hot to."""
        seen = self._seen.celsius
        return bool(self._worker_pids()) or (seen is not None and seen > most - MARGIN_C)

    async def _celsius(self) -> Any:
        if self._device.name.startswith("cuda"):
            return await gpu_celsius(self._device.name)
        return await self._in_thread(cpu_celsius)

    def _file(self, read: Callable[[], Any]) -> Read:
        async def in_thread() -> Any:
            return await self._in_thread(read)

        return in_thread

    async def _idle(self) -> Any:
        return await idle_seconds(self._bus, self._clock())

    async def _memory(self) -> Any:
        """Return the memory, with the most that the worker processes held at once."""
        return await self._in_thread(self._read_memory)

    def _read_memory(self) -> Any:
        now = counters.memory(self._worker_pids()).worker
        self._worker_most = max(self._worker_most, now)
        return memory(self._worker_most)
