"""Rules of this file: one keeper is asked, by schedulers that are honest or not; each rule of
`keeping` is broken alone."""

import pytest
from msgspec.structs import replace

from dipaco.protocol.errors import RemoteProtocolError, Unavailable
from dipaco.protocol.wire.signed import Signed, open_signed, sign
from dipaco.protocol.work import tail as tails
from dipaco.protocol.work.calls import (
    Acceptance,
    AskCosign,
    AskKeep,
    AskPromise,
    Behind,
    Kept,
    Promised,
    ReadTail,
)
from dipaco.protocol.work.keeping import AcceptanceKept, TailReplaced, TermPromised
from dipaco.protocol.work.ledger import TermGranted, check_equivocation
from dipaco.protocol.work.terms import NO_HEAD, Head, OwnersGrant, Promise
from tests.protocol.work.keepers import (
    MANIFEST,
    RUN,
    Holder,
    Records,
    acceptance,
    begun,
    certificate,
    extended,
    head_of,
    owner_of,
    promised,
    record,
    signed_head,
    updated,
)
from tests.values import digest, key, peer

FIRST = extended((), term=0, count=3)
FORK = extended(FIRST[:1], term=0, salt="other", count=2)


def holder(records: Records = (), *, final: int = 0) -> Holder:
    """Return a keeper that signed `records`, of which the first are final."""
    made = Holder("keeper a", stored=records[:final])
    if records[final:]:
        signed_head(made.cosign(records, first=final))
    return made


def behind(term: int, head: Head, final: int = 0) -> Behind:
    return Behind(term=term, head=head, final=final)


def promise_of(reply: object) -> Promise:
    assert isinstance(reply, Promised), reply
    return open_signed(reply.promise, Promise)


def taken_over(term: int, base: Records, promises: Records | None = None) -> Records:
    given = promises or tuple(promised(f"keeper {n}", term, head_of(base)) for n in "bc")
    return begun(base, term, given)


# ------------------------------------------------------------------------------ promises


def test_a_promise_says_where_the_chain_ends_with_what_is_not_final() -> None:
    keeper = holder(FIRST, final=1)
    promise = promise_of(keeper.promise(1))
    assert promise == Promise(run=RUN, term=1, keeper=peer("keeper a"), head=head_of(FIRST))
    assert keeper.state.promised_term == 1


def test_a_promise_is_saved_before_it_is_given() -> None:
    keeper = Holder("keeper a")
    ask = AskPromise(run=RUN, term=1)
    decision = keeper.keeper.promise(keeper.state, keeper.final, peer("second"), ask)
    assert decision.changes == (TermPromised(1, promise_of(decision.reply)),)


@pytest.mark.parametrize("term", [1, 2, 3, 4])
def test_a_promise_is_for_the_scheduler_of_the_term_alone(term: int) -> None:
    for who in {*("scheduler", "second", "third", "owner", "keeper a")} - {owner_of(term)}:
        with pytest.raises(RemoteProtocolError, match=f"is not the scheduler of term {term}"):
            Holder("keeper a").ask(who, AskPromise(run=RUN, term=term))


def test_a_keeper_answers_for_its_own_run_alone() -> None:
    keeper, other = holder(FIRST), digest("another run")
    asks = (
        AskPromise(run=other, term=1),
        AskCosign(run=other, records=(), head=head_of(taken_over(1, FIRST)), certificate=()),
        AskKeep(run=other, term=1, acceptances=(acceptance(1, 1),)),
    )
    for ask in asks:
        with pytest.raises(RemoteProtocolError, match="another run"):
            keeper.ask("second", ask)


def test_no_lower_term_and_no_equal_one_is_promised_after_a_promise() -> None:
    keeper = holder(FIRST)
    promise_of(keeper.promise(5))
    for term in (2, 3, 4):
        assert keeper.promise(term) == behind(5, head_of(FIRST))
    assert promise_of(keeper.promise(6)).term == 6
    assert keeper.promise(5) == behind(6, head_of(FIRST))


def test_the_same_question_gets_the_same_promise_until_the_term_has_a_record() -> None:
    keeper = holder(FIRST)
    first = keeper.promise(1)
    assert keeper.promise(1) == first
    signed_head(keeper.cosign(taken_over(1, FIRST), first=3))
    assert isinstance(keeper.promise(1), Behind)


def test_a_final_record_of_a_higher_term_counts_as_a_promise_of_it() -> None:
    later = taken_over(4, FIRST)
    keeper = holder(later, final=4)
    assert keeper.state.promised_term == 0
    for term in (1, 4):
        assert keeper.promise(term) == behind(4, head_of(later), 4)
    assert promise_of(keeper.promise(5)).head == head_of(later)


# ------------------------------------------------------------------------------ signatures


def test_records_that_continue_the_chain_are_signed_and_kept() -> None:
    keeper = Holder("keeper a")
    for length in (1, 2, 3):
        assert signed_head(keeper.cosign(FIRST[:length], first=length - 1)) == head_of(
            FIRST[:length]
        )
    assert keeper.records == FIRST


def test_records_are_saved_before_they_are_signed() -> None:
    keeper = Holder("keeper a")
    ask = AskCosign(run=RUN, records=FIRST, head=head_of(FIRST), certificate=())
    decision = keeper.keeper.cosign(keeper.state, keeper.final, peer("scheduler"), ask)
    (change,) = decision.changes
    assert isinstance(change, TailReplaced)
    assert (change.floor, change.first) == (0, 0)
    assert tuple(each.signed for each in change.records) == FIRST


def test_the_same_records_again_are_signed_again_and_change_nothing() -> None:
    keeper = holder(FIRST)
    before = keeper.state
    for first in range(4):
        assert signed_head(keeper.cosign(FIRST, first=first)) == head_of(FIRST)
    for length in (1, 2):  # a late copy of an earlier question
        assert signed_head(keeper.cosign(FIRST[:length])) == head_of(FIRST[:length])
    assert keeper.state == before


def test_a_gap_is_answered_with_where_the_keeper_stands() -> None:
    keeper = holder(FIRST[:1])
    assert keeper.cosign(FIRST, first=2) == behind(0, head_of(FIRST[:1]))
    assert keeper.cosign(FIRST, first=3) == behind(0, head_of(FIRST[:1]))
    assert signed_head(keeper.cosign(FIRST, first=1)) == head_of(FIRST)


def test_final_records_that_come_again_are_passed_over() -> None:
    keeper = holder(FIRST[:2], final=2)
    assert signed_head(keeper.cosign(FIRST)) == head_of(FIRST)
    assert keeper.stored == FIRST[:2] and len(keeper.state.tail) == 1


def test_only_the_scheduler_of_the_heads_term_may_ask() -> None:
    with pytest.raises(RemoteProtocolError, match="is not the scheduler of term 0"):
        Holder("keeper a").cosign(FIRST, who="second")


def test_after_a_promise_no_lower_term_is_signed() -> None:
    keeper = holder(FIRST[:2])
    promise_of(keeper.promise(1))
    assert keeper.cosign(FIRST, first=2) == behind(1, head_of(FIRST[:2]))
    assert keeper.cosign(FIRST[:2]) == behind(1, head_of(FIRST[:2]))
    assert keeper.records == FIRST[:2]


def test_two_chains_of_one_term_are_proved_and_the_first_stays() -> None:
    keeper = holder(FIRST)
    assert keeper.cosign(FORK) == behind(0, head_of(FIRST))
    assert keeper.records == FIRST
    (proof,) = keeper.proofs
    one, other = check_equivocation(proof, run=RUN, manifest=MANIFEST)
    assert (one.seq, other.seq) == (1, 1) and one != other


def test_records_that_follow_another_chain_than_the_keepers_are_not_taken_in() -> None:
    keeper, later = holder(FIRST), taken_over(1, FORK)
    assert keeper.cosign(later, first=3) == behind(0, head_of(FIRST))
    assert not keeper.proofs and keeper.records == FIRST
    keeper.cosign(FORK, first=2)
    (proof,) = keeper.proofs
    one, other = check_equivocation(proof, run=RUN, manifest=MANIFEST)
    assert (one.seq, other.seq) == (1, 2) and other.previous != proof.one.body_digest


def test_a_tail_is_replaced_by_a_chain_that_begins_a_higher_term() -> None:
    keeper = holder(FIRST)
    later = taken_over(1, FORK)
    assert signed_head(keeper.cosign(later, first=1)) == head_of(later)
    assert keeper.records == later and keeper.state.promised_term == 1
    assert keeper.cosign(FIRST) == behind(1, head_of(later))
    assert not keeper.proofs, "two schedulers may sign two records of one number"


def test_a_tail_is_not_replaced_by_another_beginning_of_its_own_term_or_a_lower_one() -> None:
    keeper = holder(taken_over(2, FIRST))
    for later in (taken_over(2, FORK), taken_over(1, FORK)):
        assert keeper.cosign(later) == behind(2, head_of(taken_over(2, FIRST)))
    assert keeper.records == taken_over(2, FIRST)


def test_the_head_to_sign_is_of_the_chains_term() -> None:
    """Else a term that is over would be signed once more, since its end lies in the chain."""
    keeper = holder(FIRST)
    later = taken_over(1, FIRST)
    ask = AskCosign(run=RUN, records=later[3:], head=head_of(FIRST), certificate=())
    assert keeper.ask("scheduler", ask) == behind(0, head_of(FIRST))
    assert keeper.records == FIRST


def test_a_head_that_is_not_in_the_chain_is_not_signed() -> None:
    keeper = holder(FIRST)
    for head in (
        Head(term=0, length=3, digest=digest("no record")),
        Head(term=0, length=9, digest=FIRST[-1].body_digest),
    ):
        ask = AskCosign(run=RUN, records=(), head=head, certificate=())
        assert keeper.ask("scheduler", ask) == behind(0, head_of(FIRST))
    with pytest.raises(RemoteProtocolError, match="a signature of no record"):
        keeper.ask("scheduler", replace(ask, head=NO_HEAD))


def test_final_records_are_never_replaced() -> None:
    keeper = holder(FIRST, final=2)
    for later in (taken_over(1, FORK), taken_over(1, FIRST[:1])):
        assert keeper.cosign(later) == behind(0, head_of(FIRST), 2)
    assert keeper.records == FIRST


PROMISES = tuple(promised(f"keeper {name}", 1, head_of(FIRST)) for name in "bc")


@pytest.mark.parametrize(
    ("promises", "words"),
    [
        (PROMISES[:1], "1 of 3 keepers signed, 2 must"),
        (PROMISES[:1] * 2, "each once"),
        ((PROMISES[0], promised("keeper b", 1, NO_HEAD)), "each once"),
        ((PROMISES[0], promised("stranger", 1, head_of(FIRST))), "is not a keeper of the run"),
        ((PROMISES[0], promised("keeper c", 2, head_of(FIRST))), "of term 2, not of 1"),
        ((PROMISES[0], promised("keeper c", 1, head_of(FIRST), run=digest("x"))), "another run"),
        ((PROMISES[0], replace(PROMISES[1], body=PROMISES[0].body)), "signature"),
        ((PROMISES[0], sign(open_signed(PROMISES[1], Promise), key("keeper b"))), "is signed by"),
        ((PROMISES[0], promised("keeper c", 1, head_of(taken_over(4, FIRST)))), "head of term 4"),
        (tuple(promised(f"keeper {n}", 1, head_of(FIRST[:2])) for n in "bc"), "choose head 2"),
        ((PROMISES[0], promised("keeper c", 1, head_of(FORK[:2]))), "of which neither"),
        ((PROMISES[0], promised("keeper c", 1, head_of(FORK))), "of which neither|choose head"),
    ],
)
def test_a_term_begins_with_the_promises_of_a_quorum_and_its_highest_head(
    promises: Records, words: str
) -> None:
    keeper = holder(FIRST)
    with pytest.raises(RemoteProtocolError, match=words):
        keeper.cosign(taken_over(1, FIRST, promises), first=3)
    assert keeper.records == FIRST
    signed_head(keeper.cosign(taken_over(1, FIRST, PROMISES), first=3))


def test_a_lower_head_of_an_earlier_term_among_the_promises_does_not_matter() -> None:
    second = taken_over(1, FIRST)
    promises = promised("keeper b", 2, head_of(FORK)), promised("keeper c", 2, head_of(second))
    third = taken_over(2, second, promises)
    assert signed_head(holder(FIRST).cosign(third, first=3)) == head_of(third)


def test_a_term_that_the_owner_grants_begins_where_the_grant_says() -> None:
    def granted(by: str = "owner", **changes: object) -> Records:
        grant = replace(OwnersGrant(run=RUN, term=1, head=head_of(FIRST)), **changes)
        return (*FIRST, record(FIRST, 1, TermGranted(grant=sign(grant, key(by)))))

    for wrong in (granted("second"), granted(run=digest("x")), granted(head=head_of(FORK))):
        with pytest.raises(RemoteProtocolError, match="grant"):
            holder(FIRST).cosign(wrong, first=3)
    with pytest.raises(RemoteProtocolError, match="another run, term or head"):
        holder(FIRST).cosign(granted(term=4), first=3)
    assert signed_head(holder(FIRST).cosign(granted(), first=3)) == head_of(granted())


def test_what_no_node_could_take_in_is_not_signed() -> None:
    wrong = (*FIRST, record(FIRST, 0, updated(MANIFEST.topology.modules[0], 3, "")))
    keeper = holder(FIRST)
    with pytest.raises(RemoteProtocolError, match="cannot take version 3"):
        keeper.cosign(wrong, first=3)
    assert keeper.records == FIRST


def test_a_tail_has_a_bound_and_a_term_can_still_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = holder(FIRST)
    size = sum(each.size for each in keeper.chain.tail)
    monkeypatch.setattr(tails, "MAX_TAIL", size)
    with pytest.raises(Unavailable, match=r"4 records .* too many for one more"):
        keeper.cosign(extended(FIRST, term=0), first=3)
    signed_head(keeper.cosign(taken_over(1, FIRST), first=3))


def test_a_keeper_that_lost_final_records_waits_for_them() -> None:
    keeper = holder(FIRST, final=2)
    keeper.stored = FIRST[:1]
    with pytest.raises(Unavailable, match="has 1 records, and 2 were final"):
        keeper.promise(1)


# ------------------------------------------------------------------------------ finality


def test_a_certificate_makes_the_tail_final_up_to_its_head() -> None:
    keeper = holder(FIRST)
    more = extended(FIRST, term=0)
    keeper.cosign(more, first=3, final=certificate(head_of(FIRST[:2])))
    assert keeper.stored == FIRST[:2] and keeper.records == more
    assert len(keeper.state.tail) == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (certificate(head_of(FIRST))[:1], "1 of 3 keepers signed"),
        (certificate(head_of(FIRST))[:1] * 2, "each once"),
        (tuple(reversed(certificate(head_of(FIRST)))), "ascending"),
        (certificate(head_of(FIRST), ("keeper a", "stranger")), "is not a keeper"),
        (
            tuple(
                sorted(
                    (
                        *certificate(head_of(FIRST), ("keeper a",)),
                        *certificate(head_of(FIRST[:2]), ("keeper b",)),
                    ),
                    key=lambda each: each.signer,
                )
            ),
            "different heads",
        ),
    ],
)
def test_a_certificate_is_a_quorum_of_one_head(given: Records, words: str) -> None:
    keeper = holder(FIRST)
    with pytest.raises(RemoteProtocolError, match=words):
        keeper.cosign(FIRST, final=given)
    assert not keeper.stored


def test_a_tail_gives_way_to_final_records_of_another_chain() -> None:
    keeper = holder(FIRST, final=1)
    keeper.stored = taken_over(1, FORK)  # as its store learned it from another node
    assert keeper.records == keeper.stored and not keeper.chain.tail
    later = extended(keeper.stored, term=1)
    assert signed_head(keeper.cosign(later, first=4)) == head_of(later)
    assert keeper.records == later, "nothing of the old tail is left on disk"
    assert len(keeper.state.tail) == 1


def test_the_part_of_a_tail_that_became_final_elsewhere_leaves_it() -> None:
    keeper = holder(FIRST)
    keeper.stored = FIRST[:2]
    assert keeper.records == FIRST and len(keeper.chain.tail) == 1
    keeper.stored = extended(FIRST, term=0)
    assert keeper.records == keeper.stored and not keeper.chain.tail


# ------------------------------------------------------------------------------ acceptances


def seeded() -> Holder:
    return holder(FIRST[:2], final=2)


def keep(keeper: Holder, *given: Signed, term: int = 0) -> object:
    return keeper.ask(owner_of(term), AskKeep(run=RUN, term=term, acceptances=given))


def losses(keeper: Holder) -> dict[tuple[int, int], float]:
    held = keeper.state.acceptances
    return {place: each.acceptance.result.loss_last for place, each in held.items()}


def test_the_highest_acceptance_of_a_path_and_round_counts() -> None:
    keeper = seeded()
    for order, loss in ((2, 2.0), (1, 1.0), (2, 9.0), (4, 4.0), (3, 3.0)):
        assert keep(keeper, acceptance(0, order, loss=loss)) == Kept()
    assert losses(keeper) == {(0, 1): 4.0}


def test_an_acceptance_is_saved_before_it_is_confirmed() -> None:
    keeper = seeded()
    ask = AskKeep(run=RUN, term=0, acceptances=(acceptance(0, 1),))
    decision = keeper.keeper.keep(keeper.state, keeper.final, peer("scheduler"), ask)
    assert [type(change) for change in decision.changes] == [AcceptanceKept]


def test_an_acceptance_goes_once_its_round_is_in_the_final_ledger() -> None:
    keeper = seeded()
    keep(keeper, acceptance(0, 1), acceptance(0, 2, path=1))
    keeper.stored = extended(FIRST[:2], term=0, count=len(MANIFEST.topology.modules))
    assert keep(keeper, acceptance(0, 3, round_=2), acceptance(0, 4)) == Kept()
    assert set(losses(keeper)) == {(0, 2)}


def test_an_acceptance_of_a_term_that_has_not_begun_or_is_over_is_not_kept() -> None:
    keeper = seeded()
    stands = behind(0, head_of(FIRST[:2]), 2)
    assert keep(keeper, acceptance(3, 1), term=3) == stands
    promise_of(keeper.promise(1))
    assert keep(keeper, acceptance(0, 1)) == replace(stands, term=1)
    signed_head(keeper.cosign(taken_over(1, FIRST[:2]), first=2))
    assert keep(keeper, acceptance(0, 1), acceptance(1, 1, path=1), term=1) == Kept()
    assert set(losses(keeper)) == {(0, 1), (1, 1)}


def test_an_acceptance_that_cannot_be_is_refused() -> None:
    made = open_signed(acceptance(0, 1), Acceptance)
    for wrong, words in (
        (acceptance(1, 1), "of term 1, after 0"),
        (sign(made, key("second")), "not signed by the scheduler of term 0"),
        (sign(replace(made, run=digest("x")), key("scheduler")), "another run"),
        (acceptance(0, 1, path=4), "of a path or a round"),
        (acceptance(0, 1, round_=3), "of a path or a round"),
    ):
        with pytest.raises(RemoteProtocolError, match=words):
            keep(seeded(), wrong)
    assert isinstance(keep(Holder("keeper a"), acceptance(0, 1, round_=2)), Behind)


def test_a_promise_brings_the_acceptances_and_the_rest_is_read() -> None:
    keeper = seeded()
    keep(keeper, *(acceptance(0, order, path=order) for order in range(4)))
    reply = keeper.promise(1)
    assert isinstance(reply, Promised) and not reply.more
    found = [open_signed(each, Acceptance).place for each in reply.acceptances]
    assert found == [(path, 1) for path in range(4)]


def test_parts_have_a_bound_and_go_on_where_they_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = seeded()
    keep(keeper, *(acceptance(0, order, path=order) for order in range(4)))
    signed_head(keeper.cosign(FIRST, first=2))
    monkeypatch.setattr("dipaco.protocol.work.keeping.MAX_ACCEPTANCES", 3)
    ask = ReadTail(run=RUN, first=0, path=0, round=0)
    part = keeper.keeper.tail_part(keeper.state, keeper.final, peer("third"), ask)
    assert part.records == FIRST[2:] and part.more
    last = open_signed(part.acceptances[-1], Acceptance)
    ask = ReadTail(run=RUN, first=3, path=last.path, round=last.round)
    rest = keeper.keeper.tail_part(keeper.state, keeper.final, peer("third"), ask)
    assert not rest.records and not rest.more
    assert len({each.body_digest for each in (*part.acceptances, *rest.acceptances)}) == 4


def test_a_tail_is_read_by_schedulers_alone() -> None:
    keeper = holder(FIRST)
    with pytest.raises(RemoteProtocolError, match="no scheduler or keeper of the run"):
        ask = ReadTail(run=RUN, first=0, path=0, round=0)
        keeper.keeper.tail_part(keeper.state, keeper.final, peer("owner"), ask)


def test_a_head_is_told_to_anybody_with_the_term_that_is_promised() -> None:
    keeper = holder(FIRST)
    promise_of(keeper.promise(4))
    told = keeper.keeper.head(keeper.state, keeper.final, scheduling=False)
    assert (told.term, told.head, told.scheduling) == (4, head_of(FIRST), False)
