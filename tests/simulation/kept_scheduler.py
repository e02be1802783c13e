"""A scheduler of a run with keepers: a standby until it begins a term, a standby again after it.

A record is decided, signed and saved as proposed, cosigned by a quorum, and only then taken in: so
the schedule decides from final records alone. After a start it asks the keepers before it signs.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from dipaco.node.kinds.changes import Change, DueStep, Recorded, TrainingAccepted
from dipaco.node.kinds.pending_moments import Place
from dipaco.node.storage.files import DiskFull
from dipaco.protocol.errors import RemoteProtocolError, Unavailable
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import ReadLedger
from dipaco.protocol.wire.signed import Signed, open_signed, sign
from dipaco.protocol.work.authority import scheduler_of_term
from dipaco.protocol.work.calls import (
    Acceptance,
    AskCosign,
    AskHead,
    AskHold,
    AskKeep,
    AskLease,
    Behind,
    CosignedHead,
    HeadIs,
    Holding,
    Kept,
    Promised,
    Stands,
    TailPart,
    Wanted,
)
from dipaco.protocol.work.candidate import (
    PATIENCE,
    Outdone,
    Proposal,
    TakeOver,
    acts_at,
    next_own_term,
)
from dipaco.protocol.work.kinds import Evaluated, EvaluateLease, Result, SeedLease, TrainResult
from dipaco.protocol.work.ledger import LedgerRecord
from dipaco.protocol.work.tail import Chain as TailChain
from dipaco.protocol.work.terms import Head
from tests.simulation.blobs import Blobs
from tests.simulation.calls import Fetch, Part, Pull
from tests.simulation.chain import CERTIFICATE, Chain, write_of
from tests.simulation.disk import Write
from tests.simulation.faults import Lies
from tests.simulation.scheduler import RESULTS, RETRY_SECONDS, SchedulerNode, SimulatedJournal
from tests.simulation.world import Ask, Pause, Restart, Task

LOOK_SECONDS = 2.0  # between looks of a standby at the scheduler
ASK_SECONDS = 4.0  # for the answers of keepers
TRIES = 5  # rounds of questions of one take-over
PROPOSED, ORDER = "proposed", "order"


class KeptSchedulerNode(SchedulerNode):
    """Schedules while its term lasts, and stands by otherwise."""

    def boot(self) -> None:
        self.journal = SimulatedJournal(self.disk)
        self.blobs = Blobs(self.disk, self.oracle)
        self.chain = Chain(self.run, self.manifest, self.disk, self.oracle)
        self.run_store = self
        self.scheduling, self.ready = False, False
        """Whether its term lasts, and whether the first record of it is final."""
        self.seen = 0
        """The highest term that was heard of."""
        self.kept: set[Place] = set()
        """Acceptances that a quorum keeps."""
        rows = self.disk.rows(PROPOSED)
        self.proposed = [decode(rows[key], Signed) for key in sorted(rows)]
        """Saved before it is sent: what was proposed and is not final yet."""
        try:
            self.seen = self.mine.head.term
        except RemoteProtocolError:  # others made records final in its place
            self._drop_proposed()
        self.lie: Signed | None = None
        lies = [f for f in self.world.plan.faults if isinstance(f, Lies) and f.node == self.name]
        self._lying = lies[0].share if lies else 0.0
        self.spawn(self._live())
        self.spawn(self._follow())

    def _drop_proposed(self) -> None:
        self.disk.commit([(PROPOSED, key, None) for key in self.disk.rows(PROPOSED)])
        self.proposed = []

    @property
    def keepers(self) -> tuple[PeerId, ...]:
        return self.manifest.schedule.named_keepers

    @property
    def quorum(self) -> int:
        return self.manifest.schedule.keeper_quorum

    @property
    def mine(self) -> TailChain:
        """Return the final ledger and what is proposed after it."""
        return TailChain(self.run, self.manifest, self.chain.final).adding(self.proposed)

    def see(self, term: int) -> None:
        """Take in that a term exists; a scheduler of a lower one stops at once."""
        self.seen = max(self.seen, term)
        if self.scheduling and term > self.term:
            raise Restart

    # ------------------------------------------------------------------ requests

    def answer(self, who: PeerId, request: Any) -> Any:
        match request:
            case AskHead():
                head = self.chain.record.chain_head
                term = max(self.seen, head.term)
                return HeadIs(term=term, head=head, scheduling=self.scheduling, votes=False)
            case Fetch():
                return self.blobs.answer(request)
            case Pull(first=first):
                return self.chain.part(first)
            case AskLease(head=Head(term=term)):
                self.see(term)
        if not self.ready:
            raise Unavailable("the run is not scheduled here")
        return super().answer(who, request)

    def disconnected(self, who: PeerId) -> None:
        if self.ready:
            super().disconnected(who)

    def look(self) -> None:
        if self.ready:
            super().look()

    def heard(self, who: PeerId, message: Any) -> None:
        if isinstance(message, Part):
            self._offer(who, message)

    def _offer(self, who: PeerId, part: Part) -> None:
        try:
            grown = self.chain.offer(part)
        except DiskFull:
            return
        except RemoteProtocolError as error:
            self.oracle.struck(who, str(error))
            return
        if grown:
            self.see(self.chain.record.term)
            if self.proposed or self.scheduling:  # others made records final beside ours
                raise Restart

    def _follow(self) -> Task:
        while True:
            who = self.random.choice((*self.keepers, *self.others))
            reply = yield Ask(who, Pull(len(self.chain.records)))
            if isinstance(reply, Part):
                with contextlib.suppress(Unavailable):
                    self._offer(who, reply)
            yield Pause(RETRY_SECONDS)

    # ------------------------------------------------------------------ standing by, taking over

    def _live(self) -> Task:
        if (yield from self._may_go_on()):
            yield from self._reign()
            return
        patience = self.now
        head = self.chain.record.chain_head
        while True:
            yield Pause(LOOK_SECONDS)
            self.see(self.chain.record.term)
            reply = yield Ask(self._scheduler_of(self.seen), AskHead(run=self.run), LOOK_SECONDS)
            moved = head != self.chain.record.chain_head
            if moved or (isinstance(reply, HeadIs) and reply.scheduling):
                patience, head = self.now, self.chain.record.chain_head
            schedulers = self.manifest.schedule.schedulers
            begun = self.chain.record.begun
            if self.now < acts_at(schedulers, self.peer, self.seen, heard=patience, begun=begun):
                continue
            try:
                term = next_own_term(schedulers, self.peer, self.seen)
                if (yield from self._take_over(term)):
                    yield from self._reign()
                    return
            except Unavailable:
                pass
            patience = self.now - PATIENCE * self.random.random()

    def _scheduler_of(self, term: int) -> PeerId:
        return scheduler_of_term(self.manifest.schedule.schedulers, term)

    def _may_go_on(self) -> Task:
        """Ask a quorum where it stands; True: this node's term lasts, and it lacks nothing."""
        found: dict[PeerId, HeadIs] = {}
        while len(found) < self.quorum:
            found = yield from self._ask_keepers(AskHead(run=self.run), HeadIs, self.quorum)
        for each in found.values():
            self.see(each.term)
        mine = self.mine
        self.see(mine.head.term)
        if self._scheduler_of(self.seen) != self.peer or mine.head.term != self.seen:
            return False
        return all(
            each.head.length <= mine.head.length
            and (not each.head.length or mine.digest_of(each.head.length - 1) == each.head.digest)
            for each in found.values()
        )

    def _ask_keepers(self, request: Any, kind: type[Any], enough: int) -> Task:
        """Ask all keepers; returns the answers of one kind, and takes in which terms there are."""

        def is_enough(found: Mapping[PeerId, Any]) -> bool:
            return sum(isinstance(each, kind) for each in found.values()) >= enough

        questions = dict.fromkeys(self.keepers, request)
        found = yield from self.ask_all(questions, ASK_SECONDS, is_enough)
        for reply in found.values():
            if isinstance(reply, Behind):
                self.see(reply.term)
        return {keeper: reply for keeper, reply in found.items() if isinstance(reply, kind)}

    def _take_over(self, term: int) -> Task:
        """Begin a term by the real machine; False: it cannot be begun now."""
        over = TakeOver(self.run, self.manifest, term, self.chain.final)
        for _ in range(TRIES):
            questions = {
                keeper: Pull(request.first) if isinstance(request, ReadLedger) else request
                for keeper, request in over.questions()
            }
            found = yield from self.ask_all(questions, ASK_SECONDS, lambda found: False)
            for keeper, reply in found.items():
                over = self._told(over, keeper, reply)
            if over.final.head != self.chain.record.chain_head:  # by gossip, maybe
                over = over.grown(self.chain.final)
            if self.seen >= term:
                return False
            choice = over.choice()
            if choice is not None:
                begun = choice.begun(term, self.key)
                self._save_begun(begun, over.open_acceptances(begun))
                return True
        return False

    def _told(self, over: TakeOver, keeper: PeerId, reply: Any) -> TakeOver:
        try:
            match reply:
                case Promised() | Behind():
                    return over.heard(keeper, reply)
                case TailPart():
                    return over.read(keeper, reply)
                case Part():
                    self._offer(keeper, reply)
        except Outdone as outdone:
            self.see(outdone.term)
        return over

    def _save_begun(self, begun: TailChain, acceptances: Sequence[Signed]) -> None:
        """Save the first record of the term, and all that it begins with, before it is sent."""
        writes: list[Write] = []
        for table in (PROPOSED, "leases", RESULTS):
            writes += [(table, key, None) for key in self.disk.rows(table)]
        for each in begun.tail:
            writes.append((PROPOSED, (each.record.seq,), encode(each.signed)))
        for signed in acceptances:
            it = open_signed(signed, Acceptance)
            writes.append((RESULTS, (it.round, it.path, it.peer), encode(it.result)))
        self.disk.commit(writes)
        self.proposed = [each.signed for each in begun.tail]

    # ------------------------------------------------------------------ a term

    def _reign(self) -> Task:
        """Schedule: what was proposed goes first, with the same bytes."""
        self.term, self.scheduling = self.mine.head.term, True
        if self.proposed:
            yield from self._certify()
        self.resume()
        for token, grant in list(self.schedule.grants.items()):
            if self._is_done(grant.lease):
                self.journal.forget_lease(token)
                self.schedule.grants.drop(token)
        self.schedule.open.changed()
        self.ready = True
        self.spawn(self._keep_all())

    def _is_done(self, lease: Any) -> bool:
        ledger = self.schedule.ledger
        if isinstance(lease, EvaluateLease):
            return (lease.version, lease.path) in ledger.evaluations
        return isinstance(lease, SeedLease) and ledger.seeded

    def record(self, changes: tuple[Change, ...]) -> Task:
        entries = [each.entry for each in changes if isinstance(each, Recorded)]
        if not entries:
            self.make(changes)
            return
        head = self.chain.record.chain_head
        made: list[Signed] = []
        for entry in entries:
            value = LedgerRecord(
                run=self.run, term=self.term, seq=head.length, previous=head.digest, entry=entry
            )
            made.append(sign(value, self.key))
            head = Head(term=self.term, length=value.seq + 1, digest=made[-1].body_digest)
            self._maybe_lie(value)
        first = len(self.chain.records)
        self.disk.commit([(PROPOSED, (first + n,), encode(each)) for n, each in enumerate(made)])
        self.proposed = made
        yield from self._certify()
        rest = [change for change in changes if not isinstance(change, Recorded)]
        yield from self._once_there_is_room(lambda: self._save_all(rest))
        for change in changes:
            self.schedule.apply(change)
            self.oracle.change(change, self.term)
        # While keepers signed, another peer may have got the same work.
        yield from self._once_there_is_room(lambda: self.make(self.schedule.overtaken()))
        self._go_on()

    def _save_all(self, changes: Sequence[Change]) -> None:
        with self.journal.saving():
            for change in changes:
                self.save(change)

    def _once_there_is_room(self, save: Callable[[], None]) -> Task:
        """Save what follows from a final record: it cannot be taken back."""
        while True:
            try:
                save()
                return
            except DiskFull:
                yield Pause(RETRY_SECONDS)

    def _maybe_lie(self, value: LedgerRecord) -> None:
        entry = value.entry
        self.lie = None
        if isinstance(entry, Evaluated) and self.random.random() < self._lying:
            self.world.note_fault("two chains")
            other = replace(entry.evaluation, nll=entry.evaluation.nll + 1.0)
            self.lie = sign(replace(value, entry=replace(entry, evaluation=other)), self.key)

    def _certify(self) -> Task:
        """Have the proposed records cosigned until a quorum did: then they are final."""
        proposal, tries = Proposal(self.mine, self.chain.certificate), 0
        blobs = {blob for each in proposal.chain.tail for blob in _blobs_of(each.record.entry)}
        holders = (self.peer, *self.keepers)
        while blobs and not (yield from self._spread(sorted(blobs), holders)):
            yield Pause(RETRY_SECONDS)
        while not proposal.certified:
            questions = {keeper: self._question(proposal, keeper) for keeper in proposal.lacking}
            missing = self.quorum - len(proposal.cosigned)
            replies = yield from self.ask_all(questions, ASK_SECONDS, _signed(missing))
            for keeper, reply in replies.items():
                try:
                    proposal = proposal.heard(keeper, reply)
                except Outdone as outdone:
                    self.see(outdone.term)
                except RemoteProtocolError as error:  # it signed the other one of two chains
                    self.oracle.lied(self.peer, str(error))
            tries += 1
            if tries >= TRIES and self._lost_something(proposal):
                raise Restart  # it asks the keepers, and then begins a term of its own
            if not proposal.certified:
                yield Pause(1.0 + 3.0 * self.random.random())
        self.lie = None
        yield from self._once_there_is_room(lambda: self._make_final(proposal.certified))

    def _lost_something(self, proposal: Proposal) -> bool:
        """Return whether a keeper has a record of this term that this scheduler signed and lost."""
        chain = proposal.chain
        for each in proposal.stands.values():
            last = each.head.length - 1
            if each.head.term == self.term and last >= 0:
                on_ours = last < chain.head.length and chain.digest_of(last) == each.head.digest
                if not on_ours:
                    return True
        return False

    def _question(self, proposal: Proposal, keeper: PeerId) -> AskCosign:
        honest = proposal.question(keeper, lambda first: self.chain.records[first:])
        if self.lie is None or not self.keepers.index(keeper) % 2:
            return honest
        head = replace(honest.head, digest=self.lie.body_digest)
        return replace(honest, records=(*honest.records[:-1], self.lie), head=head)

    def _make_final(self, certificate: tuple[Signed, ...]) -> None:
        first, records = len(self.chain.records), self.proposed
        self.chain.record.check(records)
        self.disk.commit(
            [
                *(write_of(first + n, each) for n, each in enumerate(records)),
                *((CERTIFICATE, (n,), encode(each)) for n, each in enumerate(certificate)),
                *((PROPOSED, key, None) for key in self.disk.rows(PROPOSED)),
            ]
        )
        self.chain.certificate = certificate
        self.chain.note_final(self.chain.take(records), records)
        self.proposed = []
        for other in (*self.others, *self.keepers):
            self.send(other, self.chain.part(first))

    def make(self, changes: tuple[Change, ...]) -> None:
        super().make(changes)
        for change in changes:
            if isinstance(change, TrainingAccepted):
                self.kept.discard((change.path, change.round))

    # ------------------------------------------------------------------ acceptances and blobs

    def _submit(self, who: PeerId, result: Result) -> Task:
        reply = yield from super()._submit(who, result)
        if isinstance(reply, Stands) and isinstance(result, TrainResult):
            for place, accepted in list(self.schedule.state.accepted.items()):
                if accepted.result.token == result.token:
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
            raise Unavailable("too few keepers hold the result: ask again")
        order = int(self.disk.rows(ORDER).get((self.term,), b"0")) + 1
        self.disk.commit([(ORDER, (self.term,), str(order).encode())])
        signed = sign(
            Acceptance(
                run=self.run,
                term=self.term,
                order=order,
                path=accepted.path,
                round=accepted.round,
                peer=accepted.peer,
                result=accepted.result,
            ),
            self.key,
        )
        ask = AskKeep(run=self.run, term=self.term, acceptances=(signed,))
        replies = yield from self._ask_keepers(ask, Kept, self.quorum)
        if len(replies) < self.quorum:
            raise Unavailable("no quorum: ask again")
        if self.schedule.state.accepted.get(place) == accepted:
            self.kept.add(place)
            self._go_on()

    def _spread(self, blobs: list[Digest], holders: tuple[PeerId, ...]) -> Task:
        """Return whether r keepers hold blobs by now."""
        wanted = tuple(Wanted(blob=each, length=0) for each in blobs)
        ask = AskHold(run=self.run, blobs=wanted, holders=holders)
        replies = yield from self._ask_keepers(ask, Holding, len(self.keepers))
        whole = [each for each in replies.values() if set(blobs) <= set(each.blobs)]
        return len(whole) >= self.manifest.schedule.blob_copies

    def due_step(self) -> DueStep | None:
        """Return a step of which a quorum keeps every result: so no other result ever counts."""
        for step in self.schedule.due_steps():
            if all((each.path, step.version) in self.kept for each in step.contributions):
                return step
        return None

    def _discard_lost(self, step: DueStep) -> Task:
        """Fetch what the step needs; a result that counts is waited for, and never discarded."""
        inputs = {step.state, *(each.delta for each in step.contributions)}
        inputs |= {step.momentum} if step.momentum else set()
        makers = [each.peer for each in step.contributions]
        for blob in sorted(inputs):
            yield from self.blobs.fetch(blob, (*self.keepers, *makers))
        return False


def _signed(enough: int) -> Callable[[Mapping[PeerId, Any]], bool]:
    return lambda found: sum(isinstance(e, CosignedHead) for e in found.values()) >= enough


def _blobs_of(entry: Any) -> list[Digest]:
    """Return the blobs that an entry makes, which must not be lost."""
    if hasattr(entry, "momentum"):
        return [entry.state, entry.momentum]
    return [each.digest for each in getattr(entry, "states", ())]
