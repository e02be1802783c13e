"""The scoring phase, event by event: who scores what, who waits, and when the router may change."""

import pytest
from msgspec.structs import replace

from dipaco.node.kinds.changes import Recorded
from dipaco.node.scheduler.retention import blobs_needed
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.routing.labels import MAX_SHEETS_PER_WINDOW
from dipaco.protocol.run.manifest import Manifest, Reshard
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.work.calls import Fallen, NoLease, Stands
from dipaco.protocol.work.kinds import EvaluateLease, Lease, Scored, ScoreLease, Sheet, TrainLease
from dipaco.protocol.work.ledger import SpecAdopted
from dipaco.protocol.work.rounds import Weights
from tests.node.scheduler import shell as shared
from tests.node.scheduler.shell import ANNA, BERT, CARA, NEXT, SPEC, result
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


class Shell(shared.Shell):
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
            self.hand_back(who, lease, "scores were asked for")
        return given


def test_no_round_goes_on_before_every_path_is_scored_in_every_window() -> None:
    shell = Shell(resharding(windows=2))
    assert not shell.schedule.switch_due
    given = shell.score_all(ANNA)
    assert sorted(given) == [(path, window) for path in range(4) for window in range(2)]
    assert shell.schedule.switch_due
    assert isinstance(shell.lease(BERT), EvaluateLease)


def test_a_score_lease_names_version_spec_window_and_no_moments() -> None:
    shell = Shell(resharding())
    lease = shell.score_lease(BERT)
    assert (lease.version, lease.window, lease.spec) == (1, 0, SPEC)
    states = [shell.ledger.states[m][1] for m in shell.ledger.topology.path_modules[lease.path]]
    assert [each.digest for each in lease.modules] == states and lease.carried == ()


def test_a_lost_score_lease_is_leased_again_and_a_second_sheet_is_refused() -> None:
    shell = Shell(resharding())
    first = shell.score_lease(ANNA, now=100.0)
    shell.make(shell.schedule.expire(now=100.0 + 100 * shell.schedule.manifest.schedule.lease_ttl))
    other, second = shell.of_path(first.path, now=5000.0)
    assert isinstance(second, ScoreLease) and second.window == first.window
    assert shell.do(other, second) == Stands()
    assert isinstance(shell.do(ANNA, first), Fallen)  # enough peers have scored it
    assert [each.peer for each in shell.ledger.scored[first.path, first.window]] == [other]


def test_scorers_who_disagree_for_good_are_named_and_nothing_is_said_to_go_on() -> None:
    shell = Shell(resharding(scorers=2))
    scorers = [peer(f"s{number}") for number in range(MAX_SHEETS_PER_WINDOW)]
    for number, who in enumerate(scorers):
        for path in range(4):
            other = f"odd {number}" if path == 2 else "honest"
            entry = Scored(
                path=path,
                window=0,
                peer=who,
                sheet=Sheet(digest=digest(f"{other} {path}"), documents=20),
            )
            shell.make((Recorded(entry),))
    assert not shell.schedule.switch_due
    asked = 0
    while not isinstance(told := shell.ask(peer(f"e{asked}")), NoLease):
        asked += 1  # evaluations go on
    assert "path 2, window 0" in told.reason and "cannot go on" in told.reason
    assert all(short_peer(who) in told.reason for who in scorers)
    assert "being derived" not in told.reason


def test_each_of_several_scorers_is_another_peer_and_all_may_work_at_once() -> None:
    shell = Shell(resharding(scorers=2))
    assert len(shell.score_all(ANNA)) == 4 and shell.score_all(ANNA) == []
    assert not shell.schedule.switch_due
    waiting = shell.ask(ANNA)
    assert isinstance(waiting, EvaluateLease)
    first, second = shell.score_lease(BERT), shell.score_lease(CARA)
    assert first.path != second.path
    shell.hand_back(CARA, second, "done")
    assert shell.do(BERT, first) == Stands()
    assert len(shell.score_all(BERT)) == 3 and shell.schedule.switch_due


def test_sheets_that_do_not_agree_bring_in_a_third_who_decides() -> None:
    shell = Shell(resharding(scorers=2))
    scoring = shell.schedule.state.scoring
    assert scoring is not None
    shell.score_all(ANNA, "lie")
    shell.score_all(BERT)
    assert not shell.schedule.switch_due and scoring.standing(0, 0) is None
    assert len(shell.score_all(CARA)) == 4 and shell.schedule.switch_due
    assert [each.peer for each in scoring.standing(0, 0) or ()] == [BERT, CARA]
    assert [each.peer for each in scoring.refuted(0, 0)] == [ANNA]


def test_opinions_on_one_sheet_are_bounded() -> None:
    shell = Shell(resharding(scorers=3))
    asked = 0
    for number in range(MAX_SHEETS_PER_WINDOW + 3):
        who = peer(f"liar {number}")
        asked += (0, 0) in shell.score_all(who, sheet=f"lie {number}")
    assert asked == MAX_SHEETS_PER_WINDOW and not shell.schedule.switch_due


def test_a_sheet_of_more_documents_than_a_window_may_have_is_refused_unread() -> None:
    shell = Shell(resharding())
    lease = shell.score_lease(ANNA)
    reply = shell.do(ANNA, lease, documents=shell.schedule.manifest.most_scored + 1)
    assert isinstance(reply, Fallen) and "more documents" in reply.reason
    assert isinstance(shell.of_path(lease.path)[1], ScoreLease)


def test_the_switch_is_one_record_and_the_next_round_is_by_the_new_router() -> None:
    shell = Shell(resharding())
    assert shell.schedule.switch(NEXT) == ()  # not yet
    shell.score_all(ANNA)
    shell.weights[NEXT] = (10, 0, 20, 30)
    changes = shell.schedule.switch(NEXT)
    assert changes == (Recorded(SpecAdopted(epoch=1, spec=NEXT)),)
    shell.make(changes)
    assert shell.schedule.switch(NEXT) == ()
    refused = shell.ask(BERT, spec=SPEC)
    assert isinstance(refused, NoLease) and refused.code == "other-spec"
    leases = [shell.train_lease(peer(f"v{i}")) for i in range(3)]
    assert sorted(lease.path for lease in leases) == [0, 2, 3]
    assert {(lease.round, lease.spec) for lease in leases} == {(2, NEXT)}
    for number, lease in enumerate(leases):
        assert shell.do(peer(f"v{number}"), lease) == Stands()
    shell.step()
    late = shell.lease(BERT)
    assert isinstance(late, EvaluateLease)
    assert late.spec == (SPEC if late.version < 2 else NEXT)


def test_moments_that_the_new_router_has_no_use_for_are_waited_for_no_longer() -> None:
    shell = Shell(resharding(), rounds=0)
    while shell.ledger.path_version(3) < 1:
        shell.submit(ANNA, shell.lease(ANNA))
        shell.step()
    shell.score_all(ANNA)
    assert {path for path, _ in shell.schedule.state.pending} == {0, 1, 2, 3}
    shell.adopt((10, 0, 20, 30))
    assert {path for path, _ in shell.schedule.state.pending} == {0, 2, 3}


def test_a_round_whose_moments_were_lost_is_made_again_by_its_own_router() -> None:
    shell = Shell(resharding())
    shell.score_all(ANNA)
    shell.adopt(WEIGHTS)
    shell.make(shell.schedule.moments_lost((2, 1)))
    _, lease = shell.of_path(2)
    assert isinstance(lease, TrainLease) and (lease.round, lease.spec) == (1, SPEC)
    assert [each.digest for each in lease.modules] == [
        digest(f"seed 0 0 {each.module}".replace("E1", "E0")) for each in lease.modules
    ]


def test_a_path_without_documents_before_goes_on_with_its_modules_where_all_stand() -> None:
    shell = Shell(resharding(), weights=(40, 0, 20, 0))  # no live path goes through L2.E1
    view = shell.ledger
    assert sorted(shell.score_all(ANNA)) == [(0, 0), (2, 0)]
    shell.adopt((10, 10, 10, 10))
    assert [view.path_version(path) for path in range(4)] == [1, 1, 1, 1]
    _, lease = shell.of_path(1)
    assert isinstance(lease, TrainLease) and (lease.round, lease.moments) == (2, ())


def test_states_and_sheets_are_kept_as_long_as_anybody_may_look_again() -> None:
    shell = Shell(resharding())
    shell.score_all(ANNA)
    shell.adopt(WEIGHTS)
    shell.rounds(2)
    needed = blobs_needed(shell.schedule)
    assert {digest(f"honest {path} 0") for path in range(4)} <= needed
    assert {states[1] for states in shell.ledger.states.values()} <= needed


@pytest.mark.parametrize("place", [(0, 1), (4, 0), (1023, 0)])
def test_scores_of_nothing_that_is_asked_for_cannot_stand_in_a_ledger(
    place: tuple[int, int],
) -> None:
    shell = Shell(resharding())
    path, window = place
    sheet = Sheet(digest=digest("x"), documents=1)
    with pytest.raises(RemoteProtocolError, match="the score sheet of path"):
        shell.ledger.apply(Scored(path=path, window=window, peer=ANNA, sheet=sheet))
