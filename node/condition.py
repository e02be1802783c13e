"""A condition: it wakes all tasks that wait for a change, and each checks its own predicate.

Unlike trio.Condition it needs no lock, and whoever notifies need not be async.
"""

import trio


class Condition:
    """Tasks wait on it for the next `notify`.

    Check the predicate and call `wait` with no await in between: then no `notify` is missed.
    """

    def __init__(self) -> None:
        self._notified = trio.Event()

    def notify(self) -> None:
        """Wake all tasks that wait now."""
        notified, self._notified = self._notified, trio.Event()
        notified.set()

    async def wait(self) -> None:
        """Return at the next `notify`."""
        await self._notified.wait()
