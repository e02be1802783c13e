"""Score: a path's likelihoods of a window's router documents, for a re-sharding (method.md 5)."""

from collections.abc import Callable, Iterator

from dipaco.node.jobs.meter import silent
from dipaco.node.jobs.values import InspectResult, PerformLease, Progress
from dipaco.node.kinds.base import Agree, Kind, LeaseSource, Work, WorkerTools, check_states
from dipaco.node.kinds.changes import Change, LeaseEnded, Recorded
from dipaco.node.kinds.state import SchedulingState
from dipaco.node.routing.sheets import wrong_sheet
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.routing.labels import SCORE_BYTES
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.kinds import Scored, ScoreLease, ScoreResult, Token
from dipaco.protocol.work.run_state import RunState


class ScoreKind(Kind[ScoreLease, ScoreResult]):
    """A path's scoring of one window."""

    name = "score"
    stage = "score"
    one_result = False
    lease_type = ScoreLease
    result_type = ScoreResult

    # ------------------------------------------------------------------ scheduler

    def open(self, state: SchedulingState) -> Iterator[Work]:
        """Yield every path and window that lacks sheets."""
        scores = state.scores
        for each in scores.vacancies(state.rounds.live_paths) if scores else ():
            version = state.ledger.path_version(each.path)
            yield Work(self, each.path, version, each.window, each.places)

    def may(self, state: SchedulingState, work: Work, peer: PeerId) -> bool:
        """Return whether `peer` has not given its sheet already."""
        return state.scoring is not None and not state.scoring.gave(peer, work.path, work.window)

    def rank(self, state: SchedulingState, work: Work, peer: PeerId) -> tuple[int, ...]:
        """Return the key by which a peer's work is sorted: what it has at hand goes first."""
        return state.preference(peer, work.path, work.round)

    def work_of(self, lease: ScoreLease) -> Work:
        """Return the work that a lease is for."""
        return Work(self, lease.path, lease.version, lease.window)

    def lease(self, source: LeaseSource, work: Work, token: Token) -> ScoreLease:
        """Return the lease of a path and window."""
        shared = self.shared(source, token, work, source.states_at(work.path, work.round))
        return ScoreLease(**shared, path=work.path, version=work.round, window=work.window)

    def misfit(self, state: SchedulingState, lease: ScoreLease, result: ScoreResult) -> str:
        """Say what is wrong with the shape of a result."""
        if result.sheet.documents > state.manifest.most_scored:
            return "the score sheet is of more documents than a window has"
        return "" if state.scores else "the scores are no longer asked for"

    def to_inspect(
        self, state: SchedulingState, lease: ScoreLease, result: ScoreResult
    ) -> tuple[tuple[Digest, int], ...]:
        """Return the sheet and its length."""
        return ((result.sheet.digest, SCORE_BYTES * result.sheet.documents),)

    def compare(
        self, state: SchedulingState, lease: ScoreLease, result: ScoreResult, agree: Agree
    ) -> None:
        """Note which sheets of others agree with this one."""
        assert state.scoring is not None
        for other in state.scoring.given(lease.path, lease.window):
            if agree(result.sheet, other.sheet):
                state.scoring.note_alike(result.sheet.digest, other.sheet.digest)

    def accept(
        self, state: SchedulingState, lease: ScoreLease, peer: PeerId, result: ScoreResult
    ) -> tuple[Change, ...]:
        """Record the sheet."""
        entry = Scored(path=lease.path, window=lease.window, peer=peer, sheet=result.sheet)
        return LeaseEnded(lease.token, "done", counted=True), Recorded(entry)

    def recorded(self, state: SchedulingState, lease: ScoreLease, peer: PeerId) -> bool:
        """Return whether the peer has given a sheet of this path and window."""
        given = state.ledger.scored.get((lease.path, lease.window), ())
        return any(each.peer == peer for each in given)

    def refuted(self, state: SchedulingState, lease: ScoreLease) -> tuple[tuple[PeerId, str], ...]:
        """Return the peers whose sheets contradict those that stand."""
        assert state.scoring is not None
        reason = f"scores path {lease.path} of window {lease.window} as nobody else does"
        refuted = state.scoring.refuted(lease.path, lease.window)
        return tuple((each.peer, reason) for each in refuted)

    # ------------------------------------------------------------------ volunteer

    def check(self, ledger: RunState, lease: ScoreLease) -> None:
        """Hold a lease against manifest and ledger; raises RemoteProtocolError."""
        reshard = ledger.manifest.routing.reshard
        if (
            reshard is None
            or lease.version != reshard.after_round
            or lease.window >= reshard.windows
        ):
            raise RemoteProtocolError("the lease is to score what the run does not score")
        check_states(ledger, lease, lease.path)

    def text(self, lease: ScoreLease) -> str:
        """Say what the work is."""
        return f"router documents by path {lease.path}"

    def summary(self, lease: ScoreLease, result: ScoreResult) -> str:
        """Return path, window and the number of documents."""
        return f"score path={lease.path} window={lease.window} documents={result.sheet.documents}"

    # ------------------------------------------------------------------ worker process

    def perform(
        self,
        job: PerformLease,
        lease: ScoreLease,
        tools: WorkerTools,
        on_progress: Callable[[Progress], None],
    ) -> ScoreResult:
        """Score all router documents of the window."""
        documents = tools.shards.router_documents(job.manifest, job.spec, lease.window, on_progress)
        return tools.trainer().score(job.manifest, lease, documents, on_progress)

    def inspect(
        self, job: InspectResult, lease: ScoreLease, result: ScoreResult, tools: WorkerTools
    ) -> str:
        """Say whether the sheet scores other documents than it is to score."""
        documents = tools.shards.router_documents(job.manifest, job.spec, lease.window, silent)
        return wrong_sheet(tools.blobs, job.manifest, lease, result.sheet, documents)
