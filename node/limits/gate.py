"""The gate: it decides whether a role may work now, and gives the reason if not.

A gate asks its limits in order; the first that returns a `Closed` closes it. While the gate is
closed, no work of the role runs: `Gate.run` cancels it, and on its way out it hands its lease back.

A new limit is one module in this folder with one class (see `disk.py`), and one line in
`assembly.limits_of`. Its code and its text are in that class alone; the state is always `paused`.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn, Protocol

import trio

from dipaco.node.condition import Condition
from dipaco.node.status.activity import CurrentState

CHECK_SECONDS = 5.0  # between two checks of the limits; `Gate.changed` causes one at once


@dataclass(frozen=True, kw_only=True)
class Closed:
    """The reason why a limit forbids work."""

    code: str
    """For programs: one per limit, listed in docs/operation.md."""
    why: str
    opens: str
    """The event that would open the gate, in words."""

    def __str__(self) -> str:
        """Return the text for a person, or for the scheduler that gets the lease back."""
        return f"{self.why}; {self.opens}"


class Limit(Protocol):
    """One condition that may forbid work, such as a full disk."""

    def closed(self, now: float) -> Closed | None:
        """Return why no work may run `now`, or None.

        now   seconds on trio's clock. A limit that needs another measure (free bytes, the time of
              day) gets a function for it when it is made.
        """
        ...


def closed(limits: Iterable[Limit], now: float) -> Closed | None:
    """Return the reason of the first limit that forbids work `now`, or None."""
    return next(filter(None, (limit.closed(now) for limit in limits)), None)


class Gate:
    """Checks the limits of one role, and reports to the activity why the role is paused."""

    def __init__(self, activity: CurrentState, limits: tuple[Limit, ...]) -> None:
        self._activity = activity
        self._limits = limits
        self.closed: Closed | None = None
        """The reason why the gate is closed, as of the last check."""
        self.changed = Condition()
        """Notify it when a limit may have changed: the gate then checks its limits at once."""

    async def run(self, work: Callable[[], Awaitable[None]]) -> NoReturn:
        """Run `work` whenever the gate is open; cancel it as soon as the gate is closed.

        `work` starts again when the gate opens, and also when it returns by itself. Its errors are
        raised here.
        """
        while True:
            if await self.wait_open():
                self._activity.say("resuming")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_once_closed, nursery.cancel_scope)
                await work()
                nursery.cancel_scope.cancel()

    async def wait_open(self) -> bool:
        """Wait until the gate is open; returns whether it was closed before."""
        await trio.lowlevel.checkpoint()
        waited = self.closed is not None
        while not self._check():
            waited = True
            await self._until_next_check()
        return waited

    async def _cancel_once_closed(self, scope: trio.CancelScope) -> None:
        while self._check():
            await self._until_next_check()
        scope.cancel()

    def _check(self) -> bool:
        """Ask the limits; returns whether the gate is open, and reports a closed one."""
        self.closed = closed(self._limits, trio.current_time())
        if self.closed is not None:
            self._activity.pause(self.closed.code, str(self.closed))
        return self.closed is None

    async def _until_next_check(self) -> None:
        with trio.move_on_after(CHECK_SECONDS):
            await self.changed.wait()
