"""A keeper that forgot what it signed votes only once nothing that it ever said can matter."""

import pytest

from dipaco.protocol.errors import Unavailable
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.signed import Signed
from dipaco.protocol.work import keeping
from dipaco.protocol.work.calls import Behind, CosignedHead, HeadIs, Promised
from dipaco.protocol.work.keeping import MAX_AHEAD, KeeperState
from dipaco.protocol.work.relearning import Forgotten, newest_of
from dipaco.protocol.work.terms import NO_HEAD
from tests.protocol.work.keepers import (
    KEEPERS,
    MANIFEST,
    RUN,
    TOP,
    Holder,
    Records,
    acceptance,
    begun,
    extended,
    final_of,
    head_of,
    signed_head,
)
from tests.values import peer

BASE = extended((), term=0, count=2)
LATER = extended(BASE, term=0)


def keepers(records: Records = BASE) -> list[Holder]:
    """Return keepers a, b and c, that have all signed the same records."""
    holders = [Holder(name) for name in KEEPERS]
    for each in holders:
        signed_head(each.cosign(records))
    return holders


def heads(*holders: Holder, votes: bool = True) -> dict[PeerId, HeadIs]:
    """Return what keepers answer that are asked where they stand."""
    return {
        peer(each.name): HeadIs(
            term=max(each.state.promised_term, each.chain.head.term),
            head=each.chain.head,
            scheduling=False,
            votes=votes,
        )
        for each in holders
    }


def forgotten_by(*others: Holder) -> Forgotten:
    forgotten = Forgotten.told(MANIFEST, heads(*others))
    assert forgotten is not None
    return forgotten


def taken_over(term: int, base: Records, *holders: Holder) -> Records:
    """Return the ledger that begins `term` with the promises and the signatures of `holders`."""
    promises: list[Signed] = []
    for each in holders:
        reply = each.promise(term)
        assert isinstance(reply, Promised), reply
        promises.append(reply.promise)
    records = begun(base, term, promises)
    for each in holders:
        signed_head(each.cosign(records))
    return records


def test_an_old_signature_does_harm_if_its_keeper_votes_too_soon() -> None:
    """The danger: a and b know nothing of the record, and it becomes final all the same."""
    a, b, c = keepers()
    old = c.cosign(LATER, first=2)
    c = Holder("keeper c", KeeperState(), stored=BASE)  # its disk is lost; it votes at once
    other = taken_over(1, BASE, a, c)
    late = b.cosign(LATER, first=2)
    assert isinstance(old, CosignedHead) and isinstance(late, CosignedHead)  # final, by b and c
    assert LATER[2] != other[2]  # final, by a and c


def test_a_quorum_without_a_record_may_be_of_a_run_that_has_begun() -> None:
    """Why a first start needs all keepers: a knows better, and is away."""
    a, c = Holder("keeper a"), Holder("keeper c")
    for each in (a, c):
        signed_head(each.cosign(BASE))  # final
    b, c = Holder("keeper b"), Holder("keeper c")  # b has not heard of it, c has lost its disk
    other = taken_over(1, (), b, c)
    assert other[0] != BASE[0]  # final, too


def test_a_keeper_votes_again_once_no_old_signature_can_complete_a_certificate() -> None:
    a, b, c = keepers()
    signed_head(c.cosign(LATER, first=2))
    forgotten = forgotten_by(a, b)
    assert not forgotten.may_vote(final_of(BASE))
    told = forgotten.refusing(final_of(BASE), 1)
    halfway = taken_over(told.term + 1, BASE, a, b)
    assert not forgotten.may_vote(final_of(halfway))
    told = forgotten.refusing(final_of(halfway), told.term + 1)
    assert told.term == forgotten.term == MAX_AHEAD + 1
    beyond = taken_over(told.term, halfway, a, b)  # the others keep the bound of terms ahead
    assert forgotten.may_vote(final_of(beyond))
    assert isinstance(b.cosign(LATER, first=2), Behind)
    assert isinstance(a.cosign(LATER, first=2), Behind)
    with pytest.raises(Unavailable, match="have gone on without it"):
        forgotten.refusing(final_of(halfway), told.term)  # without it, but not against it


def test_an_old_promise_begins_no_term_that_its_keeper_has_passed() -> None:
    """c promised to a candidate alone; whatever a says later, its term is not above c's."""
    a, b, c = keepers()
    promised = c.promise(MAX_AHEAD)
    assert isinstance(promised, Promised)
    assert forgotten_by(a, b).term > MAX_AHEAD
    with pytest.raises(Unavailable, match="no more than"):
        keepers()[2].promise(MAX_AHEAD + 1)


def test_a_keeper_signs_in_no_term_that_the_others_do_not_know_of() -> None:
    a, b, c = keepers()
    records = taken_over(7, BASE, b, c)
    assert c.chain.head == head_of(records) and a.chain.head == head_of(BASE)
    assert forgotten_by(a, b).term == 7 + MAX_AHEAD + 1


def test_enough_other_keepers_must_remember() -> None:
    a, b, _ = keepers()
    assert Forgotten.told(MANIFEST, heads(a)) is None
    assert Forgotten.told(MANIFEST, {**heads(a), **heads(b, votes=False)}) is None
    assert Forgotten.told(MANIFEST, heads(a, b)) == Forgotten(MAX_AHEAD + 1)


def test_the_bound_of_terms_ahead_is_that_of_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MAX_AHEAD", 4)
    keeper = Holder("keeper a")
    assert isinstance(keeper.promise(4), Promised) and keeper.chain.head == NO_HEAD
    with pytest.raises(Unavailable, match="no more than 4 terms"):
        keeper.promise(5)


def test_the_newest_acceptance_of_the_others_is_taken_up_for_open_rounds_alone() -> None:
    given = (
        acceptance(1, 4, loss=2.0),
        acceptance(2, 1, loss=3.0),
        acceptance(1, 9, loss=4.0),
        acceptance(1, 1, path=1),
    )
    newest = newest_of(MANIFEST, RUN, final_of(BASE), given)
    told = {each.acceptance.place: each.acceptance.result.loss_first for each in newest}
    assert told == {(0, 1): 3.0, (1, 1): 1.0}
    rounds = extended(BASE, term=0, count=len(TOP.modules))  # all modules end the first round
    assert not newest_of(MANIFEST, RUN, final_of(rounds), given)
