"""Retries after a network failure, with back-off, for a bounded time.

Only a failure that may pass is retried (`Broken`). Every wait is told with its cause and the time
until the retries end. Then the caller gets `Unavailable` and decides when to start again; the
node's verifier does so without end.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from dipaco.node.jobs.meter import OnProgress, silent
from dipaco.node.jobs.values import Progress
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.wire.text import one_line

T = TypeVar("T")

FIRST_PAUSE = 0.5  # seconds
LONGEST_PAUSE = 30.0
TOLD_EVERY = 1.0
LONGEST_WAIT_ASKED = 120.0  # seconds of a Retry-After that are waited; a longer one ends the retry


class Broken(Exception):
    """The connection broke, or the server asks for a later request: a retry may succeed."""

    def __init__(self, reason: str, *, retry_after: float = 0.0, some: bool = False) -> None:
        """retry_after: seconds that the server asks for; some: whether any bytes had come."""
        super().__init__(reason)
        self.retry_after, self.some = retry_after, some


@dataclass(frozen=True)
class RetryPolicy:
    """The time limit of retries; tests replace clock and sleep."""

    limit: float = 180.0
    """Seconds without a byte after which the retry ends."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    on_progress: OnProgress = silent
    """Gets the seconds of every wait, of all seconds until the retries end, and its cause."""

    def telling(self, on_progress: OnProgress) -> "RetryPolicy":
        """Return the same policy, which tells its waits to `on_progress`."""
        return replace(self, on_progress=on_progress)

    def retry(self, attempt: Callable[[], T], what: str) -> T:
        """Call `attempt` again while it raises Broken; return its result.

        what   begins the message of the Unavailable that is raised at the limit.
        """
        since, pause = self.clock(), FIRST_PAUSE
        while True:
            began = self.clock()
            try:
                return attempt()
            except Broken as error:
                cause = str(error)
                if error.some:
                    since, pause = began, FIRST_PAUSE
                wait = max(error.retry_after, pause * random.uniform(0.5, 1.0))
                if (
                    self.clock() + wait - since > self.limit
                    or error.retry_after > LONGEST_WAIT_ASKED
                ):
                    raise Unavailable(f"{what}: {error}") from error
            self._wait(wait, since, f"{what}: {cause}")
            pause = min(2 * pause, LONGEST_PAUSE)

    def _wait(self, seconds: float, since: float, cause: str) -> None:
        """Sleep, and tell that once a second; `since`: when the time limit began."""
        until = self.clock() + seconds
        note = one_line(f"{cause}; trying again in {seconds:.0f} s")
        while (left := until - self.clock()) > 0:
            waited = Progress(
                stage="retry",
                done=int(self.clock() - since),
                total=int(self.limit),
                unit="s",
                per_second=1.0,
                note=note,
            )
            self.on_progress(waited)
            self.sleep(min(left, TOLD_EVERY))
