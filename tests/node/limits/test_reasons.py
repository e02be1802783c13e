"""A property of all limits: whatever happens, there is exactly one first reason, a true one.

10,000 random events change a person's orders, the clock, the machine and the node. After each the
reasons are compared with an oracle that knows no limit's code, and the cure of the first one is
tried. In the end the history is asked for random moments. No trio, no real time.
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from dipaco.node.hours import parse_hours
from dipaco.node.limits import order
from dipaco.node.limits.apps import AppsLimit
from dipaco.node.limits.battery import BatteryLimit
from dipaco.node.limits.device import DeviceLimit
from dipaco.node.limits.disk import DiskLimit
from dipaco.node.limits.heat import HeatLimit
from dipaco.node.limits.hours import HoursLimit
from dipaco.node.limits.in_use import UseLimit
from dipaco.node.limits.memory import MemoryLimit
from dipaco.node.limits.metered import MeteredLimit
from dipaco.node.limits.order import GpuLimit, OrderLimit, Orders
from dipaco.node.limits.quota import QuotaLimit
from dipaco.node.limits.values import Closed, Limit, Memory, Observed, closed_by
from dipaco.node.status.document import Reason
from dipaco.node.status.history import FILE, KEEP_SECONDS, History, at

EVENTS = 10_000
SLEEPS = (3000, 5000)  # numbers of events at which the machine sleeps for months
BERLIN = ZoneInfo("Europe/Berlin")
GB = 10**9
LIMITS: tuple[Limit, ...] = (
    OrderLimit(BERLIN),
    GpuLimit(),
    DeviceLimit(),
    MemoryLimit(),
    DiskLimit(2 * GB),
    HoursLimit((parse_hours("mon-fri 18:00-08:00"), parse_hours("sat,sun")), BERLIN),
    AppsLimit(),
    UseLimit(3),
    BatteryLimit(),
    QuotaLimit(5 * GB, BERLIN),
    MeteredLimit(),
    HeatLimit(83),
)
RANKS = {
    **dict.fromkeys(("user", "user-until", "start-paused", "finished", "gpu-off"), 0),
    **dict.fromkeys(("no-device", "memory", "disk"), 1),
}
"""By code the order of telling; every other reason comes last."""
WORKS = Reason(code="no-lease", text="all is open", since=0.0)


IDLE = Observed(
    device="cuda:0",
    disk_free=9 * GB,
    idle_seconds=1000.0,
    traffic=0,
    celsius=60.0,
    memory=Memory(total=16 * GB, free=8 * GB, worker=4 * GB),
)


@dataclass
class World:
    """A node, its machine and its person."""

    home: Path
    chance: random.Random
    now: float = datetime(2026, 10, 23, 17, 0, tzinfo=BERLIN).timestamp()
    """Two days before the clock goes back."""
    seen: Observed = IDLE
    lease: bool = True
    closed: dict[Limit, Closed] = field(default_factory=dict)
    story: list[tuple[float, tuple[str, ...]]] = field(default_factory=list)
    """The codes that held from a time on, in the order of telling."""

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start the node: what it held in memory is forgotten."""
        self.orders = Orders(self.home, clock=lambda: self.now)
        self.orders.holds_lease = lambda: self.lease
        self.history = History(self.home, clock=lambda: self.now)
        self.closed = {}

    def check(self) -> tuple[Closed, ...]:
        """Ask all limits, as the gate does; a closed gate hands the lease back."""
        self.seen = replace(self.seen, order=self.orders.order)
        self.closed = closed_by(LIMITS, self.seen, self.now, self.closed)
        if self.closed:
            self.lease = False
        return tuple(self.closed.values())

    def tell(self) -> None:
        """Keep the reasons, as the activity does."""
        reasons = [Reason(code=each.code, text=str(each), since=0.0) for each in self.reasons]
        self.history.note("paused" if reasons else "waiting", tuple(reasons or [WORKS]))
        codes = tuple(each.code for each in reasons) or (WORKS.code,)
        if not self.story or self.story[-1][1] != codes:
            self.story.append((self.now, codes))

    @property
    def reasons(self) -> tuple[Closed, ...]:
        return tuple(self.closed.values())

    # ------------------------------------------------------------------ events

    def happen(self) -> None:
        """Let something happen."""
        chance = self.chance
        event: Callable[[], None] = chance.choice(
            (
                *(self.pass_time, self.pass_time, self.pass_time, self.set_clock),
                *(self.pause, self.pause_until, self.resume, self.resume, self.finish),
                *(self.go_on, self.plug, self.heat, self.heat, self.fill_disk, self.fill_memory),
                *(self.use, self.connect, self.spend, self.play, self.load_driver, self.switch),
            )
        )
        if chance.random() < 0.005:
            event = self.restart
        event()

    def pass_time(self) -> None:
        self.now += self.chance.choice((5.0, 60.0, 900.0, 3600.0))

    def set_clock(self) -> None:
        """Set it an hour back or forth by hand."""
        self.now += self.chance.choice((-3600.0, 3600.0))

    def sleep(self) -> None:
        """Sleep to the day before the law moves the clock again."""
        local = datetime.fromtimestamp(self.now, BERLIN)
        while (later := local + timedelta(days=1)).utcoffset() == local.utcoffset():
            local = later
        self.now = local.timestamp()

    def pause(self) -> None:
        self.orders.pause()

    def pause_until(self) -> None:
        self.orders.pause(self.now + self.chance.choice((60.0, 3600.0)))

    def resume(self) -> None:
        self.orders.resume()

    def finish(self) -> None:
        self.orders.finish()

    def go_on(self) -> None:
        """End the lease that is held, or take one."""
        self.lease = not self.closed and not self.lease and self.orders.allow_leases

    def plug(self) -> None:
        self.seen = replace(self.seen, on_battery=self.chance.choice((True, False, None)))

    def heat(self) -> None:
        self.seen = replace(self.seen, celsius=self.chance.choice((None, 60.0, 80.0, 83.0, 90.0)))

    def fill_disk(self) -> None:
        free = self.chance.choice((GB, 2 * GB, 2 * GB + 1, 3 * GB))
        full = self.chance.choice(("", "", "no space left on the disk"))
        self.seen = replace(self.seen, disk_free=free, disk_full=full)

    def fill_memory(self) -> None:
        free = self.chance.choice((GB // 4, GB, 5 * GB))
        self.seen = replace(self.seen, memory=Memory(total=16 * GB, free=free, worker=4 * GB))

    def use(self) -> None:
        idle: tuple[float | str, ...] = (0.0, 100.0, 180.0, 1000.0, "unknown")
        self.seen = replace(self.seen, idle_seconds=self.chance.choice(idle))  # type: ignore[arg-type]

    def connect(self) -> None:
        self.seen = replace(self.seen, metered=self.chance.choice((True, False, None)))

    def spend(self) -> None:
        self.seen = replace(self.seen, traffic=self.chance.choice((0, 5 * GB - 1, 5 * GB)))

    def play(self) -> None:
        self.seen = replace(self.seen, apps=self.chance.choice(((), (), ("game.exe",))))

    def switch(self) -> None:
        self.orders.switch_gpu(self.chance.choice((0, 0, 1)), on=self.chance.random() < 0.7)

    def load_driver(self) -> None:
        self.seen = replace(self.seen, no_device="")

    def restart(self) -> None:
        """Kill the node and start it again."""
        self.lease = False
        os.utime(self.home / FILE, (self.now, self.now))  # it was touched a short while ago
        self.start()
        if self.chance.random() < 0.2:
            self.orders.start_paused()
        self.seen = replace(
            self.seen, no_device=self.chance.choice(("", "", "no driver is loaded"))
        )


def true_codes(world: World, before: set[str]) -> set[str]:
    """Return the codes of all that forbids work, by the words of the manual alone.

    before   the codes that held when the machine was looked at last.
    """
    seen, told = world.seen, world.orders.order
    local = datetime.fromtimestamp(world.now, BERLIN)
    day, hour = local.weekday(), local.hour
    codes = set() if day >= 5 or hour >= 18 or (hour < 8 and day != 0) else {"hours"}
    if told.mode in ("user", "start-paused", "finished"):
        if told.until is None:
            codes.add(told.mode)
        elif world.now < told.until:
            codes.add("user-until")
    assert seen.memory and seen.disk_free is not None and seen.traffic is not None
    line = 4.48 * GB if "memory" in before else 0.48 * GB
    codes |= {"memory"} if seen.memory.free < line else set()
    line = 2.2 * GB if "disk" in before else 2 * GB
    codes |= {"gpu-off"} if 0 in told.gpus_off else set()
    codes |= {"no-device"} if seen.no_device else set()
    codes |= {"disk"} if seen.disk_free < line or seen.disk_full else set()
    codes |= {"app"} if seen.apps else set()
    codes |= {"battery"} if seen.on_battery else set()
    codes |= {"metered"} if seen.metered else set()
    codes |= {"quota"} if seen.traffic >= 5 * GB else set()
    codes |= {"hot"} if (seen.celsius or 0) > (78 if "hot" in before else 83) else set()
    if seen.idle_seconds == "unknown":
        codes.add("idle-unknown")
    elif isinstance(seen.idle_seconds, float) and seen.idle_seconds < 180:
        codes.add("in-use")
    return codes


CURES: dict[str, Callable[[Observed], Observed]] = {
    "no-device": lambda seen: replace(seen, no_device=""),
    "memory": lambda seen: replace(seen, memory=Memory(total=16 * GB, free=5 * GB)),
    "disk": lambda seen: replace(seen, disk_free=3 * GB, disk_full=""),
    "app": lambda seen: replace(seen, apps=()),
    "in-use": lambda seen: replace(seen, idle_seconds=180.0),
    "idle-unknown": lambda seen: replace(seen, idle_seconds=None),
    "battery": lambda seen: replace(seen, on_battery=False),
    "metered": lambda seen: replace(seen, metered=False),
    "hot": lambda seen: replace(seen, celsius=78.0),
}
"""What each reason names as its cure, done to the machine."""


def cured(world: World, first: Closed) -> set[str]:
    """Return the codes that hold once the cure of a reason is applied; the world stays as it is."""
    seen, now = world.seen, world.now
    if first.code == "gpu-off":
        assert "dipaco-node resume --gpu 0" in first.opens
        seen = replace(seen, order=replace(seen.order, gpus_off=()))
    elif first.by == "you":
        assert "dipaco-node resume" in first.opens
        seen = replace(seen, order=replace(seen.order, mode="runs"))
    elif first.code in ("hours", "quota"):
        assert first.until is not None and first.until > now
        now, seen = first.until, replace(seen, traffic=0)
    else:
        seen = CURES[first.code](seen)
    return {each.code for each in closed_by(LIMITS, seen, now, world.closed).values()}


@pytest.mark.slow
def test_there_is_always_one_true_first_reason_whose_cure_changes_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "write_file", Path.write_bytes)  # the power stays on
    world, met = World(tmp_path, random.Random(2)), set[str]()
    for number in range(EVENTS):
        before = {each.code for each in world.reasons}
        if number in SLEEPS:
            world.sleep()
        else:
            world.happen()
        if not world.closed:
            before = set()
        reasons = world.check()
        codes = [each.code for each in reasons]
        assert set(codes) == true_codes(world, before) and len(set(codes)) == len(codes)
        if reasons:
            first = reasons[0]
            assert RANKS.get(first.code, 2) == min(RANKS.get(code, 2) for code in codes)
            assert first.why and first.opens and first.code not in cured(world, first)
            met.add(first.code)
        world.tell()
    assert met >= RANKS.keys() | {*CURES, "hours", "quota"}
    check_history(world)


def check_history(world: World) -> None:
    """Ask the history for random moments of the last 30 days."""
    entries = world.history._entries()
    kept = [time for time, _ in world.story if time >= world.now - KEEP_SECONDS]
    assert len(kept) > 1000
    for moment in world.chance.sample(kept, 200):
        codes = next(codes for time, codes in reversed(world.story) if time <= moment)
        found = at(entries, moment)
        assert found and tuple(each.code for each in found[0].reasons) == codes
