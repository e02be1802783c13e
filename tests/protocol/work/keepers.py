"""Keepers in memory with their final ledgers, and chains as schedulers of any kind sign them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from dipaco.protocol.run.manifest import Manifest, Scheduling, run_id
from dipaco.protocol.run.modules import ModuleDigest, ModuleId
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.signed import Signed, open_signed, sign
from dipaco.protocol.work.calls import Acceptance, AskCosign, AskKeep, AskPromise, CosignedHead
from dipaco.protocol.work.keeping import (
    BecameFinal,
    Convicted,
    Decision,
    Keeper,
    KeeperState,
    apply,
)
from dipaco.protocol.work.kinds import Seeded, TrainResult
from dipaco.protocol.work.ledger import (
    Contribution,
    Entry,
    Equivocation,
    LedgerRecord,
    ModuleUpdated,
    SpecAdopted,
    TermBegun,
)
from dipaco.protocol.work.run_state import RunState
from dipaco.protocol.work.tail import Chain, Final
from dipaco.protocol.work.terms import NO_HEAD, Cosigned, Head, Promise
from tests.values import digest, key, manifest, peer

SCHEDULERS = ("scheduler", "second", "third")
KEEPERS = ("keeper a", "keeper b", "keeper c")
MANIFEST = manifest(
    schedule=Scheduling(schedulers=tuple(map(peer, SCHEDULERS)), keepers=tuple(map(peer, KEEPERS)))
)
RUN = run_id(MANIFEST)
BEGINNING = RunState(MANIFEST)
TOP = BEGINNING.topology  # made once, for all copies of the fold
Records = tuple[Signed, ...]
"""A whole ledger from its first record on, final or not."""


def owner_of(term: int) -> str:
    return SCHEDULERS[term % len(SCHEDULERS)]


@cache
def head_of(records: Records) -> Head:
    """Return the head of a whole ledger."""
    if not records:
        return NO_HEAD
    last = open_signed(records[-1], LedgerRecord)
    return Head(term=last.term, length=len(records), digest=records[-1].body_digest)


@cache
def fold_of(records: Records) -> RunState:
    """Return the fold of a whole ledger, which is only to be read."""
    if not records:
        return BEGINNING
    fold = fold_of(records[:-1]).copy()
    fold.apply(open_signed(records[-1], LedgerRecord).entry)
    return fold


def next_entry(fold: RunState, salt: str) -> Entry | None:
    """Return an entry that can follow; two of different salts contradict each other."""
    if not fold.specs:
        return SpecAdopted(epoch=0, spec=digest(f"spec {salt}"))
    if not fold.seeded:
        states = [
            ModuleDigest(module=m, digest=digest(f"{TOP.counterpart(m)} {salt}"))
            for m in TOP.modules
        ]
        return Seeded(peer=peer("a"), states=tuple(states))
    module = min(TOP.modules, key=fold.version)
    version = fold.version(module) + 1
    return updated(module, version, salt) if version <= MANIFEST.training.rounds else None


def updated(module: ModuleId, version: int, salt: str) -> ModuleUpdated:
    contributions = [
        Contribution(
            path=path,
            peer=peer("a"),
            delta=digest(f"delta {salt}"),
            weight=1,
            moments=digest(f"moments {path} {module} {version}"),
        )
        for path in TOP.paths_through(module)
    ]
    return ModuleUpdated(
        module=module,
        version=version,
        contributions=tuple(contributions),
        state=digest(f"{module} {version} {salt}"),
        momentum=digest(f"momentum {module} {version}"),
    )


def record(records: Records, term: int, entry: Entry, who: str | None = None) -> Signed:
    """Return a record that follows `records`, signed by the term's scheduler or by `who`."""
    head = head_of(records)
    made = LedgerRecord(run=RUN, term=term, seq=head.length, previous=head.digest, entry=entry)
    return sign(made, key(who or owner_of(term)))


def extended(records: Records, *, term: int, salt: str = "", count: int = 1) -> Records:
    """Return the ledger with further records of a term."""
    for _ in range(count):
        entry = next_entry(fold_of(records), salt)
        assert entry is not None, "the run is over"
        records = (*records, record(records, term, entry))
    return records


def begun(records: Records, term: int, promises: Sequence[Signed]) -> Records:
    """Return the ledger with the record that begins `term`."""
    ordered = tuple(sorted(promises, key=lambda signed: signed.signer))
    return (*records, record(records, term, TermBegun(promises=ordered)))


def promised(name: str, term: int, head: Head, *, run: Digest = RUN) -> Signed:
    return sign(Promise(run=run, term=term, keeper=peer(name), head=head), key(name))


def cosigned(name: str, head: Head) -> Signed:
    return sign(Cosigned(run=RUN, keeper=peer(name), head=head), key(name))


def certificate(head: Head, names: Sequence[str] = KEEPERS[:2]) -> tuple[Signed, ...]:
    signed = [cosigned(name, head) for name in names]
    return tuple(sorted(signed, key=lambda each: each.signer))


def final_of(records: Records) -> Final:
    """Return a whole ledger as a store holds it."""
    digests = [each.body_digest for each in records]
    return Final(head_of(records), digests.__getitem__, fold_of(records))


def chain_of(records: Records, final: int = 0, manifest: Manifest = MANIFEST) -> Chain:
    """Return a ledger of which the first `final` records are final."""
    return Chain(RUN, manifest, final_of(records[:final])).adding(records[final:])


def acceptance(
    term: int, order: int, *, path: int = 0, round_: int = 1, loss: float = 1.0
) -> Signed:
    result = TrainResult(
        token=bytes(16),
        tokens=10,
        seconds=1.0,
        loss_first=loss,
        loss_last=loss,
        deltas=(),
        moments=(),
    )
    made = Acceptance(
        run=RUN, term=term, order=order, path=path, round=round_, peer=peer("a"), result=result
    )
    return sign(made, key(owner_of(term)))


@dataclass
class Holder:
    """A keeper with its disk: what a decision changes is there before its reply is returned."""

    name: str
    state: KeeperState = field(default_factory=KeeperState)
    stored: Records = ()
    """The final ledger."""
    proofs: list[Equivocation] = field(default_factory=list)

    @property
    def keeper(self) -> Keeper:
        return Keeper(RUN, MANIFEST, key(self.name))

    @property
    def final(self) -> Final:
        return final_of(self.stored)

    @property
    def chain(self) -> Chain:
        return self.keeper.chain(self.state, self.final)

    @property
    def records(self) -> Records:
        """The whole chain, final and not."""
        return self.stored + tuple(each.signed for each in self.chain.tail)

    def ask(self, who: str, ask: AskPromise | AskCosign | AskKeep) -> object:
        """Ask as `who`, take the changes in, and return the reply."""
        asker = peer(who)
        keeper, state, final = self.keeper, self.state, self.final
        if isinstance(ask, AskPromise):
            return self._made(keeper.promise(state, final, asker, ask))
        if isinstance(ask, AskCosign):
            return self._made(keeper.cosign(state, final, asker, ask))
        return self._made(keeper.keep(state, final, asker, ask))

    def _made(self, decision: Decision[object]) -> object:
        for change in decision.changes:
            self.state = apply(self.state, change)
            if isinstance(change, BecameFinal):
                self.stored += tuple(each.signed for each in change.records)
            if isinstance(change, Convicted):
                self.proofs.append(change.proof)
        return decision.reply

    def cosign(
        self,
        records: Records,
        *,
        first: int = 0,
        final: tuple[Signed, ...] = (),
        who: str | None = None,
    ) -> object:
        """Ask for a signature of the end of `records`, sent from record number `first` on."""
        head = head_of(records)
        ask = AskCosign(run=RUN, records=records[first:], head=head, certificate=final)
        return self.ask(who or owner_of(head.term), ask)

    def promise(self, term: int) -> object:
        return self.ask(owner_of(term), AskPromise(run=RUN, term=term))


def signed_head(reply: object) -> Head:
    """Return the head that a keeper signed in its reply."""
    assert isinstance(reply, CosignedHead), reply
    return open_signed(reply.cosigned, Cosigned).head


def peers(names: Sequence[str]) -> tuple[PeerId, ...]:
    return tuple(map(peer, names))
