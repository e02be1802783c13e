"""Seed: train one path densely; it becomes version 0 of every module (method.md 2, line 1)."""

from collections.abc import Callable, Iterator

from dipaco.node.aggregation.inspection import wrong_states
from dipaco.node.jobs.values import InspectResult, PerformLease, Progress
from dipaco.node.kinds.base import Kind, LeaseSource, Work, WorkerTools, inner_steps
from dipaco.node.kinds.changes import Change, LeaseEnded, Recorded
from dipaco.node.kinds.state import SchedulingState
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.run.batches import DENSE
from dipaco.protocol.run.modules import ModuleDigest, ModuleId
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.bounds import wrong_figures
from dipaco.protocol.work.kinds import Seeded, SeedLease, SeedResult, Token
from dipaco.protocol.work.run_state import RunState


class SeedKind(Kind[SeedLease, SeedResult]):
    """The seed model's training."""

    name = "seed"
    stage = "train"
    lease_type = SeedLease
    result_type = SeedResult

    def open(self, state: SchedulingState) -> Iterator[Work]:
        """Yield the seed model, once, before all else."""
        if not state.ledger.seeded:
            yield Work(self)

    def work_of(self, lease: SeedLease) -> Work:
        """Return the work that a lease is for."""
        return Work(self)

    def lease(self, source: LeaseSource, work: Work, token: Token) -> SeedLease:
        """Return the lease: it starts from the manifest's `start`, or from the initial model."""
        shared = self.shared(source, token, work, source.manifest.start)
        return SeedLease(**shared, window=0)

    def misfit(self, state: SchedulingState, lease: SeedLease, result: SeedResult) -> str:
        """Say what is wrong with the shape of a result."""
        named = tuple(each.module for each in result.states)
        expected = state.ledger.topology.path_modules[0]
        if named != expected:
            return "the result names other modules than the lease"
        manifest = state.manifest
        return wrong_figures(manifest, result, steps=manifest.training.seed_steps, idle=False)

    def to_inspect(
        self, state: SchedulingState, lease: SeedLease, result: SeedResult
    ) -> tuple[tuple[Digest, int], ...]:
        """Return the states and their lengths."""
        top = state.ledger.topology
        return tuple((s.digest, top.state_bytes(ModuleId(s.module))) for s in result.states)

    def accept(
        self, state: SchedulingState, lease: SeedLease, peer: PeerId, result: SeedResult
    ) -> tuple[Change, ...]:
        """Record version 0 of every module."""
        trained = {state.module: state.digest for state in result.states}
        top = state.ledger.topology
        states = tuple(
            ModuleDigest(module=m, digest=trained[top.counterpart(m)]) for m in top.modules
        )
        return LeaseEnded(lease.token, "done", counted=True), Recorded(
            Seeded(peer=peer, states=states)
        )

    def recorded(self, state: SchedulingState, lease: SeedLease, peer: PeerId) -> bool:
        """Return whether there is a seed model."""
        return state.ledger.seeded

    def check(self, ledger: RunState, lease: SeedLease) -> None:
        """Hold a lease against the manifest; raises RemoteProtocolError."""
        if lease.modules != ledger.manifest.start or lease.window:
            raise RemoteProtocolError("the lease starts the seed phase from other states")

    def text(self, lease: SeedLease) -> str:
        """Say what the work is."""
        return "seed model"

    def summary(self, lease: SeedLease, result: SeedResult) -> str:
        """Return the facts of the inner steps."""
        return f"seed {inner_steps(result)}"

    def perform(
        self,
        job: PerformLease,
        lease: SeedLease,
        tools: WorkerTools,
        on_progress: Callable[[Progress], None],
    ) -> SeedResult:
        """Train on all training documents of the window."""
        shard = tools.shards.training(job.manifest, job.spec, lease.window, DENSE, on_progress)
        return tools.trainer().seed(job.manifest, lease, shard, on_progress)

    def inspect(
        self, job: InspectResult, lease: SeedLease, result: SeedResult, tools: WorkerTools
    ) -> str:
        """Say which state the dense steps cannot have led to."""
        return wrong_states(tools.blobs, job.manifest, lease, result.states)
