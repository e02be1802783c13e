"""The volunteer of one run: verify, then lease, fetch, train, submit, again and again.

Nothing is trained before the run's router spec was derived here from the public source and its
digest compared, and nothing of the next epoch before the same was done with its spec. REFUTED ends
the volunteer with a Refusal that no retry loop catches on its way up. A source, a scheduler or a
holder of blobs that is only away is waited for, and the status says so.

Two tasks do this side by side, so that a second lease is prepared while the first is worked on, and
a result is handed in while the next lease is worked on (`held_leases`). Only one of them asks at a
time.
"""

import logging
import math

import trio
from msgspec import UNSET

from dipaco.node.jobs.values import Describe, Failed, Materialise, Progress
from dipaco.node.kinds.table import work_of
from dipaco.node.runs.record import RunRecord
from dipaco.node.status.activity import so_far
from dipaco.node.storage.files import DiskFull
from dipaco.node.volunteer.deps import VolunteerDeps
from dipaco.node.volunteer.held_leases import HeldLease, HeldLeases
from dipaco.node.volunteer.inputs import Inputs, InputsAway
from dipaco.node.volunteer.lease_check import check_lease, spec_for
from dipaco.node.volunteer.others import follow_others
from dipaco.node.volunteer.pauses import after_device_failures, after_failures
from dipaco.node.volunteer.retention import (
    HandedIn,
    blobs_needed,
    done_with,
    handed_in,
    not_handed_over,
)
from dipaco.node.volunteer.scheduler_link import RETRY_SECONDS, SchedulerLink
from dipaco.node.volunteer.work import JobFailed, LeaseWork, ResultRefused
from dipaco.protocol.errors import (
    DipacoError,
    LeaseLost,
    NoDevice,
    RemoteProtocolError,
    Unavailable,
)
from dipaco.protocol.numbers import span
from dipaco.protocol.routing.spec import RouterSpec, spec_digest
from dipaco.protocol.wire.identity import short_peer
from dipaco.protocol.work.calls import AskLease, AskNext, Granted, NoLease
from dipaco.protocol.work.kinds import Lease, TrainLease

log = logging.getLogger(__name__)

LEASES = 2  # at once: one is worked on, one is prepared or its result handed in

ASKED_AGAIN = frozenset({"no-lease", "scheduler-away", "run-over", "not-admitted"})
"""Reasons that stand while the scheduler is asked again."""


class Volunteer:
    """Works for one run until it is over, or until a Refusal."""

    def __init__(self, record: RunRecord, deps: VolunteerDeps) -> None:
        self._record = record
        self._deps = deps
        self._activity = deps.activity
        self._link = SchedulerLink(record, deps.rpc, deps.activity)
        self._specs: list[RouterSpec] = []
        """Verified, of every epoch so far."""
        self._inputs = Inputs(
            record, deps.run_store, deps.blobs, deps.exchange, deps.finder, deps.worker
        )
        self._failures = 0
        """Tasks that failed in a row."""
        self._device_failures = 0
        """Failures of the device in a row: no task was done since."""
        self._task = 0
        """The number of the task that was begun last."""
        self._handed_in: dict[int, HandedIn] = {}
        """Per path the moments of its last result: the scheduler may still be fetching them."""
        self._last_path: int | None = None
        """The path that was trained last: most likely the next one, too."""
        self._prepared = False
        """Whether the shards of the first window were made."""
        self._leases = HeldLeases()
        self._asking = trio.Lock()
        self._rests_until = -math.inf
        """Until then no lease is asked for: tasks failed."""
        self._device_back: trio.Event | None = None
        """Set once the device that is missed is there again."""
        deps.orders.holds_lease = lambda: bool(self._leases.held)

    async def follow_others(self) -> None:
        """Learn what the others of the run do, until cancelled."""
        paths, guard = self._record.manifest.paths, self._deps.guard
        await follow_others(self._link, self._activity, paths, guard)

    async def run(self) -> None:
        """Verify the router, then work to the run's end; may be run again, and then goes on.

        A bug counts as a task that failed. Raises Refusal, and DiskFull once the leases are handed
        back.
        """
        failure: DipacoError | None = None

        async def work() -> None:
            nonlocal failure
            try:
                await self._work()
            except DipacoError as error:  # bare here, a group outside
                failure = failure or error
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(LEASES):
                nursery.start_soon(work)
        if failure:
            raise failure

    async def _work(self) -> None:
        """Do one lease after the other to the run's end."""
        wait = RETRY_SECONDS
        while not self._record.over:
            try:
                doing, scheduler = "working for a run", self._link.scheduler
                if not await self._deps.guard.attempt(doing, scheduler, self._go_on):
                    raise JobFailed("a bug of this node: its log has the traceback")
                wait = RETRY_SECONDS
            except (JobFailed, LeaseLost) as failure:
                await self._pause_after(failure)
            except NoDevice as missing:
                await self._wait_for_device(missing)
            except DiskFull:
                raise  # Unavailable, too, but no matter of a scheduler that is away
            except (Unavailable, RemoteProtocolError) as away:
                self._tell_away(away, wait)
                wait = await self._link.pause_while_away(wait)

    async def _go_on(self) -> bool:
        """Do the next thing that there is to do."""
        async with self._asking:
            work = await self._next_work()
        if work is not None:
            await self._do(work)
        return True

    async def _next_work(self) -> LeaseWork | None:
        """Return a lease to work on, or None after having waited for what may lead to one."""
        await trio.sleep_until(max(self._rests_until, trio.current_time()))
        if self._device_back is not None:
            await self._device_back.wait()
        if self._record.over:
            return None
        await self._while_finishing()
        first = self._leases.front
        if first is None:
            await self._verify()
            lease = await self._ask()
        elif first.has_begun and self._up_to_date:
            lease = await self._ask_next(first)
        else:
            lease = None
            await self._leases.changed.wait()
        if lease is None:
            return None
        work = LeaseWork(
            lease,
            self._record.manifest,
            spec_for(lease, self._record, self._specs),
            self._link,
            self._deps,
            self._leases,
            ahead=first is not None,
        )
        self._task = work.number
        return work

    async def _while_finishing(self) -> None:
        """Wait, and ask for nothing, while the lease that is held is to be the last one.

        When it has ended, the gate closes and cancels this.
        """
        while not self._deps.orders.allow_leases:
            self._deps.gate.changed.notify()
            await self._leases.changed.wait()

    def _tell_away(self, away: Exception, wait: float) -> None:
        if self._leases.held:  # the work goes on; what is missing is told when it is waited for
            log.debug("no second lease: %s", away)
        elif isinstance(away, InputsAway):
            self._activity.say("inputs-away", problem=str(away), wait=wait)
        else:
            self._link.say_away(away, wait)

    async def _verify(self) -> None:
        """Verify the specs that were adopted since; the first, if there is none yet."""
        while not self._specs or not self._up_to_date:
            epoch = len(self._specs)
            self._specs.append(await self._deps.verifier.verified_spec(self._record, epoch))

    @property
    def _up_to_date(self) -> bool:
        return len(self._specs) > self._record.state.epoch

    # ------------------------------------------------------------------ asking

    async def _ask(self) -> Lease | None:
        """Return a lease, or None after having waited as the scheduler said."""
        spec = spec_digest(self._specs[-1])
        if self._activity.own_reason.code not in ASKED_AGAIN:
            self._activity.say("asking", scheduler=short_peer(self._link.scheduler))
        reply = await self._link.ask(AskLease(run=self._record.run, spec=spec))
        if isinstance(reply, Granted):
            check_lease(reply.lease, self._record, self._specs)
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
        if reply.code == "parked":
            await trio.sleep(reply.retry_after)
            return None
        with trio.move_on_after(reply.retry_after):
            if reply.place is not UNSET and reply.place > self._record.manifest.paths:
                await trio.sleep_forever()  # one record cannot bring work to so far behind
            await self._deps.run_store.changed.wait()
        return None

    async def _ask_next(self, first: HeldLease) -> Lease | None:
        """Return a lease to hold while `first` is worked on, or None after a wait.

        The wait ends when `first` gets into another phase, or is done with.
        """
        phase = first.phase
        request = AskNext(
            run=self._record.run, spec=spec_digest(self._specs[-1]), token=first.lease.token
        )
        reply = await self._link.ask_next(request)
        if isinstance(reply, Granted):
            check_lease(reply.lease, self._record, self._specs)
            return reply.lease
        with trio.move_on_after(reply.retry_after):
            while first in self._leases.held and first.phase == phase:
                await self._leases.changed.wait()
        return None

    async def _prepare(self) -> None:
        """Use the first idle time to make the shards of the first window: round 1 begins with it.

        A failure here is not told: it comes again, and is told then, when a lease needs the shard.
        """
        self._prepared = True

        def on_progress(progress: Progress) -> None:
            self._activity.say("preparing", progress=so_far(progress))

        await self._inputs.tokenizer()
        job = Materialise(manifest=self._record.manifest, spec=self._specs[0], window=0)
        with self._activity.timed("materialise"):
            await self._deps.worker.run(job, on_progress)

    def _tell(self, reply: NoLease) -> None:
        rounds = self._record.manifest.training.rounds
        match reply.code:
            case "run-over":
                self._activity.say(
                    "run-over", round=rounds, rounds=rounds, next="its last records are on the way"
                )
            case "not-admitted":
                self._activity.say("not-admitted")
            case "parked":
                self._activity.say("parked", why=reply.reason, wait=reply.retry_after)
            case _:
                why = reply.reason
                if reply.place is not UNSET:
                    why = f"place {reply.place} of {reply.places}: {why}"
                self._activity.say("no-lease", why=why, wait=reply.retry_after)

    # ------------------------------------------------------------------ working

    async def _do(self, work: LeaseWork) -> None:
        """Do one lease to its end, and remember what the next one gains from."""
        lease, accepted = work.held.lease, False
        try:
            result = await work.run(self._inputs)
            accepted = True
            self._failures = 0
            if self._device_back is None:  # else this was done before the device was lost
                self._device_failures = 0
            if isinstance(lease, TrainLease):
                self._last_path = lease.path
            if result.handed_over_later:
                found = handed_in(lease, result, self._record.state)
                self._handed_in[work_of(lease).path] = found
        except LeaseLost as lost:
            if work.held.has_begun or not work.held.ahead:
                raise
            log.info("a lease in hand (%s) is not begun: %s", work.text, lost)
        finally:
            self._leases.drop(work.held)
            self._forget_old_blobs(work.held, accepted=accepted)

    async def _pause_after(self, failure: DipacoError) -> None:
        """Wait a little after a task that failed; after some in a row, longer and longer.

        A lease that went to somebody else is no failure of this node.
        """
        if isinstance(failure, LeaseLost) and not isinstance(failure, ResultRefused):
            log.warning("task %d ended: %s", self._task, failure)
            await trio.sleep(RETRY_SECONDS)
            return
        self._failures += 1
        wait = after_failures(self._failures)
        log.error("task %d failed: %s; next try in %s", self._task, failure, span(wait))
        self._rests_until = trio.current_time() + wait
        if not self._leases.held:
            self._activity.say("failures", count=self._failures, problem=str(failure), wait=wait)
        await trio.sleep(wait)

    def _forget_old_blobs(self, done: HeldLease, *, accepted: bool) -> None:
        """Remove what came with a lease, but for what another one or a peer needs."""
        view, blobs = self._record.state, self._deps.blobs
        lease, result = done.lease, done.result if accepted else None
        self._handed_in = not_handed_over(self._handed_in, view)
        needed = blobs_needed(self._record, self._deps.me, blobs.has)
        for each in self._handed_in.values():
            needed |= {moment.digest for moment in each.moments}
        if result and not isinstance(lease, TrainLease):
            needed |= result.digests  # states and sheets, of which our ledger does not tell yet
        for held in self._leases.held:
            needed |= held.lease.inputs | (held.result.digests if held.result else set())
        passed = done_with(lease, result, view)
        self._deps.claims.claim(self._record.run, needed, passed=passed)

    async def _wait_for_device(self, missing: NoDevice) -> None:
        """Wait until the device is there again: no lease is taken only to fail.

        The worker process ends first, since one that lost its device never finds it again.
        """
        if self._device_back is not None:
            await self._device_back.wait()
            return
        back, problem = trio.Event(), str(missing)
        self._device_back = back
        try:
            while problem:
                self._device_failures += 1
                wait = after_device_failures(self._device_failures)
                log.warning("device: %s; next try in %s", problem, span(wait))
                self._activity.say("device", problem=problem, wait=wait)
                await self._deps.worker.close()
                await trio.sleep(wait)
                answer = await self._deps.worker.run(Describe(), lambda progress: None)
                problem = answer.reason if isinstance(answer, Failed) else ""
        finally:  # a later run tries the device anew
            self._leases.no_device, self._device_back = "", None
            back.set()
