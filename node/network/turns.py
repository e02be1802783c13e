"""Turns at something scarce: whoever waits gets one, its group in turn with the others.

Identities are free, so peers of one IP prefix are one group; a peer that this node knows, and one
whose prefix is not counted, is a group of its own.
"""

from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class Turns:
    """So many turns at once, of one thing."""

    def __init__(self, most: int, *, per_group: int) -> None:
        """per_group: turns that one group may have at once, however many are free."""
        self._free, self._per_group = most, per_group
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[trio.Event]] = {}
        """By group, in the order in which they come next."""

    async def take(self, group: str) -> None:
        """Wait for a turn and take it."""
        await trio.lowlevel.checkpoint()
        if self._may_take(group):
            self._give(group)
            return
        given = trio.Event()
        self._waiting.setdefault(group, deque()).append(given)
        try:
            await given.wait()
        except trio.Cancelled:
            self._withdraw(group, given)
            raise

    def leave(self, group: str) -> None:
        """Give a turn back: the group that waits for longest without one gets it."""
        self._free += 1
        self._held[group] -= 1
        if not self._held[group]:
            del self._held[group]
        following = next((each for each in self._waiting if self._may_take(each)), None)
        if following is None:
            return
        queue = self._waiting.pop(following)
        self._give(following)
        queue.popleft().set()
        if queue:
            self._waiting[following] = queue

    @asynccontextmanager
    async def turn(self, group: str) -> AsyncIterator[None]:
        """Hold a turn for the block."""
        await self.take(group)
        try:
            yield
        finally:
            self.leave(group)

    def _may_take(self, group: str) -> bool:
        return self._free > 0 and self._held[group] < self._per_group

    def _give(self, group: str) -> None:
        self._free -= 1
        self._held[group] += 1

    def _withdraw(self, group: str, given: trio.Event) -> None:
        if given.is_set():
            self.leave(group)
            return
        queue = self._waiting[group]
        queue.remove(given)
        if not queue:
            del self._waiting[group]
