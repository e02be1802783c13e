"""The signed values that a node holds and hands on: manifests, specs, receipts, ledgers.

Owns their admission: what is offered, by a peer or by this node itself, is checked here once,
saved, and only then handed on. Whoever waits for a value to arrive waits for `changed`.

What strangers could make grow is bounded (`strangers.py`). Of a run that this node neither works
for nor follows, the manifest alone is taken in. A stranger's run whose scheduler signed two ledgers
is dropped for good; one that this node works for goes on as the ledger here says. Both records are
kept as a proof.
"""

import logging
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.node.condition import Condition
from dipaco.node.network.guard import Guard
from dipaco.node.network.paced import Paced
from dipaco.node.runs import strangers
from dipaco.node.runs.admission import Admission, Keep, least_receipt
from dipaco.node.runs.certificates import Certificate
from dipaco.node.runs.chain import RECORD, LedgerFault
from dipaco.node.runs.ledgers import Ledgers
from dipaco.node.runs.listings import Listings
from dipaco.node.runs.proofs import PROOF, opened_proof, proof_bytes, two_ledgers
from dipaco.node.runs.record import RunRecord
from dipaco.node.storage.files import DiskFull
from dipaco.node.storage.journal import Journal, SavedProof, SignedKind
from dipaco.protocol.errors import (
    LocalProtocolError,
    Refusal,
    RemoteProtocolError,
    SignerFault,
    Unavailable,
)
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.digest import Digest, sha256, short
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import Item, LedgerPart
from dipaco.protocol.wire.signed import Signed, sign
from dipaco.protocol.work.ledger import (
    Entry,
    Equivocation,
    LedgerRecord,
    TermGranted,
    check_equivocation,
)

log = logging.getLogger(__name__)

MAX_PASSED = 8192  # manifests that made room, remembered so that they do not come again at once

_KINDS: dict[str, SignedKind] = {
    "manifest": "manifest",
    "spec": "spec",
    "grant": "grant",
    "receipt": "receipt",
}


class RunStore:
    """Everything that gossip and anti-entropy spread, kept in the journal."""

    def __init__(
        self, journal: Journal, me: PeerId | None = None, *, guard: Guard | None = None
    ) -> None:
        """Take up what the journal holds; `me` is this node, None where nothing is offered."""
        self._journal, self._me = journal, me
        self._paced = Paced(log, now=time.monotonic)
        self._guard = guard or Guard()
        self._items: dict[Digest, Item] = {}
        self._values_of: defaultdict[Digest, list[Digest]] = defaultdict(list)
        """By run the digests of its items."""
        self.runs: dict[Digest, RunRecord] = {}
        self.own: set[Digest] = set()
        """The runs that this node's operator put here."""
        self._kept = journal.worked_runs()
        """The runs that make no room for others: our own, and those that this node works for."""
        self._tidied = False
        """Whether the ledgers of an earlier start were dropped where nobody follows them now."""
        self._followed: frozenset[Digest] = frozenset()
        """The runs that this node may choose: it takes in their ledgers, within a bound."""
        self._buried = journal.buried()
        """The runs that are not taken in again: their schedulers signed two ledgers."""
        self._ledgers = Ledgers(journal)
        self._admission = Admission(self.runs, self._buried, me, self._ledgers.give_up)
        self._passed: OrderedDict[Digest, PeerId | None] = OrderedDict()
        """Manifests that made room, with the schedulers, from whom alone they are taken once more;
        then from nobody (None)."""
        self._refused: OrderedDict[Digest, None] = OrderedDict()
        """Values that nobody is asked for again: they are wrong, or not wanted."""
        self._origins: dict[Digest, str] = {}
        """By run the IP prefix of the peer that brought its manifest."""
        self._inventory: tuple[Item, ...] | None = None
        """As `inventory` returns it; None: to be made again."""
        self.wanting: Callable[[], None] = lambda: None
        """Called when more values are wanted than before, so that peers are asked for them."""
        self.favoured: frozenset[PeerId] = frozenset()
        """Peers whose listings go last, this node's seeds."""
        self._listings = Listings(self._needed_peers)
        self.changed = Condition()
        self._outbox, self.announcements = trio.open_memory_channel[tuple[Item, int]](256)
        """`announcements`: what this node added, with its size in bytes, for gossip."""
        self._restore()

    def _restore(self) -> None:
        """Take in what the journal holds: all was admitted before, maybe by another version."""
        gone: set[Digest] = set()
        for kind in _KINDS:
            for saved in self._journal.signed(_kind(kind)):
                take = partial(self._take_saved, kind, saved.data)
                if saved.run not in gone and not self._restored(saved.run, take):
                    gone.add(saved.run)
        for record in tuple(self.runs.values()):
            self._restored(record.run, partial(self._ledgers.replay, record))
            self._ledgers.give_up(record)
        for proof in self._journal.proofs():
            if proof.run in self.runs:
                self.runs[proof.run].fault = proof.reason
                self._list_proof(proof)

    def _take_saved(self, kind: str, data: bytes) -> None:
        item, keep = self._admit(kind, data, ours=True)
        keep()
        self.runs[item.run].value_bytes += len(data)

    def _restored(self, run: Digest, take: Keep) -> bool:
        """Return whether `take` could take in what is saved of a run; if not, the run is dropped.

        Raises ConfigError for a run that this node works for.
        """

        def taken() -> bool:
            take()
            return True

        problem = "a bug of this node"
        try:
            if self._guard.call("taking in a saved value", None, taken):
                return True
        except (RemoteProtocolError, Unavailable, Refusal) as error:
            if run in self._kept:
                raise self._journal.foreign(error) from error
            problem = str(error)
        log.warning("run %s is dropped: what is saved of it is refused: %s", short(run), problem)
        if run in self.runs:
            self._forget([run])
        if self._me is not None and run not in self._kept:
            self._journal.drop_run(run)
        return False

    # ------------------------------------------------------------------ what the network asks

    def inventory(self) -> tuple[Item, ...]:
        """Return what is held, most recent first: the head of every ledger, then every value.

        It is the same tuple until something changes.
        """
        if self._inventory is None:
            self._inventory = (*self._heads(), *reversed(self._items.values()))
        return self._inventory

    def _heads(self) -> tuple[Item, ...]:
        return tuple(
            Item(kind="ledger", run=r.run, digest=r.head, seq=r.length)
            for r in self.runs.values()
            if r.length
        )

    def length(self, run: Digest) -> int:
        """Return the number of records of a ledger that are held."""
        record = self.runs.get(run)
        return record.length if record else 0

    def lacks(self, item: Item, peer: PeerId | None = None) -> bool:
        """Return whether a value that `peer` names is missing here, and wanted."""
        if item.run in self._buried or item.digest in self._refused:
            return False
        if item.kind == "manifest":
            passed = item.digest in self._passed and self._passed[item.digest] != peer
            return item.digest not in self._items and not passed
        if not self._wants_details(item.run):
            return False
        if item.kind == "ledger":
            return item.seq > self.length(item.run)
        if item.kind == PROOF:  # one of a run is enough
            return item.run in self.runs and self.runs[item.run].fault is None
        return item.kind in _KINDS and item.digest not in self._items

    def _wants_details(self, run: Digest) -> bool:
        """Return whether specs, receipts and records of a run are taken in."""
        if run not in self.runs:  # its manifest may be on its way
            return run in self._kept
        return run in self._kept or (
            run in self._followed and self.runs[run].bytes < strangers.MAX_DETAILS
        )

    def read(self, kind: str, run: Digest, digest: Digest) -> bytes | None:
        """Return one signed value, verbatim."""
        item = self._items.get(digest)
        if item is None or (item.kind, item.run) != (kind, run):
            return None
        if kind == PROOF:
            kept = (proof_bytes(each) for each in self._journal.proofs() if each.run == run)
            return next((data for data in kept if data and sha256(data) == digest), None)
        return self._journal.one_signed(_kind(kind), digest)

    def read_ledger(self, run: Digest, first: int, limit: int) -> tuple[bytes, ...]:
        """Return the signed records of a ledger from number `first` on, at most `limit` bytes."""
        return self._ledgers.read(run, first, limit)

    def read_part(self, run: Digest, first: int, limit: int) -> LedgerPart:
        """Return a part of a ledger as `Ledgers.part` does; it is empty for an unknown run."""
        record = self.runs.get(run)
        return self._ledgers.part(record, first, limit) if record else LedgerPart(records=())

    def read_records(self, run: Digest, first: int, limit: int) -> tuple[Signed, ...]:
        """Return the records of a ledger from number `first` on, at most `limit` bytes."""
        records = self.read_ledger(run, first, limit)
        return tuple(decode(record, Signed, limit=RECORD) for record in records)

    def certificate(self, run: Digest) -> Certificate:
        """Return the certificate of a ledger's head; empty without records or keepers."""
        return self._ledgers.certificate(run)

    def offer(self, kind: str, data: bytes, *, run: Digest | None = None, origin: str = "") -> None:
        """Take in a value that a peer sent; one that is held already changes nothing.

        run      the run under which the peer listed it; None: any.
        origin   the IP prefix of the peer; empty: it is not counted.

        Raises RemoteProtocolError if it is not valid, Refusal if it is one too many, Unavailable
        if its run is not known yet.
        """
        if kind == PROOF:
            self._offer_proof(data, run)
        elif sha256(data) not in self._items:
            self._take(kind, data, run=run, origin=origin)

    def _take(
        self,
        kind: str,
        data: bytes,
        *,
        ours: bool = False,
        run: Digest | None = None,
        origin: str = "",
    ) -> None:
        try:
            item, keep = self._admit(kind, data, ours=ours)
        except Refusal:
            self.refuse(sha256(data))
            raise
        if run not in (None, item.run):
            raise RemoteProtocolError(f"lists a {kind} under another run than its own")
        if ours and kind == "manifest":
            self.keep_own(item.run)
        spare = self._too_many(item.run, data, origin) if kind == "manifest" else []
        receipt = least_receipt(self.runs[item.run]) if kind == "receipt" else None
        with self._journal.saving():
            for each in spare:
                self._journal.drop_run(each)
            self._journal.save_signed(_kind(kind), item.run, item.digest, data)
            if receipt is not None:
                self._journal.drop_signed("receipt", receipt)
        self._forget(spare)
        if receipt is not None:
            self._items.pop(receipt, None)
            self.runs[item.run].drop_receipt(receipt)
        keep()
        self.runs[item.run].value_bytes += len(data)
        if origin and kind == "manifest":
            self._origins[item.run] = origin
        self._change()

    def refuse(self, digest: Digest) -> None:
        """Have nobody asked for a value again."""
        self._refused[digest] = None
        if len(self._refused) > MAX_PASSED:
            self._refused.popitem(last=False)

    def _change(self) -> None:
        self._inventory = None
        self.changed.notify()

    # ------------------------------------------------------------------ which runs are kept

    def keep_own(self, run: Digest) -> None:
        """Note that the operator of this node put the run here."""
        self.own.add(run)
        self.keep(run)

    def keep(self, run: Digest) -> None:
        """Keep the run whatever else is offered: this node works for it, over restarts too."""
        if run in self._kept:
            return
        self._kept.add(run)
        try:
            self._journal.keep(run)
        except DiskFull as error:
            log.warning("the run is not kept for the next start: %s", error)
        self._refused.clear()  # among them may be values of this run
        self.wanting()
        self._change()

    def follow(self, runs: Collection[Digest]) -> None:
        """Take in the ledgers of these runs, too, and forget those of all other strangers' runs.

        Of each within `MAX_DETAILS`, and of the first `MAX_FOLLOWED` alone.
        """
        followed = frozenset(list(runs)[: strangers.MAX_FOLLOWED])
        if followed == self._followed and self._tidied:
            return
        if followed - self._followed - self._kept:
            self._listings.want_more()
        self._followed, self._tidied = followed, True
        for record in self.runs.values():
            if record.run not in self._kept | followed:
                self._drop_details(record)
        self.wanting()
        self._change()

    def _drop_details(self, record: RunRecord) -> None:
        manifest = [d for d in self._values_of[record.run] if self._items[d].kind == "manifest"]
        if not record.length and self._values_of[record.run] == manifest:
            return
        self._journal.drop_details(record.run)
        for digest in self._values_of[record.run]:
            if digest not in manifest:
                self._items.pop(digest, None)
        self._values_of[record.run] = manifest
        self.runs[record.run] = RunRecord(record.run, record.manifest, size=record.size)

    def keeps(self, run: Digest) -> bool:
        """Return whether the operator put the run here, or this node works for it."""
        return run in self._kept

    def kept(self) -> tuple[RunRecord, ...]:
        """Return the runs that this node has put here, works for or has worked for."""
        return tuple(record for run, record in self.runs.items() if run in self._kept)

    def note_listing(self, peer: PeerId, runs: Collection[Digest]) -> None:
        """Note the runs that `peer` offers, once all that it holds was pulled."""
        news = self._listings.note(peer, frozenset(runs).intersection(self.runs))
        for run in runs:
            if run in self.runs:
                self.runs[run] = self.runs.pop(run)  # most recently offered last
        if news:
            self.changed.notify()

    def note_offer(self, peer: PeerId, run: Digest) -> None:
        """Note one more run that `peer` offers, if it has told of all that it holds before."""
        if run in self.runs and self._listings.note_one(peer, run):
            self.changed.notify()

    def _needed_peers(self) -> frozenset[PeerId]:
        return self.favoured | {record.scheduler for record in self.kept()}

    def listed_by(self, peer: PeerId) -> frozenset[Digest] | None:
        """Return the runs that `peer` offers; None before it was asked for all that it holds."""
        return self._listings.of(peer)

    def offering(self, run: Digest) -> Iterator[PeerId]:
        """Yield the peers that offer a run, those that were asked latest first."""
        return self._listings.offering(run)

    def has_told(self, peer: PeerId) -> bool:
        """Return whether all that `peer` holds, and this node wants by now, was pulled."""
        return self._listings.has_told(peer)

    def _too_many(self, run: Digest, data: bytes, origin: str) -> list[Digest]:
        """Return the runs that make room for a new one, whose admitted manifest is `data`.

        Raises Refusal for one that is too large for a stranger's.
        """
        if run in self._kept:
            return []
        if len(data) > strangers.MAX_MANIFEST:
            self.refuse(sha256(data))
            raise Refusal(f"run {short(run)} has a manifest of {len(data)} bytes")
        owner = decode(data, Signed).signer  # admitted: it is the manifest's
        new = strangers.Stored(run=run, owner=owner, bytes=len(data), origin=origin)
        return strangers.spare([self._stored(r) for r in self.runs if r not in self._kept], new)

    def _stored(self, run: Digest) -> strangers.Stored:
        record = self.runs[run]
        vouched = run in (self._listings.of(record.scheduler) or ())
        return strangers.Stored(
            run=run,
            owner=record.manifest.owner,
            bytes=record.size,
            origin=self._origins.get(run, ""),
            useful=2 if run in self._followed else int(vouched),
        )

    def _forget(self, runs: Collection[Digest]) -> None:
        for run in runs:
            scheduler = self.runs.pop(run).scheduler
            self._origins.pop(run, None)
            for digest in self._values_of.pop(run, ()):
                item = self._items.pop(digest, None)
                if item is not None and item.kind == "manifest":
                    self._passed[digest] = None if digest in self._passed else scheduler
        while len(self._passed) > MAX_PASSED:
            self._passed.popitem(last=False)

    def offer_ledger(
        self,
        run: Digest,
        records: tuple[bytes, ...],
        *,
        first: int | None = None,
        certificate: Certificate = (),
    ) -> None:
        """Take in consecutive records of a ledger; those held already change nothing.

        first         the number that was asked for; None: any.
        certificate   of the head at which they end, in a run with keepers: without it none of
                      them is taken in.

        Raises RemoteProtocolError for what the peer that sent them answers for, and SignerFault
        for what the run's scheduler does: that peer may be honest.
        """
        record = self._admission.known(run)
        try:
            fresh = self._ledgers.take_in(record, records, first=first, certificate=certificate)
        except LedgerFault as fault:
            self._convict(record, fault)
            raise
        if fresh:
            self._change()

    def convict(self, run: Digest, proof: Equivocation) -> None:
        """Keep the proof that a scheduler of a run signed two ledgers, and hand it on."""
        signer = proof.one.signer
        fault = LedgerFault(two_ledgers(run), signer, encode(proof.one), encode(proof.other))
        self._convict(self.runs[run], fault)

    def _offer_proof(self, data: bytes, run: Digest | None) -> None:
        """Take in a proof of two ledgers from a peer: the manifest alone judges it."""
        proof, found = opened_proof(data)
        record = self._admission.known(found)
        if run not in (None, found):
            raise RemoteProtocolError("lists a proof under another run than its own")
        check_equivocation(proof, run=found, manifest=record.manifest)
        if sha256(data) not in self._items:
            self.convict(found, proof)

    def _convict(self, record: RunRecord, fault: LedgerFault) -> None:
        """Keep the proof of a scheduler's fault, and drop the run unless this node works for it."""
        proof = SavedProof(record.run, str(fault), fault.one, fault.other)
        saved = False
        with self._journal.saving():
            if record.fault is None:
                saved = self._journal.save_proof(proof)
            if record.run not in self._kept:
                self._journal.bury(record.run)
        if record.run not in self._kept:
            self._paced.say("dropped", f"run {record.manifest.name} is dropped: {fault}")
            self._buried.add(record.run)
            self._forget([record.run])
        elif saved and (listed := self._list_proof(proof)) is not None:
            self._announce(listed, len(proof.one) + len(proof.other))
        record.fault = record.fault or str(fault)
        self._change()

    def _list_proof(self, proof: SavedProof) -> Item | None:
        """Offer a proof of two records to peers, and believe it; None for a single record."""
        data = proof_bytes(proof)
        if data is None:
            return None
        item = Item(kind=PROOF, run=proof.run, digest=sha256(data), seq=0)
        self._items[item.digest] = item
        self._values_of[proof.run].append(item.digest)
        self.runs[proof.run].faulty.add(decode(data, Equivocation).one.signer)
        return item

    # ------------------------------------------------------------------ what this node adds

    def publish(self, kind: SignedKind, signed: Signed) -> Item:
        """Take in a value of our own, and have it announced; an invalid one is a bug."""
        data = encode(signed)
        if sha256(data) in self._items:
            item = self._items[sha256(data)]
            if kind == "manifest":
                self.keep_own(item.run)
            return item
        try:
            self._take(kind, data, ours=True)
        except RemoteProtocolError as error:
            raise LocalProtocolError(f"we made an invalid {kind}: {error}") from error
        item = self._items[sha256(data)]
        self._announce(item, len(data))
        return item

    def begin_granted(self, run: Digest, key: Ed25519PrivateKey) -> None:
        """Begin the term that the owner granted this node; raises Unavailable while it cannot."""
        record, signed = self.runs[run], self._journal.signed("grant", run)[-1].data
        grant = record.granted
        assert grant is not None
        if record.chain_head != grant.head:
            raise Unavailable(
                f"term {grant.term} goes on from record {grant.head.length}, this node has "
                f"{record.length}: it waits for the others"
            )
        granted = TermGranted(grant=decode(signed, Signed))
        self.append(run, granted, key, term=grant.term)

    def append(
        self, run: Digest, entry: Entry, key: Ed25519PrivateKey, *, term: int | None = None
    ) -> None:
        """Sign `entry` as the ledger's next record and save it; the scheduler alone calls this.

        term   None: that of the ledger.

        The run has no keepers, or its owner has it go on without them: else a record is final when
        a quorum of them has signed.
        """
        record = self.runs[run]
        made = LedgerRecord(
            run=run,
            term=record.term if term is None else term,
            seq=record.length,
            previous=record.head,
            entry=entry,
        )
        data = encode(sign(made, key))
        try:
            self.offer_ledger(run, (data,))
        except SignerFault as error:
            raise LocalProtocolError(f"we made an invalid ledger record: {error}") from error
        self._announce_head(record, len(data))

    def append_final(
        self, run: Digest, records: tuple[bytes, ...], certificate: Certificate
    ) -> None:
        """Take in records that a quorum of the run's keepers has signed, and tell of them."""
        self.offer_ledger(run, records, certificate=certificate)
        self._announce_head(self.runs[run], sum(map(len, records)))

    def _announce_head(self, record: RunRecord, size: int) -> None:
        head = Item(kind="ledger", run=record.run, digest=record.head, seq=record.length)
        self._announce(head, size)

    def _announce(self, item: Item, size: int) -> None:
        with suppress(trio.WouldBlock):  # anti-entropy brings what was not announced
            self._outbox.send_nowait((item, size))

    def reread(self, run: Digest) -> None:
        """Take back what was appended in a `saving` block of the journal that came to nothing."""
        self._ledgers.replay(self.runs[run])
        self._change()

    # ------------------------------------------------------------------ admission

    def _admit(self, kind: str, data: bytes, *, ours: bool) -> tuple[Item, Keep]:
        """Check a value; `Keep` takes it into memory once it is saved."""
        run, take_in = self._admission.admit(kind, data, ours=ours)
        item = Item(kind=kind, run=run, digest=sha256(data), seq=0)

        def keep() -> None:
            take_in()
            self._items[item.digest] = item
            self._values_of[run].append(item.digest)

        return item, keep


def _kind(kind: str) -> SignedKind:
    found = _KINDS.get(kind)
    if found is None:
        raise RemoteProtocolError(f"no value is of kind {kind!r}")
    return found
