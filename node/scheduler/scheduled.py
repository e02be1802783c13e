"""The runs that a node schedules, each with the node's work for it, and which is the busiest."""

from collections.abc import Iterator
from dataclasses import dataclass

from dipaco.node.runs.record import RunRecord
from dipaco.node.scheduler.service import Scheduler
from dipaco.node.status.activity import Activity
from dipaco.node.status.document import State
from dipaco.protocol.wire.digest import Digest

RANKS: tuple[tuple[State, ...], ...] = (
    ("refused", "waiting"),  # nothing more will be done for such a run
    ("starting", "verifying"),
    ("serving",),
    ("training",),  # an outer step
    ("paused",),  # a full disk stops the writing of every run, so a person must hear of it
)


@dataclass
class ScheduledRun:
    """One run that this node schedules."""

    record: RunRecord
    activity: Activity
    """Of this run; of the whole node, if it schedules no other."""
    scheduler: Scheduler | None = None
    """None before the run's router is derived."""
    failed: bool = False
    """Whether it cannot be scheduled; the other runs go on."""

    @property
    def held(self) -> int:
        """The number of leases that volunteers hold."""
        return len(self.scheduler.schedule.grants) if self.scheduler else 0


class ScheduledRuns:
    """All runs that this node schedules, in the order in which it took them up."""

    def __init__(self) -> None:
        self._runs: dict[Digest, ScheduledRun] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[ScheduledRun]:
        return iter(self._runs.values())

    def __contains__(self, run: Digest) -> bool:
        return run in self._runs

    def add(self, record: RunRecord, activity: Activity) -> ScheduledRun:
        """Take up one more run."""
        made = self._runs[record.run] = ScheduledRun(record, activity)
        return made

    def busiest(self) -> ScheduledRun | None:
        """Return the run whose state is the node's; None if there is no run."""
        return max(self, key=lambda each: (rank(each.activity.state), each.held), default=None)


def rank(state: State) -> int:
    """Return how much a state says about a scheduler of several runs; the highest is shown."""
    return next((place for place, states in enumerate(RANKS) if state in states), 0)
