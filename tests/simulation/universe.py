"""One universe from its plan to its end: what happened, and which rule did not hold."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from time import process_time
from traceback import extract_tb

from msgspec import UNSET
from msgspec.structs import replace

from dipaco.node.scheduler.waiting import why_idle
from dipaco.protocol.run.manifest import Manifest, Scheduling, run_id
from dipaco.protocol.run.model_shape import Grid, Level
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.wire.digest import Digest
from tests.simulation import toy
from tests.simulation.faults import Lies, Plan, Usurps, volunteers
from tests.simulation.granted import GrantedSchedulerNode
from tests.simulation.keeper import KeeperNode
from tests.simulation.kept_scheduler import KeptSchedulerNode
from tests.simulation.oracle import Oracle, Violation
from tests.simulation.scheduler import SchedulerNode
from tests.simulation.signatures import cheap
from tests.simulation.unavailable import why_unavailable
from tests.simulation.volunteer import VolunteerNode
from tests.simulation.world import World
from tests.values import manifest, peer

ENDS_WITHIN = (
    7200.0  # seconds of phase 2: one slow volunteer that is parked now and then needs 3000
)

LOOK_SECONDS = 60.0  # between two looks whether the run can still go on
LOOKS = 3  # in a row that must find the same reason


@dataclass(frozen=True)
class Outcome:
    """A universe that is over."""

    seed: int
    hash: str
    events: int
    seconds: float
    """Of the universe."""
    violation: str
    """Empty: all rules held."""
    unavailable: str = ""
    """Why the run could rightly not end; empty: it ended, or a rule did not hold."""
    cpu_seconds: float = 0.0
    happened: Counter[str] = field(default_factory=Counter)


@lru_cache(maxsize=256)
def manifest_of(
    grid: tuple[int, ...],
    rounds: int,
    carry: bool,
    schedulers: tuple[str, ...],
    keepers: tuple[str, ...],
) -> Manifest:
    """Return the manifest of a universe's run."""
    plain = manifest()
    levels = tuple(Level(experts=experts, blocks=1) for experts in grid)
    sample = max(plain.routing.sample, math.prod(grid))  # the documents must be as many as paths
    training = replace(plain.training, rounds=rounds, inner_state="carry" if carry else "reset")
    return replace(
        plain,
        routing=replace(plain.routing, sample=sample),
        grid=Grid(levels=levels, path_specific_blocks=()),
        training=training,
        schedule=Scheduling(
            schedulers=tuple(map(peer, schedulers)),
            keepers=tuple(map(peer, keepers)) if keepers else UNSET,
        ),
    )


@lru_cache(maxsize=64)
def expected(run: Manifest) -> Mapping[ModuleId, list[Digest]]:
    """Return every version of every module that a run must have."""
    return toy.reference(run)


class Universe:
    """A plan's nodes in their world."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.world = World(plan)
        self.manifest = manifest_of(
            plan.grid, plan.rounds, plan.carry, plan.schedulers, plan.keepers
        )
        self.run_id = run_id(self.manifest)
        shared = self.run_id, self.manifest
        self.oracle = Oracle(plan.volunteers, self.manifest.paths)
        kind = SchedulerNode if len(plan.schedulers) == 1 else GrantedSchedulerNode
        if plan.keepers:
            kind = KeptSchedulerNode
        self.schedulers = [kind(self.world, name, *shared, self.oracle) for name in plan.schedulers]
        self.keepers = [KeeperNode(self.world, name, *shared, self.oracle) for name in plan.keepers]
        self.volunteers = self.made_volunteers(self.oracle)
        self.introduce()
        self._shown = 0
        """`Oracle.shown` when the run had not ended yet."""
        self.oracle.excused |= {
            peer(fault.node) for fault in plan.faults if isinstance(fault, Lies | Usurps)
        }

    def made_volunteers(self, oracle: Oracle) -> list[VolunteerNode]:
        """Return the volunteers."""
        names = volunteers(self.plan.volunteers)
        shared = self.run_id, self.manifest, oracle
        return [VolunteerNode(self.world, name, *shared) for name in names]

    def introduce(self) -> None:
        """Tell every node whom it may ask and tell."""
        everybody = tuple(self.world.nodes)
        of_run = tuple(node.peer for node in self.volunteers)
        for each in (*self.volunteers, *self.keepers):
            each.others = tuple(other for other in everybody if other != each.peer)
        for scheduler in self.schedulers:
            scheduler.others = of_run
            if len(self.schedulers) > 1:
                others = (node.peer for node in self.schedulers if node is not scheduler)
                scheduler.others = (*others, *of_run)
        if not self.keepers:
            for volunteer in self.volunteers:
                volunteer.others = tuple(other for other in of_run if other != volunteer.peer)

    def looked(self) -> None:
        """Tell how far the universe is, if it is one that takes long."""

    def _ended(self) -> SchedulerNode | None:
        """Return a scheduler whose ledger tells of the run's end."""
        return next((n for n in self.schedulers if n.up and n.chain.record.over), None)

    def _may_have_ended(self) -> bool:
        """Return whether the run has ended; it has not, as long as no ledger changed."""
        if self._shown == self.oracle.shown:
            return False
        self._shown = self.oracle.shown
        return self._ended() is not None

    def run(self) -> str:
        """Let the universe pass; raises Violation.

        Returns why the run can rightly not end; empty: it has ended.
        """
        self.world.begin()
        unavailable, looks = "", 0
        until = self.plan.calm
        while until < self.plan.calm + ENDS_WITHIN:
            until += LOOK_SECONDS
            self.world.run(until, self._may_have_ended)
            self.looked()
            if (ended := self._ended()) is not None:
                self.oracle.at_end(ended.chain.record.state, expected(self.manifest))
                return ""
            found = why_unavailable(
                self.manifest, self.schedulers, self.keepers, self.volunteers, self.oracle.excused
            )
            looks = looks + 1 if found and found == unavailable else 0
            unavailable = found
            if looks == LOOKS:
                return unavailable
        raise Violation(f"the run is stuck: {self._why()}")

    def _why(self) -> str:
        """Say what is waited for, as a scheduler would."""
        for node in self.schedulers:
            if node.up and getattr(node, "ready", True):
                return why_idle(node.schedule.state, node.schedule.grants)
        return "nobody schedules"


def run_plan(plan: Plan) -> Outcome:
    """Run a universe to its end."""
    with cheap():
        began = process_time()
        universe = Universe(plan)
        world, violation, unavailable = universe.world, "", ""
        try:
            unavailable = universe.run()
        except Violation as error:
            violation = str(error)
        except Exception as error:  # whatever the code under test raises is a finding
            where = extract_tb(error.__traceback__)[-1]
            violation = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        for node in world.nodes.values():
            violation = violation.replace(node.peer, node.name)
        return Outcome(
            seed=plan.seed,
            hash=world.hash,
            events=world.events,
            seconds=world.now,
            violation=violation,
            unavailable=unavailable,
            cpu_seconds=process_time() - began,
            happened=world.happened,
        )
