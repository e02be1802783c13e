"""One run as this node knows it: manifest, router specs, receipts, and the one fold of its ledger.

The store (`store.py`) checks and saves what comes in; a record only takes it in.
"""

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass

from dipaco.protocol.routing.decision import ReceiptTally, tally_receipts
from dipaco.protocol.routing.spec import RouterSpec, spec_digest
from dipaco.protocol.routing.verdict import Outcome, Receipt
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.signed import Signed
from dipaco.protocol.work.authority import scheduler_of_term
from dipaco.protocol.work.candidate import RECENT
from dipaco.protocol.work.ledger import LedgerRecord, append_checked
from dipaco.protocol.work.rounds import Rounds, Weights
from dipaco.protocol.work.run_state import RunState
from dipaco.protocol.work.tail import Final
from dipaco.protocol.work.terms import FIRST_TERM, NO_RECORD, Head, OwnersGrant

MAX_SPECS = 8  # of one run: one per epoch and scheduler, more are a scheduler that changes its mind


@dataclass(frozen=True)
class HeldSpec:
    """A router spec and the peer that signed it."""

    spec: RouterSpec
    author: PeerId


class RunRecord:
    """One run as this node knows it: its manifest, its specs, and the fold of its ledger."""

    def __init__(self, run: Digest, manifest: Manifest, *, size: int = 0) -> None:
        """size: bytes of the signed manifest."""
        self.run = run
        self.manifest = manifest
        self.size = size
        self.value_bytes = 0
        """Of its signed values."""
        self.ledger_bytes = 0
        """Of the ledger's records."""
        self.fault: str | None = None
        """Why its scheduler contradicts itself; None: it does not, as far as is known."""
        self.faulty: set[PeerId] = set()
        """The schedulers that are proven to have signed two ledgers."""
        self.granted: OwnersGrant | None = None
        """The newest term that the owner let begin by hand; None: the owner let none."""
        self.state = RunState(manifest)
        self.specs: dict[Digest, HeldSpec] = {}
        """By spec digest."""
        self.rounds = Rounds(self.state, self._weights)
        self._over_at, self._over = (0, 0), False
        """When `over` was last worked out, by what is held, and what it was."""
        self.restart()
        self.said: dict[Digest, dict[PeerId, Outcome]] = {}
        """By spec digest: the outcome that each peer's receipts state."""
        self.receipts: dict[Digest, tuple[PeerId, Digest]] = {}
        """Signer and spec by the digest of the envelope, in the order of arrival."""
        self._specs_of: defaultdict[PeerId, set[Digest]] = defaultdict(set)
        """By signer the specs that its receipts are about."""

    def is_news(self, signer: PeerId, receipt: Receipt) -> bool:
        """Return whether a receipt counts beside those that are held.

        One of each signer counts for a spec, and another only if it refutes it; receipts of one
        signer for more specs than a run has do not.
        """
        said = self.said.get(receipt.spec, {}).get(signer)
        if said is None:
            return len(self._specs_of.get(signer, ())) < MAX_SPECS
        return said is not Outcome.REFUTED and receipt.verdict.outcome is Outcome.REFUTED

    def knows(self, signer: PeerId) -> bool:
        """Return whether the manifest names `signer`, or an outer step took its work."""
        return signer in self._known()

    def _known(self) -> frozenset[PeerId]:
        schedule = self.manifest.schedule
        named = {*schedule.schedulers, *schedule.members, self.manifest.owner}
        return frozenset(named.union(self.state.contributors.values()))

    def least_receipt(self) -> Digest:
        """Return the receipt that goes first: the oldest of a peer that the run does not know."""
        known = self._known()
        strangers = (each for each, (signer, _) in self.receipts.items() if signer not in known)
        return next(strangers, next(iter(self.receipts)))

    def drop_receipt(self, digest: Digest) -> None:
        """Forget a receipt that is held, and what it said."""
        signer, spec = self.receipts.pop(digest)
        self.said.get(spec, {}).pop(signer, None)
        self._specs_of[signer].discard(spec)

    def hear(self, digest: Digest, signer: PeerId, receipt: Receipt) -> None:
        """Take in a receipt; a peer that has once refuted a spec counts as refuting it.

        digest   of the envelope.
        """
        outcomes = self.said.setdefault(receipt.spec, {})
        if outcomes.get(signer) is not Outcome.REFUTED:
            outcomes[signer] = receipt.verdict.outcome
        self.receipts[digest] = signer, receipt.spec
        self._specs_of[signer].add(receipt.spec)

    @property
    def bytes(self) -> int:
        """Bytes of all that is held of the run."""
        return self.value_bytes + self.ledger_bytes

    def adopted(self, epoch: int) -> HeldSpec | None:
        """Return the spec that the ledger adopted for an epoch, as far as it is here."""
        adopted = self.state.specs
        return self.specs.get(adopted[epoch]) if epoch < len(adopted) else None

    def routers(self) -> list[RouterSpec]:
        """Return the specs that the ledger adopted, epoch by epoch; none unless all are here."""
        held = [self.adopted(epoch) for epoch in range(len(self.state.specs))]
        return [each.spec for each in held if each] if all(held) else []

    def newest(self) -> HeldSpec | None:
        """Return the spec of the newest epoch, as far as it is here."""
        return self.adopted(max(0, self.state.epoch))

    def tally(self, me: PeerId, held: HeldSpec | None) -> ReceiptTally:
        """Count the receipts for a spec, without those of `me` and of its author."""
        if held is None:
            return ReceiptTally()
        return tally_receipts(
            self.said.get(spec_digest(held.spec), {}),
            apart={me, held.author},
            members=self.manifest.schedule.members,
        )

    def restart(self) -> None:
        """Go back to an empty ledger."""
        self.state.reset()
        self.term = FIRST_TERM
        self.digests: list[Digest] = []
        """The body digest of every record."""
        self._begins = deque[bool](maxlen=RECENT)
        """Whether each of the last records began a term."""

    @property
    def length(self) -> int:
        """The number of records."""
        return len(self.digests)

    @property
    def head(self) -> Digest:
        """The body digest of the last record."""
        return self.digests[-1] if self.digests else NO_RECORD

    @property
    def chain_head(self) -> Head:
        """Where the ledger ends."""
        return Head(term=self.term, length=self.length, digest=self.head)

    @property
    def scheduler(self) -> PeerId:
        """Who schedules the run in the ledger's term."""
        return scheduler_of_term(self.manifest.schedule.schedulers, self.term)

    @property
    def final(self) -> Final:
        """The ledger as a chain goes on from it: in a run with keepers all of it is final."""
        return Final(self.chain_head, self.digests.__getitem__, self.state)

    @property
    def keepers(self) -> tuple[PeerId, ...]:
        """The run's keepers, of whom a quorum makes a record final; none: its scheduler does.

        The owner who grants a term by hand has the run go on without them.
        """
        return self.manifest.schedule.named_keepers if self.granted is None else ()

    @property
    def over(self) -> bool:
        """Whether the ledger tells of the run's end; nothing is built for a run without one."""
        seen = (self.length, len(self.specs))
        if self._over_at != seen:
            self._over_at, self._over = seen, self.length > 0 and self.rounds.finished
        return self._over

    def _weights(self, spec: Digest) -> Weights | None:
        held = self.specs.get(spec)
        return held.spec.tokens if held else None

    def check(self, records: Iterable[Signed]) -> list[LedgerRecord]:
        """Return the records as the ledger's next ones; raises RemoteProtocolError."""
        return append_checked(
            records,
            run=self.run,
            manifest=self.manifest,
            head=self.chain_head,
            digest_of=self.digests.__getitem__,
        )

    def advance(self, signed: Signed, record: LedgerRecord) -> None:
        """Take in the ledger's next record; raises RemoteProtocolError if it cannot follow."""
        self.state.apply(record.entry)
        self.term = record.term
        self.digests.append(signed.body_digest)
        self._begins.append(record.begins)

    @property
    def begun(self) -> int:
        """How many terms began with the last records."""
        return sum(self._begins)
