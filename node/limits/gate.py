"""The gate: it decides whether a role may work now, and gives the reasons if not.

A gate asks all its limits with one value of observations. While one of them forbids work, no work
of the role runs: `Gate.run` cancels it, and on its way out it hands its lease back.

A new limit is one module in this folder with one frozen class (see `disk.py`), and one line in
`assembly.limits_of`. Its code and its text are in that class alone; the state is always `paused`.
"""

import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

import trio

from dipaco.node.condition import Condition
from dipaco.node.limits.values import Closed, Limit, Observed, closed_by
from dipaco.node.status.activity import CurrentState
from dipaco.node.status.document import Reason

CHECK_SECONDS = 5.0  # between two checks of the limits; `Gate.changed` causes one at once
# Between two checks while a person's pause holds. Nothing else can open the gate, and a computer
# that slept past the end of the pause still sees it within a minute.
PAUSED_SECONDS = 60.0


class Gate:
    """Checks the limits of one role, and reports to the activity why the role is paused."""

    def __init__(
        self,
        activity: CurrentState,
        limits: tuple[Limit, ...],
        observe: Callable[[], Observed],
        *,
        look: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Ask `limits` with what `observe` returns from memory.

        look    reads anew what `observe` returns, as far as it is due.
        clock   returns Unix time, seconds.
        """
        self._activity = activity
        self._limits = limits
        self._observe, self._look = observe, look
        self._clock = clock
        self._closed: dict[Limit, Closed] = {}
        self._since: dict[str, float] = {}
        """By code, when a limit that is closed was first met."""
        self.changed = Condition()
        """Notify it when a limit may have changed: the gate then checks its limits at once."""

    def follow(self, limits: tuple[Limit, ...]) -> None:
        """Ask other limits from now on."""
        self._limits = limits
        self.changed.notify()

    @property
    def reasons(self) -> tuple[Closed, ...]:
        """Why the gate is closed, as of the last check; the reason to tell first first."""
        return tuple(self._closed.values())

    @property
    def closed(self) -> Closed | None:
        """The first of these reasons; None: the gate is open."""
        return next(iter(self._closed.values()), None)

    @property
    def quiet(self) -> bool:
        """Whether a reason also forbids the transfer of blobs."""
        return any(each.quiet for each in self.reasons)

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

    async def is_open(self) -> bool:
        """Look at the machine, and return whether the gate is open now."""
        await self._looked()
        return self._check()

    async def wait_open(self) -> bool:
        """Wait until the gate is open; returns whether it was closed before."""
        waited = self.closed is not None
        while True:
            looked = await self._looked()
            if not self._check():
                waited = True
                await self._until_next_check()
            elif looked:
                return waited

    async def _cancel_once_closed(self, scope: trio.CancelScope) -> None:
        while self._check():
            await self._until_next_check()
            await self._looked()
        scope.cancel()

    async def _looked(self) -> bool:
        """Look at the machine; return whether nothing was told meanwhile that cut it short."""
        looked = False
        async with trio.open_nursery() as nursery:

            async def give_up() -> None:
                await self.changed.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(give_up)
            await self._look()
            looked = True
            nursery.cancel_scope.cancel()
        return looked

    def _check(self) -> bool:
        """Ask the limits; returns whether the gate is open, and reports a closed one."""
        now = self._clock()
        self._closed = closed_by(self._limits, self._observe(), now, self._closed)
        self._since = {
            each.code: self._since.get(each.code, now) if each.since is None else each.since
            for each in self.reasons
        }
        if self._closed:
            self._activity.pause(*(told(each, self._since[each.code]) for each in self.reasons))
        return not self._closed

    async def _until_next_check(self) -> None:
        first = self.closed
        wait = PAUSED_SECONDS if first and first.by == "you" else CHECK_SECONDS
        if first and first.until is not None:
            wait = max(0.0, min(wait, first.until - self._clock()))
        with trio.move_on_after(wait):
            await self.changed.wait()


def told(closed: Closed, since: float) -> Reason:
    """Return the reason as the status tells it; `since` in Unix time, seconds."""
    return Reason(
        code=closed.code, text=str(closed), since=since, until=closed.until, cure=closed.opens
    )
