"""A chain of records whose end is not final yet: the final ledger, and a tail that may be replaced.

Keepers hold such a chain, and so does a scheduler that takes over. Only the tail is held here; the
final part is known by its head, its digests and its fold.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dipaco.protocol.errors import Unavailable
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.signed import Signed, open_signed
from dipaco.protocol.work.calls import MAX_PROPOSAL
from dipaco.protocol.work.ledger import Equivocation, LedgerRecord, append_checked
from dipaco.protocol.work.run_state import RunState
from dipaco.protocol.work.terms import Head

MAX_TAIL = 768 << 10  # bytes of a tail: records that begin terms still fit into a proposal
MAX_TAIL_RECORDS = 768  # a proposal has at most 1,024
_AROUND = 8  # bytes of an envelope's head in a list, rounded up


@dataclass(frozen=True)
class TailRecord:
    """A record of a tail, opened."""

    signed: Signed
    record: LedgerRecord
    digest: Digest
    """Of the body."""
    size: int
    """Bytes of the envelope."""

    @classmethod
    def of(cls, signed: Signed) -> "TailRecord":
        """Open a record; raises RemoteProtocolError for a wrong signature."""
        size = len(encode(signed)) + _AROUND
        return cls(signed, open_signed(signed, LedgerRecord), signed.body_digest, size)

    @property
    def head(self) -> Head:
        """The head of the chain that ends with this record."""
        return Head(term=self.record.term, length=self.record.seq + 1, digest=self.digest)


@dataclass(frozen=True)
class Final:
    """The final ledger of a run, as the store of this node holds it."""

    head: Head
    digest_of: Callable[[int], Digest]
    """Gives the body digest of a record by its number, below `head.length`."""
    fold: RunState
    """Of all its entries; it is only read."""


@dataclass(frozen=True)
class Chain:
    """The final ledger, and the records after it."""

    run: Digest
    manifest: Manifest
    final: Final
    tail: tuple[TailRecord, ...] = ()

    @property
    def head(self) -> Head:
        """Where it ends."""
        return self.tail[-1].head if self.tail else self.final.head

    def digest_of(self, seq: int) -> Digest:
        """Return the body digest of a record, by its number below `head.length`."""
        place = seq - self.final.head.length
        return self.final.digest_of(seq) if place < 0 else self.tail[place].digest

    def head_at(self, length: int) -> Head | None:
        """Return the head that the chain had at `length` records; None below the final ones."""
        place = length - self.final.head.length
        if not 0 <= place <= len(self.tail):
            return None
        return self.tail[place - 1].head if place else self.final.head

    def has(self, head: Head) -> bool:
        """Return whether `head` is the final head, or one in the tail."""
        return self.head_at(head.length) == head

    def taking(self, records: Sequence[Signed]) -> "Chain | Equivocation | None":
        """Return the chain that takes in consecutive records, those it has among them.

        None: they begin after its end, or at a record that it has not, or contradict a final
        record; or they contradict the tail and begin no higher term, which alone may replace a
        part of it. An `Equivocation` proves that their signer signed two ledgers; then nothing is
        taken in.

        Raises RemoteProtocolError for records that are wrong by themselves or cannot follow, and
        Unavailable where the tail would be too long.
        """
        fresh = list(records)
        if not fresh:
            return self
        seq = open_signed(fresh[0], LedgerRecord).seq
        if seq > self.head.length:
            return None
        while fresh and seq < self.head.length and fresh[0].body_digest == self.digest_of(seq):
            fresh.pop(0)
            seq += 1
        if not fresh:
            return self
        if seq < self.final.head.length:
            return None
        base = replace(self, tail=self.tail[: seq - self.final.head.length])
        first = TailRecord.of(fresh[0])
        if first.record.previous != base.head.digest:
            return _contradiction(base.tail[-1], first) if base.tail else None
        added = base.adding(fresh)
        if base != self and added.head.term <= self.head.term:
            return _contradiction(self.tail[len(base.tail)], added.tail[len(base.tail)])
        return added

    def adding(self, records: Sequence[Signed]) -> "Chain":
        """Return the chain with records after its end.

        Raises RemoteProtocolError for records that are not its next, and Unavailable where the
        tail would be too long.
        """
        opened = append_checked(
            records,
            run=self.run,
            manifest=self.manifest,
            head=self.head,
            digest_of=self.digest_of,
        )
        added = tuple(
            TailRecord(signed, record, signed.body_digest, len(encode(signed)) + _AROUND)
            for signed, record in zip(records, opened, strict=True)
        )
        made = replace(self, tail=(*self.tail, *added))
        made._check_size()
        made.folded()
        return made

    def _check_size(self) -> None:
        """A record that begins a term may make the tail longer: it brings the end of it nearer."""
        begins = bool(self.tail) and self.tail[-1].record.begins
        size = sum(each.size for each in self.tail)
        if size > (MAX_PROPOSAL if begins else MAX_TAIL) or (
            len(self.tail) > MAX_TAIL_RECORDS and not begins
        ):
            raise Unavailable(
                f"{len(self.tail)} records ({size} bytes) wait to become final here, too many for "
                "one more"
            )

    def folded(self) -> RunState:
        """Return the fold of the whole chain; raises RemoteProtocolError if an entry cannot follow.

        A keeper asks it before it signs: what no node could take in must never become final.
        """
        fold = self.final.fold.copy()
        for each in self.tail:
            fold.apply(each.record.entry)
        return fold

    def after(self, final: Final) -> "Chain":
        """Return the chain once the final ledger has grown to `final`.

        A tail that goes on from it stays. One that contradicts it is gone: it can never be final.
        Raises Unavailable where final records between the two are missing.
        """
        if not self.tail:
            return replace(self, final=final)
        first = self.tail[0].record
        if final.head.length < first.seq:
            raise Unavailable(
                f"the ledger here has {final.head.length} records, and {first.seq} were final "
                "before: it waits for them from another node"
            )
        place = final.head.length - first.seq
        at = self.tail[place - 1].digest if 0 < place <= len(self.tail) else first.previous
        stays = place <= len(self.tail) and at == final.head.digest
        return replace(self, final=final, tail=self.tail[place:] if stays else ())


def _contradiction(held: TailRecord, other: TailRecord) -> Equivocation | None:
    """Return the proof that two records of one number give, if they are of one term."""
    if held.record.term != other.record.term:
        return None
    return Equivocation(one=held.signed, other=other.signed)
