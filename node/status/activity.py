"""The node's current activity and its reason; status, log and messages all read it here."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from msgspec.structs import replace

from dipaco.node.jobs.values import Progress
from dipaco.node.status.document import (
    Reason,
    StageTime,
    State,
    TaskStatus,
    Totals,
    Verdict,
    reason,
    state_of,
)

log = logging.getLogger(__name__)


_STEPS: Final = frozenset({"fetching", "training"})


def left(progress: Progress) -> str:
    """Return `, 12 s left`, or an empty string if the time is not known."""
    rest, per_second = progress.total - progress.done, progress.per_second
    return f", {rest / per_second:.0f} s left" if rest > 0 and per_second > 0 else ""


class Activity:
    """State and reason, the current task, the verdict, and sums since the start."""

    def __init__(self, *, worked: Callable[[], None] = lambda: None) -> None:
        """Set the hook `worked`, which is called at the end of every timed piece of work."""
        self._worked = worked
        self._about = ""
        """In front of the text in the log: the run, if there are several."""
        self.state: State = "starting"
        """The state that the reason belongs to."""
        self.reason: Reason = reason("starting", time.time())
        self.task: TaskStatus | None = None
        self.verdict: Verdict = "unverified"
        self.stage = ""
        """The first stage at which a refuted spec differs from ours."""
        self.accepted = 0
        self.refused = 0
        self.tokens = 0
        self.train_seconds = 0.0
        self._spent: defaultdict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))

    def for_run(self, name: str) -> "Activity":
        """Return the activity of one run among several; the time spent is counted here too."""
        made = Activity(worked=self._worked)
        made._about, made._spent = f"{name}: ", self._spent
        return made

    def begin_run(self, verdict: Verdict) -> None:
        """Forget the run before; `verdict` is what this node knows of its new one."""
        self.task, self.verdict, self.stage = None, verdict, ""

    def say(self, code: str, **values: object) -> None:
        """Enter the state of `code`; its text is logged once per change of code.

        Steps of a task are logged at DEBUG, since the task has its own line at INFO.
        """
        self._enter(state_of(code), reason(code, time.time(), **values))

    def pause(self, code: str, text: str) -> None:
        """Enter the state `paused` for a limit's reason (`limits/gate.py`)."""
        self._enter("paused", Reason(code=code, text=text, since=time.time()))

    def _enter(self, state: State, new: Reason) -> None:
        if new.code == self.reason.code:
            new = replace(new, since=self.reason.since)
        else:
            level = logging.DEBUG if state in _STEPS else logging.INFO
            log.log(level, "state %s: %s%s", new.code, self._about, new.text)
        self.state, self.reason = state, new

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the time of the block as spent in `stage`."""
        start = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - start
            seconds, count = self._spent[stage]
            self._spent[stage] = (seconds + took, count + 1)
            log.debug("stage %s seconds=%.3f", stage, took)
            self._worked()

    def totals(self) -> Totals:
        """Return the sums since the start."""
        return Totals(
            accepted=self.accepted,
            refused=self.refused,
            tokens=self.tokens,
            seconds=self.train_seconds,
        )

    def stages(self) -> tuple[StageTime, ...]:
        """Return the time spent in every stage since the start."""
        return tuple(
            StageTime(stage=stage, seconds=seconds, count=count)
            for stage, (seconds, count) in self._spent.items()
        )
