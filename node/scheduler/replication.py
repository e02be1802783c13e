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

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import UNSET

from dipaco.node.network.rpc import Rpc
from dipaco.node.runs.certificates import Certificate, head_of
from dipaco.node.runs.record import RunRecord
from dipaco.node.runs.store import RunStore
from dipaco.protocol.errors import Refusal, RemoteProtocolError, Unavailable
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.wire.messages import LedgerPart, ReadLedger
from dipaco.protocol.wire.signed import Signed, open_signed, sign
from dipaco.protocol.work.calls import (
    MAX_HELD,
    MAX_PROPOSAL,
    MAX_SOURCES,
    Acceptance,
    AskCosign,
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
from dipaco.protocol.work.kinds import TrainResult
from dipaco.protocol.work.ledger import (
    Entry,
    LedgerRecord,
    TermBegun,
    check_choice,
)
from dipaco.protocol.work.terms import (
    MAX_TERMS,
    NO_HEAD,
    Cosigned,
    Head,
    Promise,
    check_promises,
    chosen_head,
)

log = logging.getLogger(__name__)

ASK_SECONDS = 10.0  # for a keeper to save and answer
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
class Proposal:
    """Records that a quorum has signed, with the proof."""

    records: tuple[bytes, ...]
    certificate: Certificate


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
        return self.record.keepers

    @property
    def quorum(self) -> int:
        """The number of keepers that decide."""
        return self.record.manifest.schedule.keeper_quorum

    # ------------------------------------------------------------------ beginning a term

    async def begin(self, term: int) -> dict[tuple[int, int], Signed]:
        """Begin `term`, which is this node's; returns the acceptances that keepers keep.

        Of each path and round the newest. Raises Unavailable without a quorum, Deposed when a
        keeper promised as high a term before: then a higher one is needed.
        """
        promised = await self._promises(term)
        head, signed = self._choice(term, promised)
        tail = await self._tail(head, promised)
        entry = TermBegun(promises=signed)
        begun = self._signed(entry, head, term)
        final = await self._certified((*tail, begun), what=f"the beginning of term {term}")
        self.run_store.append_final(self.run, final.records, final.certificate)
        self.term, self.before = term, head.term
        log.info("run %s: term %d begins here", self.record.manifest.name, term)
        return await self._acceptances(promised)

    async def _promises(self, term: int) -> dict[PeerId, Promised]:
        """Ask all keepers for their promise of `term`; raises Unavailable without a quorum."""
        given: dict[PeerId, Promised] = {}

        async def ask(keeper: PeerId) -> None:
            request = AskPromise(run=self.run, term=term)
            answer = await self.rpc.call(keeper, request, Promised, Behind, timeout=ASK_SECONDS)
            if isinstance(answer, Behind):
                raise Deposed(answer.term)
            promise = open_signed(answer.promise, Promise)
            if (promise.keeper, answer.promise.signer) != (keeper, keeper):
                raise RemoteProtocolError("hands on the promise of another keeper")
            given[keeper] = answer

        await self._ask_all(self.keepers, ask, enough=lambda: len(given) >= self.quorum)
        if len(given) < self.quorum:
            raise Unavailable(self.no_quorum())
        return given

    def _choice(
        self, term: int, promised: Mapping[PeerId, Promised]
    ) -> tuple[Head, tuple[Signed, ...]]:
        """Return the head to go on from, and the promises that choose it, in their order."""
        signed = tuple(promised[keeper].promise for keeper in sorted(promised))
        promises = check_promises(self.record.manifest, self.run, term, signed)
        return chosen_head(promises), signed

    async def _tail(self, head: Head, promised: Mapping[PeerId, Promised]) -> tuple[Signed, ...]:
        """Return the records from our own final ones to `head`, from a keeper that has them."""
        holders = [
            keeper
            for keeper, answer in promised.items()
            if open_signed(answer.promise, Promise).head == head
        ]
        problem: Exception = Unavailable("no keeper has the chain that the promises choose")
        for keeper in holders:
            try:
                return await self._read_tail(keeper, head, promised)
            except (Unavailable, Refusal, RemoteProtocolError) as error:
                problem = error
        raise Unavailable(f"the chain that the promises choose is not to be had: {problem}")

    async def _read_final(self, keeper: PeerId, length: int) -> None:
        """Bring our ledger as far as that of a keeper is final, but not beyond `length`."""
        while (first := self.record.length) < length:
            request = ReadLedger(run=self.run, first=first)
            part = await self.rpc.call(keeper, request, LedgerPart, timeout=ASK_SECONDS)
            certificate = () if part.certificate is UNSET else part.certificate
            if not part.records:
                return  # the others are not final there
            self.run_store.offer_ledger(
                self.run, part.records, first=first, certificate=certificate
            )

    async def _read_tail(
        self, keeper: PeerId, head: Head, promised: Mapping[PeerId, Promised]
    ) -> tuple[Signed, ...]:
        await self._read_final(keeper, head.length)
        record, first = self.record, self.record.length
        records: list[Signed] = []
        while first + len(records) < head.length:
            request = ReadTail(run=self.run, first=first + len(records), path=0, round=0)
            part = await self.rpc.call(keeper, request, TailPart, timeout=ASK_SECONDS)
            if not part.records:
                raise Unavailable(f"{short_peer(keeper)} lacks records that it promised")
            records.extend(part.records[: head.length - first - len(records)])
        if record.length != first:
            raise Unavailable("the ledger has grown meanwhile")
        record.check(records)
        digests = [*record.digests, *(each.body_digest for each in records)]
        ends = head_of(records[-1]) if records else record.chain_head
        opened = (open_signed(each.promise, Promise) for each in promised.values())
        check_choice(opened, ends, digests.__getitem__)
        return tuple(records)

    async def _acceptances(
        self, promised: Mapping[PeerId, Promised]
    ) -> dict[tuple[int, int], Signed]:
        """Return the newest acceptance of each path and round that a keeper keeps."""
        newest: dict[tuple[int, int], tuple[tuple[int, int], Signed]] = {}
        for keeper, answer in promised.items():
            for signed in await self._all_kept(keeper, answer):
                kept = open_signed(signed, Acceptance)
                if kept.run == self.run and kept.rank >= newest.get(kept.place, ((-1, 0),))[0]:
                    newest[kept.place] = kept.rank, signed
        return {place: signed for place, (_, signed) in newest.items()}

    async def _all_kept(self, keeper: PeerId, answer: Promised) -> list[Signed]:
        found, more = list(answer.acceptances), answer.more
        while more:
            last = open_signed(found[-1], Acceptance) if found else None
            path, round_ = last.place if last else (0, 0)
            request = ReadTail(run=self.run, first=self.record.length, path=path, round=round_)
            part = await self.rpc.call(keeper, request, TailPart, timeout=ASK_SECONDS)
            if not part.acceptances:
                break
            found += part.acceptances
            more = part.more
        return found

    # ------------------------------------------------------------------ records

    async def final(self, entries: Sequence[Entry]) -> Proposal:
        """Return `entries` as final records; waits for a quorum. Raises Deposed."""
        head, records = self.record.chain_head, list[Signed]()
        for entry in entries:
            records.append(self._signed(entry, head, self.term))
            head = head_of(records[-1])
        what = ", ".join(type(entry).__name__ for entry in entries)
        return await self._certified(tuple(records), what=what)

    def _signed(self, entry: Entry, head: Head, term: int) -> Signed:
        record = LedgerRecord(
            run=self.run, term=term, seq=head.length, previous=head.digest, entry=entry
        )
        return sign(record, self.key)

    async def _certified(self, records: tuple[Signed, ...], *, what: str) -> Proposal:
        head, signed = head_of(records[-1]), dict[PeerId, Signed]()

        async def ask(keeper: PeerId) -> None:
            signed[keeper] = await self._cosigned(keeper, records, head)

        def enough() -> bool:
            return len(signed) >= self.quorum

        await self._until(enough, lambda: set(self.keepers) - signed.keys(), ask, what)
        certificate = tuple(signed[keeper] for keeper in sorted(signed))
        return Proposal(tuple(map(encode, records)), certificate)

    async def _cosigned(self, keeper: PeerId, records: tuple[Signed, ...], head: Head) -> Signed:
        """Return a keeper's cosignature of `head`; one that lacks records before gets them."""
        certificate = self.run_store.certificate(self.run)
        stands = NO_HEAD
        for _ in range(2):
            request = AskCosign(run=self.run, records=records, head=head, certificate=certificate)
            answer = await self.rpc.call(keeper, request, CosignedHead, Behind, timeout=ASK_SECONDS)
            if isinstance(answer, CosignedHead):
                return self._own_cosignature(keeper, answer.cosigned, head)
            if answer.term > head.term:
                raise Deposed(answer.term)
            stands = answer.head
            records = self._from(stands, records)
        raise Unavailable(f"{short_peer(keeper)} is behind: it has {stands.length} records")

    def _own_cosignature(self, keeper: PeerId, signed: Signed, head: Head) -> Signed:
        """Return the cosignature if it is what `keeper` was asked for."""
        told = open_signed(signed, Cosigned)
        if (told.run, told.head, told.keeper, signed.signer) != (self.run, head, keeper, keeper):
            raise RemoteProtocolError("cosigned another head than it was asked to")
        return signed

    def _from(self, stands: Head, records: tuple[Signed, ...]) -> tuple[Signed, ...]:
        """Return the records from where a keeper stands on, if that is on our chain."""
        digests = self.record.digests
        on_chain = 0 < stands.length <= len(digests) and (
            digests[stands.length - 1] == stands.digest
        )
        first = stands.length if on_chain else 0
        held = self.run_store.read_records(self.run, first, MAX_PROPOSAL // 2)
        return (*held, *records)

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
        copies, order = self.record.manifest.schedule.blob_copies, self._by_turns(blobs)
        held: dict[Digest, set[PeerId]] = {blob: set() for blob in blobs}

        def lacking(keeper: PeerId) -> list[Digest]:
            return [b for b, has in held.items() if len(has) < copies and keeper not in has]

        async def ask(keeper: PeerId) -> None:
            wanted = [Wanted(blob=b, length=blobs[b]) for b in lacking(keeper)]
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

        await self._ask_all(order[:copies], ask, enough=enough)  # the others have less to carry
        await self._until(enough, lambda: {k for k in order if lacking(k)}, ask, what)

    def _by_turns(self, blobs: Mapping[Digest, int]) -> list[PeerId]:
        """Return the keepers, this node first, the others in turns by the blobs."""
        turn = min(blobs, default=b"\0")[0] % len(self.keepers)
        turned = [*self.keepers[turn:], *self.keepers[:turn]]
        return sorted(turned, key=lambda keeper: keeper != self.me)

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
            self._say(what)
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        self._say("")

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
        names = ", ".join(short_peer(keeper) for keeper in sorted(self.missing))
        return f"no quorum: {self.quorum} of {len(self.keepers)} keepers must answer; away: {names}"

    def _say(self, what: str) -> None:
        waiting = f"{what} waits: {self.no_quorum()}" if what else ""
        if waiting != self.waiting:
            self.waiting = waiting
            if waiting:
                log.warning("run %s: %s", self.record.manifest.name, waiting)
            self.changed()


def next_own_term(schedulers: Sequence[PeerId], me: PeerId, above: int) -> int:
    """Return the least term above `above` that belongs to `me`; raises Refusal beyond the last."""
    term = above + 1
    while schedulers[term % len(schedulers)] != me:
        term += 1
    if term > MAX_TERMS:
        raise Refusal(f"the run has used up its {MAX_TERMS} terms")
    return term
