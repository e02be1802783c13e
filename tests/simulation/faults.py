"""What may go wrong in a universe: values, drawn from its seed.

A plan holds all of it, so a universe is repeated by its plan alone, and a shrinker leaves faults
out of one. Seconds are those of the world; a step of a node is one event that it takes part in.
"""

from dataclasses import dataclass, replace
from random import Random
from typing import Literal

SCHEDULER = "scheduler"
SECOND = "s1"  # the second scheduler
CALM_AFTER = (20.0, 200.0)  # seconds of phase 1
MIDDLE_STEPS = 600  # of a scheduler: in so many it begins a term, and records become final
LATEST_STEP = 1500  # of a crash: most nodes take part in so many events of phase 1

Point = Literal["before", "unsaved", "saved", "after"]
"""Where in a step a node dies: before it, in its first commit (which is lost), right after that
commit, or at its end. Answers leave at the end of a step or when the node next waits."""
POINTS: tuple[Point, ...] = ("before", "unsaved", "saved", "after")


Way = Literal["both", "out", "in"]
"""Of the messages that a cut loses."""
WAYS: tuple[Way, ...] = ("both", "out", "in")


@dataclass(frozen=True)
class Loses:
    """Every link loses this share of messages."""

    share: float


@dataclass(frozen=True)
class Replays:
    """Every link delivers this share of messages a second time, up to a minute later."""

    share: float


@dataclass(frozen=True)
class Reorders:
    """Every link holds this share of messages back for up to ten seconds."""

    share: float


@dataclass(frozen=True)
class Crash:
    """A node dies in its step number `step`, and starts again."""

    node: str
    step: int
    point: Point
    down: float
    power: bool
    """Whether what its disk had not synced is lost with it."""


@dataclass(frozen=True)
class Freeze:
    """A node stands still, and its clock goes on."""

    node: str
    at: float
    seconds: float


@dataclass(frozen=True)
class Cut:
    """Messages between a group and all others are lost: of both ways, or of one."""

    group: tuple[str, ...]
    at: float
    seconds: float
    way: Way


@dataclass(frozen=True)
class Full:
    """A node's disk takes nothing."""

    node: str
    at: float
    seconds: float


@dataclass(frozen=True)
class WrongClock:
    """A node's clock is off, and runs too fast or too slowly."""

    node: str
    offset: float
    rate: float


@dataclass(frozen=True)
class Leaves:
    """A node is gone for good."""

    node: str
    at: float


@dataclass(frozen=True)
class DiskLost:
    """A node loses its whole disk, and starts again with an empty one."""

    node: str
    at: float


@dataclass(frozen=True)
class Upgrade:
    """A node speaks the version before, until it is started with today's and its journal.

    The version before knows no `Reclaim`, says no head when it asks for work, and saves no places.
    """

    node: str
    at: float


@dataclass(frozen=True)
class OwnerGrants:
    """The run's owner grants the next term to the second scheduler, from a node's ledger on."""

    node: str
    at: float


@dataclass(frozen=True)
class Usurps:
    """A node asks the keepers again and again for terms that are not its own."""

    node: str
    at: float


@dataclass(frozen=True)
class BlobLost:
    """A node's disk loses one blob."""

    node: str
    at: float


@dataclass(frozen=True)
class Backup:
    """A node's disk goes back to what it was so many seconds before."""

    node: str
    at: float
    seconds: float


@dataclass(frozen=True)
class Lies:
    """A scheduler signs two chains: half of the keepers see another record, now and then."""

    node: str
    share: float


Fault = (
    Loses
    | Replays
    | Reorders
    | Crash
    | Freeze
    | Cut
    | Full
    | WrongClock
    | Leaves
    | DiskLost
    | Upgrade
    | OwnerGrants
    | Usurps
    | BlobLost
    | Backup
    | Lies
)


@dataclass(frozen=True)
class Plan:
    """One universe: its shape and its faults."""

    seed: int
    volunteers: int
    grid: tuple[int, ...]
    """Experts per level."""
    rounds: int
    carry: bool
    """Whether inner moments are carried from round to round."""
    latency: float
    """Seconds of one way, the middle of its range."""
    calm: float
    """When phase 2 begins: the scheduler has no further fault."""
    faults: tuple[Fault, ...]
    schedulers: tuple[str, ...] = (SCHEDULER,)
    """In the order of their terms."""
    keepers: tuple[str, ...] = ()
    healed: tuple[str, ...] = (SCHEDULER,)
    """Nodes that have no fault in phase 2: one scheduler, and a quorum of the keepers; of those
    some are gone for good in a few universes, and then the run is rightly unavailable."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return all nodes."""
        return (*self.schedulers, *self.keepers, *volunteers(self.volunteers))


def volunteers(count: int) -> tuple[str, ...]:
    """Return the names of so many volunteers; the first one is never gone for good."""
    return tuple(f"v{number}" for number in range(count))


def plan_of(seed: int) -> Plan:
    """Return the universe of a seed."""
    random = Random(f"plan {seed}")
    count = random.randint(1, 6)
    calm = random.uniform(*CALM_AFTER)
    found: list[Fault] = []
    for kind in (Loses, Replays, Reorders):
        if random.random() < 0.6:
            found.append(kind(round(random.uniform(0.01, 0.3), 3)))
    for name in volunteers(count):
        found += _of_volunteer(random, name, calm, spared=name == "v0")
    found += _of_server(random, SCHEDULER, calm)
    found += _cuts(random, (SCHEDULER, *volunteers(count)), calm)
    plan = Plan(
        seed=seed,
        volunteers=count,
        grid=random.choice(((2, 2), (1, 2), (3,), (2, 3))),
        rounds=random.randint(1, 4),
        carry=random.random() < 0.6,
        latency=random.choice((0.005, 0.05, 0.3)),
        calm=calm,
        faults=tuple(found),
    )
    if seed % 2:
        plan = _granted(Random(f"owner {seed}"), plan)
    else:
        plan = _with_keepers(Random(f"keepers {seed}"), plan)
    if seed % 4 == 2:
        plan = _taken_over(Random(f"take over {seed}"), plan)
    return _with_few(Random(f"few {seed}"), plan)


def _with_few(random: Random, plan: Plan) -> Plan:
    """Return the universe with faults that most have not: upgrades, and what ends a run."""
    found = list(plan.faults)
    if random.random() < 0.3:
        names = (name for name in plan.names if random.random() < 0.5)
        found += (Upgrade(name, random.uniform(0, plan.calm)) for name in names)
    if random.random() < 0.05:
        kinds = (plan.schedulers, volunteers(plan.volunteers), plan.keepers)
        gone = random.choice([kind for kind in kinds if kind])
        some = len(plan.keepers) // 2 + 1  # a quorum cannot be without one of so many
        for name in random.sample(gone, some if gone == plan.keepers else len(gone)):
            found.append(Leaves(name, random.uniform(0, plan.calm * 1.5)))
    return replace(plan, faults=tuple(found))


def _taken_over(random: Random, plan: Plan) -> Plan:
    """Return the universe with schedulers that die and are cut off in the middle of their terms.

    A scheduler is cut off with one or two keepers, which sign what others have never heard of.
    """
    found = list(plan.faults)
    for name in plan.schedulers:
        for _ in range(random.randint(2, 6)):
            point, down = random.choice(POINTS), random.choice((0.0, 1.0, 5.0, 20.0))
            step = random.randint(1, MIDDLE_STEPS)
            found.append(Crash(name, step, point, down, random.random() < 0.5))
    for _ in range(random.randint(2, 6)):
        few = random.sample(plan.keepers, min(random.randint(1, 2), len(plan.keepers)))
        at = random.uniform(0, plan.calm)
        seconds = min(random.choice((3.0, 10.0, 30.0)), plan.calm - at)
        helper = volunteers(plan.volunteers)[: random.randint(0, 1)]
        group = (random.choice(plan.schedulers), *few, *helper)
        found.append(Cut(group, at, seconds, random.choice(WAYS)))
    if random.random() < 0.3:
        found.append(Lies(random.choice(plan.schedulers), random.choice((0.2, 0.5))))
    return replace(plan, faults=tuple(found))


def _granted(random: Random, plan: Plan) -> Plan:
    """Return a universe without keepers; in some the owner has another scheduler go on."""
    if random.random() < 0.7:
        return plan
    at = random.uniform(0.1, 1.0) * plan.calm
    node = random.choice((SCHEDULER, SECOND, *volunteers(plan.volunteers)))
    found = [*_of_server(random, SECOND, plan.calm), OwnerGrants(node, at)]
    both = (SCHEDULER, SECOND)
    return replace(plan, faults=(*plan.faults, *found), schedulers=both, healed=both)


def _with_keepers(random: Random, plan: Plan) -> Plan:
    """Return a universe with keepers, and with schedulers that take over."""
    schedulers = (SCHEDULER, *(f"s{n}" for n in range(1, random.randint(1, 3))))
    keepers = tuple(f"k{n}" for n in range(random.choice((1, 3, 3, 3, 5))))
    quorum = keepers[: len(keepers) // 2 + 1]
    healed = (random.choice(schedulers), *random.sample(keepers, len(quorum)))
    found = [f for f in plan.faults if getattr(f, "node", "") != SCHEDULER and type(f) is not Cut]
    for name in (*schedulers, *keepers):
        found += _of_server(random, name, plan.calm)
        if name in schedulers and random.random() < 0.3:
            at = random.uniform(0, plan.calm)
            found.append(Backup(name, at, random.uniform(0, plan.calm - at)))
        if name not in healed and random.random() < 0.4:
            # Later than the others: a run begins only once all its keepers have met.
            found.append(Leaves(name, random.uniform(0.2, 1.5) * plan.calm))
    if random.random() < 0.3:
        for name in random.sample(keepers, random.randint(0, len(keepers) - len(quorum))):
            found.append(DiskLost(name, random.uniform(0.2, 1.0) * plan.calm))
    if random.random() < 0.25:
        found.append(Lies(random.choice(schedulers), random.choice((0.05, 0.5))))
    if random.random() < 0.1:
        usurper = random.choice((*schedulers, *volunteers(plan.volunteers)))
        found.append(Usurps(usurper, random.uniform(0, plan.calm)))
    names = (*schedulers, *keepers, *volunteers(plan.volunteers))
    found += _cuts(random, names, plan.calm)
    return replace(plan, faults=tuple(found), schedulers=schedulers, keepers=keepers, healed=healed)


def crashes(random: Random, name: str, most: int) -> list[Fault]:
    """Draw crashes of a node: early steps are as likely as late ones."""
    return [
        Crash(
            node=name,
            step=int(LATEST_STEP ** random.random()),
            point=random.choice(POINTS),
            down=random.choice((0.0, 1.0, 5.0, 40.0)),
            power=random.random() < 0.5,
        )
        for _ in range(random.randint(0, most))
    ]


def _clock(random: Random, name: str) -> list[Fault]:
    if random.random() < 0.7:
        return []
    return [WrongClock(name, random.uniform(-1e6, 1e6), random.choice((0.7, 0.95, 1.05, 1.5)))]


def _of_volunteer(random: Random, name: str, calm: float, *, spared: bool) -> list[Fault]:
    found = crashes(random, name, 2) + _clock(random, name)
    if random.random() < 0.25:
        found.append(Freeze(name, random.uniform(0, calm * 1.5), random.choice((1, 15, 60, 300))))
    if random.random() < 0.15:
        found.append(Full(name, random.uniform(0, calm * 1.5), random.choice((10.0, 100.0))))
    if random.random() < 0.15:
        found.append(DiskLost(name, random.uniform(0, calm * 1.5)))
    for _ in range(random.choice((0, 0, 0, 1, 4))):
        found.append(BlobLost(name, random.uniform(0, calm * 1.5)))
    if not spared and random.random() < 0.25:
        found.append(Leaves(name, random.uniform(0, calm * 1.5)))
    return found


def _of_server(random: Random, name: str, calm: float) -> list[Fault]:
    """Draw the faults of a node that phase 2 heals: all of them end before."""
    found = crashes(random, name, 4) + _clock(random, name)
    for kind in (Freeze, Full):
        if random.random() < 0.35:
            at = random.uniform(0, calm)
            found.append(kind(name, at, min(random.choice((1.0, 12.0, 60.0)), calm - at)))
    return found


def _cuts(random: Random, names: tuple[str, ...], calm: float) -> list[Fault]:
    found: list[Fault] = []
    for _ in range(random.choice((0, 0, 1, 1, 2, 3))):
        group = tuple(name for name in names if random.random() < 0.5)
        at = random.uniform(0, calm)
        seconds = min(random.choice((3.0, 20.0, 90.0)), calm - at)
        way = random.choice((*WAYS, "both"))
        found.append(Cut(group, at, seconds, way))
    return found
