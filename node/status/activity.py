"""The node's current activity and its reason; status, log and messages all read it here.

Each run has a state of its own (`RunActivity`), and the node has one for what concerns no single
run. The node shows the state that counts most: see `Activity.foremost`.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from msgspec.structs import replace

from dipaco.node.condition import Condition
from dipaco.node.jobs.values import Progress
from dipaco.node.status.document import (
    Reason,
    StageTime,
    TaskStatus,
    Verdict,
    reason,
    state_of,
)
from dipaco.node.status.event_log import EventLog
from dipaco.node.status.events import State
from dipaco.node.status.history import History
from dipaco.node.status.pace import Pace
from dipaco.node.status.tasks import Tasks
from dipaco.node.status.totals import Sums
from dipaco.protocol.numbers import amount, span
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.calls import Held

log = logging.getLogger(__name__)


_STEPS: Final = frozenset({"fetching", "training"})
_QUIET: Final = frozenset({"asking"})
"""Codes that come with every task: their text is logged at DEBUG, as that of steps."""
_FINAL: Final = frozenset({"paused", "stopping"})
"""States of the whole node that no run's state covers."""
_BUSY: Final[tuple[State, ...]] = (
    "paused",
    "training",
    "fetching",
    "serving",
    "verifying",
    "waiting",
    "refused",
)
"""States of runs, the one that a node of several runs is named by first."""


def so_far(progress: Progress) -> str:
    """Return `: 12 of 25 steps, 8 s left`, as far as it is known; else an empty string."""
    done = amount(progress.done, progress.total, progress.unit)
    rest, per_second = progress.total - progress.done, progress.per_second
    left = f", {span(rest / per_second)} left" if rest > 0 and per_second > 0 else ""
    return f": {done}{left}" if done else ""


class CurrentState:
    """A state with its reason, and what else holds beside it."""

    def __init__(
        self, entered: Callable[["CurrentState"], None], changed: Callable[[], None]
    ) -> None:
        """Set the hooks.

        entered   is called whenever the state or its reason is told.
        changed   whenever a reason beside it begins or ends.
        """
        self._entered, self._changed = entered, changed
        self.own_state: State = "starting"
        self.own_reason: Reason = reason("starting", time.time())
        self._others: tuple[Reason, ...] = ()
        """What pauses the work, too."""
        self._beside: dict[str, Reason] = {}

    def say(self, code: str, **values: object) -> None:
        """Enter the state of `code`; its text is logged once per change of code.

        Steps of a task are logged at DEBUG, since the task has its own line at INFO.
        """
        self._enter(state_of(code), reason(code, time.time(), **values))

    def pause(self, first: Reason, *others: Reason) -> None:
        """Enter the state `paused` for the reasons of limits (`limits/gate.py`)."""
        self._enter("paused", first, others)

    def say_beside(self, code: str, **values: object) -> None:
        """Add a reason that holds while the work goes on; its text is logged once."""
        new = reason(code, time.time(), **values)
        known = self._beside.get(code)
        if known is None and self.own_reason.code != code:
            log.info("%s: %s", new.code, new.text)
            self._tell(self.own_state, new)
        self._beside[code] = replace(new, since=known.since) if known else new
        if known is None:
            self._changed()

    def no_longer(self, code: str) -> None:
        """Drop a reason that `say_beside` added; that it has ended is logged once."""
        ended = self._beside.pop(code, None)
        if ended is not None:
            log.info("%s: over after %s", code, span(time.time() - ended.since))
            self._changed()

    def _tell(self, state: State, new: Reason) -> None:
        """Tell the events that a reason begins to hold."""

    @property
    def own_reasons(self) -> tuple[Reason, ...]:
        """The reason of the state, then those beside it."""
        beside = (each for code, each in self._beside.items() if code != self.own_reason.code)
        return (self.own_reason, *self._others, *beside)

    def _enter(self, state: State, new: Reason, others: tuple[Reason, ...] = ()) -> None:
        beside = self._beside.get(new.code)
        if new.code == self.own_reason.code:
            new = replace(new, since=self.own_reason.since)
        elif beside is not None:  # told before, beside the work
            new = replace(new, since=beside.since)
        else:
            quiet = state in _STEPS or new.code in _QUIET
            level = logging.DEBUG if quiet else logging.INFO
            log.log(level, "state %s: %s", new.code, new.text)
            if not quiet:
                self._tell(state, new)
        self.own_state, self.own_reason, self._others = state, new, others
        self._entered(self)


class RunActivity(CurrentState):
    """What the node does for one run, and what it knows of the others' work."""

    def __init__(self, node: "Activity", run: Digest) -> None:
        super().__init__(node.entered, node.note)
        self._node, self._run = node, run.hex()
        self.task: TaskStatus | None = None
        self.verdict: Verdict = "unverified"
        self.stage = ""
        """The first stage at which a refuted spec differs from ours."""
        self.verdict_reason = ""
        """Why the verdict is as it is; empty: there is none."""
        self.leases = 0
        """Leases that stand, if this node schedules the run."""
        self.held: tuple[Held, ...] = ()
        """The leases and results of all peers, as the run's scheduler told last."""
        self.held_time: float | None = None
        """When it told, Unix time, seconds; None: never."""
        self.queued: tuple[int, int] | None = None
        """This node's place among those that wait for work, and how many wait; None: it does not.
        """
        self.lease_until: float | None = None
        """When the lease in work ends without another heartbeat, Unix time, seconds."""
        self.pace = Pace()

    def _tell(self, state: State, new: Reason) -> None:
        self._node.event_log.add("state", new.code, new.text, run=self._run, state=state)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the time of the block as spent in `stage`."""
        with self._node.timed(stage):
            yield

    @property
    def sums(self) -> Sums:
        """The node's sums."""
        return self._node.sums

    @property
    def tasks(self) -> Tasks:
        """The node's tasks."""
        return self._node.tasks

    def learn(self, held: tuple[Held, ...]) -> None:
        """Take up what the run's scheduler tells of the others' work."""
        self.held, self.held_time = held, time.time()


class Activity(CurrentState):
    """The states of a node and of its runs, the time spent in every stage, and the sums."""

    def __init__(
        self,
        *,
        worked: Callable[[], None] = lambda: None,
        sums: Sums | None = None,
        event_log: EventLog | None = None,
        history: History | None = None,
    ) -> None:
        """Set the hook `worked`, which is called at the end of every timed piece of work.

        history   is told of every change of the reasons.
        """
        super().__init__(self.entered, self.note)
        self._worked = worked
        self.history = history or History()
        self.sums = sums or Sums()
        self.event_log = event_log or EventLog()
        self.tasks = Tasks(self.event_log)
        self.runs: dict[Digest, RunActivity] = {}
        self._latest: CurrentState = self
        self.told = Condition()
        """Notified whenever a state or its reason is told."""
        self._spent: defaultdict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))

    def of(self, run: Digest) -> RunActivity:
        """Return the activity of a run."""
        if run not in self.runs:
            self.runs[run] = RunActivity(self, run)
        return self.runs[run]

    def _tell(self, state: State, new: Reason) -> None:
        self.event_log.add("state", new.code, new.text, state=state)

    def entered(self, told: CurrentState) -> None:
        """Note which state was told last."""
        self._latest = told
        self.note()
        self.told.notify()

    def note(self) -> None:
        """Keep the reasons that hold now."""
        self.history.note(self.state, self.reasons)

    @property
    def by_busyness(self) -> list[Digest]:
        """The runs, the busiest first: by state, then by the leases that stand."""
        return sorted(self.runs, key=lambda run: _rank(self.runs[run]))

    @property
    def foremost(self) -> CurrentState:
        """The state that the node shows.

        It is the node's own if that was told last, or if no run's state covers it; else that
        of the busiest run.
        """
        if self._latest is self or self.own_state in _FINAL or not self.runs:
            return self
        return self.runs[self.by_busyness[0]]

    @property
    def state(self) -> State:
        """The node's state."""
        return self.foremost.own_state

    @property
    def reason(self) -> Reason:
        """The reason of that state."""
        return self.foremost.own_reason

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """All reasons that hold, that of the state first."""
        return self.foremost.own_reasons

    @property
    def task(self) -> TaskStatus | None:
        """The current work; of several runs, that of the busiest."""
        tasks = (self.runs[run].task for run in self.by_busyness)
        return next((task for task in tasks if task is not None), None)

    @property
    def verdict(self) -> Verdict:
        """The verdict on the router of the busiest run."""
        runs = self.by_busyness
        return self.runs[runs[0]].verdict if runs else "unverified"

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

    def stages(self) -> tuple[StageTime, ...]:
        """Return the time spent in every stage since the start."""
        return tuple(
            StageTime(stage=stage, seconds=seconds, count=count)
            for stage, (seconds, count) in self._spent.items()
        )


def _rank(run: RunActivity) -> tuple[int, int]:
    known = run.own_state in _BUSY
    return _BUSY.index(run.own_state) if known else len(_BUSY), -run.leases
