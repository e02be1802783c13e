"""The scheduler of one run: the shell round `Schedule`.

Save, then send: every change is in the journal before anybody hears of it, and nothing is awaited
between a decision and its saving, so no lock is needed. Blobs of a submission are pulled over the
submitter's own connection and checked before the submission counts: a volunteer may vanish
afterwards. Moments follow in the background (`debts`). Outer steps are jobs of this node's worker
process.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.node.bell import Bell
from dipaco.node.catalogue import Catalogue
from dipaco.node.data.sheets import sheets_agree
from dipaco.node.network.exchange import Exchange
from dipaco.node.scheduling.changes import (
    Change,
    DueStep,
    Grant,
    LeaseEnded,
    MomentsKept,
    MomentsOwed,
    Recorded,
    TrainingAccepted,
    TrainingDiscarded,
)
from dipaco.node.scheduling.debts import Debt, Place
from dipaco.node.scheduling.retention import blobs_needed
from dipaco.node.scheduling.schedule import Schedule
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import DiskFull
from dipaco.node.storage.journal import Journal, SavedLease, SavedSubmission
from dipaco.node.training.jobs import Failed, Inspect, Inspected, InspectSheet, OuterStep, Stepped
from dipaco.node.training.worker import JobRunner
from dipaco.protocol.canonical import decode, encode
from dipaco.protocol.delta import encoded_bytes
from dipaco.protocol.digest import Digest, short
from dipaco.protocol.errors import LocalProtocolError, Unavailable
from dipaco.protocol.identity import PeerId, short_peer
from dipaco.protocol.lease import TOKEN_BYTES, Lease, ModuleDigest, Sheet, Submission
from dipaco.protocol.ledger import ModuleUpdated, SpecAdopted
from dipaco.protocol.manifest import Manifest
from dipaco.protocol.moments import moments_bytes
from dipaco.protocol.routing.labels import SCORE_BYTES
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

EXPIRY_SECONDS = 0.5  # between looks for leases whose time ran out
STEP_RETRY_SECONDS = 5.0  # before an outer step that failed on this machine is tried again
MAX_LEASE_BYTES = 64 << 10  # encoded; 64 modules have 4 KB


@dataclass(frozen=True)
class Tools:
    """What a scheduler works with; the daemon owns all of it."""

    key: Ed25519PrivateKey
    catalogue: Catalogue
    journal: Journal
    blobs: BlobStore
    exchange: Exchange
    worker: JobRunner
    blame: Callable[[PeerId, str], Awaitable[None]]
    """Lowers a peer's standing."""
    changed: Bell = field(default_factory=Bell)


class Scheduler:
    """Hands out the work of one run and takes in its results."""

    def __init__(
        self, manifest: Manifest, run: Digest, spec: RouterSpec, tools: Tools, now: float
    ) -> None:
        self.run_id = run
        self._tools = tools
        self._spec = spec
        """Of epoch 0."""
        self._manifest = manifest
        self.schedule = Schedule(manifest, run, spec.tokens)
        self.beats: dict[bytes, Heartbeat] = {}
        """The last word from every lease's holder, by token."""
        self.stepping: DueStep | None = None
        """The outer step in work."""
        self.full = ""
        """Why nothing can be saved at present; empty: it can."""
        self._due = Bell()
        self._collecting: set[Place] = set()
        """Whose moments somebody is after."""
        self._held_blobs: set[Digest] = set()
        """What this run has in the blob store."""
        self._restore(now)

    # ------------------------------------------------------------------ requests of volunteers

    def ask(self, peer: PeerId, request: AskLease, now: float) -> Granted | NoLease:
        """Answer a volunteer that wants work."""
        changes, reply = self.schedule.ask(
            peer, request.spec, token=secrets.token_bytes(TOKEN_BYTES), now=now
        )
        self._make(changes)
        return reply

    def heartbeat(self, peer: PeerId, beat: Heartbeat, now: float) -> Stands | Fallen:
        """Renew a lease."""
        reply = self.schedule.heartbeat(peer, beat.token, done=beat.done, now=now)
        if isinstance(reply, Stands):
            self.beats[beat.token] = beat
        return reply

    def hand_back(self, peer: PeerId, request: HandBack) -> Stands:
        """Take back a lease; nothing happens if it no longer stands."""
        grant = self.schedule.grant_of(peer, request.token)
        self._make(self.schedule.hand_back(peer, request.token, request.reason))
        if grant and not all(self._tools.blobs.has(each.digest) for each in grant.lease.moments):
            self._make(self.schedule.lost((grant.lease.path, grant.lease.round - 1)))
        return Stands()

    async def submit(self, peer: PeerId, submission: Submission) -> Stands | Fallen:
        """Pull and check the blobs of a submission, then count it if its lease still stands.

        Raises Unavailable when a blob cannot be had or checked now: the volunteer asks again.
        """
        grant = self.schedule.grant_of(peer, submission.token)
        if grant is None or grant.lease.kind == "evaluate":
            return self._count(peer, submission)
        if grant.lease.kind == "score":
            return await self._submit_sheet(peer, grant.lease, submission)
        if self.schedule.misfit(grant.lease, submission) or self.schedule.is_again(grant.lease):
            return self._count(peer, submission)  # which says what is wrong with it, or pulls none
        for digest, length in self._lengths(grant.lease, submission.blobs):
            await self._pull(digest, length, (peer,))
        wrong = await self._inspect(
            Inspect(manifest=self._manifest, lease=grant.lease, blobs=submission.blobs)
        )
        return await self._refuse(peer, submission, wrong) or self._count(peer, submission)

    async def _submit_sheet(
        self, peer: PeerId, lease: Lease, submission: Submission
    ) -> Stands | Fallen:
        """Pull a score sheet, hold it against the source and against those that others gave."""
        sheet, scoring = submission.sheet, self.schedule.scoring
        if sheet is None or scoring is None or self.schedule.misfit(lease, submission):
            return self._count(peer, submission)  # which says what is wrong with it
        await self._pull(sheet.digest, SCORE_BYTES * sheet.documents, (peer,))
        wrong = await self._inspect(
            InspectSheet(manifest=self._manifest, spec=self._spec, lease=lease, sheet=sheet)
        )
        refused = await self._refuse(peer, submission, wrong)
        if refused:
            return refused
        for other in scoring.given(lease.path, lease.window):
            self._compare(sheet, other.sheet)
        known = scoring.refuted(lease.path, lease.window)
        reply = self._count(peer, submission)
        for each in scoring.refuted(lease.path, lease.window):
            if each in known:
                continue
            reason = f"scores path {lease.path} of window {lease.window} as nobody else does"
            log.warning("score sheet of %s refuted: %s", short_peer(each.peer), reason)
            await self._tools.blame(each.peer, reason)
        return reply

    def _compare(self, ours: Sheet, theirs: Sheet) -> None:
        reshard, scoring = self._manifest.routing.reshard, self.schedule.scoring
        assert reshard is not None and scoring is not None
        with suppress(Unavailable):  # one that is lost agrees with none: another peer is asked
            if sheets_agree(self._tools.blobs, ours, theirs, reshard.tolerance):
                scoring.note_alike(ours.digest, theirs.digest)

    async def _refuse(self, peer: PeerId, submission: Submission, wrong: str) -> Fallen | None:
        if not wrong:
            return None
        log.warning("submission of %s refused: %s", short_peer(peer), wrong)
        self._make(self.schedule.hand_back(peer, submission.token, wrong))
        await self._tools.blame(peer, wrong)
        return Fallen(reason=one_line(wrong))

    async def _pull(self, blob: Digest, length: int, holders: tuple[PeerId, ...]) -> None:
        try:
            await self._tools.exchange.fetch(blob, length=length, holders=holders)
        except DiskFull as full:
            raise self._no_room(full) from full

    def gone(self, peer: PeerId, now: float) -> None:
        """Note that a peer's connection broke."""
        self.schedule.gone(peer, now)

    def _count(self, peer: PeerId, submission: Submission) -> Stands | Fallen:
        changes, reply = self.schedule.submit(peer, submission)
        self._make(changes)
        return reply

    def _lengths(
        self, lease: Lease, blobs: tuple[ModuleDigest, ...]
    ) -> Iterator[tuple[Digest, int]]:
        """Yield what is submitted, and the only valid length of each."""
        top = self.schedule.view.topology
        encoding = "f32" if lease.kind == "seed" else self._manifest.training.deltas
        for blob in blobs:
            yield blob.digest, encoded_bytes(encoding, top.elements(ModuleId(blob.module)))

    async def _inspect(self, job: Inspect | InspectSheet) -> str:
        match await self._tools.worker.run(job, lambda progress: None):
            case Inspected(wrong=wrong):
                return wrong
            case Failed(reason=reason):
                raise Unavailable(f"the submission cannot be checked now: {reason}")
            case answer:
                raise LocalProtocolError(f"an inspection is answered by {type(answer).__name__}")

    def adopt(self, spec: RouterSpec) -> None:
        """Go on by the router of the next epoch; raises DiskFull, and then nothing has happened."""
        self.schedule.weights[1:] = [spec.tokens]
        self._make(self.schedule.switch(spec_digest(spec)))

    # ------------------------------------------------------------------ the run's own work

    async def serve(self) -> None:
        """Expire leases, take outer steps and collect moments until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._expire)
            nursery.start_soon(self._take_steps)
            while True:
                for place in self.schedule.debts:
                    if place not in self._collecting:
                        self._collecting.add(place)
                        nursery.start_soon(self._collect, place)
                await self._due.wait()

    async def _collect(self, place: Place) -> None:
        """Bring the moments owed for a path and round here, from whoever has them, and check."""
        refused: Debt | None = None
        while (debt := self.schedule.debts.get(place)) is not None:
            if refused is None or debt.moments != refused.moments:
                try:
                    refused = None if await self._brought(place, debt) else debt
                except (Unavailable, DiskFull) as away:
                    log.debug("moments of path=%d round=%d: %s", *place, away)
            with trio.move_on_after(STEP_RETRY_SECONDS):
                await self._due.wait()
        self._collecting.discard(place)

    async def _brought(self, place: Place, debt: Debt) -> bool:
        """Return whether the moments are here and right; raises Unavailable, DiskFull."""
        top = self.schedule.view.topology
        holders = (debt.maker,) if debt.maker else ()
        for each in debt.moments:
            await self._pull(
                each.digest, moments_bytes(top.elements(ModuleId(each.module))), holders
            )
        while next(self.schedule.due_steps(), None) is not None:
            await self._due.wait()  # for the worker process, which everybody's outer steps need
        lease = self.schedule.lease_again(*place)
        wrong = await self._inspect(
            Inspect(manifest=self._manifest, lease=lease, blobs=(), moments=debt.moments)
        )
        now = self.schedule.debts.get(place)
        if now is None or now.moments != debt.moments:
            return True  # others are owed now, or none: the caller looks again
        if wrong:
            log.warning("moments of path=%d round=%d refused: %s", *place, wrong)
            self._make(self.schedule.lost(place))
            if debt.maker:
                await self._tools.blame(debt.maker, wrong)
            return False
        self._held_blobs |= {each.digest for each in debt.moments}
        self._make(self.schedule.kept(place))
        self._forget_old_blobs()
        return True

    async def _expire(self) -> None:
        while True:
            await trio.sleep(EXPIRY_SECONDS)
            with suppress(DiskFull):  # said already; the leases expire when there is room
                self._make(self.schedule.expire(trio.current_time()))

    async def _take_steps(self) -> None:
        while True:
            step = next(self.schedule.due_steps(), None)
            if step is None:
                await self._due.wait()
                continue
            self.stepping = step
            try:
                await self._take_step(step)
            except DiskFull:  # said already; the step's inputs are kept, so nothing is lost
                await trio.sleep(STEP_RETRY_SECONDS)
            self.stepping = None
            self._forget_old_blobs()

    async def _take_step(self, step: DueStep) -> None:
        if self._discard_lost(step):
            return
        job = OuterStep(
            manifest=self._manifest,
            module=step.module,
            state=step.state,
            momentum=step.momentum,
            residual=step.residual,
            contributions=step.contributions,
        )
        answer = await self._tools.worker.run(job, lambda progress: None)
        if isinstance(answer, Stepped):
            made = self.schedule.stepped(
                step, state=answer.state, momentum=answer.momentum, quantised=answer.quantised
            )
            self._make(made)
            return
        if isinstance(answer, Failed) and answer.kind == "disk":
            raise self._no_room(DiskFull(answer.reason))
        reason = answer.reason if isinstance(answer, Failed) else type(answer).__name__
        log.error("outer step of %s version %d: %s", step.module, step.version, reason)
        if not self._discard_lost(step):
            await trio.sleep(STEP_RETRY_SECONDS)

    def _discard_lost(self, step: DueStep) -> bool:
        """Have the paths trained again whose deltas are no longer readable here."""
        has = self._tools.blobs.has
        lost = [each.path for each in step.contributions if not has(each.delta)]
        for path in lost:
            self._make(self.schedule.discard(path, step.version))
        return bool(lost)

    def _forget_old_blobs(self) -> None:
        """Remove what no module's next step, no lease and no evaluation needs any more."""
        keep = blobs_needed(self.schedule)
        for digest in self._held_blobs - keep:
            self._tools.blobs.remove(digest)
        self._held_blobs = keep

    # ------------------------------------------------------------------ save, then send

    def _make(self, changes: tuple[Change, ...]) -> None:
        """Save, then do; raises DiskFull, and then nothing has happened."""
        if not changes:
            return
        saved = False
        try:
            with self._tools.journal.saving():
                for change in changes:
                    self._save(change)
            saved, self.full = True, ""
        except DiskFull as full:
            raise self._no_room(full) from full
        finally:
            if not saved:
                self._tools.catalogue.reread(self.run_id)
        for change in changes:
            self.schedule.apply(change)
            self._note(change)
        self._due.ring()
        self._tools.changed.ring()

    def _no_room(self, full: DiskFull) -> DiskFull:
        """Note that the disk is full; return what askers may hear of it."""
        self.full = str(full)
        self._tools.changed.ring()
        return DiskFull("the scheduler's disk is full, nothing can be saved now: ask again")

    def _save(self, change: Change) -> None:
        journal, run = self._tools.journal, self.run_id
        match change:
            case Grant(lease=lease, peer=peer):
                journal.save_lease(SavedLease(run, lease.token, peer, encode(lease)))
            case LeaseEnded(token=token):
                journal.drop_lease(token)
            case TrainingAccepted(path=path, round=round_, peer=peer, submission=submission):
                journal.save_submission(
                    SavedSubmission(run, "train", round_, path, peer, encode(submission))
                )
                journal.drop_lease(submission.token)
            case TrainingDiscarded(path=path, round=round_):
                journal.drop_submission(run, "train", round_, path)
            case MomentsOwed() | MomentsKept():
                pass  # a restart looks at what is here
            case Recorded(entry=entry):
                self._tools.catalogue.append(run, entry, self._tools.key)

    def _note(self, change: Change) -> None:
        """Keep the side tables in step with a change, and log it."""
        match change:
            case Grant(lease=lease, peer=peer):
                log.info(
                    "lease %s path=%d round=%d to=%s",
                    lease.kind,
                    lease.path,
                    lease.round,
                    short_peer(peer),
                )
            case LeaseEnded(token=token, reason=reason):
                self.beats.pop(token, None)
                log.info("lease ended token=%s: %s", short(token), reason)
            case TrainingAccepted(path=path, round=round_, peer=peer, submission=submission):
                self.beats.pop(submission.token, None)
                self._held_blobs |= submission.digests()
                log.info("accepted path=%d round=%d of=%s", path, round_, short_peer(peer))
            case TrainingDiscarded(path=path, round=round_):
                log.warning("discarded path=%d round=%d: its blobs are lost", path, round_)
            case MomentsOwed(place=(path, round_), debt=Debt(maker=None)):
                log.warning("moments of path=%d round=%d are lost: made again", path, round_)
            case MomentsKept(place=(path, round_)):
                log.info("moments of path=%d round=%d are here", path, round_)
            case Recorded(entry=entry):
                log.info("ledger %s", type(entry).__name__)
                if isinstance(entry, ModuleUpdated):
                    log.debug("stepped module=%s version=%d", entry.module, entry.version)
                    oldest = min(map(self.schedule.view.path_version, self.schedule.live_paths))
                    self._tools.journal.drop_submissions(self.run_id, before_round=oldest + 1)

    def _restore(self, now: float) -> None:
        """Resume where the journal ends; leases in hand are renewed, their holders may return."""
        journal = self._tools.journal
        specs = self._tools.catalogue.runs[self.run_id].specs
        for entry in self._tools.catalogue.entries(self.run_id):
            if isinstance(entry, SpecAdopted) and entry.epoch:  # published before it was adopted
                self.schedule.weights.append(specs[entry.spec].spec.tokens)
            self.schedule.apply(Recorded(entry))
        for given in self.schedule.view.scored.values():
            for ours, theirs in combinations(given, 2):
                self._compare(ours.sheet, theirs.sheet)
        for saved in journal.leases(self.run_id):
            lease = decode(saved.data, Lease, limit=MAX_LEASE_BYTES)
            self.schedule.apply(Grant(lease, saved.peer, now))
        for accepted in journal.submissions(self.run_id):
            submission = decode(accepted.data, Submission, limit=MAX_LEASE_BYTES)
            self.schedule.apply(
                TrainingAccepted(accepted.path, accepted.round, accepted.peer, submission)
            )
        self.schedule.forget_taken_in()
        for owed in self.schedule.restored(now):
            self.schedule.apply(owed)
        self._held_blobs = blobs_needed(self.schedule)
        self._make(self.schedule.adopt(spec_digest(self._spec)))
        if self.schedule.view.specs[0] != spec_digest(self._spec):
            raise LocalProtocolError("the ledger adopts another spec than the one derived")


class Desk:
    """Where volunteers ask: passes each request to the scheduler of its run."""

    def __init__(self) -> None:
        self.schedulers: dict[Digest, Scheduler] = {}

    async def ask(self, peer: PeerId, request: AskLease) -> Granted | NoLease:
        """Answer `AskLease`."""
        scheduler = self.schedulers.get(request.run)
        if scheduler is None:
            reason = f"run {short(request.run)} is not scheduled here, or not yet"
            return NoLease(code="unknown-run", reason=reason, retry_after=2.0)
        return scheduler.ask(peer, request, trio.current_time())

    async def heartbeat(self, peer: PeerId, request: Heartbeat) -> Stands | Fallen:
        """Answer `Heartbeat`."""
        return self._of(request.run).heartbeat(peer, request, trio.current_time())

    async def hand_back(self, peer: PeerId, request: HandBack) -> Stands:
        """Answer `HandBack`."""
        return self._of(request.run).hand_back(peer, request)

    async def submit(self, peer: PeerId, request: Submit) -> Stands | Fallen:
        """Answer `Submit`."""
        return await self._of(request.run).submit(peer, request.submission)

    def gone(self, peer: PeerId) -> None:
        """Note that a peer's connection broke."""
        for scheduler in self.schedulers.values():
            scheduler.gone(peer, trio.current_time())

    def _of(self, run: Digest) -> Scheduler:
        scheduler = self.schedulers.get(run)
        if scheduler is None:
            # After a restart the router is derived first: leases in hand stand meanwhile.
            raise Unavailable(f"run {short(run)} is not scheduled here, or not yet")
        return scheduler
