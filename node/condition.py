"""A condition: wakes everybody who waits for something to have changed; they look for themselves.

trio.Condition would do, with its lock held around each look: nothing here awaits between a look
and its `wait`, so that no lock is needed, and whoever notifies need not be async.
"""

import trio


class Condition:
    """Waiting never misses a `notify` after the look: look, then `wait` with no await between."""

    def __init__(self) -> None:
        self._changed = trio.Event()

    def notify(self) -> None:
        """Wake all who wait now."""
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def wait(self) -> None:
        """Return at the next `notify`."""
        await self._changed.wait()
