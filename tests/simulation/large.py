"""One large universe: 1,000 nodes, 256 paths, 20 rounds, and a tenth of the nodes that die once.

It measures, and holds the rules beside. So that it fits into memory, its volunteers share one copy
of the ledger, that of the first of them; the scheduler tells a few of new records.
"""

from dataclasses import dataclass
from random import Random
from time import process_time

from tests.simulation.faults import Crash, Fault, Leaves, Loses, Plan, volunteers
from tests.simulation.oracle import Oracle
from tests.simulation.signatures import cheap
from tests.simulation.universe import Universe
from tests.simulation.volunteer import VolunteerNode

NODES = 1000  # one of them schedules
GRID = (16, 16)  # experts per level: 256 paths
ROUNDS = 20
CHURN = 0.1  # share of the volunteers that die once; half of them come back
TOLD = 8  # volunteers that the scheduler tells of new records
MOST_EVENTS = 100_000_000


@dataclass(frozen=True)
class Measured:
    """What the universe came to."""

    nodes: int
    paths: int
    rounds: int
    gone: int
    """Volunteers that died, for a while or for good."""
    simulated_seconds: float
    events: int
    cpu_seconds: float
    leases: int
    scheduler_events: int
    scheduler_cpu_seconds: float
    """In the steps of the scheduler: its decisions, and its shell here."""
    unavailable: str

    def text(self) -> str:
        """Return the figures, one a line."""
        lines = [
            f"{self.nodes} nodes, {self.paths} paths, {self.rounds} rounds, {self.gone} died",
            f"{self.simulated_seconds:.0f} s simulated, {self.events} events, "
            f"{self.cpu_seconds:.0f} s of CPU, {1e6 * self.cpu_seconds / self.events:.0f} us an "
            "event",
            f"{self.leases} leases, {self.scheduler_events} events of the scheduler, "
            f"{1e3 * self.scheduler_cpu_seconds / self.leases:.2f} ms of its CPU a lease",
        ]
        return "\n".join([*lines, *([self.unavailable] if self.unavailable else [])])


class SharingVolunteer(VolunteerNode):
    """A volunteer that reads the ledger of the first one."""

    first: VolunteerNode | None = None

    def boot(self) -> None:
        super().boot()
        if self.first is not None and self.first.up:
            self.chain = self.first.chain


class LargeUniverse(Universe):
    """The nodes of a large plan."""

    def made_volunteers(self, oracle: Oracle) -> list[VolunteerNode]:
        shared = self.run_id, self.manifest, oracle
        names = volunteers(self.plan.volunteers)
        first = VolunteerNode(self.world, names[0], *shared)
        others = [SharingVolunteer(self.world, name, *shared) for name in names[1:]]
        for each in others:
            each.first = first
        return [first, *others]

    def introduce(self) -> None:
        super().introduce()
        self.world.most_events = MOST_EVENTS
        for scheduler in self.schedulers:
            scheduler.others = scheduler.others[:TOLD]


def plan_large(seed: int, nodes: int, grid: tuple[int, ...], rounds: int) -> Plan:
    """Return a universe of so many nodes, a tenth of which die once in its first minutes."""
    random = Random(f"large {seed}")
    names = volunteers(nodes - 1)
    dying = random.sample(names[1:], int(CHURN * len(names)))
    found: list[Fault] = [Loses(0.01)]
    for number, name in enumerate(dying):
        if number % 2:
            found.append(Leaves(name, random.uniform(5.0, 15.0 * rounds)))
        else:
            step = random.randint(10, 10 * rounds)
            found.append(Crash(name, step, "after", down=30.0, power=True))
    return Plan(
        seed=seed,
        volunteers=len(names),
        grid=grid,
        rounds=rounds,
        carry=True,
        latency=0.05,
        calm=100.0,
        faults=tuple(found),
    )


def measure(
    seed: int, *, nodes: int = NODES, grid: tuple[int, ...] = GRID, rounds: int = ROUNDS
) -> Measured:
    """Run a large universe; raises Violation."""
    plan = plan_large(seed, nodes, grid, rounds)
    with cheap():
        began = process_time()
        universe = LargeUniverse(plan)
        [scheduler] = universe.schedulers
        scheduler.cpu_seconds = 0.0
        unavailable = universe.run()
        world = universe.world
        return Measured(
            nodes=nodes,
            paths=universe.manifest.paths,
            rounds=rounds,
            gone=world.happened["crash"] + world.happened["left"],
            simulated_seconds=world.now,
            events=world.events,
            cpu_seconds=process_time() - began,
            leases=universe.oracle.grants,
            scheduler_events=scheduler.steps,
            scheduler_cpu_seconds=scheduler.cpu_seconds,
            unavailable=unavailable,
        )
