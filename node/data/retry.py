"""Trying again what a network broke: with back-off, and for a bounded time.

Only what may pass is tried again (`Broken`). Whoever asked gets `Unavailable` in the end, and its
own caller decides how much later to start anew: the node's verifier never gives up.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from dipaco.protocol.errors import Unavailable

T = TypeVar("T")

FIRST_PAUSE = 0.5  # seconds
LONGEST_PAUSE = 30.0
LONGEST_WAIT_ASKED = 120.0  # seconds of a Retry-After that are waited; asked for more, we give up


class Broken(Exception):
    """The connection broke, or the server asks to come again: it may pass."""

    def __init__(self, reason: str, *, retry_after: float = 0.0, some: bool = False) -> None:
        """retry_after: seconds that the server asks for; some: whether anything came before."""
        super().__init__(reason)
        self.retry_after, self.some = retry_after, some


@dataclass(frozen=True)
class RetryPolicy:
    """How long to try again; clock and sleep are a test's to replace."""

    limit: float = 180.0
    """Seconds without a byte after which we give up."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def retry(self, attempt: Callable[[], T], what: str) -> T:
        """Return what `attempt` returns, trying again while it raises Broken.

        what   begins the message of the Unavailable that is raised in the end.
        """
        since, pause = self.clock(), FIRST_PAUSE
        while True:
            began = self.clock()
            try:
                return attempt()
            except Broken as error:
                if error.some:
                    since, pause = began, FIRST_PAUSE
                wait = max(error.retry_after, pause * random.uniform(0.5, 1.0))
                if (
                    self.clock() + wait - since > self.limit
                    or error.retry_after > LONGEST_WAIT_ASKED
                ):
                    raise Unavailable(f"{what}: {error}") from error
            self.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE)
