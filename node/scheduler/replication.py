"""A run's keepers as its scheduler asks them: a term begun, records made final, results kept.

A term begins with the promises of a quorum. The chain that they choose, and the record that begins
the term, are the first thing that the quorum signs. After that one proposal is outstanding at a
time; it is repeated with growing pauses until a quorum has signed it, and never changed. Every
process begins a term of its own, above all that it hears of, so a home that was restored from an
old copy signs nothing twice.

A keeper that answers with a higher term ends all of it: `Deposed`.
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import UNSET

from dipaco.node.network.rpc import Rpc
from dipaco.node.runs.certificates import Certificate
from dipaco.node.runs.record import RunRecord
from dipaco.node.runs.store import RunStore
from dipaco.node.scheduler.heads import no_quorum
from dipaco.protocol.errors import Refusal, RemoteProtocolError, Unavailable
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.wire.messages import LedgerPart, ReadLedger
from dipaco.protocol.wire.signed import Signed, sign
from dipaco.protocol.work.calls import (
    MAX_HELD,
    MAX_PROPOSAL,
    MAX_SOURCES,
    Acceptance,
    AskHold,
    AskKeep,
    AskPromise,
    Behind,
    CosignedHead,
    Holding,
    Kept,
    Promised,
    ReadTail,
    TailPart,
    Wanted,
)
from dipaco.protocol.work.candidate import Outdone, Proposal, TakeOver
from dipaco.protocol.work.kinds import TrainResult
from dipaco.protocol.work.ledger import Entry, LedgerRecord
from dipaco.protocol.work.placement import order
from dipaco.protocol.work.tail import Chain
from dipaco.protocol.work.terms import Head

log = logging.getLogger(__name__)

ASK_SECONDS = 10.0  # for a keeper to save and answer
TAKE_SECONDS = 30.0  # for promises to come together
HOLD_SECONDS = 30.0  # for a keeper to fetch blobs, and to tell what it has by then
FIRST_PAUSE = 0.5  # s before a quorum that did not answer is asked again
LONGEST_PAUSE = 8.0  # s, after some attempts

Answer = CosignedHead | Kept | Holding


class Deposed(Unavailable):
    """A higher term than this node's has begun, or was promised: it schedules no more."""

    def __init__(self, term: int) -> None:
        super().__init__(f"term {term} has begun: another scheduler goes on")
        self.term = term


@dataclass(frozen=True)
class Certified:
    """Records that a quorum has signed, with the proof."""

    records: tuple[bytes, ...]
    certificate: Certificate


@dataclass(frozen=True)
class Begun:
    """A term that promises begin. It is made whole at the moment of the choice: the fold that its
    chain goes on from is that of the store, which grows once these records are final.
    """

    chain: Chain
    """It ends with the record that begins the term."""
    before: int
    """The term that it goes on from."""
    acceptances: tuple[Signed, ...]
    """Of the rounds that are open at its beginning."""


@dataclass
class Replication:
    """The keepers of one run, asked by the node that schedules it in one term."""

    record: RunRecord
    run_store: RunStore
    rpc: Rpc
    """Of the stream of keepers."""
    key: Ed25519PrivateKey
    me: PeerId
    missing: dict[PeerId, str] = field(default_factory=dict)
    """The keepers that did not answer the last question, and why."""
    waiting: str = ""
    """What waits for a quorum, in words; empty: nothing."""
    term: int = 0
    """In which this node schedules; 0: none yet."""
    before: int = 0
    """The term that this one goes on from."""
    changed: Callable[[], None] = lambda: None
    """Called when `waiting` has changed."""
    _order: int = 0

    @property
    def run(self) -> Digest:
        """The run."""
        return self.record.run

    @property
    def keepers(self) -> tuple[PeerId, ...]:
        """All keepers of the manifest."""
        return self.record.manifest.schedule.named_keepers

    @property
    def quorum(self) -> int:
        """The number of keepers that decide."""
        return self.record.manifest.schedule.keeper_quorum

    # ------------------------------------------------------------------ beginning a term

    async def begin(self, term: int) -> tuple[Signed, ...]:
        """Begin `term`, which is this node's; returns the acceptances of the rounds that are open.

        Raises Unavailable without a quorum, Deposed when a keeper serves no term as low any more:
        then a higher one is needed.
        """
        taking = TakeOver(self.run, self.record.manifest, term, self.record.final)
        begun: Begun | None = None

        async def pursue(keeper: PeerId) -> None:
            nonlocal taking, begun
            while (question := _question_to(keeper, taking)) is not None:
                answered = await self._asked(keeper, question)
                if self.record.length != taking.final.head.length:  # it grew meanwhile
                    taking = taking.grown(self.record.final)
                taking = answered(taking)
                if all(given.after is None for given in taking.given.values()):
                    begun = _begun(taking, self.key)
                if begun is not None:
                    return

        with trio.move_on_after(TAKE_SECONDS):
            await self._ask_all(self.keepers, pursue, enough=lambda: begun is not None)
        if begun is None:
            raise Unavailable(self.no_quorum())
        final = await self._certified(begun.chain, what=f"the beginning of term {term}")
        self.run_store.append_final(self.run, final.records, final.certificate)
        self.term, self.before = term, begun.before
        log.info("run %s: term %d begins here", self.record.manifest.name, term)
        return begun.acceptances

    async def _asked(
        self, keeper: PeerId, question: AskPromise | ReadTail | ReadLedger
    ) -> Callable[[TakeOver], TakeOver]:
        """Ask a keeper; returns how its answer adds to what the candidate knows."""
        call = partial(self.rpc.call, keeper, question, timeout=ASK_SECONDS)
        match question:
            case AskPromise():
                answer = await call(Promised, Behind)
                return lambda taking: taking.heard(keeper, answer)
            case ReadTail():
                tail = await call(TailPart)
                return lambda taking: taking.read(keeper, tail)
            case ReadLedger(first=first):
                self._take_in(keeper, first, await call(LedgerPart))
                return lambda taking: taking.grown(self.record.final)

    def _take_in(self, keeper: PeerId, first: int, part: LedgerPart) -> None:
        if not part.records:
            raise Unavailable(f"{short_peer(keeper)} lacks records that it promised")
        certificate = () if part.certificate is UNSET else part.certificate
        self.run_store.offer_ledger(self.run, part.records, first=first, certificate=certificate)

    # ------------------------------------------------------------------ records

    async def final(self, entries: Sequence[Entry]) -> Certified:
        """Return `entries` as final records; waits for a quorum. Raises Deposed."""
        chain = Chain(self.run, self.record.manifest, self.record.final)
        for entry in entries:
            chain = chain.adding((self._signed(entry, chain.head),))
        what = ", ".join(type(entry).__name__ for entry in entries)
        return await self._certified(chain, what=what)

    def _signed(self, entry: Entry, head: Head) -> Signed:
        record = LedgerRecord(
            run=self.run, term=self.term, seq=head.length, previous=head.digest, entry=entry
        )
        return sign(record, self.key)

    async def _certified(self, chain: Chain, *, what: str) -> Certified:
        """Have a quorum sign the end of `chain`."""
        proposal = Proposal(chain, self.run_store.certificate(self.run))

        def read(first: int) -> tuple[Signed, ...]:
            return self.run_store.read_records(self.run, first, MAX_PROPOSAL // 2)

        async def ask(keeper: PeerId) -> None:
            nonlocal proposal
            for _ in range(2):  # the first answer may be where the keeper stands
                question = proposal.question(keeper, read)
                answer = await self.rpc.call(
                    keeper, question, CosignedHead, Behind, timeout=ASK_SECONDS
                )
                proposal = proposal.heard(keeper, answer)
                if isinstance(answer, CosignedHead):
                    return
            raise Unavailable(f"{short_peer(keeper)} is behind, or has another chain")

        await self._until(lambda: bool(proposal.certified), lambda: proposal.lacking, ask, what)
        records = tuple(encode(each.signed) for each in chain.tail)
        return Certified(records, proposal.certified)

    # ------------------------------------------------------------------ results and blobs

    def acceptance(self, place: tuple[int, int], peer: PeerId, result: TrainResult) -> Signed:
        """Return the signed acceptance of a result, newer than all before."""
        self._order += 1
        path, round_ = place
        made = Acceptance(
            run=self.run,
            term=self.term,
            order=self._order,
            path=path,
            round=round_,
            peer=peer,
            result=result,
        )
        return sign(made, self.key)

    async def keep(self, acceptance: Signed, *, what: str) -> None:
        """Have a quorum of keepers keep an acceptance; raises Deposed."""
        kept = set[PeerId]()
        request = AskKeep(run=self.run, term=self.term, acceptances=(acceptance,))

        async def ask(keeper: PeerId) -> None:
            answer = await self.rpc.call(keeper, request, Kept, Behind, timeout=ASK_SECONDS)
            if isinstance(answer, Behind):
                if answer.term > self.term:
                    raise Deposed(answer.term)
                raise Unavailable(f"{short_peer(keeper)} is behind")
            kept.add(keeper)

        await self._until(
            lambda: len(kept) >= self.quorum, lambda: set(self.keepers) - kept, ask, what
        )

    async def hold(
        self, blobs: Mapping[Digest, int], holders: Collection[PeerId], *, what: str
    ) -> None:
        """Have as many keepers hold each blob as the manifest asks for; raises Deposed.

        blobs     with their lengths in bytes.
        holders   who has them, asked first.
        """
        copies = self.record.manifest.schedule.blob_copies
        first = {blob: order(blob, self.keepers)[:copies] for blob in blobs}
        held: dict[Digest, set[PeerId]] = {blob: set() for blob in blobs}

        def lacking(keeper: PeerId) -> list[Digest]:
            return [b for b, has in held.items() if len(has) < copies and keeper not in has]

        async def ask_first(keeper: PeerId) -> None:
            await ask_for(keeper, [blob for blob in blobs if keeper in first[blob]])

        async def ask(keeper: PeerId) -> None:
            await ask_for(keeper, lacking(keeper))

        async def ask_for(keeper: PeerId, lacks: list[Digest]) -> None:
            wanted = [Wanted(blob=b, length=blobs[b]) for b in lacks]
            for start in range(0, len(wanted), MAX_HELD):
                request = AskHold(
                    run=self.run,
                    blobs=tuple(wanted[start : start + MAX_HELD]),
                    holders=tuple(dict.fromkeys((*holders, self.me)))[:MAX_SOURCES],
                )
                answer = await self.rpc.call(keeper, request, Holding, timeout=HOLD_SECONDS)
                for blob in held.keys() & set(answer.blobs):
                    held[blob].add(keeper)

        def enough() -> bool:
            return all(len(has) >= copies for has in held.values())

        await self._ask_all(set[PeerId]().union(*first.values()), ask_first, enough=enough)
        await self._until(enough, lambda: {k for k in self.keepers if lacking(k)}, ask, what)

    async def gone(self, blob: Digest, length: int) -> bool:
        """Return whether every keeper answers that it has not got a blob, nor finds it."""
        answers: dict[PeerId, Holding] = {}
        request = AskHold(
            run=self.run,
            blobs=(Wanted(blob=blob, length=length),),
            holders=self.keepers[:MAX_SOURCES],
        )

        async def ask(keeper: PeerId) -> None:
            answers[keeper] = await self.rpc.call(keeper, request, Holding, timeout=HOLD_SECONDS)

        await self._ask_all(self.keepers, ask, enough=lambda: False)
        return len(answers) == len(self.keepers) and not any(
            blob in answer.blobs for answer in answers.values()
        )

    # ------------------------------------------------------------------ asking

    async def _until(
        self,
        enough: Callable[[], bool],
        lacking: Callable[[], Collection[PeerId]],
        ask: Callable[[PeerId], Awaitable[None]],
        what: str,
    ) -> None:
        """Ask the keepers that lack until there are enough, with growing pauses."""
        pause = FIRST_PAUSE
        while not enough():
            await self._ask_all(lacking(), ask, enough=enough)
            if enough():
                break
            self._wait_for(what)
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        self._wait_for("")

    async def _ask_all(
        self,
        keepers: Collection[PeerId],
        ask: Callable[[PeerId], Awaitable[None]],
        *,
        enough: Callable[[], bool],
    ) -> None:
        """Ask keepers side by side until there are enough; raises Deposed if one says so."""
        deposed: list[Deposed] = []

        async def one(keeper: PeerId) -> None:
            try:
                await ask(keeper)
                self.missing.pop(keeper, None)
            except Outdone as higher:
                deposed.append(Deposed(higher.term))
            except Deposed as higher:
                deposed.append(higher)
            except (Unavailable, Refusal, RemoteProtocolError) as error:
                self.missing[keeper] = str(error)
            if enough() or deposed:
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for keeper in keepers:
                nursery.start_soon(one, keeper)
        if deposed and not enough():
            raise max(deposed, key=lambda each: each.term)

    def no_quorum(self) -> str:
        """Say which keepers are away, and how many are needed."""
        return no_quorum(self.quorum, self.keepers, self.missing)

    def _wait_for(self, what: str) -> None:
        waiting = f"{what} waits: {self.no_quorum()}" if what else ""
        if waiting != self.waiting:
            self.waiting = waiting
            if waiting:
                log.warning("run %s: %s", self.record.manifest.name, waiting)
            self.changed()


def _begun(taking: TakeOver, key: Ed25519PrivateKey) -> Begun | None:
    """Return the term that promises begin; None: no quorum of them agrees yet."""
    choice = taking.choice()
    if choice is None:
        return None
    acceptances = taking.open_acceptances(choice.chain)
    return Begun(choice.begun(taking.term, key), choice.chain.head.term, acceptances)


def _question_to(keeper: PeerId, taking: TakeOver) -> AskPromise | ReadTail | ReadLedger | None:
    """Return what is left to ask one keeper."""
    return next((question for peer, question in taking.questions() if peer == keeper), None)
