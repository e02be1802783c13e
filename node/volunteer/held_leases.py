"""The leases that a volunteer holds: at most two, of which one at a time is worked on.

While the inner steps of one lease run, the next one's states are fetched and its shards made; while
a result is handed in, the next lease is worked on already.
"""

from dataclasses import dataclass, field
from typing import Literal

import trio

from dipaco.node.condition import Condition
from dipaco.node.volunteer.heartbeat import Heartbeats
from dipaco.protocol.work.kinds import Lease, Result

Phase = Literal["works", "waits", "hands in"]
"""What is done for a lease; `waits`: it is prepared, and waits for its turn."""
_BY_WEIGHT: tuple[Phase, ...] = ("works", "waits", "hands in")


@dataclass(eq=False)
class HeldLease:
    """One lease that is held."""

    lease: Lease
    heartbeats: Heartbeats
    ahead: bool
    """Whether it was asked for while another lease was worked on."""
    phase: Phase = "waits"
    result: Result | None = None
    """Once the work is done."""

    @property
    def has_begun(self) -> bool:
        """Whether its work itself has begun, after its preparation."""
        return self.phase != "waits"


@dataclass
class HeldLeases:
    """The leases of one volunteer."""

    held: list[HeldLease] = field(default_factory=list)
    turn: trio.Lock = field(default_factory=trio.Lock)
    """Held by the lease that is worked on."""
    no_device: str = ""
    """Why there is no device to work on; empty: there is one."""
    changed: Condition = field(default_factory=Condition)

    @property
    def front(self) -> HeldLease | None:
        """The lease by which the status says what this node does."""
        return min(self.held, key=lambda each: _BY_WEIGHT.index(each.phase), default=None)

    def take(self, held: HeldLease) -> None:
        """Take up a lease."""
        self.held.append(held)
        self.changed.notify()

    def drop(self, held: HeldLease) -> None:
        """Have done with a lease."""
        self.held.remove(held)
        self.changed.notify()

    def enter(self, held: HeldLease, phase: Phase) -> None:
        """Note what is done for a lease now."""
        held.phase = phase
        self.changed.notify()

    def got_on(self, held: HeldLease) -> None:
        """Note that the work of a lease got on, and with it whatever waits for its turn."""
        for each in self.held:
            if each is held or not each.has_begun:
                each.heartbeats.got_on()
