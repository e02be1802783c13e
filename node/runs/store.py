"""The signed values that a node holds and hands on: manifests, specs, receipts, ledgers.

Owns their admission: what is offered, by a peer or by this node itself, is checked here once,
saved, and only then handed on. Whoever waits for a value to arrive waits for `changed`. What
strangers could make grow is bounded per run and in all.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.node.condition import Condition
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
from dipaco.protocol.wire.identity import short_peer
from dipaco.protocol.wire.messages import MAX_RECORDS, Item
from dipaco.protocol.wire.signed import MAX_ENVELOPE, Signed, decode_signed, sign
from dipaco.protocol.work.ledger import Entry, LedgerRecord

MAX_RUNS = 256  # of strangers; a node trains one
MAX_SPECS = 8  # of one run: one per epoch and scheduler, more are a scheduler that changes its mind
MAX_RECEIPTS = 4096  # of one run; the journal keeps as many

Keep = Callable[[], None]

_KINDS: dict[str, SignedKind] = {"manifest": "manifest", "spec": "spec", "receipt": "receipt"}


class RunStore:
    """Everything that gossip and anti-entropy spread, kept in the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._items: dict[Digest, Item] = {}
        self.runs: dict[Digest, RunRecord] = {}
        self.changed = Condition()
        self._outbox, self.announcements = trio.open_memory_channel[tuple[Item, int]](256)
        """`announcements`: what this node added, with its size in bytes, for gossip."""
        try:
            self._restore()
        except (RemoteProtocolError, Unavailable, Refusal) as error:
            raise journal.foreign(error) from error

    def _restore(self) -> None:
        """Take in what the journal holds: all of it was admitted before."""
        for kind in _KINDS:
            for saved in self._journal.signed(_kind(kind)):
                self._admit(kind, saved.data, ours=True)[1]()
        for record in self.runs.values():
            self._replay(record)

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
        dropped: tuple[Digest, ...] = ()
        with self._journal.saving():
            self._journal.save_signed(_kind(kind), item.run, item.digest, data)
            if kind == "receipt":
                dropped = self._journal.drop_old_receipts(item.run)
        for digest in dropped:
            self._items.pop(digest, None)
            self.runs[item.run].receipts -= 1
        keep()
        self.changed.notify()

    def offer_ledger(self, run: Digest, records: tuple[bytes, ...]) -> None:
        """Take in the next records of a ledger; raises RemoteProtocolError."""
        record = self._known(run)
        envelopes = [decode(data, Signed, limit=MAX_ENVELOPE) for data in records]
        # Another peer may have brought some of them while this answer was on its way.
        known = {r.digest for r in self._journal.ledger(run, max(0, record.length - len(records)))}
        fresh = [signed for signed in envelopes if signed.body_digest not in known]
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

    # ------------------------------------------------------------------ what this node adds

    def publish(self, kind: SignedKind, signed: Signed) -> Item:
        """Take in a value of our own, and have it announced; an invalid one is a bug."""
        data = encode(signed)
        if sha256(data) in self._items:
            return self._items[sha256(data)]
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
            "manifest": self._admit_manifest,
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

        return item, keep

    def _admit_manifest(self, data: bytes) -> tuple[Digest, Keep]:
        signed, manifest = decode_signed(data, Manifest)
        if signed.signer != manifest.owner:
            raise RemoteProtocolError(
                f"manifest {manifest.name} is signed by {short_peer(signed.signer)}, "
                f"its owner is {short_peer(manifest.owner)}"
            )
        run = run_id(manifest)
        if run in self.runs or len(self.runs) >= MAX_RUNS:
            raise Refusal(f"run {short(run)} is known already, or one too many")
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
