"""A keeper's shell: it answers a run's schedulers, and saves before it answers.

What it promises, signs and keeps is decided by a pure machine (`protocol/work/keeping.py`). All the
changes of one answer are one transaction of the journal, which is on the disk before the answer
leaves; while the disk is full there is no answer.
"""

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from dipaco.node.keeper.restored import restored_state
from dipaco.node.network.exchange import Exchange
from dipaco.node.network.rpc import Rpc
from dipaco.node.runs.record import RunRecord
from dipaco.node.runs.store import RunStore
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.journal import Journal
from dipaco.node.storage.keeper_tables import SavedAcceptance
from dipaco.protocol.errors import Refusal, RemoteProtocolError, Unavailable
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import Digest, short
from dipaco.protocol.wire.identity import PeerId, peer_id
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
    Kept,
    Promised,
    ReadTail,
    TailPart,
    Wanted,
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
)
from dipaco.protocol.work.relearning import Forgotten
from dipaco.protocol.work.tail import Final
from dipaco.protocol.work.terms import Head

log = logging.getLogger(__name__)

FETCH_SECONDS = 20.0  # for blobs to arrive before a scheduler hears which are here: it asks again
MOST_RECORDS = 1 << 40  # above the number of any record
MOST_ASKED = 8192  # blobs that schedulers asked this keeper to hold, the latest

R = TypeVar("R")


class KeptRun:
    """One run of which this node is a keeper."""

    def __init__(
        self, record: RunRecord, key: Ed25519PrivateKey, journal: Journal, run_store: RunStore
    ) -> None:
        """Take up what the journal holds; raises ConfigError for what it cannot read."""
        self.record = record
        self.machine = Keeper(record.run, record.manifest, key)
        self.state: KeeperState = restored_state(record, journal)
        self.asked: dict[Digest, None] = {}
        """The blobs that a scheduler wants held: what names them may not be here yet."""
        self.waits = ""
        """Whom it waits for before it votes, in words."""
        self._journal, self._run_store = journal, run_store
        self.forgot = not journal.has_promised(record.run)
        """Whether what it has signed is not known here: it does not vote then."""
        self.forgotten: Forgotten | None = None
        """What the others know of that."""

    @property
    def head(self) -> Head:
        """Where the keeper's chain ends."""
        return self.machine.chain(self.state, self.record.final).head

    def remember(self, term: int, acceptances: Iterable[KeptAcceptance] = ()) -> None:
        """Vote from here on, in no lower term than `term`, and keep what the others keep."""
        length = self.record.length
        no_tail = TailReplaced(length, length, ())
        self._make((no_tail, *map(AcceptanceKept, acceptances), TermPromised(term, None)))
        self.forgot, self.waits, self.forgotten = False, "", None

    def answer(self, decide: Callable[[KeeperState, Final], Decision[R]], term: int) -> R | Behind:
        """Save what follows from a question of a term, then answer it; raises DiskFull."""
        if self.record.granted is not None:
            raise Refusal("the owner of the run has it go on without keepers")
        if self.forgotten is not None:
            return self.forgotten.refusing(self.record.final, term)
        if self.forgot:
            raise Unavailable("this keeper has yet to learn from the others what it has signed")
        decision = decide(self.state, self.record.final)
        self._make(decision.changes)
        return decision.reply

    def _make(self, changes: tuple[Change, ...]) -> None:
        """Save, then do; raises DiskFull, and then nothing has happened."""
        if not changes:
            return
        saved = False
        try:
            with self._journal.saving():
                for change in changes:
                    self._save(change)
            saved = True
        finally:
            if not saved:
                self._run_store.reread(self.record.run)
        for change in changes:
            self.state = apply(self.state, change)

    def _save(self, change: Change) -> None:
        run, journal = self.record.run, self._journal
        match change:
            case TermPromised(term=term, promise=promise):
                journal.save_promised(run, term, encode(promise) if promise else b"")
            case TailReplaced(floor=floor, first=first, records=records):
                rows = [(each.record.seq, encode(each.signed)) for each in records]
                journal.save_tail(run, floor, first, rows)
            case BecameFinal(records=records, certificate=certificate):
                data = tuple(encode(each.signed) for each in records)
                self._run_store.offer_ledger(run, data, certificate=certificate)
                length = records[-1].record.seq + 1
                journal.save_tail(run, length, MOST_RECORDS, ())
            case AcceptanceKept(kept=kept):
                path, round_ = kept.acceptance.place
                saved = SavedAcceptance(round_, path, encode(kept.signed))
                journal.save_acceptance(run, saved)
            case AcceptanceDropped(place=(path, round_)):
                journal.drop_acceptance(run, round_, path)
            case Convicted(proof=proof):
                self._run_store.convict(run, proof)


class KeeperService:
    """Answers for the runs that this node keeps; every node says where its ledgers end."""

    def __init__(
        self,
        key: Ed25519PrivateKey,
        journal: Journal,
        run_store: RunStore,
        blobs: BlobStore,
        exchange: Exchange,
        scheduling: Callable[[Digest], bool],
    ) -> None:
        """scheduling: whether this node schedules a run now."""
        self._key, self._journal, self._run_store = key, journal, run_store
        self._blobs, self._exchange, self._scheduling = blobs, exchange, scheduling
        self.runs: dict[Digest, KeptRun] = {}

    def serve(self, control: Rpc, sync: Rpc) -> None:
        """Have the calls answered."""
        control.handle(AskHead, self._head)
        sync.handle(AskPromise, self._promise)
        sync.handle(AskCosign, self._cosign)
        sync.handle(AskKeep, self._keep)
        sync.handle(ReadTail, self._tail)
        sync.handle(AskHold, self._hold)

    def keep(self, record: RunRecord) -> KeptRun:
        """Begin to keep a run whose manifest names this node; raises ConfigError."""
        if record.run not in self.runs:
            kept = KeptRun(record, self._key, self._journal, self._run_store)
            self.runs[record.run] = kept
        return self.runs[record.run]

    def _of(self, run: Digest) -> KeptRun:
        kept = self.runs.get(run)
        if kept is None:
            raise Unavailable(f"this node does not keep run {short(run)}, or not yet")
        return kept

    async def _head(self, _peer: PeerId, ask: AskHead) -> HeadIs:
        scheduling = self._scheduling(ask.run)
        if ask.run in self.runs:
            kept = self.runs[ask.run]
            answer = kept.machine.head(kept.state, kept.record.final, scheduling=scheduling)
            least = kept.forgotten.least(kept.record.final) if kept.forgotten else 0
            return replace(answer, term=max(answer.term, least), votes=not kept.forgot)
        record = self._run_store.runs.get(ask.run)
        if record is None:
            raise Unavailable(f"run {short(ask.run)} is not known here")
        if self._journal.has_promised(ask.run) and not scheduling:
            raise Unavailable("this node has kept the run, and does not now")
        return HeadIs(term=record.term, head=record.chain_head, scheduling=scheduling, votes=False)

    async def _promise(self, peer: PeerId, ask: AskPromise) -> Promised | Behind:
        kept = self._of(ask.run)
        return kept.answer(
            lambda state, final: kept.machine.promise(state, final, peer, ask), ask.term
        )

    async def _cosign(self, peer: PeerId, ask: AskCosign) -> CosignedHead | Behind:
        kept = self._of(ask.run)
        return kept.answer(
            lambda state, final: kept.machine.cosign(state, final, peer, ask), ask.head.term
        )

    async def _keep(self, peer: PeerId, ask: AskKeep) -> Kept | Behind:
        kept = self._of(ask.run)
        return kept.answer(
            lambda state, final: kept.machine.keep(state, final, peer, ask), ask.term
        )

    async def _tail(self, peer: PeerId, ask: ReadTail) -> TailPart:
        kept = self._of(ask.run)
        if kept.forgot:
            raise Unavailable("this keeper does not know what it kept")
        return kept.machine.tail_part(kept.state, kept.record.final, peer, ask)

    async def _hold(self, peer: PeerId, ask: AskHold) -> Holding:
        """Fetch what is missing, and say after a while which blobs are here."""
        kept = self._of(ask.run)
        if peer not in kept.record.manifest.schedule.schedulers:
            raise RemoteProtocolError("asks to hold blobs, and is no scheduler of the run")
        for each in ask.blobs:
            kept.asked.pop(each.blob, None)
            kept.asked[each.blob] = None
        for old in list(kept.asked)[:-MOST_ASKED]:
            del kept.asked[old]
        with trio.move_on_after(FETCH_SECONDS):
            async with trio.open_nursery() as nursery:
                for each in ask.blobs:
                    if not self._blobs.has(each.blob, each.length):
                        nursery.start_soon(self._fetch, each, ask.holders)
        return Holding(blobs=tuple(b.blob for b in ask.blobs if self._blobs.has(b.blob, b.length)))

    async def _fetch(self, wanted: Wanted, holders: tuple[PeerId, ...]) -> None:
        try:
            others = tuple(holder for holder in holders if holder != peer_id(self._key))
            await self._exchange.fetch(wanted.blob, length=wanted.length, holders=others)
        except Unavailable as away:
            log.debug("blob %s is not held: %s", short(wanted.blob), away)
