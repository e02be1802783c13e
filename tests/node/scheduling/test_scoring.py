"""The scoring phase, event by event: who scores what, who waits, and when the router may change."""

import pytest
from msgspec.structs import replace

from dipaco.node.kinds.changes import Recorded
from dipaco.node.scheduling.retention import blobs_needed
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.identity import PeerId
from dipaco.protocol.lease import EvaluateLease, Lease, Scored, ScoreLease, Sheet, TrainLease
from dipaco.protocol.ledger import SpecAdopted
from dipaco.protocol.manifest import Manifest, Reshard
from dipaco.protocol.rounds import Weights
from dipaco.protocol.routing.labels import MAX_OPINIONS
from dipaco.protocol.work import Fallen, NoLease, Stands
from tests.node.scheduling import desk as shared
from tests.node.scheduling.desk import ANNA, BERT, CARA, NEXT, SPEC, result
from tests.values import digest, manifest, peer

WEIGHTS = (40, 30, 20, 10)


def resharding(*, scorers: int = 1, windows: int = 1) -> Manifest:
    plain = manifest()
    reshard = Reshard(after_round=1, scorers=scorers, windows=windows)
    return replace(
        plain,
        source=replace(plain.source, window=plain.source.documents // windows),
        routing=replace(plain.routing, router_bp=1000, reshard=reshard),
    )


class Desk(shared.Desk):
    """A schedule that has come to the scoring."""

    def __init__(self, run: Manifest, weights: Weights = WEIGHTS, *, rounds: int = 1) -> None:
        super().__init__(run, weights)
        self.seed()
        self.rounds(rounds)

    def rounds(self, version: int) -> None:
        """Train until all live paths stand at `version`, and evaluate what is due before."""
        while self.schedule.rounds.done < version:
            self.do(ANNA, self.lease(ANNA))
            self.step()

    def do(self, who: PeerId, lease: Lease, sheet: str = "honest", documents: int = 20) -> object:
        """Hand in what a lease asks for; moments come at once."""
        reply = self.hand_in(who, result(lease, sheet, documents))
        if isinstance(lease, TrainLease):
            self.make(self.schedule.moments_arrived((lease.path, lease.round)))
        return reply

    def adopt(self, weights: Weights) -> None:
        """Publish the next router, and adopt it."""
        self.weights[NEXT] = weights
        self.make(self.schedule.switch(NEXT))

    def of_path(self, path: int, now: float = 0.0) -> tuple[PeerId, TrainLease | ScoreLease]:
        """Have one peer after the other ask, until one is given that path."""
        for number in range(4):
            lease = self.lease(peer(f"v{number}"), now)
            if isinstance(lease, TrainLease | ScoreLease) and lease.path == path:
                return peer(f"v{number}"), lease
        raise AssertionError(f"nobody is given path {path}")

    def score_all(self, who: PeerId, sheet: str = "honest") -> list[tuple[int, int]]:
        """Have a peer score all that it is given; returns (path, window) of each."""
        given = []
        while isinstance(lease := self.ask(who), ScoreLease):
            assert self.do(who, lease, sheet) == Stands()
            given.append((lease.path, lease.window))
        if not isinstance(lease, NoLease):
            self.make(self.schedule.hand_back(who, lease.token, "scores were asked for"))
        return given


def test_no_round_goes_on_before_every_path_is_scored_in_every_window() -> None:
    desk = Desk(resharding(windows=2))
    assert not desk.schedule.switch_due
    given = desk.score_all(ANNA)
    assert sorted(given) == [(path, window) for path in range(4) for window in range(2)]
    assert desk.schedule.switch_due
    assert isinstance(desk.lease(BERT), EvaluateLease)


def test_a_score_lease_names_version_spec_window_and_no_moments() -> None:
    desk = Desk(resharding())
    lease = desk.score_lease(BERT)
    assert (lease.version, lease.window, lease.spec) == (1, 0, SPEC)
    states = [desk.ledger.states[m][1] for m in desk.ledger.topology.path_modules[lease.path]]
    assert [each.digest for each in lease.modules] == states and lease.carried == ()


def test_a_lost_score_lease_is_leased_again_and_its_late_sheet_refused() -> None:
    desk = Desk(resharding())
    first = desk.score_lease(ANNA, now=100.0)
    desk.make(desk.schedule.expire(now=100.0 + 100 * desk.schedule.manifest.schedule.lease_ttl))
    other, second = desk.of_path(first.path, now=5000.0)
    assert isinstance(second, ScoreLease) and second.window == first.window
    assert isinstance(desk.do(ANNA, first), Fallen)
    assert desk.do(other, second) == Stands()
    assert [each.peer for each in desk.ledger.scored[first.path, first.window]] == [other]


def test_each_of_several_scorers_is_another_peer_and_all_may_work_at_once() -> None:
    desk = Desk(resharding(scorers=2))
    assert len(desk.score_all(ANNA)) == 4 and desk.score_all(ANNA) == []
    assert not desk.schedule.switch_due
    waiting = desk.ask(ANNA)
    assert isinstance(waiting, EvaluateLease)
    first, second = desk.score_lease(BERT), desk.score_lease(CARA)
    assert first.path != second.path
    desk.make(desk.schedule.hand_back(CARA, second.token, "done"))
    assert desk.do(BERT, first) == Stands()
    assert len(desk.score_all(BERT)) == 3 and desk.schedule.switch_due


def test_sheets_that_do_not_agree_bring_in_a_third_who_decides() -> None:
    desk = Desk(resharding(scorers=2))
    scoring = desk.schedule.state.scoring
    assert scoring is not None
    desk.score_all(ANNA, "lie")
    desk.score_all(BERT)
    assert not desk.schedule.switch_due and scoring.standing(0, 0) is None
    assert len(desk.score_all(CARA)) == 4 and desk.schedule.switch_due
    assert [each.peer for each in scoring.standing(0, 0) or ()] == [BERT, CARA]
    assert [each.peer for each in scoring.refuted(0, 0)] == [ANNA]


def test_opinions_on_one_sheet_are_bounded() -> None:
    desk = Desk(resharding(scorers=3))
    asked = 0
    for number in range(MAX_OPINIONS + 3):
        who = peer(f"liar {number}")
        asked += (0, 0) in desk.score_all(who, sheet=f"lie {number}")
    assert asked == MAX_OPINIONS and not desk.schedule.switch_due


def test_a_sheet_of_more_documents_than_a_window_may_have_is_refused_unread() -> None:
    desk = Desk(resharding())
    lease = desk.score_lease(ANNA)
    reply = desk.do(ANNA, lease, documents=desk.schedule.manifest.most_scored + 1)
    assert isinstance(reply, Fallen) and "more documents" in reply.reason
    assert isinstance(desk.of_path(lease.path)[1], ScoreLease)


def test_the_switch_is_one_record_and_the_next_round_is_by_the_new_router() -> None:
    desk = Desk(resharding())
    assert desk.schedule.switch(NEXT) == ()  # not yet
    desk.score_all(ANNA)
    desk.weights[NEXT] = (10, 0, 20, 30)
    changes = desk.schedule.switch(NEXT)
    assert changes == (Recorded(SpecAdopted(epoch=1, spec=NEXT)),)
    desk.make(changes)
    assert desk.schedule.switch(NEXT) == ()
    refused = desk.ask(BERT, spec=SPEC)
    assert isinstance(refused, NoLease) and refused.code == "other-spec"
    leases = [desk.train_lease(peer(f"v{i}")) for i in range(3)]
    assert sorted(lease.path for lease in leases) == [0, 2, 3]
    assert {(lease.round, lease.spec) for lease in leases} == {(2, NEXT)}
    for number, lease in enumerate(leases):
        assert desk.do(peer(f"v{number}"), lease) == Stands()
    desk.step()
    late = desk.lease(BERT)
    assert isinstance(late, EvaluateLease)
    assert late.spec == (SPEC if late.version < 2 else NEXT)


def test_moments_that_the_new_router_has_no_use_for_are_waited_for_no_longer() -> None:
    desk = Desk(resharding(), rounds=0)
    while desk.ledger.path_version(3) < 1:
        desk.submit(ANNA, desk.lease(ANNA))
        desk.step()
    desk.score_all(ANNA)
    assert {path for path, _ in desk.schedule.state.pending} == {0, 1, 2, 3}
    desk.adopt((10, 0, 20, 30))
    assert {path for path, _ in desk.schedule.state.pending} == {0, 2, 3}


def test_a_round_whose_moments_were_lost_is_made_again_by_its_own_router() -> None:
    desk = Desk(resharding())
    desk.score_all(ANNA)
    desk.adopt(WEIGHTS)
    desk.make(desk.schedule.moments_lost((2, 1)))
    _, lease = desk.of_path(2)
    assert isinstance(lease, TrainLease) and (lease.round, lease.spec) == (1, SPEC)
    assert [each.digest for each in lease.modules] == [
        digest(f"seed 0 0 {each.module}".replace("E1", "E0")) for each in lease.modules
    ]


def test_a_path_without_documents_before_goes_on_with_its_modules_where_all_stand() -> None:
    desk = Desk(resharding(), weights=(40, 0, 20, 0))  # no live path goes through L2.E1
    view = desk.ledger
    assert sorted(desk.score_all(ANNA)) == [(0, 0), (2, 0)]
    desk.adopt((10, 10, 10, 10))
    assert [view.path_version(path) for path in range(4)] == [1, 1, 1, 1]
    _, lease = desk.of_path(1)
    assert isinstance(lease, TrainLease) and (lease.round, lease.moments) == (2, ())


def test_states_and_sheets_are_kept_as_long_as_anybody_may_look_again() -> None:
    desk = Desk(resharding())
    desk.score_all(ANNA)
    desk.adopt(WEIGHTS)
    desk.rounds(2)
    needed = blobs_needed(desk.schedule)
    assert {digest(f"honest {path} 0") for path in range(4)} <= needed
    assert {states[1] for states in desk.ledger.states.values()} <= needed


@pytest.mark.parametrize("place", [(0, 1), (4, 0), (1023, 0)])
def test_scores_of_nothing_that_is_asked_for_cannot_stand_in_a_ledger(
    place: tuple[int, int],
) -> None:
    desk = Desk(resharding())
    path, window = place
    sheet = Sheet(digest=digest("x"), documents=1)
    with pytest.raises(RemoteProtocolError, match="scores"):
        desk.ledger.apply(Scored(path=path, window=window, peer=ANNA, sheet=sheet))
