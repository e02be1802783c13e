"""The work of one lease, from its inputs to its result in the scheduler's hands.

Its inner steps wait for their turn: one lease at a time is worked on (`held_leases`). What is done
for it beside another lease is counted as such, and the status tells of the other one.

A lease that is not carried to its end is handed back on the way out, whatever the reason: a
failure, a gate that closes, a node that leaves.
"""

import logging
from contextlib import AbstractContextManager

import trio

from dipaco.node.jobs.values import Answer, Failed, Materialise, PerformLease, Progress
from dipaco.node.kinds.table import kind_of, work_of
from dipaco.node.status.activity import so_far
from dipaco.node.status.document import TaskStatus
from dipaco.node.status.events import Outcome
from dipaco.node.storage.files import DiskFull
from dipaco.node.volunteer.deps import VolunteerDeps
from dipaco.node.volunteer.heartbeat import Heartbeats
from dipaco.node.volunteer.held_leases import HeldLease, HeldLeases
from dipaco.node.volunteer.inputs import Inputs
from dipaco.node.volunteer.scheduler_link import RETRY_SECONDS, SchedulerLink
from dipaco.protocol.errors import DipacoError, LeaseLost, NoDevice, Refusal, Unavailable
from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.work.calls import Fallen
from dipaco.protocol.work.kinds import Lease, Result, TrainLease

log = logging.getLogger(__name__)

BESIDE = "beside"
"""The stage of all that is done for one lease while another is worked on."""


class JobFailed(DipacoError):
    """The worker process could not do the work of a lease; the lease is handed back."""


class ResultRefused(LeaseLost):
    """The scheduler did not take the result of a lease."""


class LeaseWork:
    """Does one lease."""

    def __init__(
        self,
        lease: Lease,
        manifest: Manifest,
        spec: RouterSpec,
        link: SchedulerLink,
        deps: VolunteerDeps,
        leases: HeldLeases,
        *,
        ahead: bool,
    ) -> None:
        """Take the lease into `leases`.

        spec    that routes the lease's documents.
        ahead   whether it was asked for while another lease was worked on.
        """
        self._lease = lease
        self._job = PerformLease(manifest=manifest, spec=spec, lease=lease)
        self._link, self._deps, self._activity = link, deps, deps.activity
        self._heartbeats = Heartbeats(lease, link, deps.heartbeat_seconds)
        self._leases, self.held = leases, HeldLease(lease, self._heartbeats, ahead)
        leases.take(self.held)
        self._kind, self._work = kind_of(lease), work_of(lease)
        self.text: str = self._kind.text(lease)
        self.number = deps.activity.tasks.begin(
            run=lease.run.hex(),
            name=manifest.name,
            kind=self._kind.name,
            path=self._work.path,
            round_=self._work.round,
        )

    async def run(self, inputs: Inputs) -> Result:
        """Return the result, once the scheduler has accepted it.

        Raises LeaseLost when the lease no longer stands, JobFailed, NoDevice, Refusal, Unavailable,
        DiskFull.
        """
        result: Result | None = None
        failure: DipacoError | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._heartbeats.run)
                try:
                    result = await self._do(inputs)
                except DipacoError as error:  # bare here, a group outside
                    failure = error
                nursery.cancel_scope.cancel()
        finally:
            if self._in_front:
                self._activity.task = None
            self._end_task(result, failure)
            if result is None:
                await self._hand_back(failure)
        if failure:
            raise failure
        assert result is not None
        return result

    async def _do(self, inputs: Inputs) -> Result:
        """Return the result, once it was accepted. A lost lease ends all but the making of shards.

        A window that is half made would be lost with the worker process, and the next lease would
        begin with nothing again.
        """
        self._say("begun", work=self.text)
        with self._heartbeats.standing():
            await self._fetch(inputs)
        self._say("begun", work=self.text)
        await self._make_shards()
        with self._heartbeats.standing():
            return await self._submit(await self._in_turn())

    async def _in_turn(self) -> Result:
        """Return the result of the work, once it had its turn; raises as `run`."""
        async with self._leases.turn:
            if self._leases.no_device:
                raise NoDevice(self._leases.no_device)
            if self.held.ahead:  # ending the work later would cost the worker process
                if self._deps.orders.finishing:
                    raise LeaseLost("no new lease is begun, as you asked with finish")
                await self._heartbeats.beat()
                if self._heartbeats.lost:
                    raise LeaseLost(self._heartbeats.lost)
            self._leases.enter(self.held, "works")
            try:
                self.held.result = _result_in(await self._perform())
            except NoDevice as missing:
                self._leases.no_device = str(missing)
                raise
            self._leases.enter(self.held, "hands in")
        return self.held.result

    @property
    def _in_front(self) -> bool:
        """Whether the status tells of this lease."""
        return self._leases.front is self.held

    def _say(self, code: str, **values: object) -> None:
        if self._in_front:
            self._activity.say(code, **values)

    def _timed(self, stage: str) -> AbstractContextManager[None]:
        return self._activity.timed(stage if self._in_front else BESIDE)

    def _end_task(self, result: Result | None, failure: DipacoError | None) -> None:
        """Write down how the task ended."""
        outcome: Outcome = "accepted" if result else _outcome(failure)
        reason = "" if result else str(failure or self._why_cancelled())
        self._activity.tasks.end(self.number, outcome, self.text, reason)

    def _why_cancelled(self) -> str:
        return str(self._deps.gate.closed or "stopped")

    async def _hand_back(self, failure: DipacoError | None) -> None:
        if self._heartbeats.lost:
            return
        reason = str(failure or "")
        if not reason:  # the work was cancelled
            reason = self._why_cancelled()
            log.info("task %d (%s) handed back: %s", self.number, self.text, reason)
        await self._link.hand_back(self._lease, reason)

    async def _fetch(self, inputs: Inputs) -> None:
        def on_bytes(done: int, total: int) -> None:
            progress = Progress(stage="fetch", done=done, total=total, unit="bytes")
            self._say("modules", progress=so_far(progress), path=self._work.path)
            self._leases.got_on(self.held)
            self._activity.tasks.note(self.number, received=done)

        self._note_stage("fetch")
        with self._timed("fetch"):
            await inputs.fetch(self._lease, on_bytes)

    def _note_stage(self, stage: str, progress: Progress | None = None) -> None:
        if not self._in_front:
            return
        self._activity.task = TaskStatus(
            kind=self._kind.name,
            path=self._work.path,
            round=self._work.round,
            stage=stage,
            done=progress.done if progress else 0,
            total=progress.total if progress else 0,
            unit=progress.unit if progress else "",
            tokens_per_second=progress.tokens_per_second if progress else 0.0,
            loss=progress.loss if progress else None,
        )

    async def _make_shards(self) -> None:
        """Have the shards of the lease's window in the cache."""
        job = Materialise(
            manifest=self._job.manifest, spec=self._job.spec, window=self._lease.window
        )
        with self._timed("materialise"):
            raise_failure(await self._deps.worker.run(job, self._show))

    async def _perform(self) -> Answer:
        self._note_stage("start")
        self._say("task", work=self.text, progress="")
        with self._timed(self._kind.name):
            return await self._deps.worker.run(self._job, self._show)

    def _show(self, progress: Progress) -> None:
        self._heartbeats.report(progress)
        self._note_progress(progress)
        self._leases.got_on(self.held)
        self._note_stage(progress.stage, progress)
        if progress.stage == self._kind.stage:
            self._say("task", work=self.text, progress=so_far(progress))
        else:
            self._say("shard", path=self._work.path, progress=so_far(progress))

    def _note_progress(self, progress: Progress) -> None:
        if progress.unit == "steps":
            self._activity.tasks.note(
                self.number,
                steps=progress.done,
                tokens_per_second=progress.tokens_per_second,
                loss=progress.loss,
            )

    async def _submit(self, result: Result) -> Result:
        """Hand in a result; a scheduler that is away is asked until it answers."""
        wait = RETRY_SECONDS
        self._note_stage("submit")
        self._say("submitting", work=self.text)
        with self._timed("submit"):
            while True:
                try:
                    reply = await self._link.submit(self._lease, result)
                    break
                except Unavailable as away:
                    if self._in_front:
                        self._link.say_away(away, wait)
                    else:
                        self._link.say_away_beside(away, wait)
                    wait = await self._link.pause_while_away(wait)
        if isinstance(reply, Fallen):
            self._activity.sums.refuse()
            raise ResultRefused(reply.reason)
        self._count(result)
        return result

    def _count(self, result: Result) -> None:
        tokens, seconds = result.trained
        self._activity.sums.accept(tokens, seconds)
        record = self._deps.run_store.runs.get(self._lease.run)
        if isinstance(self._lease, TrainLease) and record is not None:
            self._activity.sums.trained(record.state, self._lease.path, self._lease.round)
        blobs = self._deps.blobs
        sent = sum(blobs.size(each) for each in result.digests if blobs.has(each))
        self._activity.tasks.note(self.number, sent=sent)
        log.info("task %d %s accepted", self.number, self._kind.summary(self._lease, result))


def _outcome(failure: DipacoError | None) -> Outcome:
    """Return how a task without an accepted result ended; None: it was cancelled."""
    match failure:
        case ResultRefused():
            return "refused"
        case LeaseLost():
            return "lost"
        case JobFailed() | NoDevice() | DiskFull():
            return "failed"
        case _:
            return "handed-back"


def raise_failure(answer: Answer) -> None:
    """Raise the failure that a worker process answers with, if it does."""
    match answer:
        case Failed(kind="refused", reason=reason):
            raise Refusal(reason)
        case Failed(kind="disk", reason=reason):
            raise DiskFull(reason)
        case Failed(kind="device", reason=reason):
            raise NoDevice(reason)
        case Failed(reason=reason):
            raise JobFailed(reason)


def _result_in(answer: Answer) -> Result:
    """Return the result that a worker process answers with, or raise its failure."""
    raise_failure(answer)
    assert isinstance(answer, Result), f"a lease is answered by {type(answer).__name__}"
    return answer
