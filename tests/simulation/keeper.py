"""A keeper of a universe: the real pure machine, its tables on the simulated disk, its blobs."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast

from msgspec.structs import replace

from dipaco.node.scheduler.named_blobs import blobs_named
from dipaco.node.storage.files import DiskFull
from dipaco.protocol.errors import RemoteProtocolError, Unavailable
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.signed import Signed
from dipaco.protocol.work.authority import scheduler_of_term
from dipaco.protocol.work.calls import (
    AskCosign,
    AskHead,
    AskHold,
    AskKeep,
    AskPromise,
    Behind,
    CosignedHead,
    HeadIs,
    Holding,
    Promised,
    ReadTail,
    TailPart,
)
from dipaco.protocol.work.keeping import (
    AcceptanceDropped,
    AcceptanceKept,
    BecameFinal,
    Change,
    Convicted,
    Decision,
    Keeper,
    KeeperState,
    KeptAcceptance,
    TailReplaced,
    TermPromised,
    apply,
    open_acceptance,
)
from dipaco.protocol.work.relearning import Forgotten, can_relearn, newest_of, others_needed
from dipaco.protocol.work.tail import TailRecord
from dipaco.protocol.work.terms import MAX_TERMS, Cosigned, Head, Promise
from tests.simulation.blobs import Blobs
from tests.simulation.calls import Fetch, Part, Proof, Pull
from tests.simulation.chain import CERTIFICATE, LEDGER, Chain, write_of
from tests.simulation.disk import Key, Write
from tests.simulation.oracle import Oracle, Violation
from tests.simulation.signatures import signing_key
from tests.simulation.world import Ask, Node, Pause, Task, World
from tests.values import peer

PROMISED, TAIL, ACCEPTANCES = "promised", "tail", "acceptances"
FOLLOW_SECONDS = 5.0  # between looks at the ledger of others
LOOK_SECONDS = 1.0  # between two attempts of a keeper to vote
SEEN_SECONDS = 3 * LOOK_SECONDS  # of silence, so that all others see that it has no record either
REPAIR_SECONDS = 10.0  # between looks for blobs that are lost

R = TypeVar("R")


class KeeperNode(Node):
    """Stores the ledger, acceptances and blobs, promises and cosigns."""

    def __init__(
        self, world: World, name: str, run: Digest, manifest: Manifest, oracle: Oracle
    ) -> None:
        super().__init__(world, name, peer(name))
        self.run, self.manifest, self.oracle = run, manifest, oracle
        self.keeper = Keeper(run, manifest, signing_key(name))

    def boot(self) -> None:
        self.chain = Chain(self.run, self.manifest, self.disk, self.oracle)
        self.blobs = Blobs(self.disk, self.oracle)
        self.state = self.saved_state()
        self.forgot = self.lost_its_word()
        """Whether what it has signed is not known here: it does not vote then."""
        self.forgotten: Forgotten | None = None
        """What the other keepers know of that."""
        self.spawn(self._recover())
        self.spawn(self._repair())
        self.spawn(self._follow())

    def lost_its_word(self) -> bool:
        """Return whether the disk says nothing of what it promised, not even of nothing."""
        return ("term",) not in self.disk.rows(PROMISED)

    def saved_state(self) -> KeeperState:
        """Return the machine's state as the disk has it."""
        promised = self.disk.rows(PROMISED)
        term, promise = promised.get(("term",), b"0"), promised.get(("promise",))
        tail = sorted(cast("dict[tuple[int], bytes]", self.disk.rows(TAIL)).items())
        acceptances = [
            open_acceptance(decode(data, Signed), self.manifest, self.run, most=MAX_TERMS)
            for data in self.disk.rows(ACCEPTANCES).values()
        ]
        return KeeperState(
            promised_term=int(term),
            promise=decode(promise, Promise) if promise else None,
            tail=tuple(TailRecord.of(decode(data, Signed)) for _, data in tail),
            acceptances={each.acceptance.place: each for each in acceptances},
        )

    # ------------------------------------------------------------------ calls

    def answer(self, who: PeerId, request: Any) -> Any:
        keeper, state, final = self.keeper, self.state, self.chain.final
        try:
            match request:
                case AskPromise(term=term):
                    return self._silent(term) or self.decided(
                        keeper.promise(state, final, who, request), who
                    )
                case AskCosign(head=Head(term=term)):
                    return self._silent(term) or self.decided(
                        keeper.cosign(state, final, who, request)
                    )
                case AskKeep(term=term):
                    return self._silent(term) or self.decided(
                        keeper.keep(state, final, who, request)
                    )
                case ReadTail():
                    if self.forgot:
                        raise Unavailable("this keeper does not know what it kept")
                    return keeper.tail_part(state, final, who, request)
                case AskHead():
                    return self._head()
                case AskHold():
                    return self._hold(request)
                case Fetch():
                    return self.blobs.answer(request)
                case Pull(first=first):
                    return self.chain.part(first)
        except RemoteProtocolError as error:
            self.oracle.struck(who, str(error))
            raise Unavailable("the question is refused") from error
        raise AssertionError(request)

    def _head(self) -> HeadIs:
        answer = self.keeper.head(self.state, self.chain.final, scheduling=False)
        least = self.forgotten.least(self.chain.final) if self.forgotten else 0
        return replace(answer, term=max(answer.term, least), votes=not self.forgot)

    def _silent(self, term: int) -> Behind | None:
        """Return what a keeper answers that has forgotten; raises Unavailable, None: it votes."""
        if self.forgotten is not None:
            return self.forgotten.refusing(self.chain.final, term)
        if self.forgot:
            raise Unavailable("this keeper has yet to learn from the others what it has signed")
        return None

    def decided(self, decision: Decision[R], asker: PeerId | None = None) -> R:
        """Save, then answer."""
        self.make(decision.changes)
        reply = decision.reply
        if isinstance(reply, Promised):
            promise = decode(reply.promise.body, Promise)
            owner = scheduler_of_term(self.manifest.schedule.schedulers, promise.term)
            if asker != owner:
                raise Violation(f"{self.name} promises term {promise.term} to another than its own")
            self.oracle.promised(self.peer, promise.term, promise.head)
        if isinstance(reply, CosignedHead):
            self.oracle.cosigned(self.peer, decode(reply.cosigned.body, Cosigned).head)
        return reply

    def make(self, changes: tuple[Change, ...]) -> None:
        """Save changes as one transaction, then apply them; raises DiskFull."""
        self.disk.commit([write for change in changes for write in self._writes(change)])
        for change in changes:
            self.state = apply(self.state, change)
            if isinstance(change, BecameFinal):
                fresh = [each.signed for each in change.records]
                self.chain.certificate = change.certificate
                self.chain.note_final(self.chain.take(fresh), fresh)
                self._tell()
            if isinstance(change, Convicted):
                self.oracle.convicted(change.proof.one.signer)
                for other in self.others:
                    self.send(other, Proof(change.proof))

    def _writes(self, change: Change) -> list[Write]:
        match change:
            case TermPromised(term=term, promise=promise):
                return [
                    (PROMISED, ("term",), str(term).encode()),
                    (PROMISED, ("promise",), encode(promise) if promise else None),
                ]
            case TailReplaced(floor=floor, first=first, records=records):
                return [
                    *self._gone(lambda key: not floor <= cast(int, key[0]) < first),
                    *((TAIL, (r.record.seq,), encode(r.signed)) for r in records),
                ]
            case BecameFinal(records=records, certificate=certificate):
                return [
                    *((TAIL, (each.record.seq,), None) for each in records),
                    *(write_of(each.record.seq, each.signed) for each in records),
                    *((CERTIFICATE, (n,), encode(each)) for n, each in enumerate(certificate)),
                ]
            case AcceptanceKept(kept=kept):
                return [(ACCEPTANCES, kept.acceptance.place, encode(kept.signed))]
            case AcceptanceDropped(place=place):
                return [(ACCEPTANCES, place, None)]
            case Convicted():
                return []

    def _gone(self, goes: Callable[[Key], bool]) -> list[Write]:
        return [(TAIL, key, None) for key in self.disk.rows(TAIL) if goes(key)]

    def _hold(self, request: AskHold) -> Task:
        for each in request.blobs:
            yield from self.blobs.fetch(each.blob, request.holders)
        held = tuple(each.blob for each in request.blobs if self.blobs.has(each.blob))
        return Holding(blobs=held)

    # ------------------------------------------------------------------ a lost disk

    def may_lose_disk(self) -> bool:
        """A second keeper has a record, and remembers it (docs/safety.md, assumption 3)."""
        keepers = (n for n in self.world.nodes.values() if isinstance(n, KeeperNode))
        others = [n for n in keepers if n is not self and not n.gone and not n.lost_its_word()]
        if not any(n.disk.rows(LEDGER) or n.disk.rows(TAIL) for n in others):
            return False
        self.oracle.lost(self.peer)
        return True

    def _recover(self) -> Task:
        """Vote once it may: as `node/keeper/recovery.py`."""
        empty = set[PeerId]()
        schedule = self.manifest.schedule
        others = set(schedule.named_keepers) - {self.peer}
        while self.forgot:
            heads = yield from self._of_keepers(AskHead(run=self.run), HeadIs)
            empty |= {peer for peer, answer in heads.items() if not answer.head.length}
            if empty >= others and not self.chain.records:
                yield Pause(SEEN_SECONDS)
                yield from self._vote(0, ())
            elif not can_relearn(schedule):
                pass  # no quorum exists without it: it never votes
            elif self.forgotten is None:
                self.forgotten = Forgotten.told(self.manifest, heads)
            elif self.forgotten.may_vote(self.chain.final):
                yield from self._take_up()
            yield Pause(LOOK_SECONDS)

    def _of_keepers(self, request: Any, kind: type[Any]) -> Task:
        """Ask all other keepers; returns the answers of one kind."""
        others = [each for each in self.manifest.schedule.named_keepers if each != self.peer]
        found = yield from self.ask_all(dict.fromkeys(others, request), 4.0, lambda found: False)
        return {peer: reply for peer, reply in found.items() if isinstance(reply, kind)}

    def _take_up(self) -> Task:
        """Take up the acceptances that other keepers keep, of enough of them, and vote."""
        final = self.chain.final
        question = ReadTail(run=self.run, first=final.head.length, path=0, round=0)
        parts = yield from self._of_keepers(question, TailPart)
        if len(parts) >= others_needed(self.manifest.schedule):
            signed = [each for peer in sorted(parts) for each in parts[peer].acceptances]
            final = self.chain.final
            newest = newest_of(self.manifest, self.run, final, signed)
            yield from self._vote(final.head.term, newest)

    def _vote(self, term: int, acceptances: Sequence[KeptAcceptance]) -> Task:
        """Vote from here on, in no lower term than `term`."""
        length = len(self.chain.records)
        no_tail = TailReplaced(length, length, ())
        try:
            self.make((no_tail, *map(AcceptanceKept, acceptances), TermPromised(term, None)))
        except DiskFull:
            return
        if term:
            self.world.note_fault("votes again")
        self.oracle.votes_again(self.peer)
        self.forgot, self.forgotten = False, None
        yield from ()

    def _repair(self) -> Task:
        """Fetch the blobs that a keeper must hold and that it has lost."""
        while True:
            yield Pause(REPAIR_SECONDS)
            others = [each for each in self.manifest.schedule.named_keepers if each != self.peer]
            for blob in sorted(self._needed()):
                with suppress(DiskFull):
                    yield from self.blobs.fetch(blob, others)

    def _needed(self) -> set[Digest]:
        """Return the blobs of the newest versions, and those that tail and acceptances name."""
        fold = self.chain.record.state
        needed = {versions[-1] for versions in fold.states.values()} | set(fold.momenta.values())
        for each in self.state.tail:
            needed.update(blobs_named(each.record.entry))
        for kept in self.state.acceptances.values():
            needed.update(each.digest for each in kept.acceptance.result.deltas)
        return needed

    # ------------------------------------------------------------------ the ledger of others

    def heard(self, who: PeerId, message: Any) -> None:
        if isinstance(message, Part):
            self._offer(who, message)

    def _offer(self, who: PeerId, part: Part) -> None:
        try:
            if self.chain.offer(part):
                self._tell()
        except RemoteProtocolError as error:
            self.oracle.struck(who, str(error))
        except DiskFull:
            self.chain.reread()

    def _tell(self) -> None:
        """Gossip what became final."""
        for other in self.random.sample(self.others, min(2, len(self.others))):
            self.send(other, self.chain.part(max(0, len(self.chain.records) - 3)))

    def _follow(self) -> Task:
        while True:
            yield Pause(FOLLOW_SECONDS)
            reply = yield Ask(self.random.choice(self.others), Pull(len(self.chain.records)))
            if isinstance(reply, Part):
                self._offer(self.peer, reply)

    def look(self) -> None:
        self.oracle.keeper(self.peer, self.state, self.manifest)
