"""Applies a fault tape to the processes of a local network, and notes what happened."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import trio

from dipaco.cli.testnet.chaos.grammar import SCHEDULER, Way
from dipaco.cli.testnet.chaos.tape import Fault
from dipaco.cli.testnet.chaos.trace import Happened
from dipaco.cli.testnet.processes import LocalNode, LocalSwarm
from dipaco.cli.testnet.snapshot import Snapshot, nodes_in_a_lease, round_of
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.numbers import span

LEAVE_SECONDS: Final = 20.0  # for a node that was asked to leave


class Cuts(Protocol):
    """Cuts nodes off the others."""

    async def cut(self, inside: frozenset[str], way: Way) -> None:
        """Cut the nodes `inside` off."""
        ...

    async def heal(self, inside: frozenset[str], way: Way) -> None:
        """End that cut."""
        ...


@dataclass(kw_only=True)
class Executor:
    """The executor of one tape."""

    tape: Sequence[Fault]
    swarm: LocalSwarm
    cuts: Cuts | None
    """None: no partition can be ordered."""
    nursery: trio.Nursery
    """Of the processes, which outlive the tape."""
    playing: trio.Nursery
    now: Callable[[], float]
    """Gives the seconds since the start of the network."""
    say: Callable[[str], None]
    scheduling: Callable[[], str]
    """Gives the name of the node that schedules now."""
    join: Callable[[str], Awaitable[LocalNode]]
    """Starts a new volunteer of this name."""
    happened: dict[int, Happened] = field(default_factory=dict)
    """By number of the fault."""

    @property
    def applied(self) -> int:
        """The number of faults that met a node."""
        return sum(bool(each.met) for each in self.happened.values())

    @property
    def waits_for_round(self) -> bool:
        """Whether a fault waits for a volunteer in the middle of a lease."""
        return any(f.round is not None and f.number not in self.happened for f in self.tape)

    async def play(self, first_lease: trio.Event) -> None:
        """Apply every fault that has a time."""
        await first_lease.wait()
        zero = trio.current_time()
        for fault in self.tape:
            if fault.at is not None:
                await trio.sleep_until(zero + fault.at)
                self.playing.start_soon(self._apply, fault, self._names(fault))

    def meet(self, snapshot: Snapshot) -> None:
        """Apply the next fault that waits for a round, if its node is in the middle of a lease."""
        waiting = (f for f in self.tape if f.round and f.number not in self.happened)
        fault = next(waiting, None)
        if fault is None or fault.round is None or round_of(snapshot) < fault.round:
            return
        names: Sequence[str] = self._names(fault) or nodes_in_a_lease(snapshot)[:1]
        if names:
            self.happened[fault.number] = Happened(fault=fault, began=self.now())
            self.playing.start_soon(self._apply, fault, names)

    def _names(self, fault: Fault) -> list[str]:
        return [self.scheduling() if name == SCHEDULER else name for name in fault.targets]

    async def _apply(self, fault: Fault, names: Sequence[str]) -> None:
        if fault.kind == "join":
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(self._join, fault, name)
            return
        found = [node for node in self.swarm.nodes if node.name in names and node.answers]
        self._note(fault, found, "" if found else f"{', '.join(names)}: down already")
        if not found:
            return
        if fault.kind == "partition":
            await self._partition(fault, frozenset(names))
        else:
            async with trio.open_nursery() as nursery:
                for node in found:
                    nursery.start_soon(self._apply_to, fault, node)

    async def _apply_to(self, fault: Fault, node: LocalNode) -> None:
        """Do to one node what the fault says, and bring it back when its time is over."""
        match fault.kind:
            case "freeze":
                node.freeze()
            case "leave":
                node.leave()
                with trio.move_on_after(LEAVE_SECONDS):
                    await node.process.wait()
            case _:
                node.kill()
        if fault.seconds is None:
            return
        await trio.sleep(fault.seconds)
        if fault.kind == "freeze":
            node.thaw()
            self._update(fault, ended=self.now())
            return
        started = self.now()
        await self.swarm.start_again(self.nursery, node)
        await self._ready(fault, node, started)

    async def _join(self, fault: Fault, name: str) -> None:
        started = self.now()
        node = await self.join(name)
        self._note(fault, [node], "")
        await self._ready(fault, node, started)

    async def _ready(self, fault: Fault, node: LocalNode, started: float) -> None:
        self._update(fault, started=started, ended=started)
        try:
            await self.swarm.wait_ready(node)
        except Unavailable:
            if node.killed or node.left:  # the next fault was faster
                return
            raise
        self._update(fault, ready=self.now())

    async def _partition(self, fault: Fault, inside: frozenset[str]) -> None:
        assert self.cuts is not None and fault.seconds is not None
        await self.cuts.cut(inside, fault.way)
        await trio.sleep(fault.seconds)
        await self.cuts.heal(inside, fault.way)
        self._update(fault, ended=self.now())

    def _note(self, fault: Fault, nodes: Iterable[LocalNode], note: str) -> None:
        before = self.happened.get(fault.number)
        met = (*(before.met if before else ()), *(node.name for node in nodes))
        began = self.now()
        self.happened[fault.number] = Happened(fault=fault, met=met, began=began, note=note)
        length = "" if fault.seconds is None else f" for {span(fault.seconds)}"
        self.say(f"fault {fault.number}: {fault.kind} {', '.join(met) or note}{length}")

    def _update(
        self,
        fault: Fault,
        *,
        ended: float | None = None,
        started: float | None = None,
        ready: float | None = None,
    ) -> None:
        """Note the times that are given."""
        known = self.happened[fault.number]
        self.happened[fault.number] = replace(
            known,
            ended=known.ended if ended is None else ended,
            started=known.started if started is None else started,
            ready=known.ready if ready is None else ready,
        )
