"""The scheduler of a run with keepers: what it decides counts once a quorum of them has it.

Entries of the ledger are decided, signed and made final one proposal after the other, and applied
then. The acceptance of a training result is applied at once, as its lease ends with it; its
volunteer hears `Stands` when a quorum of keepers keeps it and enough of them hold its deltas.
Without a quorum leases go on, and no round closes. A higher term ends the scheduling.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import trio
from msgspec import UNSET

from dipaco.node.kinds.changes import (
    Change,
    DueStep,
    LeaseEnded,
    Recorded,
    TrainingAccepted,
    TrainingDiscarded,
)
from dipaco.node.kinds.pending_moments import Place
from dipaco.node.kinds.table import TRAIN
from dipaco.node.runs.record import RunRecord
from dipaco.node.scheduler.deps import SchedulerDeps
from dipaco.node.scheduler.held_moments import HeldMoments
from dipaco.node.scheduler.named_blobs import blobs_named
from dipaco.node.scheduler.replication import Certified, Deposed, Replication
from dipaco.node.scheduler.service import STEP_RETRY_SECONDS, Scheduler
from dipaco.node.storage.files import DiskFull
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.routing.spec import RouterSpec, spec_digest
from dipaco.protocol.tensors.delta import encoded_bytes
from dipaco.protocol.wire.digest import Digest, short
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.work.calls import AskLease, Fallen, Granted, Heartbeat, NoLease, Stands
from dipaco.protocol.work.kinds import Result, TrainResult
from dipaco.protocol.work.ledger import Entry
from dipaco.protocol.work.terms import NO_HEAD

log = logging.getLogger(__name__)

# For which an answer to a volunteer waits until a quorum has its result: it asks again.
KEEP_SECONDS = 20.0
LOOK_SECONDS = 10.0  # between two comparisons of ledgers that volunteers bring about


@dataclass
class _Unkept:
    """A result that counts here, and that a quorum of keepers does not keep yet."""

    accepted: TrainingAccepted
    kept: trio.Event = field(default_factory=trio.Event)
    begun: bool = False


class KeptScheduler(Scheduler):
    """Schedules a run with keepers, in one term."""

    def __init__(
        self,
        record: RunRecord,
        spec: RouterSpec,
        deps: SchedulerDeps,
        now: float,
        replication: Replication,
    ) -> None:
        self._replication = replication
        self._one = trio.Lock()
        self._proposal: Certified | None = None
        """What is final, and not applied yet."""
        self._unkept: dict[bytes, _Unkept] = {}
        """By token."""
        self._compared = -math.inf
        """When a volunteer's ledger last made this node compare its own with those of its peers."""
        self._ended = trio.Event()
        """Set once a higher term has begun."""
        super().__init__(record, spec, deps, now)
        for accepted in self.schedule.state.accepted.values():
            self._unkept[accepted.result.token] = _Unkept(accepted)
        replication.changed = deps.changed.notify

    @cached_property
    def _moments(self) -> HeldMoments:
        return HeldMoments(self.schedule, self._replication, self._deps.blobs.has)

    @property
    def waiting(self) -> str:
        """What waits for a quorum, in words; empty: nothing does."""
        return self._replication.waiting

    @property
    def deposed(self) -> bool:
        """Whether a higher term than this scheduler's has begun."""
        return self._ended.is_set() or self._record.term != self._replication.term

    def depose(self) -> None:
        """Schedule no more: there is a sign of a higher term."""
        self._ended.set()

    # ------------------------------------------------------------------ requests of volunteers

    def ask(self, peer: PeerId, request: AskLease, now: float) -> Granted | NoLease:
        """Answer a volunteer that wants work.

        Its word that its ledger is of a higher term proves nothing, but is worth a look at once.
        """
        head = NO_HEAD if request.head is UNSET else request.head
        if head.term > self._replication.term and now >= self._compared + LOOK_SECONDS:
            self._compared = now
            self._deps.run_store.wanting()
        return super().ask(peer, request, now)

    def heartbeat(self, peer: PeerId, beat: Heartbeat, now: float) -> Stands | Fallen:
        """Renew a lease; that of a result that is being kept stands until it is answered."""
        unkept = self._unkept.get(beat.token)
        if unkept is not None and unkept.accepted.peer == peer:
            return Stands()
        return super().heartbeat(peer, beat, now)

    async def _count(self, peer: PeerId, result: Result) -> Stands | Fallen:
        if not isinstance(result, TrainResult):
            return await super()._count(peer, result)
        now = trio.current_time()
        self._look(now)
        changes, reply = self.schedule.submit(peer, result, now=now)
        self._make(changes)  # no entry of the ledger is among them
        unkept = self._unkept.get(result.token)
        if unkept is not None and isinstance(reply, Stands):
            with trio.move_on_after(KEEP_SECONDS):
                await unkept.kept.wait()
            if not unkept.kept.is_set():
                raise Unavailable(
                    f"the result counts once a quorum of keepers has it ({self.waiting}): ask again"
                )
        return reply

    # ------------------------------------------------------------------ the run's own work

    async def serve(self) -> None:
        """Schedule until cancelled, or until a higher term has begun."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_term)
            nursery.start_soon(self._keep_results)
            nursery.start_soon(self._hold_moments)
            await self._settle(lambda: self.schedule.adopt(spec_digest(self._spec)))
            self._check_spec()
            nursery.start_soon(super().serve)
            await self._ended.wait()
            nursery.cancel_scope.cancel()

    def _adopt_first(self) -> None:
        pass  # `serve` does, as every entry needs a quorum

    async def _watch_term(self) -> None:
        while not self.deposed:
            await self._deps.run_store.changed.wait()
        self.depose()

    async def _keep_results(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                for unkept in self._unkept.values():
                    if not unkept.begun:
                        unkept.begun = True
                        nursery.start_soon(self._keep, unkept)
                await self._due.wait()

    async def _keep(self, unkept: _Unkept) -> None:
        """Have a quorum keep a result, and enough keepers hold its deltas."""
        accepted = unkept.accepted
        result, place = accepted.result, (accepted.path, accepted.round)
        what = f"the result of path {accepted.path} round {accepted.round}"
        signed = self._replication.acceptance(place, accepted.peer, result)
        try:
            if place in self.schedule.state.accepted:
                lease = self.schedule.lease_again(place)
                deltas = dict(TRAIN.to_inspect(self.schedule.state, lease, result))
                for delta, length in deltas.items():
                    while not await self._delta_here(place, delta, length):
                        if place not in self.schedule.state.accepted:
                            return
                        await trio.sleep(STEP_RETRY_SECONDS)
                await self._replication.hold(deltas, (accepted.peer,), what=what)
            await self._replication.keep(signed, what=what)
        except Deposed:
            self.depose()
            return
        unkept.kept.set()
        self._unkept.pop(result.token, None)
        self._due.notify()

    async def _hold_moments(self) -> None:
        try:
            await self._moments.run(self._due)
        except* Deposed:
            self.depose()

    def _is_kept(self, step: DueStep) -> bool:
        """Return whether a quorum keeps every result of a step.

        A scheduler that takes over knows of those alone. With another result the record of one
        module would list other work of a path and round than those of the other modules.
        """
        accepted = self.schedule.state.accepted
        tokens = (accepted[each.path, step.version].result.token for each in step.contributions)
        return not any(token in self._unkept for token in tokens)

    def _due_steps(self) -> Iterator[DueStep]:
        ready = self._moments.ready
        return (each for each in super()._due_steps() if self._is_kept(each) and ready(each))

    async def _take_step(self, step: DueStep) -> bool:
        """Take an outer step, once its deltas are here: keepers have what this node lacks."""
        elements = self.schedule.ledger.topology.elements(step.module)
        length = encoded_bytes(self._manifest.training.deltas, elements)
        for each in step.contributions:
            if not await self._delta_here((each.path, step.version), each.delta, length):
                return False
        return await super()._take_step(step)

    async def _delta_here(self, place: Place, delta: Digest, length: int) -> bool:
        """Return whether a delta of an accepted result is here now.

        As long as a keeper is away that may have it, it is waited for: its volunteer may have heard
        that it counts. If all say that it is gone, the path is trained again.
        """
        if self._deps.blobs.has(delta):
            return True
        holders = self._replication.keepers
        self.lacking = ""
        try:
            await self._deps.exchange.fetch(delta, length=length, holders=holders)
        except Unavailable as problem:
            words = f"delta {short(delta)} of path {place[0]} round {place[1]}"
            if await self._replication.gone(delta, length):
                log.warning("%s is lost, and made again: %s", words, problem)
                self._make(self.schedule.discard(*place))
            else:
                away = ", ".join(map(short_peer, sorted(self._replication.missing)))
                self.lacking = f"blocked: no keeper that answers has {words}; away: {away}"
        return self._deps.blobs.has(delta)

    # ------------------------------------------------------------------ final, then applied

    async def _settle(self, decide: Callable[[], tuple[Change, ...]]) -> None:
        """Make the changes that `decide` returns once their entries are final."""
        async with self._one:
            if self.deposed:
                raise Deposed(self._record.term)
            changes = decide()
            entries = [each.entry for each in changes if isinstance(each, Recorded)]
            if not entries:
                self._make(changes)
                return
            try:
                self._proposal = await self._made_final(entries)
            except Deposed:
                self.depose()
                raise
            await self._make_what_is_final(changes)

    async def _made_final(self, entries: Sequence[Entry]) -> Certified:
        named = {digest for each in entries for digest in blobs_named(each)}
        blobs = {digest: self._deps.blobs.size(digest) for digest in named}
        what = f"{type(entries[0]).__name__}"
        if blobs:
            await self._replication.hold(blobs, (), what=what)
        return await self._replication.final(entries)

    async def _make_what_is_final(self, changes: tuple[Change, ...]) -> None:
        """Save and apply what a quorum has signed: a full disk is waited for, nothing else is done.

        Another entry in its place would be a second ledger.
        """
        while self._proposal is not None:
            try:
                self._make(changes)
            except DiskFull:
                await trio.sleep(STEP_RETRY_SECONDS)
            else:
                self._proposal = None
        if any(isinstance(each, LeaseEnded) and each.counted for each in changes):
            self._make(self.schedule.overtaken())  # granted for the same work meanwhile

    def _save(self, changes: Iterable[Change]) -> None:
        changes = tuple(changes)
        if self._proposal is not None and any(isinstance(each, Recorded) for each in changes):
            final = self._proposal
            self._deps.run_store.append_final(self.run_id, final.records, final.certificate)
        super()._save(each for each in changes if not isinstance(each, Recorded))

    def _note(self, change: Change) -> None:
        super()._note(change)
        self._moments.note(change)
        match change:
            case TrainingAccepted(result=result):
                self._unkept[result.token] = _Unkept(change)
            case TrainingDiscarded(path=path, round=round_):
                for token, unkept in list(self._unkept.items()):
                    if (unkept.accepted.path, unkept.accepted.round) == (path, round_):
                        del self._unkept[token]
