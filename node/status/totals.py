"""The node's sums over all its starts: kept in the journal, written by one object alone.

They are saved when a task has ended, every `SAVE_SECONDS` if they changed, and at the end: never
for a heartbeat or a status. A kill loses the traffic of the last minute, and no task.
"""

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import trio
from msgspec.structs import asdict, replace

from dipaco.node.status.document import Totals
from dipaco.node.storage.journal import Journal
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.work.credits import loss_fall
from dipaco.protocol.work.run_state import RunState

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

SAVE_SECONDS = 60.0
THREAD_WATTS = 8.0  # a desktop processor of 65 W has 8 threads
GPU_WATTS = 200.0  # between the 120 W and the 350 W of the cards that people have
MAX_UNJUDGED = 1024  # rounds that wait for their loss; the oldest are forgotten
NOTHING = Totals(accepted=0, refused=0, tokens=0, seconds=0.0, sent=0, received=0)


def estimated_watts(device: str, threads: int) -> float:
    """Return the power that training draws on a device, as `cpu` or `cuda:0`: a rough guess."""
    return THREAD_WATTS * threads if device == "cpu" else GPU_WATTS


class Sums:
    """Counts what the node did, since its first start."""

    def __init__(
        self,
        journal: Journal | None = None,
        traffic: Callable[[], tuple[int, int]] = lambda: (0, 0),
        watts: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Go on where `journal` ends; None: nothing is kept.

        traffic   returns the bytes sent and received since this start.
        watts     returns what the device draws in inner steps, as `estimated_watts` has it.
        """
        self._journal, self._traffic, self._watts = journal, traffic, watts
        known = journal.totals() if journal else {}
        names = Totals.__struct_fields__
        found = {name: amount for name, amount in known.items() if name in names}
        self._before = self._saved = replace(NOTHING, **found)
        self._unjudged: deque[tuple[RunState, int, int]] = deque(maxlen=MAX_UNJUDGED)
        """The accepted rounds whose losses the ledger has not told of: run, path, round."""

    def now(self) -> Totals:
        """Return the sums."""
        self._judge()
        sent, received = self._traffic()
        before = self._before
        return replace(before, sent=before.sent + sent, received=before.received + received)

    def accept(self, tokens: int, seconds: float) -> None:
        """Count a task whose result was accepted, and save."""
        before = self._before
        self._before = replace(
            before,
            accepted=before.accepted + 1,
            tokens=before.tokens + tokens,
            seconds=before.seconds + seconds,
            estimated_wh=before.estimated_wh + seconds * self._watts() / 3600,
        )
        self.save()

    def trained(self, state: RunState, path: int, round_: int) -> None:
        """Note an accepted round of a path: its loss is known once the ledger tells of it."""
        self._unjudged.append((state, path, round_))

    def _judge(self) -> None:
        """Count by how much the losses fell that the ledger tells of by now."""
        for _ in range(len(self._unjudged)):
            state, path, round_ = self._unjudged.popleft()
            before, after = (state.evaluations.get((v, path)) for v in (round_ - 1, round_))
            if before is None or after is None:
                self._unjudged.append((state, path, round_))
                continue
            fell = loss_fall(before.evaluation, after.evaluation)
            self._before = replace(self._before, improvement=self._before.improvement + fell)

    def refuse(self) -> None:
        """Count a task whose result was refused, and save."""
        self._before = replace(self._before, refused=self._before.refused + 1)
        self.save()

    def save(self) -> None:
        """Save what changed; on a full disk it is saved later, since no work depends on it."""
        now = self.now()
        if self._journal is None or now == self._saved:
            return
        try:
            self._journal.save_totals(asdict(now))
            self._saved = now
        except Unavailable as full:
            log.debug("sums not saved: %s", full)

    async def run(self, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Save from time to time, and at the end."""
        task_status.started()
        await save_regularly(self.save)


async def save_regularly(save: Callable[[], None]) -> NoReturn:
    """Save every `SAVE_SECONDS`, and once more when cancelled."""
    try:
        while True:
            await trio.sleep(SAVE_SECONDS)
            save()
    finally:
        save()
