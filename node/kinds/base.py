"""A kind of work: all that the nodes of a run decide about one kind of lease, in one class.

The scheduler asks a kind when its work is due, what a lease holds, whether a result fits, and which
changes follow from it. The volunteer asks whether a lease is what its own ledger implies, and how
to say it in words. The worker process has it do the work and inspect a result. Everything but the
worker's part is pure. A further kind is a further module beside `train.py`, and a line in
`table.py`; its lease and result are in `dipaco.protocol.work.kinds`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from dipaco.node.kinds.changes import Change
from dipaco.node.kinds.state import SchedulingState
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleDigest, ModuleId
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.kinds import Lease, Result, SeedResult, Sheet, Token, TrainResult
from dipaco.protocol.work.run_state import RunState

if TYPE_CHECKING:
    from dipaco.node.jobs.values import InspectResult, PerformLease, Progress
    from dipaco.node.routing.shards import Shards
    from dipaco.node.storage.blobs import BlobStore
    from dipaco.node.training.trainer import Trainer

L = TypeVar("L", bound=Lease)
R = TypeVar("R", bound=Result)

Agree = Callable[[Sheet, Sheet], bool]
"""Says whether two score sheets of one path and window agree, as far as they can be read."""


@dataclass(frozen=True)
class Work:
    """One piece of work: a lease of it without its token and its inputs."""

    kind: "Kind[Any, Any]"
    path: int = 0
    round: int = 0
    """The round, or the version that is looked at."""
    window: int = 0
    """Of scores; the window of other work follows from the round."""
    places: int = field(default=1, compare=False)
    """Peers that may do it at once."""


class LeaseSource(Protocol):
    """Whoever knows what the leases of a run name: a ledger's fold, or the reference."""

    @property
    def manifest(self) -> Manifest:
        """The run's manifest."""
        ...

    @property
    def run(self) -> Digest:
        """The run id."""
        ...

    def spec_at(self, round_: int) -> Digest:
        """Return the router spec of a round."""
        ...

    def states_at(self, path: int, version: int) -> tuple[ModuleDigest, ...]:
        """Return the states of a path's modules at a version, in the topology's order."""
        ...

    def moments_before(self, path: int, round_: int) -> tuple[ModuleDigest, ...]:
        """Return the moments that a path goes on from in a round; none where it begins anew."""
        ...

    def steps_before(self, path: int, round_: int) -> int:
        """Return the inner steps that these moments have seen."""
        ...


class WorkerTools(Protocol):
    """What a worker process has at hand: a home's blobs and shards, and torch when it is asked."""

    @property
    def blobs(self) -> "BlobStore":
        """The blob store that daemon and worker share."""
        ...

    @property
    def shards(self) -> "Shards":
        """The shards of the home, made where they are missing."""
        ...

    def trainer(self) -> "Trainer":
        """Return what trains and evaluates; the first call imports torch."""
        ...


class Kind(ABC, Generic[L, R]):
    """One kind of work."""

    name: str
    """As logs and status call it."""
    stage: str
    """The stage of the worker's progress that is the work itself, not its preparation."""
    small: bool = False
    """Whether it is what a peer begins with that has proven nothing."""
    held_ahead: bool = False
    """Whether a peer may hold a lease of it in hand while it works on another."""
    one_result: bool = True
    """Whether one result ends a piece of work: what others make of it then is not needed."""
    lease_type: type[L]
    result_type: type[R]

    # ------------------------------------------------------------------ scheduler

    def overdue(self, state: SchedulingState) -> Iterator[Work]:
        """Yield the work that must go before all other work."""
        return iter(())

    @abstractmethod
    def open(self, state: SchedulingState) -> Iterator[Work]:
        """Yield the work that is to be done now, some of it not by everybody."""

    def may(self, state: SchedulingState, work: Work, peer: PeerId) -> bool:
        """Return whether `peer` may do work that is open."""
        return True

    def alone(self, state: SchedulingState, work: Work, peer: PeerId) -> bool:
        """Return whether nobody but `peer` may do work that is open."""
        return False

    def rank(self, state: SchedulingState, work: Work, peer: PeerId) -> tuple[int, ...]:
        """Return the key by which the work that `peer` may do is sorted, the round first."""
        return ()

    @abstractmethod
    def work_of(self, lease: L) -> Work:
        """Return the work that a lease is for."""

    @abstractmethod
    def lease(self, source: LeaseSource, work: Work, token: Token) -> L:
        """Return the lease of a piece of work."""

    @abstractmethod
    def misfit(self, state: SchedulingState, lease: L, result: R) -> str:
        """Say what is wrong with the shape of a result; empty if nothing."""

    def to_inspect(
        self, state: SchedulingState, lease: L, result: R
    ) -> tuple[tuple[Digest, int], ...]:
        """Return the blobs that must be here and inspected before a result counts.

        Each with the only length that it can have, in bytes. Empty: nothing is inspected.
        """
        return ()

    @abstractmethod
    def accept(
        self, state: SchedulingState, lease: L, peer: PeerId, result: R
    ) -> tuple[Change, ...]:
        """Return the changes that follow from a result that fits and was inspected."""

    def recorded(self, state: SchedulingState, lease: L, peer: PeerId) -> bool:
        """Return whether the ledger has already what `peer` would add to it by this lease."""
        return False

    def hand_back(self, state: SchedulingState, lease: L) -> tuple[Change, ...]:
        """Return the changes that follow, besides the lease's end, when it is handed back."""
        return ()

    def compare(self, state: SchedulingState, lease: L, result: R, agree: Agree) -> None:
        """Note which results of others for the same work agree with this one."""

    def refuted(self, state: SchedulingState, lease: L) -> tuple[tuple[PeerId, str], ...]:
        """Return whose results for this work are contradicted by those that stand, and why."""
        return ()

    # ------------------------------------------------------------------ volunteer

    @abstractmethod
    def check(self, ledger: RunState, lease: L) -> None:
        """Hold a lease against manifest and ledger; raises RemoteProtocolError."""

    @abstractmethod
    def text(self, lease: L) -> str:
        """Say what the work is, in a few words for a person."""

    @abstractmethod
    def summary(self, lease: L, result: R) -> str:
        """Return one log line's worth of facts about work that was done."""

    # ------------------------------------------------------------------ worker process

    @abstractmethod
    def perform(
        self,
        job: "PerformLease",
        lease: L,
        tools: WorkerTools,
        on_progress: "Callable[[Progress], None]",
    ) -> R:
        """Do the work; raises DipacoError."""

    def inspect(self, job: "InspectResult", lease: L, result: R, tools: WorkerTools) -> str:
        """Say why a result cannot be used; empty if it can. Raises Unavailable for a lost blob."""
        return ""

    # ------------------------------------------------------------------ shared

    def shared(
        self, source: LeaseSource, token: Token, work: Work, modules: tuple[ModuleDigest, ...]
    ) -> dict[str, Any]:
        """Return the fields that all leases share."""
        return {
            "run": source.run,
            "token": token,
            "spec": source.spec_at(work.round),
            "modules": modules,
            "ttl": source.manifest.schedule.lease_ttl,
        }


def check_states(ledger: RunState, lease: Lease, path: int) -> None:
    """Hold the states that a lease of `path` starts from against the ledger.

    Raises RemoteProtocolError. Our copy of the ledger may be a little behind the lease, but it
    never differs.
    """
    manifest, version = ledger.manifest, lease.base_version
    if path >= manifest.paths or version > manifest.training.rounds:
        raise RemoteProtocolError("the lease is of a path or version that does not exist")
    if tuple(state.module for state in lease.modules) != ledger.topology.path_modules[path]:
        raise RemoteProtocolError("the lease names other modules than its path has")
    for state in lease.modules:
        known = ledger.states.get(ModuleId(state.module), [])
        if version < len(known) and known[version] != state.digest:
            raise RemoteProtocolError(
                f"the lease's state of {state.module} is not the ledger's version {version}"
            )


def inner_steps(result: SeedResult | TrainResult) -> str:
    """Return the figures of inner steps for a log line."""
    speed = result.tokens / result.seconds if result.seconds else math.nan
    return f"seconds={result.seconds:.1f} tokens/s={speed:.0f} loss={result.loss_last:.3f}"
