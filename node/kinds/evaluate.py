"""Evaluate: the held-out loss of one path at one version (docs/method.md 2.5)."""

from collections.abc import Callable, Iterator

from dipaco.node.jobs.values import PerformLease, Progress
from dipaco.node.kinds.base import Kind, LeaseSource, Work, WorkerTools, check_states
from dipaco.node.kinds.changes import Change, LeaseEnded, Recorded
from dipaco.node.kinds.state import SchedulingState
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.bounds import wrong_evaluation
from dipaco.protocol.work.kinds import Evaluated, EvaluateLease, EvaluateResult, Token
from dipaco.protocol.work.run_state import RunState

OVERDUE = 2  # versions behind the path's newest


class EvaluateKind(Kind[EvaluateLease, EvaluateResult]):
    """A path's evaluation at one version."""

    name = "evaluate"
    stage = "evaluate"
    small = True
    lease_type = EvaluateLease
    result_type = EvaluateResult

    def overdue(self, state: SchedulingState) -> Iterator[Work]:
        """Yield evaluations that lag behind: they keep old states alive."""
        for version, path in state.rounds.due_evaluations(behind=OVERDUE):
            yield Work(self, path, version)

    def open(self, state: SchedulingState) -> Iterator[Work]:
        """Yield every version of every live path that is not evaluated, oldest first."""
        for version, path in state.rounds.due_evaluations():
            yield Work(self, path, version)

    def rank(self, state: SchedulingState, work: Work, peer: PeerId) -> tuple[int, ...]:
        """Return the key by which a peer's work is sorted: the oldest version goes first."""
        return work.round, work.path

    def work_of(self, lease: EvaluateLease) -> Work:
        """Return the work that a lease is for."""
        return Work(self, lease.path, lease.version)

    def lease(self, source: LeaseSource, work: Work, token: Token) -> EvaluateLease:
        """Return the lease of a path and version."""
        shared = self.shared(source, token, work, source.states_at(work.path, work.round))
        return EvaluateLease(**shared, path=work.path, version=work.round, window=0)

    def misfit(self, state: SchedulingState, lease: EvaluateLease, result: EvaluateResult) -> str:
        """Say why the held-out documents of the path cannot have this loss."""
        return wrong_evaluation(state.manifest, result.evaluation)

    def accept(
        self, state: SchedulingState, lease: EvaluateLease, peer: PeerId, result: EvaluateResult
    ) -> tuple[Change, ...]:
        """Record the loss."""
        entry = Evaluated(
            path=lease.path, version=lease.version, peer=peer, evaluation=result.evaluation
        )
        return LeaseEnded(lease.token, "done", counted=True), Recorded(entry)

    def recorded(self, state: SchedulingState, lease: EvaluateLease, peer: PeerId) -> bool:
        """Return whether the loss is known."""
        return (lease.version, lease.path) in state.ledger.evaluations

    def check(self, ledger: RunState, lease: EvaluateLease) -> None:
        """Hold a lease against manifest and ledger; raises RemoteProtocolError."""
        check_states(ledger, lease, lease.path)

    def text(self, lease: EvaluateLease) -> str:
        """Say what the work is."""
        return f"held-out loss of path {lease.path} at version {lease.version}"

    def summary(self, lease: EvaluateLease, result: EvaluateResult) -> str:
        """Return path, version and mean loss."""
        found = result.evaluation
        loss = f" loss={found.nll / found.tokens:.3f}" if found.tokens else ""
        return f"evaluate path={lease.path} version={lease.version}{loss}"

    def perform(
        self,
        job: PerformLease,
        lease: EvaluateLease,
        tools: WorkerTools,
        on_progress: Callable[[Progress], None],
    ) -> EvaluateResult:
        """Compute the loss on the held-out documents that the router sends to the path."""
        documents = tools.shards.validation(
            job.manifest, job.spec, lease.window, lease.path, on_progress
        )
        return tools.trainer().evaluate(job.manifest, lease, documents, on_progress)
