"""The orders of the person who runs the node: pause, resume, finish, and GPUs switched off.

The last order is a file of the home, so a pause outlives a restart. `Orders` owns it; the limit
that follows from it is pure, as every other one.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import tzinfo
from pathlib import Path

import msgspec

from dipaco.node.condition import Condition
from dipaco.node.limits.moments import moment_text
from dipaco.node.limits.values import Closed, Observed, Order
from dipaco.node.storage.files import DiskFull, read_file, write_file
from dipaco.protocol.errors import ConfigError

log = logging.getLogger(__name__)

FILE = "order.json"
MAX_BYTES = 1024
RESUME = "dipaco-node resume"


@dataclass(frozen=True)
class OrderLimit:
    """Forbids work while a person's pause holds."""

    zone: tzinfo | None = None
    """Of the times in its text; None: the local one."""

    def closed(self, seen: Observed, now: float, *, before: bool) -> Closed | None:
        """Return the pause, or None."""
        order = seen.order
        if not holds(order, now):
            return None
        code, why = "user", f"paused by you, {moment_text(order.since, now, self.zone)}"
        opens = f"to go on: {RESUME}"
        if order.mode == "start-paused":
            code, why = "start-paused", "started with --paused"
        elif order.mode == "finished":
            code, why = "finished", "the lease ended as you asked with finish"
        elif order.until is not None:
            until = moment_text(order.until, now, self.zone)
            code, why = "user-until", f"paused by you until {until}"
            opens = f"to go on before: {RESUME}"
        return Closed(
            code=code,
            why=why,
            opens=opens,
            by="you",
            since=order.since,
            until=order.until,
            quiet=True,
        )


@dataclass(frozen=True)
class GpuLimit:
    """Forbids work while the GPU that trains is switched off by a person."""

    def closed(self, seen: Observed, now: float, *, before: bool) -> Closed | None:
        """Return that the GPU is off, or None."""
        if not gpu_off(seen.order, seen.device):
            return None
        return Closed(
            code="gpu-off",
            why=f"{seen.device} is off",
            opens=f"to go on: {RESUME} --gpu {gpu_number(seen.device)}",
            by="you",
            quiet=True,
        )


def gpu_number(device: str) -> int | None:
    """Return N of the device `cuda:N`; None: it is no such GPU."""
    kind, _, number = device.partition(":")
    return int(number or 0) if kind == "cuda" else None


def gpu_off(order: Order, device: str) -> bool:
    """Return whether a person switched `device` off."""
    return gpu_number(device) in order.gpus_off


def holds(order: Order, now: float) -> bool:
    """Return whether an order forbids work `now` (Unix time, seconds)."""
    ended = order.until is not None and now >= order.until
    return order.mode not in ("runs", "finishing") and not ended


class Orders:
    """The last order, and the way to give another one."""

    def __init__(self, home: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Go on with the order that is kept in `home`."""
        self._path, self._clock = home / FILE, clock
        self.changed = Condition()
        """Notified after every order: the gate looks again then."""
        self.holds_lease: Callable[[], bool] = lambda: False
        """Whether the node holds a lease now; `finish` waits for the end of it."""
        self._order = self._read()

    @property
    def order(self) -> Order:
        """The last order; `finish` becomes a pause once no lease is held."""
        if self._order.mode == "finishing" and not self.holds_lease():
            self._give(Order(mode="finished", since=self._clock()))
        return self._order

    @property
    def finishing(self) -> bool:
        """Whether no lease is asked for, while the last one ends."""
        return self.order.mode == "finishing"

    @property
    def allow_leases(self) -> bool:
        """Whether a new lease may be asked for."""
        order = self.order
        return order.mode != "finishing" and not holds(order, self._clock())

    def pause(self, until: float | None = None) -> Order:
        """Pause until a Unix time (seconds), or until `resume`."""
        return self._give(Order(mode="user", since=self._clock(), until=until))

    def resume(self) -> Order:
        """Take every earlier order back; all GPUs are on again."""
        return self._give(Order(since=self._clock()), gpus_off=())

    def switch_gpu(self, number: int, *, on: bool) -> Order:
        """Have a GPU used, or left alone; a pause goes on."""
        off = set(self._order.gpus_off) - {number} | (set() if on else {number})
        return self._give(self._order, gpus_off=tuple(sorted(off)))

    def finish(self) -> Order:
        """Pause when the lease that is held has ended; at once, if none is held."""
        if holds(self._order, self._clock()):
            return self._order
        self._give(Order(mode="finishing", since=self._clock()))
        return self.order

    def start_paused(self) -> Order:
        """Begin paused, whatever was ordered before."""
        return self._give(Order(mode="start-paused", since=self._clock()))

    def toggle(self) -> Order:
        """Resume if a pause holds, else pause until `resume`."""
        return self.resume() if holds(self._order, self._clock()) else self.pause()

    def _give(self, order: Order, *, gpus_off: tuple[int, ...] | None = None) -> Order:
        """Follow an order from now on; None: GPUs that are off stay so."""
        off = self._order.gpus_off if gpus_off is None else gpus_off
        self._order = order = replace(order, gpus_off=off)
        try:
            write_file(self._path, msgspec.json.encode(order))
        except (ConfigError, DiskFull) as error:
            log.warning("the order holds until the node ends, since it is not kept: %s", error)
        self.changed.notify()
        return order

    def _read(self) -> Order:
        if not self._path.exists():
            return Order()
        try:
            return msgspec.json.decode(read_file(self._path, limit=MAX_BYTES), type=Order)
        except (ConfigError, msgspec.DecodeError, UnicodeDecodeError) as error:
            # A pause that was lost would use a machine that was to be left alone.
            log.warning("%s: %s; paused until %s", self._path, error, RESUME)
            return Order(mode="user", since=self._clock())
