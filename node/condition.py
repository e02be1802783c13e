"""A bell: wakes everybody who waits for something to have changed; they look for themselves."""

import trio


class Condition:
    """Waiting never misses a ring that follows the look: look, then `wait` without an await."""

    def __init__(self) -> None:
        self._rung = trio.Event()

    def notify(self) -> None:
        """Wake all who wait now."""
        rung, self._rung = self._rung, trio.Event()
        rung.set()

    async def wait(self) -> None:
        """Return at the next ring."""
        await self._rung.wait()
