"""The signed values that a node holds and hands on: manifests, specs, receipts, ledgers.

Owns their admission: what is offered, by a peer or by this node itself, is checked here once,
saved, and only then handed on. Whoever waits for a value to arrive waits for `changed`. What
strangers could make grow is bounded per run and in all: the runs that this node has nothing to do
with make room for newer ones.
"""

import logging
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.node.condition import Condition
from dipaco.node.network.guard import Guard
from dipaco.node.runs.record import HeldSpec, RunRecord
from dipaco.node.storage.journal import Journal, SignedKind
from dipaco.protocol.errors import (
    LocalProtocolError,
    Refusal,
    RemoteProtocolError,
    Unavailable,
)
from dipaco.protocol.routing.spec import RouterSpec, spec_digest
from dipaco.protocol.routing.verdict import Receipt
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.digest import Digest, sha256, short
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.wire.messages import MAX_RECORDS, Item
from dipaco.protocol.wire.signed import MAX_ENVELOPE, Signed, decode_signed, open_signed, sign
from dipaco.protocol.work.ledger import Entry, LedgerRecord

MAX_RUNS = 256  # that this node has nothing to do with; beyond it the least recently offered goes
MAX_LISTINGS = 512  # peers whose offers are remembered, the latest
MAX_SPECS = 8  # of one run: one per epoch and scheduler, more are a scheduler that changes its mind
MAX_RECEIPTS = 4096  # of one run; the journal keeps as many

log = logging.getLogger(__name__)

Keep = Callable[[], None]

_KINDS: dict[str, SignedKind] = {"manifest": "manifest", "spec": "spec", "receipt": "receipt"}


class RunStore:
    """Everything that gossip and anti-entropy spread, kept in the journal."""

    def __init__(
        self, journal: Journal, me: PeerId | None = None, *, guard: Guard | None = None
    ) -> None:
        """Take up what the journal holds; `me` is this node, None where nothing is offered."""
        self._journal, self._me = journal, me
        self._guard = guard or Guard()
        self._items: dict[Digest, Item] = {}
        self._values_of: defaultdict[Digest, list[Digest]] = defaultdict(list)
        """By run the digests of its items."""
        self.runs: dict[Digest, RunRecord] = {}
        self.own: set[Digest] = set()
        """The runs that this node's operator put here."""
        self._kept = journal.worked_runs()
        """The runs that make no room for others: our own, and those that this node works for."""
        self._listings: OrderedDict[PeerId, frozenset[Digest]] = OrderedDict()
        """By peer the runs that it offered when it was last asked for all that it holds."""
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
            self._restored(record.run, partial(self._replay, record))

    def _take_saved(self, kind: str, data: bytes) -> None:
        self._admit(kind, data, ours=True)[1]()

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
        """Return what is held, most recent first: the head of every ledger, then every value."""
        heads = (
            Item(kind="ledger", run=r.run, digest=r.head, seq=r.length)
            for r in self.runs.values()
            if r.length
        )
        return (*heads, *reversed(self._items.values()))

    def read(self, kind: str, run: Digest, digest: Digest) -> bytes | None:
        """Return one signed value, verbatim."""
        item = self._items.get(digest)
        if item is None or (item.kind, item.run) != (kind, run):
            return None
        return self._journal.one_signed(_kind(kind), digest)

    def read_ledger(self, run: Digest, first: int, limit: int) -> tuple[bytes, ...]:
        """Return the signed records of a ledger from number `first` on, at most `limit` bytes."""
        part: list[bytes] = []
        for saved in self._journal.ledger(run, first, MAX_RECORDS):
            limit -= len(saved.data)
            if limit < 0:
                break
            part.append(saved.data)
        return tuple(part)

    def offer(self, kind: str, data: bytes) -> None:
        """Take in a value that a peer sent; one that is held already changes nothing.

        Raises RemoteProtocolError if it is not valid, Refusal if it is one too many, Unavailable
        if its run is not known yet.
        """
        if sha256(data) not in self._items:
            self._take(kind, data)

    def _take(self, kind: str, data: bytes, *, ours: bool = False) -> None:
        item, keep = self._admit(kind, data, ours=ours)
        if ours and kind == "manifest":
            self.keep_own(item.run)
        spare = self._too_many(item.run) if kind == "manifest" else []
        old: tuple[Digest, ...] = ()
        with self._journal.saving():
            for run in spare:
                self._journal.drop_run(run)
            self._journal.save_signed(_kind(kind), item.run, item.digest, data)
            if kind == "receipt":
                old = self._journal.drop_old_receipts(item.run)
        self._forget(spare)
        for digest in old:
            self._items.pop(digest, None)
            self.runs[item.run].receipts -= 1
        keep()
        self.changed.notify()

    # ------------------------------------------------------------------ which runs are kept

    def keep_own(self, run: Digest) -> None:
        """Note that the operator of this node put the run here."""
        self.own.add(run)
        self.keep(run)

    def keep(self, run: Digest) -> None:
        """Keep the run whatever else is offered: this node works for it."""
        self._kept.add(run)

    def kept(self) -> tuple[RunRecord, ...]:
        """Return the runs that this node has put here, works for or has worked for."""
        return tuple(record for run, record in self.runs.items() if run in self._kept)

    def note_listing(self, peer: PeerId, runs: Collection[Digest]) -> None:
        """Note the runs that `peer` offers, once all that it holds was pulled."""
        known, self._listings[peer] = self._listings.get(peer), frozenset(runs)
        self._listings.move_to_end(peer)
        if len(self._listings) > MAX_LISTINGS:
            self._listings.popitem(last=False)
        for run in runs:
            if run in self.runs:
                self.runs[run] = self.runs.pop(run)  # most recently offered last
        if known != self._listings[peer]:
            self.changed.notify()

    def listed_by(self, peer: PeerId) -> frozenset[Digest] | None:
        """Return the runs that `peer` offers; None before it was asked for all that it holds."""
        return self._listings.get(peer)

    def _too_many(self, new: Digest) -> list[Digest]:
        """Return the runs that make room for a new one.

        They are the least recently offered of those that this node has nothing to do with; the runs
        that their own schedulers offer go last.
        """
        if new in self._kept:
            return []
        strangers = sorted((run for run in self.runs if run not in self._kept), key=self._vouched)
        return strangers[: max(0, len(strangers) + 1 - MAX_RUNS)]

    def _vouched(self, run: Digest) -> bool:
        return run in self._listings.get(self.runs[run].scheduler, ())

    def _forget(self, runs: Collection[Digest]) -> None:
        for run in runs:
            del self.runs[run]
            for digest in self._values_of.pop(run, ()):
                self._items.pop(digest, None)

    def offer_ledger(self, run: Digest, records: tuple[bytes, ...]) -> None:
        """Take in consecutive records of a ledger; those held already change nothing.

        Raises RemoteProtocolError, and Refusal for records of another ledger by the same scheduler:
        the peer that sent them may be honest.
        """
        record = self._known(run)
        fresh = self._not_held(record, [decode(r, Signed, limit=MAX_ENVELOPE) for r in records])
        opened = record.check(fresh)
        saved = False
        try:
            with self._journal.saving():
                for signed, entry in zip(fresh, opened, strict=True):
                    record.advance(signed, entry)
                    self._journal.append_ledger(run, entry.seq, signed.body_digest, encode(signed))
            saved = True
        finally:
            if not saved:  # an entry that cannot follow, a full disk: nothing was taken in
                self._replay(record)
        if fresh:
            self.changed.notify()

    def _not_held(self, record: RunRecord, envelopes: list[Signed]) -> list[Signed]:
        """Drop the records that another peer brought while this answer was on its way."""
        if not envelopes:
            return []
        first = open_signed(envelopes[0], LedgerRecord)
        held = self._journal.ledger(record.run, first.seq, len(envelopes))
        others = [e for s, e in zip(held, envelopes, strict=False) if s.digest != e.body_digest]
        if not others and first.seq == record.length and first.previous != record.head:
            others = envelopes[:1]
        if not others:
            return envelopes[len(held) :]
        named = open_signed(others[0], LedgerRecord).run
        if named == record.run and others[0].signer == record.scheduler:
            raise Refusal(f"the scheduler of run {short(record.run)} signed two ledgers")
        return envelopes

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

    def append(self, run: Digest, entry: Entry, key: Ed25519PrivateKey) -> None:
        """Sign `entry` as the ledger's next record and save it; the scheduler alone calls this."""
        record = self.runs[run]
        made = LedgerRecord(
            run=run, term=record.term, seq=record.length, previous=record.head, entry=entry
        )
        data = encode(sign(made, key))
        self.offer_ledger(run, (data,))
        head = Item(kind="ledger", run=run, digest=record.head, seq=record.length)
        self._announce(head, len(data))

    def _announce(self, item: Item, size: int) -> None:
        with suppress(trio.WouldBlock):  # anti-entropy brings what was not announced
            self._outbox.send_nowait((item, size))

    def reread(self, run: Digest) -> None:
        """Take back what was appended in a `saving` block of the journal that came to nothing."""
        self._replay(self.runs[run])

    def _replay(self, record: RunRecord) -> None:
        """Bring a ledger's fold to where the journal ends."""
        record.restart()
        saved = self._journal.ledger(record.run)
        envelopes = [decode(each.data, Signed, limit=MAX_ENVELOPE) for each in saved]
        for signed, entry in zip(envelopes, record.check(envelopes), strict=True):
            record.advance(signed, entry)

    # ------------------------------------------------------------------ admission

    def _known(self, run: Digest) -> RunRecord:
        record = self.runs.get(run)
        if record is None:
            raise Unavailable(f"run {short(run)} is not known yet")
        return record

    def _admit(self, kind: str, data: bytes, *, ours: bool) -> tuple[Item, Keep]:
        """Check a value; `Keep` takes it into memory once it is saved."""
        admissions: dict[str, Callable[[bytes], tuple[Digest, Keep]]] = {
            "manifest": partial(self._admit_manifest, ours=ours),
            "spec": self._admit_spec,
            "receipt": partial(self._admit_receipt, ours=ours),
        }
        admit = admissions.get(kind)
        if admit is None:
            raise RemoteProtocolError(f"no value is of kind {kind!r}")
        run, take_in = admit(data)
        item = Item(kind=kind, run=run, digest=sha256(data), seq=0)

        def keep() -> None:
            take_in()
            self._items[item.digest] = item
            self._values_of[run].append(item.digest)

        return item, keep

    def _admit_manifest(self, data: bytes, *, ours: bool) -> tuple[Digest, Keep]:
        signed, manifest = decode_signed(data, Manifest)
        if signed.signer != manifest.owner:
            raise RemoteProtocolError(
                f"manifest {manifest.name} is signed by {short_peer(signed.signer)}, "
                f"its owner is {short_peer(manifest.owner)}"
            )
        run = run_id(manifest)
        if run in self.runs:
            raise Refusal(f"run {short(run)} is known already")
        if manifest.schedule.schedulers[0] == self._me and not ours:
            # Handed on, it would look to newcomers like a run that this node schedules.
            raise Refusal(
                f"run {short(run)} names this node as its scheduler, which has no such run"
            )
        return run, lambda: self.runs.update({run: RunRecord(run, manifest)})

    def _admit_spec(self, data: bytes) -> tuple[Digest, Keep]:
        signed, spec = decode_signed(data, RouterSpec)
        record = self._known(spec.manifest)
        if signed.signer not in record.manifest.schedule.schedulers:
            raise RemoteProtocolError(
                f"the spec of run {short(spec.manifest)} is signed by "
                f"{short_peer(signed.signer)}, who does not schedule it"
            )
        digest = spec_digest(spec)
        if digest in record.specs or len(record.specs) >= MAX_SPECS:
            raise Refusal(f"spec {short(digest)} is known already, or one too many")
        held = HeldSpec(spec, signed.signer)
        return record.run, lambda: record.specs.update({digest: held})

    def _admit_receipt(self, data: bytes, *, ours: bool) -> tuple[Digest, Keep]:
        signed, receipt = decode_signed(data, Receipt)
        record = self._known(receipt.manifest)
        # Strangers can make as many receipts as they like; none of them may silence this node.
        if record.receipts >= MAX_RECEIPTS and not ours:
            raise Refusal(f"run {short(record.run)} has {MAX_RECEIPTS} receipts already")
        return record.run, partial(record.hear, signed.signer, receipt)


def _kind(kind: str) -> SignedKind:
    found = _KINDS.get(kind)
    if found is None:
        raise RemoteProtocolError(f"no value is of kind {kind!r}")
    return found
