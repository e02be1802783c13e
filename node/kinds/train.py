"""Train: the inner steps of one path in one round (docs/method.md section 2, lines 4 to 11).

Where the run carries inner moments they follow the result (`pending_moments`). If their maker
takes them away, the round is leased once more, for its moments alone.
"""

from collections.abc import Callable, Iterator

from msgspec import UNSET

from dipaco.node.aggregation.inspection import wrong_deltas
from dipaco.node.jobs.values import InspectResult, PerformLease, Progress
from dipaco.node.kinds.base import Kind, LeaseSource, Work, WorkerTools, check_states, inner_steps
from dipaco.node.kinds.changes import (
    Change,
    LeaseEnded,
    MomentsArrived,
    MomentsPending,
    Recorded,
    TrainingAccepted,
)
from dipaco.node.kinds.pending_moments import Pending, Place
from dipaco.node.kinds.state import SchedulingState, named
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.run.modules import ModuleDigest, ModuleId
from dipaco.protocol.tensors.delta import encoded_bytes
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.bounds import wrong_figures
from dipaco.protocol.work.kinds import MomentsReplaced, Token, TrainLease, TrainResult
from dipaco.protocol.work.rounds import base_version
from dipaco.protocol.work.run_state import RunState


class TrainKind(Kind[TrainLease, TrainResult]):
    """A path's training in one round."""

    name = "train"
    stage = "train"
    held_ahead = True
    lease_type = TrainLease
    result_type = TrainResult

    # ------------------------------------------------------------------ scheduler

    def due(self, state: SchedulingState, peer: PeerId) -> Iterator[Work]:
        """Yield the next round of every live path whose moments `peer` has or can fetch."""
        ready = sorted(
            self._ready(state), key=lambda work: state.preference(peer, work.path, work.round)
        )
        for work in ready:
            before = work.path, state.ledger.last_round(work.path, work.round)
            found = state.pending.get(before)
            if found is None or (found.maker == peer and not _otherwise(state, before, found)):
                yield work

    def _ready(self, state: SchedulingState) -> Iterator[Work]:
        ledger, rounds = state.ledger, state.rounds
        for path in rounds.live_paths if ledger.seeded else ():
            version = ledger.path_version(path)
            round_ = state.pending.first_lost(path, version) or version + 1
            waits = round_ > rounds.last or (path, round_) in state.accepted
            waits |= path in ledger.missed.get(round_, ())
            waits |= round_ <= version and not ledger.may_replace(path, round_)
            if not waits and rounds.has_begun(round_):
                yield Work(self, path, round_)

    def work_of(self, lease: TrainLease) -> Work:
        """Return the work that a lease is for."""
        return Work(self, lease.path, lease.round)

    def lease(self, source: LeaseSource, work: Work, token: Token) -> TrainLease:
        """Return the lease of a path and round."""
        states = source.states_at(work.path, base_version(work.round))
        return TrainLease(
            **self.shared(source, token, work, states),
            path=work.path,
            round=work.round,
            window=(work.round - 1) % source.manifest.source.windows,
            moments=source.moments_before(work.path, work.round),
            steps=source.steps_before(work.path, work.round),
        )

    def misfit(self, state: SchedulingState, lease: TrainLease, result: TrainResult) -> str:
        """Say what is wrong with the shape of a result."""
        expected = state.ledger.topology.path_modules[lease.path]
        if tuple(each.module for each in result.deltas) != expected:
            return "the result names other modules than the lease"
        carried = state.manifest.training.inner_state == "carry"
        if tuple(each.module for each in result.moments) != (expected if carried else ()):
            return "the result lacks moments, or has some that were not asked for"
        manifest = state.manifest
        # Where there is one window, every path that trains has a document in it.
        idle = manifest.source.windows > 1
        return wrong_figures(manifest, result, steps=manifest.training.inner_steps, idle=idle)

    def to_inspect(
        self, state: SchedulingState, lease: TrainLease, result: TrainResult
    ) -> tuple[tuple[Digest, int], ...]:
        """Return the pseudo-gradients and their lengths; none of a round that has ended."""
        if is_again(state, lease):
            return ()
        top, encoding = state.ledger.topology, state.manifest.training.deltas
        return tuple(
            (each.digest, encoded_bytes(encoding, top.elements(ModuleId(each.module))))
            for each in result.deltas
        )

    def accept(
        self, state: SchedulingState, lease: TrainLease, peer: PeerId, result: TrainResult
    ) -> tuple[Change, ...]:
        """Have the result count; of a round that has ended, take its moments alone."""
        if is_again(state, lease):
            return self._made_again(state, lease, peer, result)
        return (TrainingAccepted(lease.path, lease.round, peer, result),)

    def _made_again(
        self, state: SchedulingState, lease: TrainLease, peer: PeerId, result: TrainResult
    ) -> tuple[Change, ...]:
        place, ended = (lease.path, lease.round), LeaseEnded(lease.token, "done", counted=True)
        if state.pending.get(place) is None:
            return (ended,)
        return ended, MomentsPending(place, Pending(result.moments, peer))

    def hand_back(self, state: SchedulingState, lease: TrainLease) -> tuple[Change, ...]:
        """Give up moments that are still with the maker: it cannot work from them."""
        before = (lease.path, state.ledger.last_round(lease.path, lease.round))
        if lease.moments and state.pending.get(before):
            return (moments_lost(state, before),)
        return ()

    # ------------------------------------------------------------------ volunteer

    def check(self, ledger: RunState, lease: TrainLease) -> None:
        """Hold a lease against manifest and ledger; raises RemoteProtocolError."""
        if lease.round > ledger.manifest.training.rounds:
            raise RemoteProtocolError("the lease is of a round that the run does not have")
        check_states(ledger, lease, lease.path)
        self._check_moments(ledger, lease)

    def _check_moments(self, ledger: RunState, lease: TrainLease) -> None:
        manifest = ledger.manifest
        expected: tuple[ModuleId, ...] = ()
        if lease.round > 1 and manifest.training.inner_state == "carry":
            expected = ledger.topology.path_modules[lease.path]
        found = tuple(ModuleId(each.module) for each in lease.moments)
        # A path that had no documents before its router was replaced begins anew, and so does one
        # that has missed all rounds.
        begins = manifest.epoch_of(lease.round) != manifest.epoch_of(lease.round - 1)
        begins |= manifest.training.quorum is not UNSET
        if found != expected and (found or not begins):
            raise RemoteProtocolError("the lease lacks moments of its path, or has unasked ones")
        if ledger.path_version(lease.path) < lease.base_version:
            return  # our copy of the ledger is a little behind the lease
        told = named(ledger.path_moments(lease.path, lease.round))
        steps = ledger.steps_before(lease.path, lease.round)
        if expected and (lease.moments, lease.steps) != (told, steps):
            raise RemoteProtocolError("the lease's moments are not the ledger's")

    def text(self, lease: TrainLease) -> str:
        """Say what the work is."""
        return f"path {lease.path} round {lease.round}"

    def summary(self, lease: TrainLease, result: TrainResult) -> str:
        """Return path, round and the facts of the inner steps."""
        return f"train path={lease.path} round={lease.round} {inner_steps(result)}"

    # ------------------------------------------------------------------ worker process

    def perform(
        self,
        job: PerformLease,
        lease: TrainLease,
        tools: WorkerTools,
        on_progress: Callable[[Progress], None],
    ) -> TrainResult:
        """Train on the path's shard of the window."""
        shard = tools.shards.training(job.manifest, job.spec, lease.window, lease.path, on_progress)
        return tools.trainer().train(job.manifest, lease, shard, on_progress)

    def inspect(
        self, job: InspectResult, lease: TrainLease, result: TrainResult, tools: WorkerTools
    ) -> str:
        """Say which pseudo-gradient honest training cannot have made."""
        steps = result.steps_taken(job.manifest.training.inner_steps)
        return wrong_deltas(tools.blobs, job.manifest, lease, result.deltas, steps=steps)


def is_again(state: SchedulingState, lease: TrainLease) -> bool:
    """Return whether a lease is of a round that has ended, for its moments alone."""
    return lease.round <= state.ledger.path_version(lease.path)


def moments_after(state: SchedulingState, place: Place) -> tuple[ModuleDigest, ...]:
    """Return the moments of a path after a round as the ledger tells; none if it does not."""
    path, round_ = place
    return state.moments_before(path, round_ + 1)


def moments_lost(state: SchedulingState, place: Place) -> MomentsPending:
    """Return the change that nobody can be expected to bring the moments of a path and round."""
    pending, ended = state.pending.get(place), place[1] <= state.ledger.path_version(place[0])
    moments = pending.moments if pending and not ended else moments_after(state, place)
    return MomentsPending(place, Pending(moments, None))


def moments_arrived(state: SchedulingState, place: Place) -> tuple[Change, ...]:
    """Return the changes that follow when the pending moments of a path and round are here.

    Moments that were made again and came out otherwise join the ledger here and not before:
    whoever makes some and leaves with them writes nothing.
    """
    pending = state.pending.get(place)
    if pending is None:
        return ()
    path, round_ = place
    if pending.maker is None or not _otherwise(state, place, pending):
        return (MomentsArrived(place),)
    replaced = MomentsReplaced(path=path, round=round_, peer=pending.maker, moments=pending.moments)
    return Recorded(replaced), MomentsArrived(place)


def _otherwise(state: SchedulingState, place: Place, pending: Pending) -> bool:
    """Return whether the pending moments of a round that has ended are not the ledger's."""
    ended = place[1] <= state.ledger.path_version(place[0])
    return ended and pending.moments != moments_after(state, place)


def moments_to_look_at(state: SchedulingState, now: float) -> tuple[MomentsPending, ...]:
    """Return the newest moments of every path as pending: a restart looks at all of them.

    Their makers have a lease's time to live to come back, from `now` (seconds) on.
    """
    last, gone = state.rounds.last, now + state.manifest.schedule.lease_ttl
    found: dict[Place, Pending] = {}
    for path in state.rounds.live_paths:
        version = state.ledger.path_version(path)
        place = (path, state.ledger.last_round(path, version + 1))
        moments = moments_after(state, place) if version < last else ()
        if moments:
            found[place] = Pending(moments, state.last_at(path), gone)
    for place, each in state.accepted.items():
        if each.result.moments and place[1] < last:
            found[place] = Pending(each.result.moments, each.peer, gone)
    return tuple(MomentsPending(place, pending) for place, pending in found.items())
