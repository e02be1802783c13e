"""One universe: a small run of whole nodes, with faults by its seed, and the rules that must hold.

The nodes are those of the swarm tests: transport in memory, virtual time, real journals and blobs,
work whose result depends on every state and every moment that a lease names.
"""

import hashlib
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import trio
from trio.testing import MockClock

from dipaco.node.storage.journal import Journal
from dipaco.protocol.run.manifest import run_id
from dipaco.protocol.run.model_shape import Grid, Level
from tests.node.scheduler.swarm import SCHEDULER, Swarm, SwarmNode, found, until
from tests.node.scheduler.test_swarm import states
from tests.simulation_nodes.chance import PLAIN, seeded
from tests.simulation_nodes.disk import Disks
from tests.values import manifest, peer

VALUE = manifest(grid=Grid(levels=(Level(experts=2, blocks=1),), path_specific_blocks=()))
RUN = run_id(VALUE)
VOLUNTEERS = ("anna", "bert", "cara")
FAULTS = 6  # of a universe at most
SPAN_SECONDS = 240.0  # in which faults begin: an undisturbed run takes as long
LONGEST_SECONDS = 60.0  # of a fault
END_SECONDS = 3600.0  # of virtual time after the last fault, in which the run must end

Kind = Literal["crash", "kill", "freeze", "cut", "full"]


@dataclass(frozen=True)
class Fault:
    """One fault of a universe."""

    kind: Kind
    """crash: at a save; kill: at a moment; freeze: no byte comes or goes; cut: from one other."""
    node: str
    at: float
    """Seconds from the start."""
    seconds: float
    """Until the node is started again, or the fault ends."""
    saves: int = 0
    """Of a crash: how many times the node saves first."""
    other: str = ""
    """Of a cut: the other side."""

    def __str__(self) -> str:
        where = f"{self.node}, {self.other}" if self.other else self.node
        saves = f" after {self.saves} saves" if self.kind == "crash" else ""
        return f"{self.kind} {where} at {self.at:.1f} s{saves}, for {self.seconds:.1f} s"


@dataclass(frozen=True)
class Plan:
    """What follows from a seed."""

    seed: int
    volunteers: tuple[str, ...]
    faults: tuple[Fault, ...]


def plan_of(seed: int) -> Plan:
    """Return the plan of a universe."""
    chance = PLAIN(seed)
    volunteers = VOLUNTEERS[: chance.randint(1, len(VOLUNTEERS))]
    nodes = (SCHEDULER, *volunteers)
    kinds: tuple[Kind, ...] = ("crash", "crash", "kill", "freeze", "cut", "full")
    faults = []
    for _ in range(chance.randint(1, FAULTS)):
        kind, node = chance.choice(kinds), chance.choice(nodes)
        faults.append(
            Fault(
                kind=kind,
                node=node,
                at=chance.uniform(0.0, SPAN_SECONDS),
                seconds=chance.uniform(0.5, LONGEST_SECONDS),
                saves=chance.randrange(4) if kind == "crash" else 0,
                other=chance.choice([n for n in nodes if n != node]) if kind == "cut" else "",
            )
        )
    return Plan(seed, volunteers, tuple(sorted(faults, key=lambda fault: fault.at)))


@dataclass
class Outcome:
    """How a universe went."""

    violations: list[str] = field(default_factory=list)
    """The rules that did not hold."""
    events: Any = field(default_factory=hashlib.sha256)
    """Over node, number, digest and time of every ledger record that a node saved."""
    ended: float = 0.0
    """Virtual seconds until the run's end."""
    states: dict[str, list[str]] = field(default_factory=dict)
    """The digests that it ended with."""
    happened: list[str] = field(default_factory=list)
    """The kinds of the faults that took place."""


class Universe:
    """The nodes of a universe, while it runs."""

    def __init__(self, plan: Plan, root: Path, nursery: trio.Nursery, disks: Disks) -> None:
        self._plan, self._root, self._nursery, self._disks = plan, root, nursery, disks
        self._swarm = Swarm(root, nursery)
        self._swarm.after_commit = self._saved
        self._nodes: dict[str, SwarmNode] = {}
        self._told: dict[str, int] = {}
        """By node the ledger records that it has saved in its present life."""
        self._records: dict[int, bytes] = {}
        """By number the digest of every record that any node ever saved."""
        self._crashes: dict[str, int] = {}
        """The nodes that crash, with the saves until then."""
        self._left: dict[str, Path] = {}
        """By node that crashed what is left of its home."""
        self.outcome = Outcome()

    async def run(self) -> Outcome:
        """Start the nodes, do the faults, and wait for the run's end."""
        found(self._root, VALUE)
        for name in (SCHEDULER, *self._plan.volunteers):
            await self._start(name)
        async with trio.open_nursery() as faults:
            for fault in self._plan.faults:
                faults.start_soon(self._do, fault)
        try:
            await until(self._finished, seconds=END_SECONDS)
        except trio.TooSlowError:
            self._violate(f"the run has not ended {END_SECONDS:.0f} s after the last fault")
        self.outcome.ended = trio.current_time()
        self._judge()
        return self.outcome

    def _finished(self) -> bool:
        node = self._nodes.get(SCHEDULER)
        return node is not None and node.reporter.ledger().finished

    # ------------------------------------------------------------------ faults

    async def _start(self, name: str) -> None:
        self._told[name] = 0
        node = await self._swarm.start(name)
        self._nodes[name] = node
        self._disks.attach(node.parts)

    async def _do(self, fault: Fault) -> None:
        await trio.sleep(fault.at)
        if fault.node not in self._nodes:
            return  # it is down already
        self.outcome.happened.append(fault.kind)
        network, home = self._swarm.network, self._root / fault.node
        match fault.kind:
            case "crash" | "kill":
                await self._crash(fault)
            case "freeze":
                network.freeze(peer(fault.node))
                await trio.sleep(fault.seconds)
                network.thaw(peer(fault.node))
            case "cut":
                network.cut(peer(fault.node), peer(fault.other))
                await trio.sleep(fault.seconds)
                network.mend(peer(fault.node), peer(fault.other))
            case "full":
                self._disks.full.add(home)
                await trio.sleep(fault.seconds)
                self._disks.full.discard(home)

    async def _crash(self, fault: Fault) -> None:
        node, home = self._nodes.pop(fault.node), self._root / fault.node
        if fault.kind == "crash":
            self._crashes[fault.node] = fault.saves
            with trio.move_on_after(LONGEST_SECONDS):  # it may have nothing to save
                await node.ended.wait()
            self._crashes.pop(fault.node, None)
        if not node.ended.is_set():
            self._left[fault.node] = self._disks.crash(home)
            await self._swarm.kill(node)
        self._disks.restore(home, self._left.pop(fault.node))
        await trio.sleep(fault.seconds)
        await self._start(fault.node)

    def _saved(self, name: str, journal: Journal) -> bool:
        """Hold what a node saved against what all nodes saved; True: it crashes now."""
        first = self._told.get(name, 0)
        for record in journal.ledger(RUN, first):
            self._told[name] = record.seq + 1
            moment = f"{name} {record.seq} {trio.current_time():.6f}".encode()
            self.outcome.events.update(moment + record.digest)
            if self._records.setdefault(record.seq, record.digest) != record.digest:
                self._violate(f"{name} has another ledger record {record.seq} than others had")
        if name not in self._crashes:
            return False
        self._crashes[name] -= 1
        if self._crashes[name] >= 0:
            return False
        del self._crashes[name]
        self._left[name] = self._disks.crash(self._root / name)
        return True

    # ------------------------------------------------------------------ rules

    def _violate(self, rule: str) -> None:
        self.outcome.violations.append(rule)

    def _judge(self) -> None:
        self.outcome.states = states(self._nodes[SCHEDULER])
        for name, node in self._nodes.items():
            if node.error is not None or node.ended.is_set():
                self._violate(f"{name} ended by itself: {node.error}")
            if fault := node.parts.run_store.runs[RUN].fault:
                self._violate(f"{name} says that {fault}")
            for other in self._nodes:
                if node.parts.reputation.strikes(peer(other)):
                    self._violate(f"{name} gave {other} a strike")


def run_plan(plan: Plan) -> Outcome:
    """Run a universe, and hold its end against that of an undisturbed run."""
    outcome = _run(plan)
    if plan.faults and not outcome.violations and outcome.states != _undisturbed():
        outcome.violations.append("the run ends with other states than an undisturbed one")
    return outcome


@cache
def _undisturbed() -> dict[str, list[str]]:
    return _run(Plan(0, VOLUNTEERS[:1], ())).states


def _run(plan: Plan) -> Outcome:
    disks = Disks(PLAIN(plan.seed))

    async def main(root: Path) -> Outcome:
        async with trio.open_nursery() as nursery:
            outcome = await Universe(plan, root, nursery, disks).run()
            nursery.cancel_scope.cancel()
        return outcome

    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(seeded(plan.seed))
        stack.enter_context(disks.noting_syncs())
        clock = MockClock(autojump_threshold=0)
        run: Callable[..., Outcome] = trio.run
        return run(main, root, clock=clock)
