"""One universe: a small run of whole nodes, with faults by its seed, and the rules that must hold.

The nodes are those of the swarm tests: transport in memory, virtual time, real journals and blobs,
work whose result depends on every state and every moment that a lease names.
"""

import random
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import trio
from trio.testing import MockClock

from dipaco.node.storage.journal import Journal
from dipaco.protocol.run.model_shape import Grid, Level
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.digest import Digest
from tests.memory import folder_in_memory
from tests.node.scheduler.kept_swarm import SECOND, KeptSwarm
from tests.node.scheduler.swarm import SCHEDULER, Swarm, found
from tests.simulation_nodes.chance import seeded
from tests.simulation_nodes.disk import Disks
from tests.simulation_nodes.plan import FOR_GOOD, LONGEST_SECONDS, VOLUNTEERS, Fault, Plan
from tests.simulation_nodes.rules import Rules
from tests.values import peer

GRID = Grid(levels=(Level(experts=2, blocks=1),), path_specific_blocks=())
PORTS = {SCHEDULER: 4000, SECOND: 3999}
END_SECONDS = 3600.0  # of virtual time after the last fault, in which the run must end
AGREE_SECONDS = 300.0  # after the run's end, in which all nodes must have the same ledger

States = dict[ModuleId, list[Digest]]


@dataclass
class Outcome:
    """How a universe went."""

    violations: list[str] = field(default_factory=list)
    """The rules that did not hold."""
    events: str = ""
    """A digest of every ledger record that a node saved, by node and time."""
    ended: float = 0.0
    """Virtual seconds until the run's end."""
    states: States = field(default_factory=dict)
    """The states that it ended with."""
    happened: list[str] = field(default_factory=list)
    """The kinds of the faults that took place."""


class Universe:
    """The nodes of a universe, while it runs."""

    def __init__(self, plan: Plan, root: Path, nursery: trio.Nursery, disks: Disks) -> None:
        self._plan, self._root, self._disks = plan, root, disks
        swarm = Swarm(root, nursery)
        swarm.after_commit = self._saved
        swarm.ports = PORTS
        swarm.seeds = tuple(
            Address(kind="ip4", host="127.0.0.1", port=PORTS[name], peer=peer(name))
            for name in plan.schedulers
        )
        self._kept = KeptSwarm(swarm, root, plan.keepers, plan.schedulers, changes={"grid": GRID})
        self.rules = Rules(self._kept.manifest, len(plan.nodes))
        self._crashes: dict[str, int] = {}
        """The nodes that crash, with the saves until then."""
        self._left: dict[str, Path] = {}
        """By node that crashed what is left of its home."""
        self.outcome = Outcome(violations=self.rules.violations)

    async def run(self) -> Outcome:
        """Start the nodes, do the faults, and wait for the run's end."""
        for name in self._plan.nodes:
            await self._start(name)
        async with trio.open_nursery() as faults:
            for fault in self._plan.faults:
                faults.start_soon(self._do, fault)
        try:
            await self._kept.until(self._finished, seconds=END_SECONDS)
            self.outcome.ended = trio.current_time()
            await self._kept.until(self._agreed, seconds=AGREE_SECONDS)
        except trio.TooSlowError:
            if self.outcome.ended:
                lengths = {name: len(self._kept.chain(name)) for name in self._kept.nodes}
                self.rules.violate(
                    f"no one ledger {AGREE_SECONDS:.0f} s after the run's end, but {lengths}"
                )
            else:
                self.rules.violate(f"the run has not ended {END_SECONDS:.0f} s after the faults")
        self._judge()
        self.outcome.events = self.rules.events.hexdigest()
        return self.outcome

    def _finished(self) -> bool:
        return any(self._kept.finished(n) for n in self._plan.schedulers if n in self._kept.nodes)

    def _agreed(self) -> bool:
        """Return whether every node that lives has all records that were ever final."""
        chains = [self._kept.chain(name) for name in self._kept.nodes]
        return all(each == chains[0] for each in chains) and len(chains[0]) == self.rules.length

    # ------------------------------------------------------------------ faults

    async def _start(self, name: str) -> None:
        self.rules.begins(name)
        await self._kept.start(name)
        self._disks.attach(self._kept.nodes[name].parts)

    async def _do(self, fault: Fault) -> None:
        await trio.sleep(fault.at)
        if fault.node not in self._kept.nodes:
            return  # it is down already
        self.outcome.happened.append(fault.kind)
        network, home = self._kept.swarm.network, self._root / fault.node
        match fault.kind:
            case "crash" | "kill" | "lost" | "torn" | "gone":
                await self._crash(fault)
            case "freeze":
                network.freeze(peer(fault.node))
                await trio.sleep(fault.seconds)
                network.thaw(peer(fault.node))
            case "cut":
                self._kept.cut((fault.node,), fault.others)
                await trio.sleep(fault.seconds)
                self._kept.mend((fault.node,), fault.others)
            case "full":
                self._disks.full.add(home)
                await trio.sleep(fault.seconds)
                self._disks.full.discard(home)

    async def _crash(self, fault: Fault) -> None:
        node, home = self._kept.nodes.pop(fault.node), self._root / fault.node
        if fault.kind == "crash":
            self._crashes[fault.node] = fault.saves
            with trio.move_on_after(LONGEST_SECONDS):  # it may have nothing to save
                await node.ended.wait()
            self._crashes.pop(fault.node, None)
        if not node.ended.is_set():
            self._left[fault.node] = self._disks.crash(home)
            await self._kept.swarm.kill(node)
        self._disks.restore(home, self._left.pop(fault.node))
        if fault.kind == "torn":
            self._disks.tear(home)
        elif fault.kind == "lost":
            self._lose(fault.node)
        if fault.seconds != FOR_GOOD:
            await trio.sleep(fault.seconds)
            await self._start(fault.node)

    def _lose(self, name: str) -> None:
        """Have nothing on the disk of a node but the run, which its operator puts there again."""
        shutil.rmtree(self._root / name)
        if name in (*self._plan.keepers, *self._plan.schedulers):
            found(self._root, self._kept.manifest, name)

    def _saved(self, name: str, journal: Journal) -> bool:
        """Hold what a node saved against the rules; True: it crashes now."""
        self.rules.saved(name, journal)
        if name not in self._crashes:
            return False
        self._crashes[name] -= 1
        if self._crashes[name] >= 0:
            return False
        del self._crashes[name]
        self._left[name] = self._disks.crash(self._root / name)
        return True

    # ------------------------------------------------------------------ the end

    def _judge(self) -> None:
        alive = next(n for n in self._plan.schedulers if n in self._kept.nodes)
        state = self._kept.nodes[alive].parts.run_store.runs[self._kept.run].state
        self.outcome.states = {module: list(each) for module, each in state.states.items()}
        if self._plan.faults and not self.outcome.violations:
            self.rules.at_end(state, undisturbed())
        for name, node in self._kept.nodes.items():
            if node.error is not None or node.ended.is_set():
                self.rules.violate(f"{name} ended by itself: {node.error}")
            if fault := node.parts.run_store.runs[self._kept.run].fault:
                self.rules.violate(f"{name} says that {fault}")
            for other in self._plan.nodes:
                if node.parts.reputation.strikes(peer(other)):
                    self.rules.violate(f"{name} gave {other} a strike")


@cache
def undisturbed() -> States:
    """Return the states of a run that nothing happens to: keepers and names change none of them."""
    return run_plan(Plan(0, (), (SCHEDULER,), VOLUNTEERS[:1], ())).states


def run_plan(plan: Plan) -> Outcome:
    """Run a universe, and hold its end against that of an undisturbed run."""
    if plan.faults:
        undisturbed()  # first, as a universe has all chance for itself
    disks = Disks(random.Random(plan.seed))

    async def main(root: Path) -> Outcome:
        async with trio.open_nursery() as nursery:
            universe = Universe(plan, root, nursery, disks)
            with universe.rules.watching():
                outcome = await universe.run()
            nursery.cancel_scope.cancel()
        return outcome

    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder_in_memory())))
        stack.enter_context(seeded(plan.seed))
        stack.enter_context(disks.noting_syncs())
        clock = MockClock(autojump_threshold=0)
        run: Callable[..., Outcome] = trio.run
        return run(main, root, clock=clock)
