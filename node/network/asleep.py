"""What a node does when its computer has slept: it trusts no connection from before.

While a machine sleeps, one clock of the kernel stands still (CLOCK_MONOTONIC) and one goes on
(CLOCK_BOOTTIME); a wall clock that is set by hand moves neither. Peers have long given the node up,
so its connections are dead, though its kernel does not know. They are ended, and every peer is
dialled at once. The first heartbeat then asks the scheduler, which says whether a lease still
stands. Only Linux has both clocks; elsewhere pings notice it within a minute.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from dipaco.node.network.transport import Transport
from dipaco.protocol.numbers import span

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0  # between two looks at the clocks
LEAST_SECONDS = 5.0  # asleep; peers stand a shorter pause, and so do connections


@dataclass(frozen=True)
class Clocks:
    """Two clocks of the kernel, in seconds."""

    awake: float
    """It stands still while the machine sleeps."""
    always: float


def slept(before: Clocks, now: Clocks) -> float:
    """Return the seconds that the machine slept between two readings; 0: it did not."""
    asleep = (now.always - before.always) - (now.awake - before.awake)
    return asleep if asleep >= LEAST_SECONDS else 0.0


def read_clocks() -> Clocks | None:
    """Return both clocks; None where the system has only one."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    if boot is None:
        return None
    return Clocks(time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(boot))


class Awakening:
    """Notices that the machine slept, and makes all connections anew."""

    def __init__(
        self,
        transport: Transport,
        dial_again: Callable[[], None],
        *,
        clocks: Callable[[], Clocks | None] = read_clocks,
    ) -> None:
        """dial_again: has every known peer dialled at once."""
        self._transport, self._dial_again, self._clocks = transport, dial_again, clocks

    async def run(self, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Look at the clocks until cancelled."""
        before = self._clocks()
        task_status.started()
        while True:
            await trio.sleep(LOOK_SECONDS)
            now = self._clocks()
            if before and now and (seconds := slept(before, now)):
                log.info("resumed after %s asleep", span(seconds))
                await self._connect_anew()
                now = self._clocks()
            before = now

    async def _connect_anew(self) -> None:
        async with trio.open_nursery() as nursery:
            for peer in self._transport.peers():
                nursery.start_soon(self._transport.hang_up, peer, "this computer slept")
        self._dial_again()
