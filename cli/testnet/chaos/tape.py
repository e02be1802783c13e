"""The fault tape: which fault meets which node when, a pure function of orders and seed.

With `every`, a fault falls into each stretch of so many seconds, at a moment that the seed draws.
Without, the faults fall one in a round, each on a node in the middle of a lease. The tape never
leaves a network without a volunteer that is up.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from dipaco.cli.testnet.chaos.grammar import HALF, KEEPER, SCHEDULER, Kind, Order, Way
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.numbers import span

MOST_FAULTS: Final = 10_000
"""Of one tape."""


@dataclass(frozen=True, kw_only=True)
class NodeNames:
    """The nodes of a network by name."""

    volunteers: tuple[str, ...]
    schedulers: tuple[str, ...]
    keepers: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """All nodes, each once: a scheduler may be a keeper."""
        return tuple(dict.fromkeys((*self.schedulers, *self.keepers, *self.volunteers)))


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault of the tape."""

    number: int
    """From 1."""
    at: float | None
    """Seconds after the first lease of a path; None: in `round`."""
    round: int | None
    kind: Kind
    targets: tuple[str, ...]
    """Names; `scheduler` is the node that schedules at that moment; empty: the volunteer that is
    found in the middle of a lease."""
    seconds: float | None
    """Until it is over; None: for good."""
    way: Way = "both"

    def __str__(self) -> str:
        when = f"round {self.round}" if self.at is None else f"{self.at:8.1f} s"
        who = ", ".join(self.targets) or "a volunteer in the middle of a lease"
        length = "" if self.seconds is None else f" for {span(self.seconds)}"
        way = "" if self.way == "both" else f", {self.way}ward alone"
        return f"{self.number:4}  {when}  {self.kind:9} {who}{length}{way}"


@dataclass
class _Drawing:
    """What the planner knows of the network while it draws."""

    names: NodeNames
    rng: random.Random
    up: list[str]
    """Volunteers that were never ended for good, newcomers included."""
    away: dict[str, float] = field(default_factory=dict)
    """Node: when it is back, seconds."""
    joined: int = 0

    def free(self, names: Sequence[str], now: float) -> list[str]:
        return [name for name in names if self.away.get(name, 0.0) <= now]

    def targets(self, order: Order, now: float) -> tuple[str, ...]:
        """Draw the targets of `order`; empty: it meets nobody now."""
        if order.kind == "join":
            return self.newcomers(order.count)
        if order.who == HALF:
            nodes = list(dict.fromkeys((*self.names.schedulers, *self.names.keepers, *self.up)))
            return tuple(sorted(self.rng.sample(nodes, len(nodes) // 2)))
        if order.who == KEEPER:
            free = self.free(self.names.keepers, now)
            return (self.rng.choice(free),) if free else ()
        if order.who:
            return (order.who,) if self.free([order.who], now) else ()
        free = self.free(self.up, now)
        most = len(free) - (order.kind != "partition")  # one volunteer stays up
        return tuple(sorted(self.rng.sample(free, max(0, min(order.count, most)))))

    def newcomers(self, count: int) -> tuple[str, ...]:
        first = len(self.names.volunteers) + self.joined + 1
        self.joined += count
        names = tuple(f"node-{number}" for number in range(first, first + count))
        self.up += names
        return names

    def note(self, order: Order, targets: Sequence[str], now: float) -> None:
        """Note until when the nodes are away."""
        if order.kind in ("partition", "join"):
            return
        for name in targets:
            if order.seconds is not None:
                self.away[name] = now + order.seconds
            elif name in self.up:
                self.up.remove(name)
            else:
                self.away[name] = math.inf


def plan(
    orders: Sequence[Order], names: NodeNames, *, seed: int, every: float | None, faults: int
) -> tuple[Fault, ...]:
    """Return the tape.

    every    seconds between two faults; None: one in a round.
    faults   the number of draws of a tape with `every`; a draw that meets nobody gives no fault.

    Raises ConfigError for a node that is not there, and when no volunteer would live.
    """
    _check(orders, names)
    rng = random.Random(f"dipaco/testnet/faults/{seed}")
    drawing = _Drawing(names, rng, list(names.volunteers))
    if every is None:
        return _by_round(orders, drawing)
    tape: list[Fault] = []
    turns: list[Order] = []
    for tick in range(faults if orders else 0):
        turns = turns or rng.sample(orders, len(orders))
        order, now = turns.pop(), (tick + rng.random()) * every
        targets = drawing.targets(order, now)
        if targets:
            tape.append(_fault(len(tape) + 1, order, targets, at=now))
            drawing.note(order, targets, now)
    return tuple(tape)


def _by_round(orders: Sequence[Order], drawing: _Drawing) -> tuple[Fault, ...]:
    """Return a fault for each round from 1 on, in an order that the seed draws."""
    singles: list[Order] = []
    for order in orders:
        several = not order.who and order.kind != "join"
        singles += [order] * (order.count if several else 1)
    ended = [order for order in singles if order.for_good and not order.who]
    if len(ended) >= (volunteers := len(drawing.names.volunteers)):
        raise ConfigError(f"{ended[-1].flag}: at least one of {volunteers} volunteers must live")
    tape = []
    for number, order in enumerate(drawing.rng.sample(singles, len(singles)), 1):
        named = order.who or order.kind == "join"
        targets = drawing.targets(order, 0.0) if named else ()
        tape.append(_fault(number, order, targets, round_=number))
    return tuple(tape)


def _fault(
    number: int,
    order: Order,
    targets: tuple[str, ...],
    *,
    at: float | None = None,
    round_: int | None = None,
) -> Fault:
    return Fault(
        number=number,
        at=at,
        round=round_,
        kind=order.kind,
        targets=targets,
        seconds=order.seconds,
        way=order.way,
    )


def _check(orders: Sequence[Order], names: NodeNames) -> None:
    """Raise ConfigError for an order that no tape can hold."""
    for order in orders:
        if order.who == KEEPER and not names.keepers:
            raise ConfigError(f"{order.flag}: this network has no keepers: give --keepers")
        if order.who and order.who not in (*names.all, SCHEDULER, KEEPER, HALF):
            raise ConfigError(f"{order.flag}: no node of this network has that name")
        if order.for_good and order.who == SCHEDULER and len(names.schedulers) < 2:
            raise ConfigError(
                f"{order.flag}: no other node would take over: give --schedulers 2, or --restart"
            )
