"""The volunteer of one run: verify, then lease, fetch, train, submit, again and again.

Nothing is trained before the run's router spec was derived here from the public source and its
digest compared, and nothing of the next epoch before the same was done with its spec. REFUTED ends
the volunteer with a Refusal that no retry loop catches on its way up. What is merely away (a
source, the scheduler, a holder of blobs) is waited for, with a word on the activity that says so.
"""

import logging
from dataclasses import dataclass

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.node.jobs.runner import JobRunner
from dipaco.node.jobs.values import Answer, Failed, Materialise, PerformLease, Progress
from dipaco.node.kinds.table import kind_of, work_of
from dipaco.node.limits.gate import Gate
from dipaco.node.network.exchange import Exchange
from dipaco.node.network.rpc import Rpc
from dipaco.node.runs.store import RunRecord, RunStore
from dipaco.node.status.activity import Activity, left
from dipaco.node.status.document import TaskStatus
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import DiskFull
from dipaco.node.verification.verifier import Verifier
from dipaco.node.volunteer.inputs import Inputs
from dipaco.protocol.errors import (
    DipacoError,
    LeaseLost,
    Refusal,
    RemoteProtocolError,
    Unavailable,
)
from dipaco.protocol.routing.spec import RouterSpec, spec_digest
from dipaco.protocol.run.modules import ModuleDigest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.text import one_line
from dipaco.protocol.work.calls import (
    AskLease,
    Fallen,
    Granted,
    HandBack,
    Heartbeat,
    NoLease,
    Stands,
    Submit,
)
from dipaco.protocol.work.kinds import Lease, Result, TrainLease

log = logging.getLogger(__name__)

CALL_SECONDS = 10.0  # for a small question
SUBMIT_SECONDS = 600.0  # the scheduler pulls the blobs before it answers
RETRY_SECONDS = 1.0  # first wait for a scheduler that is away; doubles
MAX_RETRY_SECONDS = 15.0
GOODBYE_SECONDS = 2.0  # to hand back a lease on the way out
FAILURES = 5  # in a row, after which the node pauses
FAILURE_PAUSE_SECONDS = 60.0


@dataclass(frozen=True)
class VolunteerDeps:
    """What a volunteer works with; the daemon owns all of it."""

    key: Ed25519PrivateKey
    run_store: RunStore
    blobs: BlobStore
    exchange: Exchange
    rpc: Rpc
    worker: JobRunner
    activity: Activity
    verifier: Verifier
    gate: Gate
    """Under which the volunteer works: why it was cancelled."""
    heartbeat_seconds: float
    cache_max: int
    """How large the blob store may grow."""


class Volunteer:
    """Works for one run until cancelled, or until a Refusal."""

    def __init__(self, record: RunRecord, deps: VolunteerDeps) -> None:
        self._record = record
        self._deps = deps
        self._activity = deps.activity
        self._scheduler: PeerId = record.scheduler
        self._specs: list[RouterSpec] = []
        """Verified, of every epoch so far."""
        self._inputs = Inputs(
            record, deps.run_store, deps.blobs, deps.exchange, deps.worker, self._scheduler
        )
        self._failures = 0
        self._tasks = 0
        self._moments: dict[int, tuple[ModuleDigest, ...]] = {}
        """Per path those that were handed in last: the scheduler may still be fetching them."""
        self._last_path: int | None = None
        """The path that was trained last: most likely the next one, too."""
        self._prepared = False
        """Whether the shards of the first window were made."""

    async def run(self) -> None:
        """Verify the router, then work until cancelled; may be run again, and then goes on.

        Raises Refusal, and DiskFull once the lease is handed back.
        """
        wait = RETRY_SECONDS
        while True:
            try:
                await self._verify()
                lease = await self._ask()
                if lease is not None:
                    await self._work(lease)
                wait = RETRY_SECONDS
            except LeaseLost as lost:
                log.info("task %d lost: %s", self._tasks, lost)
            except DiskFull:
                raise  # Unavailable, too, but no matter of a scheduler that is away
            except (Unavailable, RemoteProtocolError) as away:
                self._activity.say("scheduler-away", problem=str(away), wait=wait)
                with trio.move_on_after(wait):
                    await self._deps.run_store.changed.wait()
                wait = min(2 * wait, MAX_RETRY_SECONDS)

    async def _verify(self) -> None:
        """Verify the specs that were adopted since; the first, if there is none yet."""
        while not self._specs or not self._up_to_date:
            epoch = len(self._specs)
            self._specs.append(await self._deps.verifier.verified_spec(self._record, epoch))

    @property
    def _up_to_date(self) -> bool:
        return len(self._specs) > self._record.state.epoch

    def _spec(self, lease: Lease) -> RouterSpec:
        """Return the verified spec that routes a lease; raises RemoteProtocolError."""
        epoch = self._record.manifest.epoch_of(work_of(lease).round)
        if epoch >= len(self._specs):
            raise RemoteProtocolError("the lease is of an epoch whose router was not verified")
        return self._specs[epoch]

    # ------------------------------------------------------------------ asking

    async def _ask(self) -> Lease | None:
        """Return a lease, or None after having waited as the scheduler said."""
        request = AskLease(run=self._record.run, spec=spec_digest(self._specs[-1]))
        reply = await self._deps.rpc.call(
            self._scheduler, request, Granted, NoLease, timeout=CALL_SECONDS
        )
        if isinstance(reply, Granted):
            self._check(reply.lease)
            return reply.lease
        if reply.code == "no-lease" and not self._prepared:
            await self._prepare()
            return None
        if not self._up_to_date:
            return None
        self._tell(reply)
        if self._last_path is not None and reply.code == "no-lease":
            with self._activity.timed("ahead"):
                found = await self._inputs.ahead(self._last_path)
            if found:
                return None  # that took a while: there may be work by now
        with trio.move_on_after(reply.retry_after):
            await self._deps.run_store.changed.wait()
        return None

    async def _prepare(self) -> None:
        """Use the first idle time to make the shards of the first window: round 1 begins with it.

        What goes wrong here goes wrong again, and is told, when a lease needs the shard.
        """
        self._prepared = True

        def on_progress(progress: Progress) -> None:
            self._activity.say(
                "preparing", done=progress.done, total=progress.total, left=left(progress)
            )

        job = Materialise(manifest=self._record.manifest, spec=self._specs[0], window=0)
        with self._activity.timed("materialise"):
            await self._deps.worker.run(job, on_progress)

    def _tell(self, reply: NoLease) -> None:
        rounds = self._record.manifest.training.rounds
        match reply.code:
            case "run-over":
                self._activity.say("run-over", round=rounds, rounds=rounds)
            case "not-admitted":
                self._activity.say("not-admitted")
            case _:
                self._activity.say("no-lease", why=reply.reason, wait=reply.retry_after)

    def _check(self, lease: Lease) -> None:
        """Hold a lease against manifest, spec and ledger; raises RemoteProtocolError."""
        manifest, view = self._record.manifest, self._record.state
        if (lease.run, lease.spec) != (self._record.run, spec_digest(self._spec(lease))):
            raise RemoteProtocolError("the lease is for another run or another spec")
        if lease.window >= manifest.source.windows:
            raise RemoteProtocolError("the lease is for a window that does not exist")
        kind_of(lease).check(view, lease)

    # ------------------------------------------------------------------ working

    async def _work(self, lease: Lease) -> None:
        """Do one lease to its end, whatever that is; raises LeaseLost, Unavailable, Refusal."""
        self._tasks += 1
        beat = _Beat(lease, self._deps, self._scheduler)
        failure: DipacoError | None = None
        ended = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(beat.run, nursery.cancel_scope)
                try:
                    await self._fetch(lease)
                    await self._hand_in(lease, await self._perform(lease, beat))
                except DipacoError as error:  # bare here, a group outside
                    failure = error
                nursery.cancel_scope.cancel()
            ended = failure is None
        finally:
            self._activity.task = None
            if not ended:
                reason = str(failure or beat.lost or self._deps.gate.closed or "stopped")
                if not (failure or beat.lost):
                    what = kind_of(lease).text(lease)
                    log.info("task %d (%s) handed back: %s", self._tasks, what, reason)
                await self._hand_back(lease, reason)
        if beat.lost:
            raise LeaseLost(beat.lost)
        if failure:
            raise failure
        self._make_room(lease)

    async def _fetch(self, lease: Lease) -> None:
        def on_bytes(done: int, total: int) -> None:
            path = work_of(lease).path
            self._activity.say("modules", done=done / 1e6, total=total / 1e6, path=path)

        with self._activity.timed("fetch"):
            await self._inputs.fetch(lease, on_bytes)

    async def _perform(self, lease: Lease, beat: "_Beat") -> Answer:
        job = PerformLease(manifest=self._record.manifest, spec=self._spec(lease), lease=lease)

        def on_progress(progress: Progress) -> None:
            beat.progress = progress
            self._show(lease, progress)

        with self._activity.timed(kind_of(lease).name):
            return await self._deps.worker.run(job, on_progress)

    def _show(self, lease: Lease, progress: Progress) -> None:
        kind, work = kind_of(lease), work_of(lease)
        self._activity.task = TaskStatus(
            kind=kind.name,
            path=work.path,
            round=work.round,
            stage=progress.stage,
            done=progress.done,
            total=progress.total,
            tokens_per_second=progress.tokens_per_second,
            loss=progress.loss,
        )
        if progress.stage == kind.stage:
            self._activity.say(
                "task",
                work=kind.text(lease),
                done=progress.done,
                total=progress.total,
                unit=progress.unit,
            )
        else:
            self._activity.say(
                "shard",
                path=work.path,
                done=progress.done,
                total=progress.total,
                left=left(progress),
            )

    # ------------------------------------------------------------------ results

    async def _hand_in(self, lease: Lease, answer: Answer) -> None:
        match answer:
            case Failed(kind="refused", reason=reason):
                raise Refusal(reason)
            case Failed(kind="disk", reason=reason):
                raise DiskFull(reason)
            case Failed(reason=reason):
                await self._failed(lease, reason)
            case _:
                assert isinstance(answer, Result), f"a lease is answered by {type(answer).__name__}"
                await self._submit(lease, answer)

    async def _failed(self, lease: Lease, reason: str) -> None:
        """Give the lease back at once; after some failures in a row, pause."""
        self._failures += 1
        log.error("task %d (%s) failed: %s", self._tasks, kind_of(lease).text(lease), reason)
        await self._hand_back(lease, reason)
        wait = FAILURE_PAUSE_SECONDS if self._failures >= FAILURES else RETRY_SECONDS
        self._activity.say("failures", count=self._failures, problem=reason, wait=wait)
        await trio.sleep(wait)

    async def _submit(self, lease: Lease, result: Result) -> None:
        """Hand in a result; a scheduler that is away is asked until it answers."""
        self._activity.say("submitting", work=kind_of(lease).text(lease))
        wait = RETRY_SECONDS
        with self._activity.timed("submit"):
            while True:
                try:
                    reply = await self._deps.rpc.call(
                        self._scheduler,
                        Submit(run=self._record.run, result=result),
                        Stands,
                        Fallen,
                        timeout=SUBMIT_SECONDS,
                    )
                    break
                except Unavailable as away:
                    log.info("result waits: %s", away)
                    await trio.sleep(wait)
                    wait = min(2 * wait, MAX_RETRY_SECONDS)
        if isinstance(reply, Fallen):
            self._activity.refused += 1
            raise LeaseLost(reply.reason)
        if isinstance(lease, TrainLease):
            self._last_path = lease.path
        if result.handed_over_later:
            self._moments[work_of(lease).path] = result.handed_over_later
        self._failures = 0
        self._activity.accepted += 1
        tokens, seconds = result.trained
        self._activity.tokens += tokens
        self._activity.train_seconds += seconds
        log.info("task %d %s accepted", self._tasks, kind_of(lease).summary(lease, result))

    async def _hand_back(self, lease: Lease, reason: str = "cannot go on") -> None:
        """Say that somebody else may have the work; best effort, also on the way out."""
        request = HandBack(run=self._record.run, token=lease.token, reason=one_line(reason))
        with trio.CancelScope(shield=True):
            try:
                await self._deps.rpc.call(self._scheduler, request, Stands, timeout=GOODBYE_SECONDS)
            except (Unavailable, Refusal, RemoteProtocolError) as error:
                log.debug("lease not handed back: %s", error)

    def _make_room(self, lease: Lease) -> None:
        """Keep the blob store within its bound; what comes next is fetched again if need be."""
        kept = set(lease.inputs)
        kept |= {each.digest for moments in self._moments.values() for each in moments}
        self._deps.blobs.prune(kept, self._deps.cache_max)


class _Beat:
    """Tells the scheduler that the work goes on, and ends the work when it no longer counts."""

    def __init__(self, lease: Lease, deps: VolunteerDeps, scheduler: PeerId) -> None:
        self._lease = lease
        self._deps = deps
        self._scheduler = scheduler
        self.progress: Progress | None = None
        self.lost = ""
        """Why the lease ended under us."""

    async def run(self, work: trio.CancelScope) -> None:
        while not self.lost:
            await trio.sleep(self._deps.heartbeat_seconds)
            try:
                reply = await self._deps.rpc.call(
                    self._scheduler, self._message(), Stands, Fallen, timeout=CALL_SECONDS
                )
            except (Unavailable, RemoteProtocolError) as away:
                # The lease may outlive a restart of the scheduler: the work goes on.
                log.info("heartbeat not answered: %s", away)
                continue
            if isinstance(reply, Fallen):
                self.lost = reply.reason
                work.cancel()

    def _message(self) -> Heartbeat:
        begun = self.progress is not None and self.progress.stage == kind_of(self._lease).stage
        now = self.progress if begun else None
        return Heartbeat(
            run=self._lease.run,
            token=self._lease.token,
            done=now.done if now else 0,
            total=now.total if now else 0,
            tokens_per_second=now.tokens_per_second if now else 0.0,
            loss=now.loss if now else None,
        )
