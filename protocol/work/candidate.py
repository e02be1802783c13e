"""A scheduler that takes over, and what it proposes afterwards: pure state machines.

`TakeOver` collects promises, chooses the chain that the term goes on from, and says what is missing
of it. `Proposal` collects the signatures of a head. Each is a frozen value: what a keeper answers
makes the next one, and says which questions are left. The shell and the simulator send them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.protocol.errors import Refusal, RemoteProtocolError
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.wire.messages import MAX_RECORDS, ReadLedger
from dipaco.protocol.wire.signed import Signed, open_signed, sign
from dipaco.protocol.work.authority import scheduler_of_term
from dipaco.protocol.work.calls import (
    MAX_PROPOSAL,
    AskCosign,
    AskPromise,
    Behind,
    CosignedHead,
    Promised,
    ReadTail,
    TailPart,
)
from dipaco.protocol.work.keeping import KeptAcceptance, Place, open_acceptance
from dipaco.protocol.work.ledger import LedgerRecord, TermBegun
from dipaco.protocol.work.tail import Chain, Final
from dipaco.protocol.work.terms import MAX_TERMS, Cosigned, Head, Promise

PATIENCE = 8.0  # s without a sign of the scheduler, for each candidate up to this one
RECENT = 8  # records among which terms are counted that began of late
MOST_DOUBLINGS = 5  # of the patience: 256 s


class Outdone(Refusal):
    """A keeper serves no term as low as this one any more.

    term   the lowest that it still serves.
    """

    def __init__(self, term: int) -> None:
        super().__init__(f"a keeper has promised term {term}")
        self.term = term


def next_own_term(schedulers: Sequence[PeerId], me: PeerId, above: int) -> int:
    """Return the least term above `above` that belongs to `me`; raises Refusal beyond the last."""
    turns = range(above + 1, above + 1 + len(schedulers))
    term = next(term for term in turns if scheduler_of_term(schedulers, term) == me)
    if term > MAX_TERMS:
        raise Refusal(f"the run has used up its {MAX_TERMS} terms")
    return term


def acts_at(
    schedulers: Sequence[PeerId],
    me: PeerId,
    term: int,
    *,
    heard: float,
    begun: int = 0,
    proven: bool = False,
) -> float:
    """Return when this node begins a term of its own, in seconds as `heard`.

    term     the highest term that it knows.
    heard    when it last saw the head move, or heard of the scheduler.
    begun    how many terms began with the last `RECENT` records. Beyond the first, each doubles the
             patience: where lines lose much, two schedulers would depose each other for ever.
    proven   the scheduler is known to be gone, or to have signed two ledgers: there is no patience
             with it, but still with the candidates that are nearer.
    """
    distance = next_own_term(schedulers, me, term) - term - 1
    patience = PATIENCE * 2.0 ** min(MOST_DOUBLINGS, max(0, begun - 1))
    return heard + (distance if proven else distance + 1) * patience


@dataclass(frozen=True)
class Given:
    """What one keeper gave for the term."""

    signed: Signed
    promise: Promise
    records: tuple[Signed, ...] = ()
    """Of its tail, from the candidate's final records on; as far as they came."""
    ended: bool = False
    """It has no record that is the next one; its others are final."""
    after: Place | None = None
    """The last place of its acceptances that came, while there are more."""


@dataclass(frozen=True)
class TakeOver:
    """A candidate that asks the keepers for one term."""

    run: Digest
    manifest: Manifest
    term: int
    final: Final
    """The candidate's own ledger, which is final."""
    given: Mapping[PeerId, Given] = field(default_factory=dict)
    acceptances: Mapping[Place, KeptAcceptance] = field(default_factory=dict)
    """Of all keepers that promised: of each path and round the newest."""

    def questions(self) -> Iterator[tuple[PeerId, AskPromise | ReadTail | ReadLedger]]:
        """Yield what is left to ask, and whom.

        A keeper with more final records than the candidate is asked for these: they go into the
        candidate's store, and `grown` takes them in.
        """
        for keeper in self.manifest.schedule.named_keepers:
            if (given := self.given.get(keeper)) is None:
                yield keeper, AskPromise(run=self.run, term=self.term)
            elif given.after is not None or not (given.ended or self._has(given)):
                first = self.final.head.length + len(given.records)
                path, round_ = given.after or self._last_place()
                yield keeper, ReadTail(run=self.run, first=first, path=path, round=round_)
            elif not self._has(given):
                yield keeper, ReadLedger(run=self.run, first=self.final.head.length)

    def _last_place(self) -> Place:
        """Return a place after all others: no acceptance is asked for."""
        return self.manifest.paths - 1, self.manifest.training.rounds

    def _has(self, given: Given) -> bool:
        """Return whether the records up to the head that a keeper promised are here."""
        return self.final.head.length + len(given.records) >= given.promise.head.length

    def heard(self, keeper: PeerId, answer: Promised | Behind) -> "TakeOver":
        """Take a keeper's answer to `AskPromise` in.

        Raises Outdone where it serves a higher term, RemoteProtocolError for a wrong promise.
        """
        if isinstance(answer, Behind):
            raise Outdone(answer.term)
        promise = open_signed(answer.promise, Promise)
        told = (promise.run, promise.term, promise.keeper, answer.promise.signer)
        if told != (self.run, self.term, keeper, keeper) or promise.head.term >= self.term:
            raise RemoteProtocolError("gives a promise of another keeper, run or term")
        given = Given(answer.promise, promise)
        return self._accepting(keeper, given, answer.acceptances, more=answer.more)

    def read(self, keeper: PeerId, part: TailPart) -> "TakeOver":
        """Take a keeper's answer to `ReadTail` in; raises RemoteProtocolError for wrong values."""
        given = self.given[keeper]
        due = self.final.head.length + len(given.records)
        fits = bool(part.records) and open_signed(part.records[0], LedgerRecord).seq == due
        records = (*given.records, *part.records) if fits else given.records
        given = replace(given, records=records, ended=not fits)
        return self._accepting(keeper, given, part.acceptances, more=part.more)

    def grown(self, final: Final) -> "TakeOver":
        """Take in that the candidate's own ledger has grown."""
        grown = final.head.length - self.final.head.length
        given = {
            keeper: replace(each, records=each.records[grown:], ended=False)
            for keeper, each in self.given.items()
        }
        return replace(self, final=final, given=given)

    def _accepting(
        self, keeper: PeerId, given: Given, signed: Sequence[Signed], *, more: bool
    ) -> "TakeOver":
        newest = dict(self.acceptances)
        opened = [
            open_acceptance(each, self.manifest, self.run, most=self.term - 1) for each in signed
        ]
        for each in opened:
            place = each.acceptance.place
            known = newest.get(place)
            if known is None or each.rank > known.rank:
                newest[place] = each
        last = opened[-1].acceptance.place if opened and more else None
        held = {**self.given, keeper: replace(given, after=last)}
        return replace(self, given=held, acceptances=newest)

    # ------------------------------------------------------------------ the choice

    def choice(self) -> "Choice | None":
        """Return the chain that the term goes on from, and the promises that choose it.

        None: no quorum of the promises agrees, or records are missing. Promises that contradict
        each other are left out, since the scheduler of their term signed two chains: of several
        heads the highest is taken that a quorum of promises allows.
        """
        ranked = sorted(self.given.values(), key=lambda each: each.promise.head.rank, reverse=True)
        for best in ranked:
            chain = self._chain(best)
            if chain is None:
                continue
            agreeing = [each for each in ranked if _allows(each.promise.head, chain)]
            if len(agreeing) >= self.manifest.schedule.keeper_quorum:
                signed = sorted((each.signed for each in agreeing), key=lambda each: each.signer)
                return Choice(chain, tuple(signed))
        return None

    def _chain(self, given: Given) -> Chain | None:
        """Return the chain up to a keeper's head, if its records are here and go on from ours."""
        chain = Chain(self.run, self.manifest, self.final)
        wanted = given.promise.head
        missing = wanted.length - self.final.head.length
        if missing < 0 or len(given.records) < missing:
            return None
        try:
            made = chain.adding(given.records[:missing]) if missing else chain
        except RemoteProtocolError:
            return None
        return made if made.head == wanted else None

    def open_acceptances(self, chain: Chain) -> tuple[Signed, ...]:
        """Return the acceptances whose rounds `chain` has not taken in, by path and round.

        A keeper that did not promise may hold others: of those no volunteer heard that they count,
        unless a quorum kept them, and then one of its keepers is among these.
        """
        fold = chain.folded()
        return tuple(
            self.acceptances[path, round_].signed
            for path, round_ in sorted(self.acceptances)
            if round_ > fold.path_version(path)
        )


def _allows(head: Head, chain: Chain) -> bool:
    """Return whether a promise of `head` may stand beside the one that chose `chain`."""
    if head.rank > chain.head.rank:
        return False
    if head.term < chain.head.term or not head.length:
        return True
    return chain.digest_of(head.length - 1) == head.digest


@dataclass(frozen=True)
class Choice:
    """The chain that a term goes on from, and the promises that say so."""

    chain: Chain
    promises: tuple[Signed, ...]

    def begun(self, term: int, key: Ed25519PrivateKey) -> Chain:
        """Return the chain with the record that begins `term`, signed by its scheduler."""
        head = self.chain.head
        record = LedgerRecord(
            run=self.chain.run,
            term=term,
            seq=head.length,
            previous=head.digest,
            entry=TermBegun(promises=self.promises),
        )
        return self.chain.adding((sign(record, key),))


@dataclass(frozen=True)
class Proposal:
    """A chain whose end a quorum of keepers is to sign."""

    chain: Chain
    certificate: tuple[Signed, ...] = ()
    """Of the final part of the chain; empty if nothing is final."""
    stands: Mapping[PeerId, Behind] = field(default_factory=dict)
    """Where keepers stand that said so."""
    cosigned: Mapping[PeerId, Signed] = field(default_factory=dict)

    @property
    def lacking(self) -> tuple[PeerId, ...]:
        """The keepers that have not signed."""
        keepers = self.chain.manifest.schedule.named_keepers
        return tuple(keeper for keeper in keepers if keeper not in self.cosigned)

    def question(
        self, keeper: PeerId, read: Callable[[int], Sequence[Signed]] = lambda _: ()
    ) -> AskCosign:
        """Return what to ask a keeper: to sign the head, with the records that it lacks.

        One that lacks more than a question holds learns the final ones from its peers first.

        read   gives the final records from a number on; it is asked where a keeper lacks some.
        """
        final, stands = self.chain.final.head.length, self.stands.get(keeper)
        first = final
        if stands is not None:
            on_chain = self._is_ours(stands.head)
            first = stands.head.length if on_chain else min(final, stands.final)
        tail = [each.signed for each in self.chain.tail if each.record.seq >= first]
        missing = list(takewhile(lambda each: _seq(each) < final, read(first)))
        return AskCosign(
            run=self.chain.run,
            records=_fitting([*missing, *tail] if first < final else tail),
            head=self.chain.head,
            certificate=self.certificate,
        )

    def _is_ours(self, head: Head) -> bool:
        if not 0 < head.length <= self.chain.head.length:
            return not head.length
        return self.chain.digest_of(head.length - 1) == head.digest

    def heard(self, keeper: PeerId, answer: CosignedHead | Behind) -> "Proposal":
        """Take a keeper's answer in; raises Outdone, and RemoteProtocolError for a wrong one."""
        head = self.chain.head
        if isinstance(answer, Behind):
            if answer.term > head.term:
                raise Outdone(answer.term)
            return replace(self, stands={**self.stands, keeper: answer})
        told = open_signed(answer.cosigned, Cosigned)
        signer = answer.cosigned.signer
        if (told.run, told.head, told.keeper, signer) != (self.chain.run, head, keeper, keeper):
            raise RemoteProtocolError(f"{short_peer(keeper)} signed another head than it was asked")
        return replace(self, cosigned={**self.cosigned, keeper: answer.cosigned})

    @property
    def certified(self) -> tuple[Signed, ...]:
        """The certificate of the chain's end; empty before a quorum has signed."""
        signed = sorted(self.cosigned.items())
        quorum = self.chain.manifest.schedule.keeper_quorum
        return tuple(each for _, each in signed[:quorum]) if len(signed) >= quorum else ()


def _seq(signed: Signed) -> int:
    return open_signed(signed, LedgerRecord).seq


def _fitting(records: Sequence[Signed]) -> tuple[Signed, ...]:
    """Return the first records, as many as one question may hold."""
    size, taken = 0, 0
    for each in records[:MAX_RECORDS]:
        size += len(encode(each)) + 8
        if size > MAX_PROPOSAL:
            break
        taken += 1
    return tuple(records[:taken])
