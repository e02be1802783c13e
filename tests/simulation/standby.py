"""A node that may schedule a run with keepers: it stands by, and begins a term in its turn.

As `node/scheduler/standby.py` and `replication.py`: every process begins a term of its own, above
all that a quorum of keepers knows of, so it signs nothing twice whatever its disk forgot. A sign of
a higher term ends its scheduling, in memory too: it stands by again.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

from dipaco.node.scheduler.journaled import take_over
from dipaco.node.storage.files import DiskFull
from dipaco.node.storage.journal import Journal
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import ReadLedger
from dipaco.protocol.wire.signed import Signed
from dipaco.protocol.work.authority import scheduler_of_term
from dipaco.protocol.work.calls import AskCosign, AskHead, Behind, HeadIs, Promised, TailPart
from dipaco.protocol.work.candidate import (
    Outdone,
    Proposal,
    TakeOver,
    acts_at,
    next_own_term,
)
from dipaco.protocol.work.ledger import check_equivocation
from dipaco.protocol.work.tail import Chain as TailChain
from tests.simulation.blobs import Blobs
from tests.simulation.calls import Part, Proof, Pull
from tests.simulation.chain import CERTIFICATE, Chain, write_of
from tests.simulation.scheduler import RETRY_SECONDS, SchedulerNode, SimulatedJournal
from tests.simulation.usurping import usurp
from tests.simulation.world import Ask, Away, Pause, Restart, Signal, Task, Wait

BEAT_SECONDS = 2.0  # between looks of a standby at the schedulers
ASK_SECONDS = 4.0  # for the answers of keepers, and of other schedulers
TAKE_SECONDS = 30.0  # for promises to come together
KEEPERS_SECONDS = 10.0  # between two looks of a scheduler at the terms that keepers serve
FIRST_PAUSE = 0.5  # s before a quorum that did not answer is asked again
LONGEST_PAUSE = 8.0  # s, after some attempts


class Deposed(Exception):
    """A keeper serves a higher term."""

    def __init__(self, term: int) -> None:
        super().__init__(term)
        self.term = term


class StandbyNode(SchedulerNode):
    """Waits for its turn; `KeptSchedulerNode` says what it does then."""

    def boot(self) -> None:
        self.journal = SimulatedJournal(self.disk, old=self.old)
        self.blobs = Blobs(self.disk, self.oracle)
        self.chain = Chain(self.run, self.manifest, self.disk, self.oracle)
        self.run_store = self
        self.scheduling = False
        """Whether it has begun a term that lasts."""
        self.seen = self.chain.record.term
        """The highest term that was heard of."""
        self._before = 0
        """The term that its own goes on from."""
        self._proven = set[PeerId]()
        """The schedulers that are proven to have signed two ledgers."""
        self.lie: Signed | None = None
        self.spawn(self._live())
        self.spawn(self._follow())

    @property
    def keepers(self) -> tuple[PeerId, ...]:
        """All keepers of the run."""
        return self.manifest.schedule.named_keepers

    @property
    def quorum(self) -> int:
        """How many keepers decide."""
        return self.manifest.schedule.keeper_quorum

    def _scheduler_of(self, term: int) -> PeerId:
        return scheduler_of_term(self.manifest.schedule.schedulers, term)

    def see(self, term: int) -> None:
        """Take in that a term exists; a scheduler of a lower one stops at once."""
        self.seen = max(self.seen, term)
        if self.scheduling and term > self.term:
            raise Restart

    # ------------------------------------------------------------------ the ledger of others

    def usurp(self) -> Task:
        return usurp(self, self.run, self.manifest, self.chain.record.term)

    def heard(self, who: PeerId, message: Any) -> None:
        if isinstance(message, Part):
            self._offer(who, message)
        if isinstance(message, Proof):
            one, _ = check_equivocation(message.proof, run=self.run, manifest=self.manifest)
            self._proven.add(self._scheduler_of(one.term))

    def _offer(self, who: PeerId, part: Part) -> None:
        try:
            grown = self.chain.offer(part)
        except DiskFull:
            return
        except RemoteProtocolError as error:
            self.oracle.struck(who, str(error))
            return
        self.see(self.chain.record.term)
        if grown and self.scheduling:  # in its own term: it signed two chains
            raise Restart

    def _follow(self) -> Task:
        while True:
            yield from self.pull_from(self.random.choice((*self.keepers, *self.others)))
            yield Pause(RETRY_SECONDS)

    def pull_from(self, who: PeerId) -> Task:
        """Take in what a peer has of the ledger that is not here yet."""
        reply = yield Ask(who, Pull(len(self.chain.records)))
        if isinstance(reply, Part):
            self._offer(who, reply)

    # ------------------------------------------------------------------ standing by

    def _live(self) -> Task:
        yield from self._until_due()
        while (kept := (yield from self._begun())) is None:
            yield from self._until_due()
        ours = self._scheduler_of(self._before) == self.peer
        record, journal = self.chain.record, cast(Journal, self.journal)
        yield from self.once_there_is_room(lambda: take_over(record, journal, kept, ours=ours))
        self.reign()
        while True:
            yield Pause(KEEPERS_SECONDS)
            yield from self.ask_keepers(AskHead(run=self.run), HeadIs, len(self.keepers))

    def reign(self) -> None:
        """Schedule: the term has begun."""
        raise NotImplementedError

    def _until_due(self) -> Task:
        """Wait until the scheduler has been silent for long enough; not where it is this node."""
        while len((yield from self.ask_keepers(AskHead(run=self.run), HeadIs, self.quorum))) < (
            self.quorum
        ):
            yield Pause(self.random.uniform(FIRST_PAUSE, 2.0))
        schedulers, record = self.manifest.schedule.schedulers, self.chain.record
        leads = yield from self._somebody_schedules()
        if not leads and self._scheduler_of(self.seen) == self.peer:
            return
        heard, head = self.now, record.chain_head
        while True:
            self.see(record.term)
            if (yield from self._somebody_schedules()) or record.chain_head != head:
                heard, head = self.now, record.chain_head
            proven = self._scheduler_of(self.seen) in self._proven
            if self.now >= acts_at(
                schedulers, self.peer, self.seen, heard=heard, begun=record.begun, proven=proven
            ):
                return
            yield Pause(BEAT_SECONDS)

    def _somebody_schedules(self) -> Task:
        others = [each for each in self.manifest.schedule.schedulers if each != self.peer]
        questions = dict.fromkeys(others, AskHead(run=self.run))
        found = yield from self.ask_all(questions, BEAT_SECONDS, lambda found: False)
        return any(isinstance(each, HeadIs) and each.scheduling for each in found.values())

    def ask_keepers(self, request: Any, kind: type[Any], enough: int) -> Task:
        """Ask all keepers; returns the answers of one kind, and takes in which terms there are."""

        def is_enough(found: Mapping[PeerId, Any]) -> bool:
            return sum(isinstance(each, kind) for each in found.values()) >= enough

        questions = dict.fromkeys(self.keepers, request)
        found = yield from self.ask_all(questions, ASK_SECONDS, is_enough)
        for reply in found.values():
            if isinstance(reply, Behind | HeadIs):
                self.see(reply.term)
        return {keeper: reply for keeper, reply in found.items() if isinstance(reply, kind)}

    # ------------------------------------------------------------------ beginning a term

    def _begun(self) -> Task:
        """Begin the next term of this node; returns the acceptances that keepers keep.

        None when another scheduler was seen to go on meanwhile.
        """
        while True:
            self.see(self.chain.record.term)
            term = next_own_term(self.manifest.schedule.schedulers, self.peer, self.seen)
            try:
                kept = yield from self._begin(term)
                if kept is not None:
                    return kept
            except Deposed as higher:
                self.see(higher.term)
            yield Pause(self.random.uniform(FIRST_PAUSE, 2.0))
            if (yield from self._somebody_schedules()):
                return None

    def _begin(self, term: int) -> Task:
        found = yield from self._choice(term)
        if found is None:
            return None
        begun, self._before, acceptances = found
        self.term = term
        certificate = yield from self.certified(begun)
        yield from self.once_there_is_room(lambda: self.make_final(begun, certificate))
        self.scheduling = True
        self.see(self.chain.record.term)
        return acceptances

    def _choice(self, term: int) -> Task:
        """Ask the keepers side by side; None: no quorum agrees.

        Returns the chain with the record that begins the term, the term before, and the acceptances
        of open rounds; all of the moment of the choice, since this node's ledger may grow.
        """
        taking = TakeOver(self.run, self.manifest, term, self.chain.final)
        found: tuple[TailChain, int, tuple[Signed, ...]] | None = None
        left, deposed, done = len(self.keepers), 0, Signal()

        def pursue(keeper: PeerId) -> Task:
            nonlocal taking, found, left, deposed
            while (question := _question_to(keeper, taking)) is not None and found is None:
                if isinstance(question, ReadLedger):
                    question = Pull(question.first)
                reply = yield Ask(keeper, question, ASK_SECONDS)
                if taking.final.head != self.chain.record.chain_head:  # it grew meanwhile
                    taking = taking.grown(self.chain.final)
                try:
                    match reply:
                        case Promised() | Behind():
                            taking = taking.heard(keeper, reply)
                        case TailPart():
                            taking = taking.read(keeper, reply)
                        case Part():
                            self._offer(keeper, reply)
                            taking = taking.grown(self.chain.final)
                        case Away():
                            break
                except Outdone as outdone:
                    deposed = max(deposed, outdone.term)
                    break
                if all(given.after is None for given in taking.given.values()):
                    found = self._chosen(taking)
            left -= 1
            self.wake(done)

        def alarm() -> Task:
            nonlocal left
            yield Pause(TAKE_SECONDS)
            left = 0
            self.wake(done)

        for keeper in self.keepers:
            self.spawn(pursue(keeper))
        self.spawn(alarm())
        while left and found is None and not deposed:
            yield Wait(done)
        if found is None and deposed:
            raise Deposed(deposed)
        return found

    def _chosen(self, taking: TakeOver) -> tuple[TailChain, int, tuple[Signed, ...]] | None:
        choice = taking.choice()
        if choice is None:
            return None
        begun = choice.begun(taking.term, self.key)
        return begun, choice.chain.head.term, taking.open_acceptances(choice.chain)

    # ------------------------------------------------------------------ final

    def certified(self, chain: TailChain) -> Task:
        """Return a quorum's signatures of a chain's end; raises Deposed."""
        proposal, pause = Proposal(chain, self.chain.certificate), FIRST_PAUSE
        while not proposal.certified:
            before = proposal.stands
            questions = {keeper: self._question(proposal, keeper) for keeper in proposal.lacking}
            missing = self.quorum - len(proposal.cosigned)
            replies = yield from self.ask_all(questions, ASK_SECONDS, _signed(missing))
            for keeper, reply in replies.items():
                try:
                    proposal = proposal.heard(keeper, reply)
                except Outdone as outdone:
                    self.see(outdone.term)
                    raise Deposed(outdone.term) from outdone
                except RemoteProtocolError as error:  # it signed the other one of two chains
                    self.oracle.lied(self.peer, str(error))
            if not proposal.certified and before == proposal.stands:
                yield Pause(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        self.lie = None
        return proposal.certified

    def _question(self, proposal: Proposal, keeper: PeerId) -> AskCosign:
        return proposal.question(keeper, lambda first: self.chain.records[first:])

    def make_final(self, chain: TailChain, certificate: tuple[Signed, ...]) -> None:
        """Save and take in the end of a chain, and tell the others; raises DiskFull."""
        first = len(self.chain.records)
        records = [each.signed for each in chain.tail if each.record.seq >= first]
        if not records:
            return
        self.chain.record.check(records)
        self.disk.commit(
            [
                *(write_of(first + n, each) for n, each in enumerate(records)),
                *((CERTIFICATE, (n,), encode(each)) for n, each in enumerate(certificate)),
            ]
        )
        self.chain.certificate = certificate
        self.chain.note_final(self.chain.take(records), records)
        for other in (*self.others, *self.keepers):
            self.send(other, self.chain.part(first))

    def once_there_is_room(self, save: Callable[[], None]) -> Task:
        """Save what follows from a final record: it cannot be taken back."""
        while True:
            try:
                save()
                return
            except DiskFull:
                yield Pause(RETRY_SECONDS)


def _question_to(keeper: PeerId, taking: TakeOver) -> Any:
    """Return what is left to ask one keeper; None: nothing."""
    return next((question for peer, question in taking.questions() if peer == keeper), None)


def _signed(enough: int) -> Callable[[Mapping[PeerId, Any]], bool]:
    def is_enough(found: Mapping[PeerId, Any]) -> bool:
        return sum(not isinstance(each, Behind) for each in found.values()) >= enough

    return is_enough
