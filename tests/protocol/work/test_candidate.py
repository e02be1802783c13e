"""Rules of this file: keepers in memory answer a candidate; what it makes of their answers is
signed by them or not."""

import random
from collections.abc import Collection

import pytest
from msgspec.structs import replace

from dipaco.protocol.errors import Refusal, RemoteProtocolError
from dipaco.protocol.wire.signed import open_signed, sign
from dipaco.protocol.work.calls import (
    Acceptance,
    AskKeep,
    AskPromise,
    Behind,
    CosignedHead,
    Promised,
    ReadTail,
)
from dipaco.protocol.work.candidate import (
    PATIENCE,
    Outdone,
    Proposal,
    TakeOver,
    acts_at,
    next_own_term,
)
from dipaco.protocol.work.terms import MAX_TERMS, Head, check_certificate
from tests.protocol.work.keepers import (
    KEEPERS,
    MANIFEST,
    RUN,
    SCHEDULERS,
    Holder,
    Records,
    acceptance,
    certificate,
    extended,
    final_of,
    head_of,
    owner_of,
    peers,
    promised,
    signed_head,
)
from tests.values import digest, key, peer

FIRST = extended((), term=0, count=3)
FORK = extended(FIRST[:1], term=0, salt="other", count=2)
ORDER = peers(SCHEDULERS)


def holders(*ledgers: Records, final: int = 0) -> list[Holder]:
    """Return the keepers, each with its own ledger, of which the first records are final."""
    made = []
    for name, records in zip(KEEPERS, ledgers, strict=True):
        holder = Holder(name, stored=records[:final])
        if records[final:]:
            signed_head(holder.cosign(records, first=final))
        made.append(holder)
    return made


def taken_over(
    keepers: Collection[Holder], term: int, *, own: Records = (), away: Collection[str] = ()
) -> TakeOver:
    """Ask until nothing is left to ask, as the shell does."""
    taking = TakeOver(RUN, MANIFEST, term, final_of(own))
    by_peer = {peer(each.name): each for each in keepers if each.name not in away}
    while due := [(keeper, ask) for keeper, ask in taking.questions() if keeper in by_peer]:
        for keeper, ask in due:
            holder = by_peer[keeper]
            if isinstance(ask, AskPromise):
                answer = holder.ask(owner_of(term), ask)
                assert isinstance(answer, Promised | Behind)
                taking = taking.heard(keeper, answer)
            elif isinstance(ask, ReadTail):
                asker = peer(owner_of(term))
                part = holder.keeper.tail_part(holder.state, holder.final, asker, ask)
                taking = taking.read(keeper, part)
            elif len(holder.stored) > len(own):
                own = holder.stored
                taking = taking.grown(final_of(own))
            else:
                del by_peer[keeper]
    return taking


def certified(keepers: Collection[Holder], proposal: Proposal, own: Records) -> Proposal:
    """Ask every keeper twice: the second time with what it lacked."""
    for _ in range(2):
        for holder in keepers:
            if peer(holder.name) not in proposal.lacking:
                continue
            ask = proposal.question(peer(holder.name), lambda first: own[first:])
            answer = holder.ask(owner_of(proposal.chain.head.term), ask)
            assert isinstance(answer, CosignedHead | Behind)
            proposal = proposal.heard(peer(holder.name), answer)
    return proposal


# ------------------------------------------------------------------------------ whose turn it is


def test_a_candidate_begins_its_own_next_term() -> None:
    assert [next_own_term(ORDER, ORDER[0], above) for above in range(4)] == [3, 3, 3, 6]
    assert [next_own_term(ORDER, ORDER[2], above) for above in range(4)] == [2, 2, 5, 5]
    assert next_own_term(ORDER[:1], ORDER[0], 7) == 8
    with pytest.raises(Refusal, match="used up"):
        next_own_term(ORDER, ORDER[0], MAX_TERMS)


def test_nearer_candidates_act_earlier_and_at_once_on_a_proof() -> None:
    second, third, first = (
        acts_at(ORDER, who, 0, heard=100.0) for who in (ORDER[1], ORDER[2], ORDER[0])
    )
    assert (second, third, first) == (100 + PATIENCE, 100 + 2 * PATIENCE, 100 + 3 * PATIENCE)
    assert acts_at(ORDER, ORDER[1], 0, heard=100.0, proven=True) == 100.0


def test_the_patience_grows_with_the_terms_that_began_of_late_and_has_a_bound() -> None:
    waits = [acts_at(ORDER, ORDER[1], 0, heard=0.0, begun=count) for count in range(9)]
    assert waits[:4] == [PATIENCE, PATIENCE, 2 * PATIENCE, 4 * PATIENCE]
    assert waits[6:] == [32 * PATIENCE] * 3


# ------------------------------------------------------------------------------ taking over


def test_a_term_goes_on_from_the_highest_head_of_a_quorum() -> None:
    keepers = holders(FIRST[:1], FIRST, FIRST[:2])
    choice = taken_over(keepers, 1).choice()
    assert choice is not None and choice.chain.head == head_of(FIRST)
    begun = choice.begun(1, key("second"))
    done = certified(keepers, Proposal(begun), ())
    assert check_certificate(MANIFEST, RUN, done.certified) == begun.head
    assert not done.lacking
    assert {holder.records for holder in keepers} == {(*FIRST, begun.tail[-1].signed)}


def test_without_a_quorum_there_is_no_choice() -> None:
    assert taken_over(holders(FIRST, FIRST, FIRST), 1, away=KEEPERS[1:]).choice() is None
    assert taken_over(holders(FIRST, FIRST, FIRST), 1, away=KEEPERS[2:]).choice() is not None


def test_a_run_without_a_record_goes_on_from_nothing() -> None:
    choice = taken_over(holders((), (), ()), 2).choice()
    assert choice is not None
    begun = choice.begun(2, key("third"))
    assert begun.head.length == 1
    assert certified(holders((), (), ()), Proposal(begun), ()).certified


@pytest.mark.parametrize("own", range(4))
@pytest.mark.parametrize("final", range(4))
def test_records_that_the_candidate_lacks_come_from_keepers(own: int, final: int) -> None:
    keepers = holders(FIRST, FIRST, FIRST, final=final)
    choice = taken_over(keepers, 1, own=FIRST[:own]).choice()
    assert choice is not None and choice.chain.head == head_of(FIRST)


def test_promises_that_contradict_each_other_wait_for_another_keeper() -> None:
    """Either chain may be final: with the keeper that is away."""
    for last, chosen in ((FIRST, FIRST), (FORK, FORK)):
        keepers = holders(FIRST, FORK, last)
        assert taken_over(keepers, 1, away=KEEPERS[2:]).choice() is None
        choice = taken_over(keepers, 1).choice()
        assert choice is not None and choice.chain.head == head_of(chosen)
        assert len(choice.promises) == 2
        done = certified(keepers, Proposal(choice.begun(1, key("second"))), ())
        assert not done.lacking, "the keeper of the other chain gives its tail up"


def test_a_longer_chain_with_one_promise_alone_gives_way_to_a_quorum() -> None:
    longer = extended(FORK, term=0, salt="other", count=2)
    choice = taken_over(holders(FIRST, longer, FIRST), 1).choice()
    assert choice is not None and choice.chain.head == head_of(FIRST)


def test_a_keeper_that_serves_a_higher_term_ends_the_attempt() -> None:
    keepers = holders(FIRST, FIRST, FIRST)
    keepers[2].promise(5)
    with pytest.raises(Outdone, match="promised term 5") as caught:
        taken_over(keepers, 1)
    assert next_own_term(ORDER, ORDER[1], caught.value.term) == 7


@pytest.mark.parametrize(
    "promise",
    [
        promised("keeper b", 1, head_of(FIRST)),
        promised("keeper a", 2, head_of(FIRST)),
        promised("keeper a", 1, head_of(FIRST), run=digest("another run")),
        promised("keeper a", 1, Head(term=1, length=1, digest=digest("later"))),
        replace(promised("keeper a", 1, head_of(FIRST)), signature=bytes(64)),
    ],
)
def test_a_wrong_promise_is_its_keepers_breach(promise: object) -> None:
    taking = TakeOver(RUN, MANIFEST, 1, final_of(()))
    answer = Promised(promise=promise, acceptances=(), more=False)  # type: ignore[arg-type]
    with pytest.raises(RemoteProtocolError):
        taking.heard(peer("keeper a"), answer)


def test_a_keeper_that_shows_other_records_than_it_promised_is_not_followed() -> None:
    taking = TakeOver(RUN, MANIFEST, 1, final_of(()))
    for holder in holders(FIRST, FIRST, FIRST)[:2]:
        answer = holder.promise(1)
        assert isinstance(answer, Promised)
        taking = taking.heard(peer(holder.name), answer)
    wrong = Holder("keeper a")
    signed_head(wrong.cosign(FORK))
    ask = ReadTail(run=RUN, first=0, path=0, round=0)
    part = wrong.keeper.tail_part(wrong.state, wrong.final, peer("second"), ask)
    for name in KEEPERS[:2]:
        taking = taking.read(peer(name), part)
    assert taking.choice() is None
    taking = taking.read(peer("keeper a"), replace(part, records=()))
    asked = dict(taking.questions())
    assert asked[peer("keeper c")] == AskPromise(run=RUN, term=1)


def test_the_newest_acceptance_of_all_keepers_counts_and_only_for_open_rounds() -> None:
    base = FIRST[:2]
    keepers = holders(base, base, base, final=2)
    given = (
        (acceptance(0, 1, path=0, loss=1.0), acceptance(0, 2, path=1, loss=2.0)),
        (acceptance(0, 3, path=0, loss=3.0),),
        (acceptance(0, 4, path=2, loss=4.0),),
    )
    for holder, each in zip(keepers, given, strict=True):
        holder.ask("scheduler", AskKeep(run=RUN, term=0, acceptances=each))
    taking = taken_over(keepers, 1)
    choice = taking.choice()
    assert choice is not None
    found = [open_signed(each, Acceptance) for each in taking.open_acceptances(choice.chain)]
    assert [(each.path, each.result.loss_last) for each in found] == [(0, 3.0), (1, 2.0), (2, 4.0)]
    closed = choice.chain.adding(extended(base, term=0, count=len(MANIFEST.topology.modules))[2:])
    assert taking.open_acceptances(closed) == ()


def test_acceptances_that_do_not_fit_are_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    base = FIRST[:2]
    keepers = holders(base, base, base, final=2)
    given = tuple(acceptance(0, path, path=path) for path in range(4))
    for holder in keepers[:2]:
        holder.ask("scheduler", AskKeep(run=RUN, term=0, acceptances=given))
    monkeypatch.setattr("dipaco.protocol.work.keeping.MAX_ACCEPTANCES", 1)
    assert set(taken_over(keepers, 1).acceptances) == {(path, 1) for path in range(4)}


def test_a_forged_acceptance_is_the_keepers_breach() -> None:
    forged = sign(open_signed(acceptance(0, 1), Acceptance), key("keeper a"))
    answer = Promised(
        promise=promised("keeper a", 1, head_of(FIRST)), acceptances=(forged,), more=False
    )
    with pytest.raises(RemoteProtocolError, match="not signed by the scheduler of term 0"):
        TakeOver(RUN, MANIFEST, 1, final_of(())).heard(peer("keeper a"), answer)


# ------------------------------------------------------------------------------ proposals


def test_a_keeper_gets_what_it_lacks_with_the_proof_of_what_is_final() -> None:
    own = extended(FIRST, term=0)
    keepers = holders(own[:3], own[:1], (), final=0)
    chain = taken_over(keepers, 1, own=own[:2]).choice()
    assert chain is not None
    final = certificate(head_of(own[:2]))
    proposal = Proposal(chain.begun(1, key("second")), final)
    done = certified(keepers, proposal, own)
    assert not done.lacking
    assert all(holder.stored == own[:2] for holder in keepers)
    first = done.question(peer("keeper a"), lambda first: own[first:])
    assert first.certificate == final


def test_a_head_is_certified_by_a_quorum_of_signatures_of_it() -> None:
    chain = taken_over(holders(FIRST, FIRST, FIRST), 1).choice()
    assert chain is not None
    proposal = Proposal(chain.begun(1, key("second")))
    signed = Holder("keeper a")
    answer = signed.cosign(tuple(each.signed for each in proposal.chain.tail))
    assert isinstance(answer, CosignedHead)
    once = proposal.heard(peer("keeper a"), answer)
    assert not once.certified and len(once.lacking) == 2
    assert once.heard(peer("keeper a"), answer).certified == ()
    with pytest.raises(RemoteProtocolError, match="another head than it was asked"):
        proposal.heard(peer("keeper b"), answer)
    other = Holder("keeper b").cosign(FIRST)
    assert isinstance(other, CosignedHead)
    with pytest.raises(RemoteProtocolError, match="another head than it was asked"):
        proposal.heard(peer("keeper b"), other)
    with pytest.raises(Outdone):
        proposal.heard(peer("keeper b"), Behind(term=2, head=head_of(FIRST), final=0))


def test_many_take_overs_with_keepers_away_lose_nothing_that_was_final() -> None:
    """Schedulers die at any point, and take their turns; at each moment one keeper is away."""
    chance = random.Random(7)
    keepers = holders((), (), ())
    final: Records = ()
    term = 0
    for _ in range(40):
        term = next_own_term(ORDER, chance.choice(ORDER), term)
        away = {chance.choice(KEEPERS)}
        choice = taken_over(keepers, term, own=final, away=away).choice()
        assert choice is not None
        begun = choice.begun(term, key(owner_of(term)))
        asked = [each for each in keepers if each.name not in away]
        asked = chance.sample(asked, chance.randint(0, 2))  # it may die before all have signed
        done = certified(asked, Proposal(begun), final)
        records = final + tuple(each.signed for each in begun.tail)
        assert records[: len(final)] == final
        if done.certified:
            final = records
            for holder in asked:
                holder.stored = final if chance.random() < 0.5 else holder.stored
    assert len(final) > 10
