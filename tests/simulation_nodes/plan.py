"""What follows from a seed: the nodes of a universe, and the faults that happen to them."""

import math
import random
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from tests.kept import KEEPERS
from tests.node.scheduler.kept_swarm import SECOND
from tests.node.scheduler.swarm import SCHEDULER

VOLUNTEERS = ("anna", "bert", "cara")
FAULTS = 6  # of a universe at most, and twice as many with keepers
SPAN_SECONDS = 180.0  # in which faults begin: an undisturbed run takes as long
LONGEST_SECONDS = 60.0  # of a fault
FOR_GOOD = math.inf

Kind = Literal["crash", "kill", "freeze", "cut", "full", "lost", "torn", "gone"]
KINDS: tuple[Kind, ...] = ("crash", "crash", "kill", "freeze", "cut", "full", "lost", "torn")
KEPT_KINDS: tuple[Kind, ...] = (*KINDS, "gone", "gone")
DAMAGE = ("lost", "torn", "gone")
"""Faults of a keeper that its copies outlive: one of them in a universe."""


@dataclass(frozen=True)
class Fault:
    """One fault of a universe."""

    kind: Kind
    """crash: at a save; kill: at a moment; freeze: no byte comes or goes; cut: from others; full:
    the disk; lost: killed, and back with an empty disk; torn: killed, and back with blobs that end
    in zeros; gone: killed for good."""
    node: str
    at: float
    """Seconds from the start."""
    seconds: float
    """Until the node is started again, or the fault ends."""
    saves: int = 0
    """Of a crash: how many times the node saves first."""
    others: tuple[str, ...] = ()
    """Of a cut: the other side."""

    def __str__(self) -> str:
        where = f"{self.node} from {', '.join(self.others)}" if self.others else self.node
        saves = f" after {self.saves} saves" if self.kind == "crash" else ""
        ends = "for good" if self.seconds == FOR_GOOD else f"for {self.seconds:.1f} s"
        return f"{self.kind} {where} at {self.at:.1f} s{saves}, {ends}"


@dataclass(frozen=True)
class Plan:
    """A universe before it begins."""

    seed: int
    keepers: tuple[str, ...]
    """Empty: the run has none, and one scheduler."""
    schedulers: tuple[str, ...]
    volunteers: tuple[str, ...]
    faults: tuple[Fault, ...]

    @property
    def nodes(self) -> tuple[str, ...]:
        """All nodes, in the order in which they start."""
        return tuple(dict.fromkeys((*self.schedulers, *self.keepers, *self.volunteers)))

    def without(self, left_out: Collection[int]) -> "Plan":
        """Return the universe without some of its faults, by their numbers from 0."""
        return replace(
            self, faults=tuple(f for n, f in enumerate(self.faults) if n not in left_out)
        )


def plan_of(seed: int) -> Plan:
    """Return the universe of a seed: with three keepers and two schedulers if it is even."""
    chance = random.Random(seed)
    volunteers = VOLUNTEERS[: chance.randint(1, len(VOLUNTEERS))]
    keepers: tuple[str, ...] = ()
    if seed % 2 == 0:
        keepers = chance.choice((KEEPERS, (SCHEDULER, *KEEPERS[:2])))
    schedulers = (SCHEDULER, SECOND) if keepers else (SCHEDULER,)
    plan = Plan(seed, keepers, schedulers, volunteers, ())
    faults = list[Fault]()
    for _ in range(chance.randint(1, 2 * FAULTS if keepers else FAULTS)):
        fault = _fault(plan, chance)
        if _bearable(plan, [*faults, fault]):
            faults.append(fault)
    return replace(plan, faults=tuple(sorted(faults, key=lambda fault: fault.at)))


def _fault(plan: Plan, chance: random.Random) -> Fault:
    kind = chance.choice(KEPT_KINDS if plan.keepers else KINDS)
    nodes = plan.schedulers if kind == "gone" or chance.random() < 0.3 else plan.nodes
    node = chance.choice(nodes)
    others = tuple(each for each in plan.nodes if each != node)
    return Fault(
        kind=kind,
        node=node,
        at=chance.uniform(0.0, SPAN_SECONDS),
        seconds=FOR_GOOD if kind == "gone" else chance.uniform(0.5, LONGEST_SECONDS),
        saves=chance.randrange(4) if kind == "crash" else 0,
        others=_other_side(others, chance) if kind == "cut" else (),
    )


def _other_side(others: tuple[str, ...], chance: random.Random) -> tuple[str, ...]:
    """Return all others, or some of them."""
    return others if chance.random() < 0.5 else tuple(chance.sample(others, 1))


def _bearable(plan: Plan, faults: list[Fault]) -> bool:
    """Return whether a run has to survive faults: enough is left of its keepers and schedulers."""
    damaged = [fault.node for fault in faults if fault.kind in DAMAGE]
    gone = {fault.node for fault in faults if fault.kind == "gone"}
    if not plan.keepers:
        return SCHEDULER not in damaged
    return len(gone) <= 1 and sum(node in plan.keepers for node in damaged) <= 1
