"""A keeper of a universe: the real pure machine, its tables on the simulated disk, its blobs."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from dipaco.node.storage.files import DiskFull
from dipaco.protocol.errors import RemoteProtocolError, Unavailable
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.signed import Signed
from dipaco.protocol.work.calls import (
    AskCosign,
    AskHead,
    AskHold,
    AskKeep,
    AskPromise,
    CosignedHead,
    Holding,
    Promised,
    ReadTail,
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
    TailReplaced,
    TermPromised,
    apply,
    open_acceptance,
)
from dipaco.protocol.work.tail import TailRecord
from dipaco.protocol.work.terms import MAX_TERMS, Cosigned, Promise
from tests.simulation.blobs import Blobs
from tests.simulation.calls import Fetch, Part, Pull
from tests.simulation.chain import CERTIFICATE, Chain, write_of
from tests.simulation.disk import Key, Write
from tests.simulation.oracle import Oracle
from tests.simulation.signatures import signing_key
from tests.simulation.world import Ask, Node, Pause, Task, World
from tests.values import peer

PROMISED, TAIL, ACCEPTANCES = "promised", "tail", "acceptances"
FOLLOW_SECONDS = 5.0  # between looks at the ledger of others

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
        self.spawn(self._follow())

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
                case AskPromise():
                    return self.decided(keeper.promise(state, final, who, request))
                case AskCosign():
                    return self.decided(keeper.cosign(state, final, who, request))
                case AskKeep():
                    return self.decided(keeper.keep(state, final, who, request))
                case ReadTail():
                    return keeper.tail_part(state, final, who, request)
                case AskHead():
                    return keeper.head(state, final, scheduling=False)
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

    def decided(self, decision: Decision[R]) -> R:
        """Save, then answer."""
        self.make(decision.changes)
        reply = decision.reply
        if isinstance(reply, Promised):
            promise = decode(reply.promise.body, Promise)
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
