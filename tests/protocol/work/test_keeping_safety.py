"""Rules of this file: schedulers do whatever they like, the network brings every message at any
time, any number of times or never, and keepers keep their rules. Then final records stand on one
chain.

The machine chooses the moves; it holds back no message, so order and copies are its choice too.
"""

from itertools import combinations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.signed import Signed, open_signed
from dipaco.protocol.work.calls import AskCosign, CosignedHead, Promised
from dipaco.protocol.work.ledger import LedgerRecord
from dipaco.protocol.work.terms import Cosigned, Head, Promise, check_certificate
from tests.protocol.work.keepers import (
    KEEPERS,
    MANIFEST,
    RUN,
    Holder,
    Records,
    begun,
    extended,
    fold_of,
    head_of,
    next_entry,
    owner_of,
)

TERMS = 5
picks = st.integers(0, 1 << 20)


class Keeping(RuleBasedStateMachine):
    """Three keepers, and all that anybody has signed so far."""

    def __init__(self) -> None:
        super().__init__()
        self.holders = [Holder(name) for name in KEEPERS]
        self.ledgers: list[Records] = [()]
        self.asks: list[AskCosign] = []
        self.promises: dict[int, list[Signed]] = {}
        self.cosigned: dict[Head, dict[str, Signed]] = {}
        self.certified: dict[Head, tuple[Signed, ...]] = {}

    def ledger(self, pick: int) -> Records:
        """Return one of the newest ledgers, or any other."""
        newest = self.ledgers[-3:]
        return (
            newest[pick % 3 % len(newest)] if pick % 4 else self.ledgers[pick % len(self.ledgers)]
        )

    @rule(pick=picks, salt=st.sampled_from("ab"), cut=st.integers(0, 2))
    def sign_a_record(self, pick: int, salt: str, cut: int) -> None:
        """A scheduler goes on with any ledger of its term, or with an earlier part of it."""
        ledger = self.ledger(pick)
        while cut and ledger and open_signed(ledger[-1], LedgerRecord).term == head_of(ledger).term:
            if open_signed(ledger[-1], LedgerRecord).begins:
                break
            ledger, cut = ledger[:-1], cut - 1
        if next_entry(fold_of(ledger), salt) is not None:
            self.ledgers.append(extended(ledger, term=head_of(ledger).term, salt=salt))

    @rule(pick=picks, term=st.integers(1, TERMS))
    def ask_for_a_promise(self, pick: int, term: int) -> None:
        reply = self.holders[pick % len(KEEPERS)].promise(term)
        if isinstance(reply, Promised):
            self.promises.setdefault(term, []).append(reply.promise)

    @rule(pick=picks, term=st.integers(1, TERMS))
    def ask_two_for_promises(self, pick: int, term: int) -> None:
        for keeper in (pick, pick + 1):
            self.ask_for_a_promise(keeper, term)

    @precondition(lambda self: self.promises)
    @rule(pick=picks, data=st.data())
    def begin_a_term(self, pick: int, data: st.DataObject) -> None:
        """Any promises that were given for a term, with any ledger."""
        term = data.draw(st.sampled_from(sorted(self.promises)))
        given = data.draw(st.permutations(self.promises[term]))
        promises = {signed.signer: signed for signed in given[: 2 + pick % 2]}
        heads = [open_signed(signed, Promise).head for signed in promises.values()]
        fitting = [each for each in self.ledgers if head_of(each) in heads]
        ledgers = fitting or self.ledgers
        self.ledgers.append(begun(ledgers[pick % len(ledgers)], term, tuple(promises.values())))

    def question(self, pick: int, first: int, final: tuple[Signed, ...]) -> None:
        ledger = self.ledger(pick)
        if ledger:
            records = ledger[min(first, len(ledger)) :]
            ask = AskCosign(run=RUN, records=records, head=head_of(ledger), certificate=final)
            self.asks.append(ask)

    @rule(pick=picks, first=st.integers(0, 6), certified=st.booleans())
    def ask_for_a_signature(self, pick: int, first: int, certified: bool) -> None:
        found = list(self.certified.values()) if certified else []
        self.question(pick, first, found[pick % len(found)] if found else ())
        if self.asks:
            self.deliver(pick, -1)

    @rule(pick=picks)
    def ask_two_for_signatures(self, pick: int) -> None:
        self.question(pick, 0, ())
        if self.asks:
            self.deliver(pick, -1)
            self.deliver(pick + 1, -1)

    @precondition(lambda self: self.asks)
    @rule(pick=picks, number=picks)
    def deliver(self, pick: int, number: int) -> None:
        """Any question of before, to any keeper: late, again, or for the first time."""
        ask = self.asks[number % len(self.asks)] if number >= 0 else self.asks[-1]
        holder = self.holders[pick % len(KEEPERS)]
        try:
            reply = holder.ask(owner_of(ask.head.term), ask)
        except RemoteProtocolError:
            return  # a term begun against the rules
        if isinstance(reply, CosignedHead):
            head = open_signed(reply.cosigned, Cosigned).head
            assert head == ask.head
            self.cosigned.setdefault(head, {})[holder.name] = reply.cosigned
            self.note_certificate(head)

    def note_certificate(self, head: Head) -> None:
        signed = sorted(self.cosigned[head].values(), key=lambda each: each.signer)
        if len(signed) >= MANIFEST.schedule.keeper_quorum:
            certificate = tuple(signed[: MANIFEST.schedule.keeper_quorum])
            assert check_certificate(MANIFEST, RUN, certificate) == head
            self.certified.setdefault(head, certificate)

    @precondition(lambda self: self.certified)
    @rule(pick=picks)
    def bring_final_records(self, pick: int) -> None:
        """A keeper's store learns a certified ledger from another node."""
        holder = self.holders[pick % len(KEEPERS)]
        head = list(self.certified)[pick // len(KEEPERS) % len(self.certified)]
        if head.length > len(holder.stored):
            holder.stored = self.ledger_of(head)

    def ledger_of(self, head: Head) -> Records:
        return next(each for each in self.ledgers if head_of(each) == head)

    @invariant()
    def final_records_stand_on_one_chain(self) -> None:
        for one, other in combinations(map(self.ledger_of, self.certified), 2):
            short = min(len(one), len(other))
            assert one[:short] == other[:short]

    @invariant()
    def every_keeper_goes_on_from_final_records(self) -> None:
        for holder in self.holders:
            assert holder.records[: len(holder.stored)] == holder.stored
            assert holder.state.promised_term >= 0


Keeping.TestCase.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
TestKeeping = Keeping.TestCase
