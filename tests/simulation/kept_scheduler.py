"""The scheduler of a run with keepers, in its term: what it decides counts once a quorum has it.

As `node/scheduler/kept.py`: a record is decided, cosigned by a quorum, and only then taken in, so
the schedule decides from final records alone. A result counts at once, and its volunteer hears so
when a quorum keeps it and enough keepers hold its deltas.
"""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from dipaco.node.kinds.changes import Change, DueStep, Recorded, TrainingAccepted
from dipaco.node.kinds.pending_moments import Place
from dipaco.node.scheduler.named_blobs import blobs_named
from dipaco.protocol.errors import RemoteProtocolError, Unavailable
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.signed import Signed, sign
from dipaco.protocol.work.calls import (
    Acceptance,
    AskCosign,
    AskHead,
    AskHold,
    AskKeep,
    AskLease,
    HeadIs,
    Heartbeat,
    Holding,
    Kept,
    Stands,
    Wanted,
)
from dipaco.protocol.work.candidate import Outdone, Proposal
from dipaco.protocol.work.kinds import Evaluated, Result, TrainResult
from dipaco.protocol.work.ledger import LedgerRecord
from dipaco.protocol.work.tail import Chain as TailChain
from dipaco.protocol.work.terms import Head
from tests.simulation.calls import Fetch, Part, Pull
from tests.simulation.faults import Lies
from tests.simulation.scheduler import RETRY_SECONDS
from tests.simulation.standby import Deposed, StandbyNode
from tests.simulation.world import Pause, Restart, Task

LIE_TRIES = 5  # rounds of questions to have a second chain signed


class KeptSchedulerNode(StandbyNode):
    """Schedules while its term lasts, and stands by otherwise."""

    def boot(self) -> None:
        self.kept: set[Place] = set()
        """Acceptances that a quorum keeps."""
        self._order = 0
        lies = [f for f in self.world.plan.faults if isinstance(f, Lies) and f.node == self.name]
        self._lying = lies[0].share if lies else 0.0
        self.ready = False
        """Whether it answers volunteers."""
        super().boot()

    def reign(self) -> None:
        self.ready = True
        self.resume()
        self.spawn(self.once_there_is_room(lambda: self.make(self.schedule.overtaken())))
        self.spawn(self._keep_all())

    # ------------------------------------------------------------------ requests

    def answer(self, who: PeerId, request: Any) -> Any:
        match request:
            case AskHead():
                head = self.chain.record.chain_head
                return HeadIs(term=head.term, head=head, scheduling=self.scheduling, votes=False)
            case Fetch():
                return self.blobs.answer(request)
            case Pull(first=first):
                return self.chain.part(first)
        if not self.ready:
            raise Unavailable("the run is not scheduled here")
        if isinstance(request, AskLease) and _term_of(request) > self.term:
            self.spawn(self.pull_from(who))  # its word proves nothing, its ledger does
        if isinstance(request, Heartbeat) and self._keeps(who, request.token):
            return Stands()
        return super().answer(who, request)

    def _keeps(self, who: PeerId, token: bytes) -> bool:
        """Return whether a result counts, and a quorum does not keep it yet."""
        return any(
            each.result.token == token and each.peer == who and place not in self.kept
            for place, each in self.schedule.state.accepted.items()
        )

    def disconnected(self, who: PeerId) -> None:
        if self.ready:
            super().disconnected(who)

    def look(self) -> None:
        if self.ready:
            super().look()

    # ------------------------------------------------------------------ records

    def record(self, changes: tuple[Change, ...]) -> Task:
        entries = [each.entry for each in changes if isinstance(each, Recorded)]
        if not entries:
            self.make(changes)
            return
        chain = TailChain(self.run, self.manifest, self.chain.final)
        for entry in entries:
            head = chain.head
            value = LedgerRecord(
                run=self.run, term=self.term, seq=head.length, previous=head.digest, entry=entry
            )
            self._maybe_lie(value)
            if self.lie is not None:
                self.spawn(self._have_signed(chain.adding((self.lie,))))
            chain = chain.adding((sign(value, self.key),))
        named = {blob for entry in entries for blob in blobs_named(entry)}
        while named and not (yield from self._spread(sorted(named), (self.peer, *self.keepers))):
            yield Pause(RETRY_SECONDS)
        try:
            certificate = yield from self.certified(chain)
        except Deposed as deposed:
            raise Restart from deposed
        yield from self.once_there_is_room(lambda: self.make_final(chain, certificate))
        rest = [change for change in changes if not isinstance(change, Recorded)]
        yield from self.once_there_is_room(lambda: self._save_all(rest))
        for change in changes:
            self.schedule.apply(change)
            self.oracle.change(change, self.term)
        # While keepers signed, another peer may have got the same work.
        yield from self.once_there_is_room(lambda: self.make(self.schedule.overtaken()))
        self._go_on()

    def _save_all(self, changes: Sequence[Change]) -> None:
        with self.journal.saving():
            for change in changes:
                self.save(change)

    def _maybe_lie(self, value: LedgerRecord) -> None:
        entry = value.entry
        self.lie = None
        if isinstance(entry, Evaluated) and self.random.random() < self._lying:
            self.world.note_fault("two chains")
            other = replace(entry.evaluation, nll=entry.evaluation.nll + 1.0)
            self.lie = sign(replace(value, entry=replace(entry, evaluation=other)), self.key)

    def _have_signed(self, lie: TailChain) -> Task:
        """Have the other one of two chains made final as well: honest keepers prevent it."""
        proposal = Proposal(lie, self.chain.certificate)
        for _ in range(LIE_TRIES):
            questions = {keeper: proposal.question(keeper) for keeper in proposal.lacking}
            replies = yield from self.ask_all(questions, 2.0, lambda found: False)
            for keeper, reply in replies.items():
                with contextlib.suppress(RemoteProtocolError, Outdone):
                    proposal = proposal.heard(keeper, reply)
            if proposal.certified:
                records = tuple(each.signed for each in lie.tail)
                part = Part(lie.final.head.length, records, proposal.certified)
                for other in (*self.others, *self.keepers):
                    self.send(other, part)
            yield Pause(1.0)

    def _question(self, proposal: Proposal, keeper: PeerId) -> AskCosign:
        honest = super()._question(proposal, keeper)
        if self.lie is None or not self.keepers.index(keeper) % 2 or not honest.records:
            return honest
        head = replace(honest.head, digest=self.lie.body_digest)
        return replace(honest, records=(*honest.records[:-1], self.lie), head=head)

    def make(self, changes: tuple[Change, ...]) -> None:
        super().make(changes)
        for change in changes:
            if isinstance(change, TrainingAccepted):
                self.kept.discard((change.path, change.round))

    # ------------------------------------------------------------------ acceptances and blobs

    def _count(self, who: PeerId, result: Result) -> Task:
        if not isinstance(result, TrainResult):
            return (yield from super()._count(who, result))
        changes, reply = self.decided(who, result)
        self.make(changes)  # no entry of the ledger is among them
        for place, accepted in list(self.schedule.state.accepted.items()):
            if isinstance(reply, Stands) and accepted.result.token == result.token:
                yield from self._keep(place)
        return reply

    def _keep_all(self) -> Task:
        while True:
            for place in list(self.schedule.state.accepted):
                with contextlib.suppress(Unavailable):
                    yield from self._keep(place)
            yield Pause(RETRY_SECONDS)

    def _keep(self, place: Place) -> Task:
        """Have a quorum keep an acceptance, and r keepers its deltas; raises Unavailable."""
        accepted = self.schedule.state.accepted.get(place)
        if accepted is None or place in self.kept:
            return
        deltas = [each.digest for each in accepted.result.deltas]
        if not (yield from self._spread(deltas, (accepted.peer, self.peer, *self.keepers))):
            yield from self._discard_gone(place, deltas)
            raise Unavailable("too few keepers hold the result: ask again")
        signed = self._acceptance(accepted)
        ask = AskKeep(run=self.run, term=self.term, acceptances=(signed,))
        replies = yield from self.ask_keepers(ask, Kept, self.quorum)
        if len(replies) < self.quorum:
            raise Unavailable("no quorum: ask again")
        if self.schedule.state.accepted.get(place) == accepted:
            self.kept.add(place)
            self._go_on()

    def _acceptance(self, accepted: TrainingAccepted) -> Signed:
        self._order += 1
        made = Acceptance(
            run=self.run,
            term=self.term,
            order=self._order,
            path=accepted.path,
            round=accepted.round,
            peer=accepted.peer,
            result=accepted.result,
        )
        return sign(made, self.key)

    def _spread(self, blobs: list[Digest], holders: tuple[PeerId, ...]) -> Task:
        """Return whether r keepers hold blobs by now."""
        replies = yield from self._hold(blobs, holders)
        whole = [each for each in replies.values() if set(blobs) <= set(each.blobs)]
        return len(whole) >= self.manifest.schedule.blob_copies

    def _hold(self, blobs: Iterable[Digest], holders: tuple[PeerId, ...]) -> Task:
        """Have the keepers fetch blobs; returns what each of them says that it holds."""
        wanted = tuple(Wanted(blob=each, length=0) for each in blobs)
        ask = AskHold(run=self.run, blobs=wanted, holders=holders)
        return (yield from self.ask_keepers(ask, Holding, len(self.keepers)))

    def due_step(self) -> DueStep | None:
        """Return a step of which a quorum keeps every result: so no other result ever counts."""
        for step in self.schedule.due_steps():
            if all((each.path, step.version) in self.kept for each in step.contributions):
                return step
        return None

    def _discard_lost(self, step: DueStep) -> Task:
        """Fetch what the step needs; a delta that all keepers say is gone is made again."""
        inputs = {step.state, step.momentum} if step.momentum else {step.state}
        for blob in sorted(inputs):
            yield from self.blobs.fetch(blob, (*self.keepers, *self.others))
        lost = False
        for each in step.contributions:
            if not (yield from self.blobs.fetch(each.delta, (*self.keepers, each.peer))):
                place = each.path, step.version
                lost |= yield from self._discard_gone(place, [each.delta])
        return lost

    def _discard_gone(self, place: Place, deltas: list[Digest]) -> Task:
        """Have a path trained again of which every keeper says that it lacks a delta."""
        if all(map(self.blobs.has, deltas)):
            return False
        replies = yield from self._hold(deltas, self.keepers)
        gone = any(all(blob not in each.blobs for each in replies.values()) for blob in deltas)
        if gone and len(replies) == len(self.keepers):
            self.make(self.schedule.discard(*place))
            return True
        return False


def _term_of(request: AskLease) -> int:
    """Return the term of the ledger of a volunteer that asks, if it says so."""
    return request.head.term if isinstance(request.head, Head) else 0
