"""What a keeper promises, signs and keeps: a pure state machine.

It knows no clock, no disk and no network. Every question returns the changes to make and the reply
to send. The shell saves the changes, applies them, and answers then: a keeper that forgets what it
signed breaks the promise that final records rest on. So it answers nothing while its disk is full.

A keeper is honest or dead. It believes nobody: each record is checked with its signature, its place
in the chain, the right by which its term began, and the rules of the fold.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.protocol.errors import RemoteProtocolError, Unavailable
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId, peer_id, short_peer
from dipaco.protocol.wire.messages import LEDGER_PART, MAX_RECORDS
from dipaco.protocol.wire.signed import Signed, open_signed, sign
from dipaco.protocol.work.authority import scheduler_of_term
from dipaco.protocol.work.calls import (
    MAX_ACCEPTANCES,
    Acceptance,
    AskCosign,
    AskKeep,
    AskPromise,
    Behind,
    CosignedHead,
    HeadIs,
    Kept,
    Promised,
    ReadTail,
    TailPart,
)
from dipaco.protocol.work.ledger import Equivocation
from dipaco.protocol.work.run_state import RunState
from dipaco.protocol.work.tail import Chain, Final, TailRecord
from dipaco.protocol.work.terms import FIRST_TERM, Cosigned, Head, Promise, check_certificate

# Terms that a keeper promises beyond that of its chain's end. So what it may have promised has a
# bound that others can tell it once it has forgotten; candidates that fail never come near it.
MAX_AHEAD = 1024
ROUNDS_AHEAD = 2  # of acceptances, beyond the final version of their path; one may be in the tail
Place = tuple[int, int]
"""A path and a round."""


@dataclass(frozen=True)
class KeptAcceptance:
    """An acceptance, opened."""

    signed: Signed
    acceptance: Acceptance

    @property
    def rank(self) -> tuple[int, int]:
        """The order of acceptances of one place."""
        return self.acceptance.rank


@dataclass(frozen=True)
class KeeperState:
    """What a keeper has on disk of one run, besides the final ledger."""

    promised_term: int = FIRST_TERM
    """It signs nothing of a lower term."""
    promise: Promise | None = None
    """What it promised for that term, until it signs a head of it."""
    tail: tuple[TailRecord, ...] = ()
    """The records that it signed after the final ones."""
    acceptances: Mapping[Place, KeptAcceptance] = field(default_factory=dict)


@dataclass(frozen=True)
class TermPromised:
    """The keeper signs nothing of a lower term any more."""

    term: int
    promise: Promise | None
    """None: it signs a head of the term."""


@dataclass(frozen=True)
class TailReplaced:
    """Of the tail there stay the records from `floor` to before `first`; then come `records`."""

    floor: int
    """Number of final records."""
    first: int
    records: tuple[TailRecord, ...]


@dataclass(frozen=True)
class BecameFinal:
    """Records of the tail are final: they go into the store, with their certificate."""

    records: tuple[TailRecord, ...]
    certificate: tuple[Signed, ...]


@dataclass(frozen=True)
class AcceptanceKept:
    """An acceptance replaces the one of its place, if there is one."""

    kept: KeptAcceptance


@dataclass(frozen=True)
class AcceptanceDropped:
    """The fold has taken the round in."""

    place: Place


@dataclass(frozen=True)
class Convicted:
    """A scheduler signed two ledgers: the proof is to be kept, and handed on."""

    proof: Equivocation


Change = TermPromised | TailReplaced | BecameFinal | AcceptanceKept | AcceptanceDropped | Convicted

R = TypeVar("R", covariant=True)


@dataclass(frozen=True)
class Decision(Generic[R]):
    """The changes to save and apply, then the reply to send."""

    reply: R
    changes: tuple[Change, ...] = ()


def apply(state: KeeperState, change: Change) -> KeeperState:
    """Return the state after a change that has been saved."""
    match change:
        case TermPromised(term=term, promise=promise):
            return replace(state, promised_term=term, promise=promise)
        case TailReplaced(floor=floor, first=first, records=records):
            stay = tuple(each for each in state.tail if floor <= each.record.seq < first)
            return replace(state, tail=(*stay, *records))
        case BecameFinal(records=records):
            last = records[-1].record.seq
            return replace(state, tail=tuple(r for r in state.tail if r.record.seq > last))
        case AcceptanceKept(kept=kept):
            held = {**state.acceptances, kept.acceptance.place: kept}
            return replace(state, acceptances=held)
        case AcceptanceDropped(place=place):
            held = {key: each for key, each in state.acceptances.items() if key != place}
            return replace(state, acceptances=held)
        case Convicted():
            return state


@dataclass(frozen=True)
class Keeper:
    """One keeper of one run; its questions take its state, and the final ledger beside it."""

    run: Digest
    manifest: Manifest
    key: Ed25519PrivateKey

    @property
    def me(self) -> PeerId:
        """The keeper's own name."""
        return peer_id(self.key)

    def chain(self, state: KeeperState, final: Final) -> Chain:
        """Return the keeper's chain: the final ledger, and what it signed after it.

        Raises Unavailable where the store has lost final records.
        """
        if not state.tail:
            return Chain(self.run, self.manifest, final)
        return Chain(self.run, self.manifest, final, state.tail).after(final)

    def head(self, state: KeeperState, final: Final, *, scheduling: bool) -> HeadIs:
        """Answer `AskHead`."""
        head = self.chain(state, final).head
        return HeadIs(term=_term(state, head), head=head, scheduling=scheduling, votes=True)

    def promise(
        self, state: KeeperState, final: Final, asker: PeerId, ask: AskPromise
    ) -> Decision[Promised | Behind]:
        """Answer `AskPromise`; raises RemoteProtocolError if the term is not the asker's.

        Raises Unavailable for a term that is too far above that of the keeper's chain.

        The same question again gets the same promise, as long as nothing of that term was signed:
        its answer may have been lost.
        """
        self._check_asker(asker, ask.run, ask.term)
        chain = self.chain(state, final)
        head = chain.head
        promised = state.promise
        if promised is not None and promised.term == ask.term > head.term:
            return Decision(self._promised(state, promised))
        if ask.term <= _term(state, head):
            return Decision(_behind(state, chain))
        if ask.term > head.term + MAX_AHEAD:
            raise Unavailable(f"promises no more than {MAX_AHEAD} terms above its chain's")
        promise = Promise(run=self.run, term=ask.term, keeper=self.me, head=head)
        return Decision(self._promised(state, promise), (TermPromised(ask.term, promise),))

    def _promised(self, state: KeeperState, promise: Promise) -> Promised:
        acceptances, more = acceptances_after(state, (0, 0))
        signed = sign(promise, self.key)
        return Promised(promise=signed, acceptances=acceptances, more=more)

    def cosign(
        self, state: KeeperState, final: Final, asker: PeerId, ask: AskCosign
    ) -> Decision[CosignedHead | Behind]:
        """Answer `AskCosign`; raises RemoteProtocolError for what no honest scheduler sends.

        The head must be the end of the chain with these records, or an earlier one of its term
        that is not below the final ones: the answer to an earlier question may have been lost.
        """
        self._check_asker(asker, ask.run, ask.head.term)
        if not ask.head.length:
            raise RemoteProtocolError("asks for a signature of no record")
        held = self.chain(state, final)
        behind = _behind(state, held)
        if ask.head.term < behind.term:
            return Decision(behind)
        chain = held.taking(ask.records)
        if isinstance(chain, Equivocation):
            return Decision(behind, (Convicted(chain),))
        if chain is None or chain.head.term != ask.head.term or not chain.has(ask.head):
            return Decision(behind)
        changes: list[Change] = []
        if ask.head.term > state.promised_term or state.promise is not None:
            changes.append(TermPromised(ask.head.term, None))
        changes += _replaced(state, held, chain)
        changes += self._final(chain, ask.certificate)
        cosigned = Cosigned(run=self.run, keeper=self.me, head=ask.head)
        return Decision(CosignedHead(cosigned=sign(cosigned, self.key)), tuple(changes))

    def _final(self, chain: Chain, certificate: tuple[Signed, ...]) -> Iterable[Change]:
        """Yield the records of the tail that a certificate makes final.

        One of another chain is none of this keeper's business here: its store learns of it from
        the node that holds those records, and then the tail gives way (`Chain.after`).
        """
        if not certificate:
            return
        head = check_certificate(self.manifest, self.run, certificate)
        made = head.length - chain.final.head.length
        if made > 0 and chain.has(head):
            yield BecameFinal(chain.tail[:made], certificate)

    def keep(
        self, state: KeeperState, final: Final, asker: PeerId, ask: AskKeep
    ) -> Decision[Kept | Behind]:
        """Answer `AskKeep`; raises RemoteProtocolError for what no honest scheduler sends.

        The term must be that of the keeper's chain: so nobody keeps acceptances of a term that has
        not begun, which would outrank all others.
        """
        self._check_asker(asker, ask.run, ask.term)
        chain = self.chain(state, final)
        behind = _behind(state, chain)
        if ask.term != chain.head.term or ask.term < behind.term:
            return Decision(behind)
        changes: list[Change] = list(outdated(state, final.fold))
        for signed in ask.acceptances:
            kept = self._opened(signed, ask.term)
            path, round_ = place = kept.acceptance.place
            version = final.fold.path_version(path)
            if round_ > version + ROUNDS_AHEAD:
                return Decision(behind)
            known = state.acceptances.get(place)
            if round_ > version and (known is None or kept.rank > known.rank):
                changes.append(AcceptanceKept(kept))
                state = apply(state, changes[-1])
        return Decision(Kept(), tuple(changes))

    def _opened(self, signed: Signed, term: int) -> KeptAcceptance:
        return open_acceptance(signed, self.manifest, self.run, most=term)

    def tail_part(self, state: KeeperState, final: Final, asker: PeerId, ask: ReadTail) -> TailPart:
        """Answer `ReadTail`; raises RemoteProtocolError unless the asker may schedule or keep."""
        schedule = self.manifest.schedule
        if ask.run != self.run or asker not in (*schedule.schedulers, *schedule.named_keepers):
            raise RemoteProtocolError("asks for a tail, and is no scheduler or keeper of the run")
        chain = self.chain(state, final)
        records = [each for each in chain.tail if each.record.seq >= ask.first]
        acceptances, more = acceptances_after(state, (ask.path, ask.round))
        return TailPart(
            records=_fitting(each.signed for each in records)[:MAX_RECORDS],
            acceptances=acceptances,
            more=more,
        )

    def _check_asker(self, asker: PeerId, run: Digest, term: int) -> None:
        if run != self.run:
            raise RemoteProtocolError("asks about another run")
        if asker != scheduler_of_term(self.manifest.schedule.schedulers, term):
            raise RemoteProtocolError(f"{short_peer(asker)} is not the scheduler of term {term}")


def open_acceptance(
    signed: Signed, manifest: Manifest, run: Digest, *, most: int
) -> KeptAcceptance:
    """Return an acceptance that the scheduler of its own term signed; raises RemoteProtocolError.

    most   the highest term that it may be of.
    """
    acceptance = open_signed(signed, Acceptance)
    if acceptance.run != run:
        raise RemoteProtocolError("the acceptance is of another run")
    if acceptance.term > most:
        raise RemoteProtocolError(f"the acceptance is of term {acceptance.term}, after {most}")
    if signed.signer != scheduler_of_term(manifest.schedule.schedulers, acceptance.term):
        raise RemoteProtocolError(
            f"the acceptance is not signed by the scheduler of term {acceptance.term}"
        )
    if acceptance.path >= manifest.paths or acceptance.round > manifest.training.rounds:
        raise RemoteProtocolError("the acceptance is of a path or a round that the run has not")
    return KeptAcceptance(signed, acceptance)


def outdated(state: KeeperState, fold: RunState) -> Iterable[AcceptanceDropped]:
    """Yield the acceptances whose round all modules of the path have taken in."""
    for path, round_ in state.acceptances:
        if round_ <= fold.path_version(path):
            yield AcceptanceDropped((path, round_))


def acceptances_after(state: KeeperState, place: Place) -> tuple[tuple[Signed, ...], bool]:
    """Return the acceptances after a path and round, as many as fit, and whether there are more."""
    due = [state.acceptances[each].signed for each in sorted(state.acceptances) if each > place]
    part = _fitting(due)[:MAX_ACCEPTANCES]
    return part, len(part) < len(due)


def _fitting(envelopes: Iterable[Signed]) -> tuple[Signed, ...]:
    """Return the first envelopes, as many as have `LEDGER_PART` bytes together."""
    taken: list[Signed] = []
    left = LEDGER_PART
    for each in envelopes:
        left -= len(encode(each))
        if left < 0:
            break
        taken.append(each)
    return tuple(taken)


def _term(state: KeeperState, head: Head) -> int:
    """Return the lowest term that the keeper still serves."""
    return max(state.promised_term, head.term)


def _behind(state: KeeperState, chain: Chain) -> Behind:
    """Return where the keeper stands."""
    head = chain.head
    return Behind(term=_term(state, head), head=head, final=chain.final.head.length)


def _replaced(state: KeeperState, held: Chain, chain: Chain) -> Iterable[TailReplaced]:
    """Yield the change from the tail on disk to that of `chain`, if they differ."""
    if chain.tail == state.tail:
        return
    same = 0
    while same < min(len(held.tail), len(chain.tail)) and (
        held.tail[same].digest == chain.tail[same].digest
    ):
        same += 1
    floor = chain.final.head.length
    yield TailReplaced(floor, floor + same, chain.tail[same:])
