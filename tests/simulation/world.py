"""The world of a universe: one heap of events, a network, and nodes with clocks and disks.

An event is (time, number, what happens), so two events of one moment have an order. No threads, no
real time; chance comes from the seed alone. A node's tasks are generators: they yield what they
wait for.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from random import Random
from time import process_time
from typing import Any

from dipaco.protocol.errors import Unavailable
from dipaco.protocol.wire.identity import PeerId
from tests.simulation.disk import Crashed, Disk
from tests.simulation.faults import (
    Backup,
    BlobLost,
    Crash,
    Cut,
    DiskLost,
    Freeze,
    Full,
    Leaves,
    Loses,
    OwnerGrants,
    Plan,
    Reorders,
    Replays,
    Upgrade,
    Usurps,
    WrongClock,
)

REPLAYED_WITHIN = 60.0  # seconds
HELD_BACK = 10.0  # seconds, at most, of a message that others overtake
MOST_EVENTS = 200_000  # of a small universe: one that goes on for longer gets nowhere
GRANT_AGAIN = 5.0  # seconds until the owner tries again at a node that was down
USURPS_EVERY = 5.0  # seconds
NOTICED = 0.1  # seconds until the others know that the connection to a dead process is closed


@dataclass(frozen=True)
class Ask:
    """Ask a peer, and wait for its answer: that, or `Away`."""

    to: PeerId
    request: Any
    timeout: float = 10.0


@dataclass(frozen=True)
class Pause:
    """Wait, on the node's own clock."""

    seconds: float


@dataclass(eq=False)
class Signal:
    """It wakes the tasks of a node that wait for it, in their order."""

    waiting: "deque[int]" = field(default_factory=deque)
    """Numbers of `Node.waiting`."""


@dataclass(frozen=True)
class Wait:
    """Wait until a signal is given."""

    signal: Signal


@dataclass(frozen=True)
class Away:
    """No answer came, or the peer cannot answer now."""

    reason: str


class Restart(Exception):
    """A node gives up all that it is doing, and starts anew from its disk."""


Task = Generator[Ask | Pause | Wait, Any, Any]


@dataclass(frozen=True)
class _Message:
    source: PeerId
    number: int
    """Of the request; 0: nobody waits for an answer."""
    is_answer: bool
    value: Any


class Node:
    """One process and its disk. Subclasses say what it does."""

    def __init__(self, world: "World", name: str, peer: PeerId) -> None:
        self.world, self.name, self.peer = world, name, peer
        self.disk = Disk()
        self.others: tuple[PeerId, ...] = ()
        """Whom it asks for the ledger and for blobs, and tells of new records."""
        self.random = Random(f"{world.plan.seed} {name}")
        self.up, self.gone = False, False
        """Whether the process runs, and whether the node is gone for good."""
        self.lost = False
        """Whether it ever lost its disk."""
        self.old = False
        """Whether it speaks the version before today's."""
        self.life = 0
        """How often it was started."""
        self.frozen_until = 0.0
        """Until when the process stands still, or stood still last; seconds of the world."""
        self.steps = 0
        self.cpu_seconds: float | None = None
        """Of its steps; None: they are not measured."""
        self.offset, self.rate = 0.0, 1.0
        self.waiting: dict[int, Task] = {}
        """By number of a request, or of a wait, the task that waits."""
        world.add(self)

    # ------------------------------------------------------------------ of subclasses

    def boot(self) -> None:
        """Start from what is on the disk."""
        raise NotImplementedError

    def answer(self, peer: PeerId, request: Any) -> Any:
        """Return the answer to a request, or a task that returns it; raises Unavailable."""
        raise NotImplementedError

    def heard(self, peer: PeerId, message: Any) -> None:
        """Take in a message that waits for no answer."""

    def disconnected(self, peer: PeerId) -> None:
        """Take in that the connection to a peer broke."""

    def may_lose_disk(self) -> bool:
        """Return whether the run is to outlive the loss of this disk now."""
        return True

    def owner_grants(self) -> bool:
        """Have the owner grant the next term in the home of this node, which is stopped.

        False: it cannot be saved now.
        """
        return True

    def usurp(self) -> Task:
        """Ask the keepers for terms that are not this node's."""
        yield from ()

    def look(self) -> None:
        """Hold the node against the oracle's rules; called after every step."""

    # ------------------------------------------------------------------ for subclasses

    @property
    def now(self) -> float:
        """Return the time on the node's own clock, in seconds."""
        return self.local(self.world.now)

    def local(self, seconds: float) -> float:
        """Return a time of the world on the node's own clock."""
        return self.offset + self.rate * seconds

    def spawn(self, task: Task) -> None:
        """Run a task from now on."""
        self.world.after(0.0, self, lambda: self._resume(task, None), "task")

    def ask_all(
        self,
        questions: Mapping[PeerId, Any],
        timeout: float,
        enough: Callable[[Mapping[PeerId, Any]], bool],
    ) -> Task:
        """Ask several peers at once; returns what some answered, by peer.

        enough   whether these answers are: it waits for no more of them.
        """
        found: dict[PeerId, Any] = {}
        left, answered = [len(questions)], Signal()

        def one(to: PeerId, request: Any) -> Task:
            reply = yield Ask(to, request, timeout)
            left[0] -= 1
            if not isinstance(reply, Away):
                found[to] = reply
            self.wake(answered)

        for to, request in questions.items():
            self.spawn(one(to, request))
        while left[0] and not enough(found):
            yield Wait(answered)
        return dict(found)

    def wake(self, signal: Signal, most: int = 1 << 30) -> None:
        """Have the tasks go on that wait for a signal, all or so many."""
        while signal.waiting and most:
            task = self.waiting.pop(signal.waiting.popleft(), None)
            if task is not None:
                self.spawn(task)
                most -= 1

    def send(self, to: PeerId, value: Any) -> None:
        """Send a message that waits for no answer."""
        self.world.transmit(self, to, _Message(self.peer, 0, False, value))

    # ------------------------------------------------------------------ the process

    def start(self) -> None:
        """Start the process, if it is not running."""
        if not self.up and not self.gone:
            self.up, self.life = True, self.life + 1
            self.waiting.clear()
            self.boot()

    def kill(self, *, power: bool = False) -> None:
        """End the process at once."""
        self.up, self.frozen_until = False, 0.0
        self.disk.dies = ""
        self.waiting.clear()
        if power:
            self.disk.cut_power()

    def deliver(self, message: _Message) -> None:
        """Take in a message from the network."""
        if message.is_answer:
            task = self.waiting.pop(message.number, None)
            if task is not None:
                self._resume(task, message.value)
        elif message.number:
            self._serve(message)
        else:
            self.heard(message.source, message.value)

    def _serve(self, message: _Message) -> None:
        try:
            found = self.answer(message.source, message.value)
        except Unavailable as away:
            found = Away(str(away))
        if isinstance(found, Generator):
            self._resume(self._answering(message, found), None)
        else:
            self._reply(message, found)

    def _answering(self, message: _Message, task: Task) -> Task:
        try:
            found = yield from task
        except Unavailable as away:
            found = Away(str(away))
        self._reply(message, found)

    def _reply(self, message: _Message, value: Any) -> None:
        answer = _Message(self.peer, message.number, True, value)
        self.world.transmit(self, message.source, answer)

    def _resume(self, task: Task, value: Any) -> None:
        try:
            step = task.send(value)
        except StopIteration:
            return
        world = self.world
        if isinstance(step, Pause):
            seconds = step.seconds / self.rate
            world.after(seconds, self, lambda: self._resume(task, None), "wakes")
            return
        number = world.number()
        self.waiting[number] = task
        if isinstance(step, Wait):
            step.signal.waiting.append(number)
            return
        world.transmit(self, step.to, _Message(self.peer, number, False, step.request))
        world.after(step.timeout / self.rate, self, lambda: self._time_out(number), "times out")

    def _time_out(self, number: int) -> None:
        task = self.waiting.pop(number, None)
        if task is not None:
            self._resume(task, Away("no answer came in time"))


@dataclass(frozen=True)
class _Event:
    node: Node | None
    """None: the world itself."""
    life: int
    """Of the node; 0: any, and the node may be down."""
    act: Callable[[], None]
    name: str


class World:
    """The heap, the network and the faults of one universe."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.now = 0.0
        self.nodes: dict[PeerId, Node] = {}
        self.events, self.most_events = 0, MOST_EVENTS
        self.happened: Counter[str] = Counter()
        """How often each kind of fault struck."""
        self._random = Random(f"network {plan.seed}")
        self._heap: list[tuple[float, int, _Event]] = []
        self._numbers = count(1)
        self._hash = hashlib.blake2b(digest_size=16)
        self._cuts: list[Cut] = []
        self._shares = {
            kind: max((f.share for f in plan.faults if isinstance(f, kind)), default=0.0)
            for kind in (Loses, Replays, Reorders)
        }
        self._crashes: dict[tuple[str, int], Crash] = {}

    @property
    def hash(self) -> str:
        """Return the digest of all events so far."""
        return self._hash.hexdigest()

    @property
    def calm(self) -> bool:
        """Whether phase 2 has begun."""
        return self.now >= self.plan.calm

    def add(self, node: Node) -> None:
        """Take in a node; `begin` starts it."""
        self.nodes[node.peer] = node

    def number(self) -> int:
        """Return the next number."""
        return next(self._numbers)

    # ------------------------------------------------------------------ time

    def after(self, seconds: float, node: Node | None, act: Callable[[], None], name: str) -> None:
        """Have something happen, unless the node's process ends before."""
        event = _Event(node, node.life if node else 0, act, name)
        heappush(self._heap, (self.now + seconds, next(self._numbers), event))

    def run(self, until: float, ended: Callable[[], bool]) -> None:
        """Let time pass until something holds, or to the end of time."""
        while self._heap and not ended():
            time, number, event = self._heap[0]
            if time > until or self.events > self.most_events:
                return
            heappop(self._heap)
            self.now = max(self.now, time)
            node = event.node
            if node is None:
                event.act()
            elif event.life in (0, node.life) and node.up:
                if node.frozen_until > self.now:
                    heappush(self._heap, (node.frozen_until, number, event))
                    continue
                self._note(f"{self.now:.6f} {node.name} {event.name}")
                self._step(node, event.act)

    def _step(self, node: Node, act: Callable[[], None]) -> None:
        if node.cpu_seconds is None:
            self._take_step(node, act)
            return
        began = process_time()
        self._take_step(node, act)
        node.cpu_seconds += process_time() - began

    def _take_step(self, node: Node, act: Callable[[], None]) -> None:
        node.steps += 1
        crash = self._crashes.pop((node.name, node.steps), None)
        if crash and self.calm and node.name in self.plan.healed:
            crash = None
        if crash is None:
            try:
                act()
            except Restart:
                node.kill()
                node.start()
            node.look()
            return
        with suppress(Crashed, Restart):
            if crash.point != "before":
                node.disk.dies = crash.point
                act()
        self._die(node, crash)

    def _die(self, node: Node, crash: Crash) -> None:
        self.note_fault("crash")
        self._note(f"{node.name} dies")
        node.kill(power=crash.power)
        self._tell_gone(node)
        self.after(crash.down, None, node.start, "starts")

    def stop(self, node: Node, seconds: float) -> None:
        """End a node's process after this event, and start it again later."""
        self.after(0.0, None, lambda: self._stop(node, seconds), "stops")

    def _stop(self, node: Node, seconds: float) -> None:
        node.kill()
        self._tell_gone(node)
        self.after(seconds, None, node.start, "starts")

    def _tell_gone(self, node: Node) -> None:
        for other in self.nodes.values():
            if other is not node and not self._cut(node, other):
                tell = lambda other=other: other.disconnected(node.peer)  # noqa: E731
                self.after(NOTICED, other, tell, "notices")

    # ------------------------------------------------------------------ network

    def transmit(self, source: Node, to: PeerId, message: _Message) -> None:
        """Send a message; it may be overtaken or come twice, and get lost until the calm."""
        target, random = self.nodes[to], self._random
        if target is source:
            self._deliver(0.0, target, message)
            return
        if self._cut(source, target):
            self.note_fault("cut off")
            return
        if random.random() < self._shares[Loses] and self.now < self.plan.calm:
            self.note_fault("lost")
            return
        delay = self.plan.latency * random.uniform(0.5, 1.5)
        if random.random() < self._shares[Reorders]:
            self.note_fault("held back")
            delay += random.uniform(0.0, HELD_BACK)
        self._deliver(delay, target, message)
        if random.random() < self._shares[Replays]:
            self.note_fault("replayed")
            self._deliver(delay + random.uniform(0.0, REPLAYED_WITHIN), target, message)

    def _deliver(self, delay: float, target: Node, message: _Message) -> None:
        kind = "answer" if message.is_answer else "request" if message.number else "message"
        name = f"gets {kind} {type(message.value).__name__} of {message.source}"
        event = _Event(target, 0, lambda: target.deliver(message), name)
        heappush(self._heap, (self.now + delay, next(self._numbers), event))

    def _cut(self, source: Node, target: Node) -> bool:
        for cut in self._cuts:
            inside, there = source.name in cut.group, target.name in cut.group
            if inside != there and (cut.way == "both" or inside == (cut.way == "out")):
                return True
        return False

    # ------------------------------------------------------------------ faults

    def begin(self) -> None:
        """Start all nodes, and set the plan's faults on their way."""
        named = {node.name: node for node in self.nodes.values()}
        for fault in self.plan.faults:
            match fault:
                case Crash():
                    self._crashes[fault.node, fault.step] = fault
                case WrongClock(node=name):
                    named[name].offset, named[name].rate = fault.offset, fault.rate
                    self.note_fault("wrong clock")
                case Cut():
                    self._between(fault.at, fault.seconds, self._begin_cut, self._end_cut, fault)
                case Freeze(node=name):
                    self._at(fault.at, self._freeze, named[name], fault.seconds)
                case Full(node=name):
                    full = named[name]
                    self._between(fault.at, fault.seconds, self._fill, self._empty, full)
                case Leaves(node=name):
                    self._at(fault.at, self._leave, named[name])
                case DiskLost(node=name):
                    self._at(fault.at, self._lose_disk, named[name])
                case Backup(node=name):
                    self._at(fault.at, self._back_up, named[name])
                    self._at(fault.at + fault.seconds, self._restore, named[name])
                case Upgrade(node=name):
                    named[name].old = True
                    self._at(fault.at, self._upgrade, named[name])
                case OwnerGrants(node=name):
                    self._at(fault.at, self._grant, named[name])
                case Usurps(node=name):
                    self._at(fault.at, self._usurp, named[name])
                case BlobLost(node=name):
                    self._at(fault.at, self._lose_blob, named[name])
                case _:
                    pass  # of the network: see `_shares`
        for node in named.values():
            node.start()

    def note_fault(self, kind: str) -> None:
        """Count a fault that struck."""
        self.happened[kind] += 1

    def _at(self, time: float, act: Callable[..., None], *arguments: Any) -> None:
        self.after(time - self.now, None, lambda: act(*arguments), "fault")

    def _between(
        self,
        at: float,
        seconds: float,
        begin: Callable[..., None],
        end: Callable[..., None],
        of: Any,
    ) -> None:
        self._at(at, begin, of)
        self._at(at + seconds, end, of)

    def _begin_cut(self, cut: Cut) -> None:
        self.note_fault("partition")
        self._cuts.append(cut)

    def _end_cut(self, cut: Cut) -> None:
        self._cuts.remove(cut)

    def _freeze(self, node: Node, seconds: float) -> None:
        if node.up:
            self.note_fault("freeze")
            node.frozen_until = self.now + seconds

    def _fill(self, node: Node) -> None:
        self.note_fault("full disk")
        node.disk.full = True

    def _empty(self, node: Node) -> None:
        node.disk.full = False

    def _leave(self, node: Node) -> None:
        self.note_fault("left")
        node.kill()
        node.gone = True
        self._tell_gone(node)

    def _lose_disk(self, node: Node) -> None:
        if not node.may_lose_disk():
            return
        self.note_fault("lost disk")
        was_up = node.up
        node.kill(power=True)
        node.disk.wipe()
        node.lost = True
        if was_up:
            self._tell_gone(node)
            node.start()

    def _upgrade(self, node: Node) -> None:
        self.note_fault("upgrade")
        was_up = node.up
        node.kill()
        node.old = False
        if was_up:
            self._tell_gone(node)
            node.start()

    def _grant(self, node: Node) -> None:
        if node.gone:
            return
        if not node.up:
            self._at(self.now + GRANT_AGAIN, self._grant, node)
            return
        self.note_fault("owner grants")
        node.kill()
        if not node.owner_grants():
            self._at(self.now + GRANT_AGAIN, self._grant, node)
        self._tell_gone(node)
        node.start()

    def _usurp(self, node: Node) -> None:
        if node.up:
            node.spawn(node.usurp())
        self._at(self.now + USURPS_EVERY, self._usurp, node)

    def _back_up(self, node: Node) -> None:
        node.disk.back_up()

    def _restore(self, node: Node) -> None:
        self.note_fault("old backup")
        node.kill()
        node.disk.restore()
        self._tell_gone(node)
        node.start()

    def _lose_blob(self, node: Node) -> None:
        blobs = list(node.disk.rows("blobs"))
        if blobs:
            self.note_fault("lost blob")
            node.disk.rows("blobs").pop(self._random.choice(blobs))

    def _note(self, what: str) -> None:
        self.events += 1
        self._hash.update(what.encode())
