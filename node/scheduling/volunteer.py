"""The volunteer of one run: verify, then lease, fetch, train, submit, again and again.

Nothing is trained before the run's router spec was derived here from the public source and its
digest compared, and nothing of the next epoch before the same was done with its spec. REFUTED ends
the volunteer with a Refusal that no retry loop catches on its way up. What is merely away (a
source, the scheduler, a holder of blobs) is waited for, with a word on the board that says so.
"""

import logging
import math
from dataclasses import dataclass

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.node.catalogue import Catalogue, RunRecord
from dipaco.node.network.exchange import Exchange
from dipaco.node.network.rpc import Rpc
from dipaco.node.room import Room
from dipaco.node.scheduling.inputs import Inputs, version_of
from dipaco.node.scheduling.verification import Verifier
from dipaco.node.status.activity import Activity, left
from dipaco.node.status.document import TaskStatus
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import DiskFull
from dipaco.node.training.jobs import (
    Answer,
    Evaluate,
    Evaluated,
    Failed,
    Materialise,
    Progress,
    Score,
    Scored,
    Train,
    Trained,
)
from dipaco.node.training.worker import JobRunner
from dipaco.protocol.errors import (
    DipacoError,
    LeaseLost,
    Refusal,
    RemoteProtocolError,
    Unavailable,
)
from dipaco.protocol.identity import PeerId
from dipaco.protocol.lease import Evaluation, Lease, ModuleDigest, Sheet, Submission
from dipaco.protocol.spec import RouterSpec, spec_digest
from dipaco.protocol.topology import ModuleId
from dipaco.protocol.words import one_line
from dipaco.protocol.work import (
    AskLease,
    Fallen,
    Granted,
    HandBack,
    Heartbeat,
    NoLease,
    Stands,
    Submit,
)

log = logging.getLogger(__name__)

CALL_SECONDS = 10.0  # for a small question
SUBMIT_SECONDS = 600.0  # the scheduler pulls the blobs before it answers
RETRY_SECONDS = 1.0  # first wait for a scheduler that is away; doubles
MAX_RETRY_SECONDS = 15.0
GOODBYE_SECONDS = 2.0  # to hand back a lease on the way out
FAILURES = 5  # in a row, after which the node pauses
FAILURE_PAUSE_SECONDS = 60.0


@dataclass(frozen=True)
class Gear:
    """What a volunteer works with; the daemon owns all of it."""

    key: Ed25519PrivateKey
    catalogue: Catalogue
    blobs: BlobStore
    exchange: Exchange
    rpc: Rpc
    worker: JobRunner
    board: Activity
    verifier: Verifier
    room: Room
    heartbeat_seconds: float
    store_bytes: int
    """How large the blob store may grow."""


class Volunteer:
    """Works for one run until cancelled, or until a Refusal."""

    def __init__(self, record: RunRecord, gear: Gear) -> None:
        self._record = record
        self._gear = gear
        self._board = gear.board
        self._scheduler: PeerId = record.manifest.schedule.schedulers[0]
        self._specs: list[RouterSpec] = []
        """Verified, of every epoch so far."""
        self._inputs = Inputs(
            record, gear.catalogue, gear.blobs, gear.exchange, gear.worker, self._scheduler
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
        """Verify the router, then work; raises Refusal, and otherwise runs until cancelled."""
        wait = RETRY_SECONDS
        while True:
            try:
                await self._verify()
                await self._gear.room.wait()
                lease = await self._ask()
                if lease is not None:
                    await self._work(lease)
                wait = RETRY_SECONDS
            except LeaseLost as lost:
                log.info("task %d lost: %s", self._tasks, lost)
            except DiskFull as full:
                await self._gear.room.after(full)
            except (Unavailable, RemoteProtocolError) as away:
                self._board.say("scheduler-away", problem=str(away), wait=wait)
                with trio.move_on_after(wait):
                    await self._gear.catalogue.changed.wait()
                wait = min(2 * wait, MAX_RETRY_SECONDS)

    async def _verify(self) -> None:
        """Verify the specs that were adopted since; the first, if there is none yet."""
        while not self._specs or not self._up_to_date:
            epoch = len(self._specs)
            self._specs.append(await self._gear.verifier.verified_spec(self._record, epoch))

    @property
    def _up_to_date(self) -> bool:
        return len(self._specs) > self._record.view.epoch

    def _spec(self, lease: Lease) -> RouterSpec:
        """Return the verified spec that routes a lease; raises RemoteProtocolError."""
        epoch = self._record.manifest.epoch_of(lease.round)
        if epoch >= len(self._specs):
            raise RemoteProtocolError("the lease is of an epoch whose router was not verified")
        return self._specs[epoch]

    # ------------------------------------------------------------------ asking

    async def _ask(self) -> Lease | None:
        """Return a lease, or None after having waited as the scheduler said."""
        request = AskLease(run=self._record.run, spec=spec_digest(self._specs[-1]))
        reply = await self._gear.rpc.call(
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
            with self._board.timed("ahead"):
                found = await self._inputs.ahead(self._last_path)
            if found:
                return None  # that took a while: there may be work by now
        with trio.move_on_after(reply.retry_after):
            await self._gear.catalogue.changed.wait()
        return None

    async def _prepare(self) -> None:
        """Use the first idle time to make the shards of the first window: round 1 begins with it.

        What goes wrong here goes wrong again, and is told, when a lease needs the shard.
        """
        self._prepared = True

        def on_progress(progress: Progress) -> None:
            self._board.say(
                "preparing", done=progress.done, total=progress.total, left=left(progress)
            )

        job = Materialise(manifest=self._record.manifest, spec=self._specs[0], window=0)
        with self._board.timed("materialise"):
            await self._gear.worker.run(job, on_progress)

    def _tell(self, reply: NoLease) -> None:
        rounds = self._record.manifest.training.rounds
        match reply.code:
            case "run-over":
                self._board.say("run-over", round=rounds, rounds=rounds)
            case "not-admitted":
                self._board.say("not-admitted")
            case _:
                self._board.say("no-lease", why=reply.reason, wait=reply.retry_after)

    def _check(self, lease: Lease) -> None:
        """Hold a lease against manifest, spec and ledger; raises RemoteProtocolError."""
        manifest, view = self._record.manifest, self._record.view
        if (lease.run, lease.spec) != (self._record.run, spec_digest(self._spec(lease))):
            raise RemoteProtocolError("the lease is for another run or another spec")
        if lease.path >= manifest.paths or lease.window >= manifest.source.windows:
            raise RemoteProtocolError("the lease is for a path or window that does not exist")
        self._check_moments(lease)
        if lease.kind == "seed":
            if lease.modules != manifest.start:
                raise RemoteProtocolError("the lease starts the seed phase from other states")
            return
        named = tuple(ModuleId(state.module) for state in lease.modules)
        expected = view.topology.path_modules[lease.path]
        if named != expected or lease.round > manifest.training.rounds:
            raise RemoteProtocolError("the lease names modules or a round that the path lacks")
        if lease.kind == "score" and not self._is_scored(lease):
            raise RemoteProtocolError("the lease is to score what the run does not score")
        version = version_of(lease)
        for state in lease.modules:
            states = view.states.get(ModuleId(state.module), [])
            # Our copy of the ledger may be a little behind the lease, but never differs.
            if version < len(states) and states[version] != state.digest:
                raise RemoteProtocolError(
                    f"the lease's state of {state.module} is not the ledger's version {version}"
                )

    def _is_scored(self, lease: Lease) -> bool:
        reshard = self._record.manifest.routing.reshard
        return (
            reshard is not None
            and lease.round == reshard.after_round
            and lease.window < reshard.windows
        )

    def _check_moments(self, lease: Lease) -> None:
        """Hold a lease's moments against manifest and ledger, as `_check` does its states."""
        manifest, view = self._record.manifest, self._record.view
        training = manifest.training
        expected: tuple[ModuleId, ...] = ()
        if lease.kind == "train" and lease.round > 1 and training.inner_state == "carry":
            expected = view.topology.path_modules[lease.path]
        named = tuple(ModuleId(each.module) for each in lease.moments)
        # A path that had no documents before its router was replaced begins anew.
        begins = manifest.epoch_of(lease.round) != manifest.epoch_of(lease.round - 1)
        if named != expected and (named or not begins):
            raise RemoteProtocolError("the lease lacks moments of its path, or has unasked ones")
        if view.path_version(lease.path) < lease.round - 1:
            return  # our copy of the ledger is a little behind the lease
        told = view.path_moments(lease.path, lease.round)
        if expected and lease.moments != tuple(ModuleDigest(module=m, digest=d) for m, d in told):
            raise RemoteProtocolError("the lease's moments are not the ledger's")

    # ------------------------------------------------------------------ working

    async def _work(self, lease: Lease) -> None:
        """Do one lease to its end, whatever that is; raises LeaseLost, Unavailable, Refusal."""
        self._tasks += 1
        beat = _Beat(lease, self._gear, self._scheduler)
        failure: DipacoError | None = None
        ended = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(beat.run, nursery.cancel_scope)
                try:
                    await self._fetch(lease)
                    await self._hand_in(lease, await self._do(lease, beat))
                except DipacoError as error:  # bare here, a group outside
                    failure = error
                nursery.cancel_scope.cancel()
            ended = failure is None
        finally:
            self._board.task = None
            if not ended:
                await self._hand_back(lease, str(failure or beat.lost or "stopped"))
        if beat.lost:
            raise LeaseLost(beat.lost)
        if failure:
            raise failure
        self._make_room(lease)

    async def _fetch(self, lease: Lease) -> None:
        def on_bytes(done: int, total: int) -> None:
            self._board.say("modules", done=done / 1e6, total=total / 1e6, path=lease.path)

        with self._board.timed("fetch"):
            await self._inputs.fetch(lease, on_bytes)

    async def _do(self, lease: Lease, beat: "_Beat") -> Answer:
        manifest, spec = self._record.manifest, self._spec(lease)
        job: Train | Evaluate | Score
        if lease.kind == "evaluate":
            job = Evaluate(manifest=manifest, spec=spec, lease=lease)
            self._board.say("evaluating", path=lease.path, round=lease.round)
        elif lease.kind == "score":
            job = Score(manifest=manifest, spec=spec, lease=lease)
        else:
            job = Train(manifest=manifest, spec=spec, lease=lease)

        def on_progress(progress: Progress) -> None:
            beat.progress = progress
            self._show(lease, progress)

        with self._board.timed(lease.kind):
            return await self._gear.worker.run(job, on_progress)

    def _show(self, lease: Lease, progress: Progress) -> None:
        self._board.task = TaskStatus(
            kind=lease.kind,
            path=lease.path,
            round=lease.round,
            stage=progress.stage,
            done=progress.done,
            total=progress.total,
            tokens_per_second=progress.rate if progress.unit == "tokens" else 0.0,
            loss=progress.loss,
        )
        if progress.stage == "score":
            self._board.say("scoring", path=lease.path, done=progress.done, total=progress.total)
        elif progress.stage != "train":
            if lease.kind != "evaluate":
                self._board.say(
                    "shard",
                    path=lease.path,
                    done=progress.done,
                    total=progress.total,
                    left=left(progress),
                )
        elif lease.kind == "seed":
            self._board.say("seed", done=progress.done, total=progress.total)
        else:
            self._board.say(
                "task",
                path=lease.path,
                round=lease.round,
                done=progress.done,
                total=progress.total,
            )

    # ------------------------------------------------------------------ results

    async def _hand_in(self, lease: Lease, answer: Answer) -> None:
        match answer:
            case Trained():
                await self._submit(
                    lease,
                    Submission(
                        token=lease.token,
                        blobs=answer.blobs,
                        moments=answer.moments,
                        tokens=answer.tokens,
                        seconds=answer.seconds,
                        loss_first=answer.loss_first,
                        loss_last=answer.loss_last,
                    ),
                )
            case Evaluated(evaluation=evaluation):
                await self._submit(lease, _looked_at(lease, evaluation=evaluation))
            case Scored(sheet=sheet):
                await self._submit(lease, _looked_at(lease, sheet=sheet))
            case Failed(kind="refused", reason=reason):
                raise Refusal(reason)
            case Failed(kind="disk", reason=reason):
                raise DiskFull(reason)
            case Failed(reason=reason):
                await self._failed(lease, reason)
            case _:
                raise AssertionError(f"a worker answered {lease.kind} by {type(answer).__name__}")

    async def _failed(self, lease: Lease, reason: str) -> None:
        """Give the lease back at once; after some failures in a row, pause."""
        self._failures += 1
        log.error("task %d path=%d failed: %s", self._tasks, lease.path, reason)
        await self._hand_back(lease, reason)
        wait = FAILURE_PAUSE_SECONDS if self._failures >= FAILURES else RETRY_SECONDS
        self._board.say("failures", count=self._failures, problem=reason, wait=wait)
        await trio.sleep(wait)

    async def _submit(self, lease: Lease, submission: Submission) -> None:
        """Hand in a result; a scheduler that is away is asked until it answers."""
        self._board.say("submitting", path=lease.path, round=lease.round)
        wait = RETRY_SECONDS
        with self._board.timed("submit"):
            while True:
                try:
                    reply = await self._gear.rpc.call(
                        self._scheduler,
                        Submit(run=self._record.run, submission=submission),
                        Stands,
                        Fallen,
                        timeout=SUBMIT_SECONDS,
                    )
                    break
                except Unavailable as away:
                    log.info("submission waits: %s", away)
                    await trio.sleep(wait)
                    wait = min(2 * wait, MAX_RETRY_SECONDS)
        if isinstance(reply, Fallen):
            self._board.refused += 1
            raise LeaseLost(reply.reason)
        if lease.kind == "train":
            self._last_path = lease.path
        if submission.moments:
            self._moments[lease.path] = submission.moments
        self._failures = 0
        self._board.accepted += 1
        self._board.tokens += submission.tokens
        self._board.train_seconds += submission.seconds
        self._report(lease, submission)

    def _report(self, lease: Lease, submission: Submission) -> None:
        if submission.sheet is not None:
            log.info(
                "task %d score path=%d window=%d documents=%d accepted",
                self._tasks,
                lease.path,
                lease.window,
                submission.sheet.documents,
            )
        elif submission.evaluation is None:
            speed = submission.tokens / submission.seconds if submission.seconds else math.nan
            log.info(
                "task %d %s path=%d round=%d seconds=%.1f tokens/s=%.0f loss=%.3f accepted",
                self._tasks,
                lease.kind,
                lease.path,
                lease.round,
                submission.seconds,
                speed,
                submission.loss_last,
            )
        elif submission.evaluation.tokens:
            loss = submission.evaluation.nll / submission.evaluation.tokens
            log.info(
                "task %d evaluate path=%d version=%d loss=%.3f accepted",
                self._tasks,
                lease.path,
                lease.round,
                loss,
            )

    async def _hand_back(self, lease: Lease, reason: str = "cannot go on") -> None:
        """Say that somebody else may have the work; best effort, also on the way out."""
        request = HandBack(run=self._record.run, token=lease.token, reason=one_line(reason))
        with trio.CancelScope(shield=True):
            try:
                await self._gear.rpc.call(self._scheduler, request, Stands, timeout=GOODBYE_SECONDS)
            except (Unavailable, Refusal, RemoteProtocolError) as error:
                log.debug("lease not handed back: %s", error)

    def _make_room(self, lease: Lease) -> None:
        """Keep the blob store within its bound; what comes next is fetched again if need be."""
        kept = {each.digest for each in (*lease.modules, *lease.moments)}
        kept |= {each.digest for moments in self._moments.values() for each in moments}
        self._gear.blobs.prune(kept, self._gear.store_bytes)


def _looked_at(
    lease: Lease, *, evaluation: Evaluation | None = None, sheet: Sheet | None = None
) -> Submission:
    """Return what is handed in where nothing was trained."""
    return Submission(
        token=lease.token,
        blobs=(),
        tokens=0,
        seconds=0.0,
        loss_first=0.0,
        loss_last=0.0,
        evaluation=evaluation,
        sheet=sheet,
    )


class _Beat:
    """Tells the scheduler that the work goes on, and ends the work when it no longer counts."""

    def __init__(self, lease: Lease, gear: Gear, scheduler: PeerId) -> None:
        self._lease = lease
        self._gear = gear
        self._scheduler = scheduler
        self.progress: Progress | None = None
        self.lost = ""
        """Why the lease ended under us."""

    async def run(self, work: trio.CancelScope) -> None:
        while not self.lost:
            await trio.sleep(self._gear.heartbeat_seconds)
            try:
                reply = await self._gear.rpc.call(
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
        counted = self.progress is not None and self.progress.stage in ("train", "score")
        now = self.progress if counted else None
        return Heartbeat(
            run=self._lease.run,
            token=self._lease.token,
            done=now.done if now else 0,
            total=now.total if now else 0,
            tokens_per_second=now.rate if now else 0.0,
            loss=now.loss if now else None,
        )
