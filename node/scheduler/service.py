"""The scheduler of one run: the shell round `Schedule`.

Save, then send: every change is in the journal before anybody hears of it, and nothing is awaited
between a decision and its saving, so no lock is needed. Blobs of a result are pulled over the
submitter's own connection and inspected before the result counts: a volunteer may vanish
afterwards. Moments follow in the background (`pending_moments`). Outer steps are
jobs of this node's worker process.
"""

import logging
import math
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import combinations

import trio
from msgspec import UNSET

from dipaco.node.condition import Condition
from dipaco.node.jobs.values import (
    Failed,
    Inspected,
    InspectMoments,
    InspectResult,
    OuterStep,
    Stepped,
)
from dipaco.node.kinds.changes import (
    Change,
    Compared,
    DueStep,
    Grant,
    LeaseEnded,
    MomentsArrived,
    MomentsPending,
    Recorded,
    TrainingAccepted,
    TrainingDiscarded,
)
from dipaco.node.kinds.pending_moments import Pending, Place
from dipaco.node.kinds.state import SchedulingState
from dipaco.node.kinds.table import kind_of
from dipaco.node.network.fetching import Progress as OnBytes
from dipaco.node.routing.sheets import sheets_agree
from dipaco.node.runs.record import RunRecord
from dipaco.node.scheduler.deps import SchedulerDeps
from dipaco.node.scheduler.journaled import save_change, saved_changes
from dipaco.node.scheduler.parking import Parked
from dipaco.node.scheduler.reclaim import reclaimed
from dipaco.node.scheduler.recovery import Recovery
from dipaco.node.scheduler.retention import BlobsNeeded
from dipaco.node.scheduler.schedule import Schedule
from dipaco.node.storage.files import DiskFull
from dipaco.protocol.errors import LocalProtocolError, Unavailable
from dipaco.protocol.numbers import span
from dipaco.protocol.routing.spec import RouterSpec, spec_digest
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.tensors.feedback import carried_bytes
from dipaco.protocol.wire.digest import Digest, short
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.wire.text import one_line
from dipaco.protocol.work.calls import (
    AskLease,
    AskNext,
    Fallen,
    Granted,
    HandBack,
    Heartbeat,
    NoLease,
    Reclaim,
    Stands,
)
from dipaco.protocol.work.kinds import (
    TOKEN_BYTES,
    Result,
    Sheet,
    Token,
    TrainLease,
)
from dipaco.protocol.work.ledger import ModuleUpdated, RoundMissed

log = logging.getLogger(__name__)

EXPIRY_SECONDS = 0.5  # between looks for leases whose time ran out, at most
SHORTEST_LOOK = 0.1  # and at least: one that has ended stays while that cannot be saved
STOOD_STILL_SECONDS = 3.0  # between two looks: this process was stopped, or the machine asleep
STEP_RETRY_SECONDS = 5.0  # before an outer step that failed on this machine is tried again


class Scheduler:
    """Hands out the work of one run and takes in its results."""

    def __init__(
        self, record: RunRecord, spec: RouterSpec, deps: SchedulerDeps, now: float
    ) -> None:
        """Take up the run where its ledger and the journal end.

        spec   of epoch 0, derived here and published.
        """
        self.run_id = record.run
        self._deps = deps
        self._spec = spec
        self._manifest = record.manifest
        self.schedule = Schedule(SchedulingState(record.run, record.rounds, record.state))
        self.beats: dict[bytes, Heartbeat] = {}
        """The last word from every lease's holder, by token."""
        self.lacking = ""
        """Which delta an outer step waits for, in words; empty: none."""
        self.stepping: DueStep | None = None
        """The outer step in work."""
        self.full = ""
        """Why nothing can be saved at present; empty: it can."""
        self._record = record
        self._looked, self._length = now, record.length
        """When the time was last looked at, and the number of records in the ledger then."""
        self.recovery = Recovery(record, self.schedule.rounds, deps)
        self._due = Condition()
        self._collecting: set[Place] = set()
        """Whose moments somebody is after."""
        self._submitted: dict[bytes, frozenset[Digest]] = {}
        """By token the blobs of the results that are not accepted yet."""
        self._arriving: set[bytes] = set()
        """The tokens of the results that are being taken in: each once at a time."""
        self._needed = BlobsNeeded(self.schedule)
        self._restore(now)

    # ------------------------------------------------------------------ requests of volunteers

    def ask(self, peer: PeerId, request: AskLease, now: float) -> Granted | NoLease:
        """Answer a volunteer that wants work."""
        self._look(now)
        self.schedule.blocked = self.recovery.why(now)
        changes, reply = self.schedule.ask(
            peer,
            request.spec,
            token=secrets.token_bytes(TOKEN_BYTES),
            now=now,
            prefix=self._deps.prefix(peer),
        )
        self._make(changes)
        return reply

    def ask_next(self, peer: PeerId, request: AskNext, now: float) -> Granted | NoLease:
        """Answer a volunteer that wants a second lease to hold in hand."""
        self._look(now)
        changes, reply = self.schedule.ask_next(
            peer,
            request.spec,
            request.token,
            token=secrets.token_bytes(TOKEN_BYTES),
            now=now,
            prefix=self._deps.prefix(peer),
        )
        self._make(changes)
        return reply

    def heartbeat(self, peer: PeerId, beat: Heartbeat, now: float) -> Stands | Fallen:
        """Renew a lease."""
        self._look(now)
        prefix = self._deps.prefix(peer)
        reply = self.schedule.heartbeat(
            peer, beat.token, progress=beat.progress, now=now, prefix=prefix
        )
        if isinstance(reply, Stands):
            self.beats[beat.token] = beat
        return reply

    def reclaim(self, peer: PeerId, request: Reclaim, now: float) -> Stands | Fallen:
        """Grant a lease of an earlier term again, if its work is free."""
        changes, reply = reclaimed(
            self.schedule, peer, request.lease, now=now, prefix=self._deps.prefix(peer)
        )
        self._make(changes)
        return reply

    def hand_back(self, peer: PeerId, request: HandBack, now: float) -> Stands:
        """Take back a lease; nothing happens if it no longer stands."""
        self._look(now)
        grant = self.schedule.grant_of(peer, request.token)
        self._make(self.schedule.hand_back(peer, request.token, request.reason, now=now))
        if grant and isinstance(grant.lease, TrainLease):
            has = self._deps.blobs.has
            if not all(has(each.digest) for each in grant.lease.moments):
                path, ledger = grant.lease.path, self.schedule.ledger
                place = (path, ledger.last_round(path, grant.lease.round))
                self._make(self.schedule.moments_lost(place))
        return Stands()

    async def submit(self, peer: PeerId, result: Result) -> Stands | Fallen:
        """Pull and inspect the blobs of a result, then count it if its lease still stands.

        Raises Unavailable when a blob cannot be had or inspected now: the volunteer asks again.
        """
        now = trio.current_time()
        self._look(now)
        self.schedule.handing_in(peer, result.token, now)
        grant = self.schedule.may_count(peer, result.token)
        if grant is None or self.schedule.misfit(grant, result, now):
            return await self._count(peer, result)  # which says what is wrong
        if result.token in self._arriving:
            raise Unavailable("this result is being taken in already: ask again")
        lease, state = grant.lease, self.schedule.state
        kind = kind_of(lease)
        blobs = kind.to_inspect(state, lease, result)

        def got_on(*_bytes: int) -> None:
            self.schedule.got_on(peer, result.token, trio.current_time())

        with self._in_hand(result.token, frozenset(digest for digest, _ in blobs)):
            for digest, length in blobs:
                # A blob that is here already is no work of its holder, which may lack others.
                await self._pull(digest, length, (peer,), got_on, "result")
            if blobs:
                job = InspectResult(
                    manifest=self._manifest, spec=self._spec, lease=lease, result=result
                )
                self.schedule.got_on(peer, result.token, math.inf)  # it waits for us alone
                try:
                    wrong = await self._inspect(job)
                finally:
                    got_on()
                refused = await self._refuse(peer, result, wrong)
                if refused:
                    return refused
            kind.compare(state, lease, result, self._agree)
            known = kind.refuted(state, lease)
            reply = await self._count(peer, result)
        for other, reason in kind.refuted(state, lease):
            if (other, reason) not in known:
                log.warning("result of %s refuted: %s", short_peer(other), reason)
                await self._deps.blame(other, reason)
        return reply

    @contextmanager
    def _in_hand(self, token: bytes, blobs: frozenset[Digest]) -> Iterator[None]:
        """Keep the blobs of a submission while its lease stands: the peer may have to ask again.

        Afterwards those stay that the run needs, as those of a result that counts.
        """
        self._submitted[token] = blobs
        self._arriving.add(token)
        self._forget_old_blobs()
        try:
            yield
        finally:
            self._arriving.discard(token)
            if token not in self.schedule.grants:
                self._submitted.pop(token, None)
                self._forget_old_blobs(passed=blobs)

    def _agree(self, ours: Sheet, theirs: Sheet) -> bool:
        """Whether two score sheets agree; one that is lost agrees with none: others are asked."""
        reshard = self._manifest.routing.reshard
        assert reshard is not None
        try:
            return sheets_agree(self._deps.blobs, ours, theirs, reshard.tolerance)
        except Unavailable:
            return False

    async def _refuse(self, peer: PeerId, result: Result, wrong: str) -> Fallen | None:
        if not wrong:
            return None
        log.warning("result of %s refused: %s", short_peer(peer), wrong)
        refused = f"its result was refused: {wrong}"
        self._make(self.schedule.hand_back(peer, result.token, refused, now=trio.current_time()))
        await self._deps.blame(peer, wrong)
        return Fallen(reason=one_line(wrong))

    async def _pull(
        self, blob: Digest, length: int, holders: tuple[PeerId, ...], on_bytes: OnBytes, kind: str
    ) -> None:
        try:
            await self._deps.exchange.fetch(
                blob, length=length, holders=holders, progress=on_bytes, kind=kind
            )
        except DiskFull as full:
            raise self._no_room(full) from full

    @property
    def deposed(self) -> bool:
        """Whether another scheduler has taken over; it cannot be without keepers."""
        return False

    @property
    def waiting(self) -> str:
        """What waits for a quorum of keepers, in words; empty: nothing does."""
        return ""

    def parked(self) -> tuple[Parked, ...]:
        """Return the peers that get no work for now, since their leases ended without a result."""
        return tuple(self.schedule.parking.all_parked(trio.current_time()))

    def gone(self, peer: PeerId, now: float) -> None:
        """Note that a peer's connection broke."""
        self.schedule.gone(peer, now)

    async def _count(self, peer: PeerId, result: Result) -> Stands | Fallen:
        reply: Stands | Fallen = Stands()

        def decide() -> tuple[Change, ...]:
            nonlocal reply
            now = trio.current_time()
            self._look(now)
            changes, reply = self.schedule.submit(peer, result, now=now)
            return changes

        await self._settle(decide)
        return reply

    async def _inspect(self, job: InspectResult | InspectMoments) -> str:
        match await self._deps.worker.run(job, lambda progress: None):
            case Inspected(wrong=wrong):
                return wrong
            case Failed(reason=reason):
                raise Unavailable(f"the result cannot be inspected now: {reason}")
            case answer:
                raise LocalProtocolError(f"an inspection is answered by {type(answer).__name__}")

    async def adopt(self, spec: RouterSpec) -> None:
        """Go on by the router of the next epoch, which is published already.

        Raises DiskFull, and then nothing has happened.
        """
        await self._settle(lambda: self.schedule.switch(spec_digest(spec)))

    # ------------------------------------------------------------------ the run's own work

    async def serve(self) -> None:
        """Expire leases, take outer steps and collect moments until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._expire)
            nursery.start_soon(self._take_steps)
            if self._manifest.training.quorum is not UNSET:
                nursery.start_soon(self._miss_rounds)
            nursery.start_soon(self.recovery.serve)
            while True:
                for place in self.schedule.state.pending:
                    if place not in self._collecting:
                        self._collecting.add(place)
                        nursery.start_soon(self._collect, place)
                await self._due.wait()

    async def _collect(self, place: Place) -> None:
        """Fetch the pending moments of a path and round from whoever has them, and inspect them."""
        refused: Pending | None = None
        doing, attempt = "collecting moments", self._deps.guard.attempt
        while (pending := self.schedule.state.pending.get(place)) is not None:
            if refused is None or pending.moments != refused.moments:
                try:
                    brought = await attempt(doing, pending.maker, self._brought, place, pending)
                    refused = None if brought else pending
                except (Unavailable, DiskFull) as away:
                    log.debug("moments of path=%d round=%d: %s", *place, away)
            with trio.move_on_after(STEP_RETRY_SECONDS):
                await self._due.wait()
        self._collecting.discard(place)

    async def _brought(self, place: Place, pending: Pending) -> bool:
        """Return whether the moments are here and right; raises Unavailable, DiskFull."""
        top, encoding = self.schedule.ledger.topology, self._manifest.training.deltas
        holders = (pending.maker,) if pending.maker else ()

        def got_on(*_bytes: int) -> None:
            self.schedule.state.pending.got_on(place, trio.current_time())

        for each in pending.moments:
            module = ModuleId(each.module)
            sizes = top.elements(module), self._manifest.by_muon(module)
            length = carried_bytes(encoding, *sizes)
            await self._pull(each.digest, length, holders, got_on, "moments")
        while self._next_step() is not None:
            await self._due.wait()  # for the worker process, which everybody's outer steps need
        job = InspectMoments(
            manifest=self._manifest,
            lease=self.schedule.lease_again(place),
            moments=pending.moments,
        )
        wrong = await self._inspect(job)
        now = self.schedule.state.pending.get(place)
        if now is None or now.moments != pending.moments:
            return True  # others are pending now, or none: the caller looks again
        if wrong:
            log.warning("moments of path=%d round=%d refused: %s", *place, wrong)
            self._make(self.schedule.moments_lost(place))
            if pending.maker:
                await self._deps.blame(pending.maker, wrong)
            return False
        await self._settle(lambda: self.schedule.moments_arrived(place))
        self._forget_old_blobs()
        return True

    async def _expire(self) -> None:
        while True:
            ends = (grant.deadline for grant in self.schedule.grants.values())
            until = min(ends, default=math.inf) - trio.current_time()
            await trio.sleep(min(EXPIRY_SECONDS, max(SHORTEST_LOOK, until)))
            with suppress(Unavailable):  # said already; the leases expire when it can be saved
                self._deps.guard.call("ending leases", None, self._end_leases)

    def _end_leases(self) -> None:
        now = trio.current_time()
        self._look(now)
        self._make(self.schedule.expire(now))

    async def _miss_rounds(self) -> None:
        """Have late paths miss their rounds; apart from `_expire`, since keepers may be away."""
        while True:
            await trio.sleep(EXPIRY_SECONDS)
            with suppress(DiskFull):  # said already; the round waits until there is room
                doing, decide = "going on without late paths", self._late
                await self._deps.guard.attempt(doing, None, self._settle, decide)

    def _late(self) -> tuple[Change, ...]:
        now = trio.current_time()
        self._look(now)
        return self.schedule.go_on_without(now)

    def _look(self, now: float) -> None:
        """Bring the schedule to the present: whatever judges by clock or ledger looks first.

        The gap of a process that stood still is nobody's silence: what stands is renewed. On
        waking, calls of peers and the look for leases to end come in any order. A ledger that
        peers brought may tell that leased work is done. Raises DiskFull.
        """
        gap, self._looked = now - self._looked, now
        if gap > STOOD_STILL_SECONDS:
            log.warning("this node stood still for %s: all leases are renewed", span(gap))
            self.schedule.woke(now)
        if self._record.length != self._length:
            self._make(self.schedule.overtaken())
            self._length = self._record.length
            self._needed = BlobsNeeded(self.schedule)
            self._forget_old_blobs()

    async def _take_steps(self) -> None:
        while True:
            step = self._next_step()
            if step is None:
                with trio.move_on_after(STEP_RETRY_SECONDS):  # a blob may be here again
                    await self._due.wait()
                continue
            self.stepping = step
            doing, attempt = "taking an outer step", self._deps.guard.attempt
            try:
                taken = await attempt(doing, None, self._take_step, step)
            except Unavailable:  # said already; the step's inputs are kept, so nothing is lost
                taken = False
            if not taken:
                await trio.sleep(STEP_RETRY_SECONDS)
            self.stepping = None
            self._forget_old_blobs()

    def _next_step(self) -> DueStep | None:
        """Return the first outer step that is due and whose inputs are here, deltas apart."""
        return next((each for each in self._due_steps() if not self.recovery.lacks(each)), None)

    def _due_steps(self) -> Iterator[DueStep]:
        return self.schedule.due_steps()

    async def _take_step(self, step: DueStep) -> bool:
        """Return whether there is something else to do now; raises DiskFull."""
        if self._discard_lost(step):
            return True
        job = OuterStep(
            manifest=self._manifest,
            module=step.module,
            state=step.state,
            momentum=step.momentum,
            residual=step.residual,
            contributions=step.contributions,
        )
        answer = await self._deps.worker.run(job, lambda progress: None)
        if isinstance(answer, Stepped):
            made = self.schedule.stepped(
                step, state=answer.state, momentum=answer.momentum, quantised=answer.quantised
            )
            await self._settle(lambda: made)
            return True
        if isinstance(answer, Failed) and answer.kind == "disk":
            raise self._no_room(DiskFull(answer.reason))
        reason = answer.reason if isinstance(answer, Failed) else type(answer).__name__
        log.error("outer step of %s version %d: %s", step.module, step.version, reason)
        return self._discard_lost(step)

    def _discard_lost(self, step: DueStep) -> bool:
        """Have the paths trained again whose deltas are no longer readable here."""
        has = self._deps.blobs.has
        lost = [each.path for each in step.contributions if not has(each.delta)]
        for path in lost:
            self._make(self.schedule.discard(path, step.version))
        return bool(lost)

    def _forget_old_blobs(self, passed: frozenset[Digest] = frozenset()) -> None:
        """Remove what no module's next step, no lease and no evaluation needs any more.

        passed   blobs that this run never needed, if no other does.
        """
        for token in self._given_up():
            del self._submitted[token]
        needed = frozenset(self._needed.now()).union(*self._submitted.values())
        self._deps.claims.claim(self.run_id, needed, passed=passed)

    def _given_up(self) -> set[Token]:
        """Return the tokens of submissions that stand no longer; one that arrives may count yet."""
        return self._submitted.keys() - self.schedule.grants.keys() - self._arriving

    # ------------------------------------------------------------------ save, then send

    async def _settle(self, decide: Callable[[], tuple[Change, ...]]) -> None:
        """Make the changes that `decide` returns, entries of the ledger among them.

        At once, and nothing is awaited; with keepers (`kept.py`) once they are final.
        """
        self._make(decide())

    def _make(self, changes: tuple[Change, ...]) -> None:
        """Save, then do; raises DiskFull, and then nothing has happened.

        An entry that the ledger refuses is a bug of this node, whoever asked: Unavailable.
        """
        if not changes:
            return
        current = self._length == self._record.length
        saved = None
        try:
            saved = self._deps.guard.call("saving a decision", None, self._save_whole, changes)
            self.full = ""
        except DiskFull as full:
            raise self._no_room(full) from full
        finally:
            if not saved:
                self._deps.run_store.reread(self.run_id)
        if not saved:
            raise Unavailable("the scheduler cannot record this now: ask again")
        if current:  # what is new in the ledger is our own, and is applied here
            self._length = self._record.length
        failed = any(isinstance(each, LeaseEnded) and each.failed is not None for each in changes)
        parked = set(self.parked()) if failed else frozenset[Parked]()
        for change in changes:
            self._apply(change)
            self._note(change)
        if self._given_up():
            self._forget_old_blobs()
        for each in self.parked() if failed else ():
            if each not in parked:
                log.warning(
                    "peer=%s gets no work for %s: %d leases in a row without a result; last: %s",
                    short_peer(each.peer),
                    span(each.until - trio.current_time()),
                    each.failures,
                    each.reason,
                )
        self._due.notify()
        self._deps.changed.notify()

    def _save_whole(self, changes: tuple[Change, ...]) -> bool:
        """Save the changes, all or none; raises DiskFull."""
        with self._deps.journal.saving():
            self._save(changes)
        return True

    def _save(self, changes: Iterable[Change]) -> None:
        for change in changes:
            save_change(change, self.run_id, self._deps)

    def _apply(self, change: Change) -> None:
        self.schedule.apply(change)
        self._needed.changed(change)

    def _no_room(self, full: DiskFull) -> DiskFull:
        """Note that the disk is full; return what askers may hear of it."""
        self.full = str(full)
        self._deps.changed.notify()
        return DiskFull("the scheduler's disk is full, nothing can be saved now: ask again")

    def _note(self, change: Change) -> None:
        """Keep the side tables in step with a change, and log it."""
        match change:
            case Grant(lease=lease, peer=peer):
                kind = kind_of(lease)
                log.info("lease %s (%s) to=%s", kind.name, kind.text(lease), short_peer(peer))
            case LeaseEnded(token=token, reason=reason):
                self.beats.pop(token, None)
                log.info("lease ended token=%s: %s", short(token), reason)
            case TrainingAccepted(path=path, round=round_, peer=peer, result=result):
                self.beats.pop(result.token, None)
                log.info("accepted path=%d round=%d of=%s", path, round_, short_peer(peer))
            case TrainingDiscarded(path=path, round=round_):
                log.warning("discarded path=%d round=%d: its blobs are lost", path, round_)
            case MomentsPending(place=(path, round_), pending=Pending(maker=None)):
                log.warning("moments of path=%d round=%d are lost: made again", path, round_)
            case MomentsArrived(place=(path, round_)):
                log.info("moments of path=%d round=%d are here", path, round_)
            case Recorded(entry=RoundMissed(path=path, round=round_)):
                log.info("path=%d is late: round=%d goes on without it", path, round_)
            case Compared(path=path, round=round_, counted=counted, other=other, agreed=agreed):
                log.info(
                    "compared path=%d round=%d of=%s with=%s: %s",
                    path,
                    round_,
                    short_peer(counted),
                    short_peer(other),
                    "agreed" if agreed else "differs",
                )
            case Recorded(entry=entry):
                log.info("ledger %s", type(entry).__name__)
                if isinstance(entry, ModuleUpdated):
                    log.debug("stepped module=%s version=%d", entry.module, entry.version)
                    done = self.schedule.rounds.done
                    with suppress(DiskFull):  # the next step drops them
                        self._deps.journal.drop_results(self.run_id, before_round=done + 1)

    def _restore(self, now: float) -> None:
        """Resume where the journal ends; leases in hand are renewed, their holders may return."""
        scored = self.schedule.ledger.scored
        for given in scored.values():
            for ours, theirs in combinations(given, 2):
                if self.schedule.state.scoring and self._agree(ours.sheet, theirs.sheet):
                    self.schedule.state.scoring.note_alike(ours.sheet.digest, theirs.sheet.digest)
        for change in saved_changes(self.run_id, self._deps.journal, now):
            self._apply(change)
        self.schedule.forget_taken_in()
        for pending in self.schedule.restored(now):
            self._apply(pending)
        self._forget_old_blobs()
        self._make(self.schedule.overtaken())
        self._adopt_first()

    def _adopt_first(self) -> None:
        """Have the ledger adopt the router of epoch 0, unless it has."""
        self._make(self.schedule.adopt(spec_digest(self._spec)))
        self._check_spec()

    def _check_spec(self) -> None:
        if self.schedule.ledger.specs[0] != spec_digest(self._spec):
            raise LocalProtocolError("the ledger adopts another spec than the one derived")
