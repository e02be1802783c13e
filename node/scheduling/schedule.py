"""The schedule of one run: who may do what next, as a pure state machine.

Owns leases, accepted submissions and the run's ledger view. It knows no clock, no disk and no
network: every event takes `now` (seconds on any steady clock) and returns the changes to make and
the reply to send. The shell saves the changes, applies them, then answers (service.py), so a
restart resumes at the exact state and never denies what a peer has seen.

Rounds are synchronous per module (docs/method.md section 2): path p's lease for round t is ready
as soon as all its modules stand at version t - 1; a module's outer step for round t is due as soon
as every live path through it has an accepted submission. There is no global barrier.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from dipaco.node.scheduling.debts import Debt, Debts, Place
from dipaco.protocol.digest import Digest
from dipaco.protocol.identity import PeerId, short_peer
from dipaco.protocol.lease import (
    TOKEN_BYTES,
    Evaluation,
    Lease,
    LeaseKind,
    ModuleDigest,
    Submission,
    digest_of,
)
from dipaco.protocol.ledger import (
    Contribution,
    Entry,
    Evaluated,
    ModuleUpdated,
    MomentsReplaced,
    Quantised,
    Seeded,
    SpecAdopted,
)
from dipaco.protocol.manifest import Manifest
from dipaco.protocol.run_view import RunView
from dipaco.protocol.topology import ModuleId
from dipaco.protocol.work import Fallen, Granted, NoLease, Stands

RETRY_SECONDS = 2.0  # a new ledger record wakes waiting volunteers earlier
RECONNECT_SECONDS = 2.0  # a peer whose connection broke may come back and go on
STALL_TTLS = 30  # lease times to live without a step done, heartbeats or not: its worker hangs


@dataclass(frozen=True)
class Grant:
    """A lease in somebody's hand."""

    lease: Lease
    peer: PeerId
    granted: float
    """When it was granted, on the scheduler's clock. No time is saved: a restart grants anew."""
    beat: float = -math.inf
    """When its holder was last heard of."""
    done: int = 0
    """Inner steps that its holder has reported."""
    moved: float = -math.inf
    """When `done` last grew."""
    gone: float = math.inf
    """When its holder's connection broke."""

    @property
    def deadline(self) -> float:
        """When the lease ends if nothing more is heard."""
        ttl = self.lease.ttl
        silent = max(self.granted, self.beat) + ttl
        stalled = max(self.granted, self.moved) + STALL_TTLS * ttl
        return min(silent, stalled, self.gone + RECONNECT_SECONDS)


@dataclass(frozen=True)
class LeaseEnded:
    """A lease no longer stands."""

    token: bytes
    reason: str


@dataclass(frozen=True)
class TrainingAccepted:
    """A path's submission of a round counts; its lease ends with it."""

    path: int
    round: int
    peer: PeerId
    submission: Submission


@dataclass(frozen=True)
class TrainingDiscarded:
    """An accepted submission does not count after all: the path is trained again."""

    path: int
    round: int


@dataclass(frozen=True)
class MomentsOwed:
    """Moments that count are not here yet. Not saved: see `restored`."""

    place: Place
    debt: Debt


@dataclass(frozen=True)
class MomentsKept:
    """They are here and were checked. Not saved either."""

    place: Place


@dataclass(frozen=True)
class Recorded:
    """An entry joins the ledger."""

    entry: Entry


Change = (
    Grant | LeaseEnded | TrainingAccepted | TrainingDiscarded | MomentsOwed | MomentsKept | Recorded
)


@dataclass(frozen=True)
class DueStep:
    """An outer step whose contributions are complete."""

    module: ModuleId
    version: int
    """The version that it makes."""
    state: Digest
    momentum: Digest | None
    residual: Digest | None
    contributions: tuple[Contribution, ...]


@dataclass(frozen=True)
class _Work:
    kind: LeaseKind
    path: int
    round: int


class Schedule:
    """All that the scheduler knows of one run."""

    def __init__(self, manifest: Manifest, run: Digest, weights: tuple[int, ...]) -> None:
        """weights: n_p per path, tokens as the router spec counts them; 0 is never leased."""
        self.manifest = manifest
        self.run = run
        self.weights = weights
        self.view = RunView(manifest)
        self.grants: dict[bytes, Grant] = {}
        self.accepted: dict[tuple[int, int], TrainingAccepted] = {}
        """By (path, round), until the path's modules have taken it in."""
        self.trained_by: dict[int, PeerId] = {}
        """Who worked on a path last: it has its shard, states and moments at hand."""
        self.debts = Debts()

    # ------------------------------------------------------------------ questions

    @property
    def live_paths(self) -> tuple[int, ...]:
        """Paths that have training data."""
        return tuple(p for p, weight in enumerate(self.weights) if weight)

    @property
    def finished(self) -> bool:
        """Whether every live path stands at the last version and every version is evaluated."""
        return self.view.finished(self.live_paths)

    def grant_of(self, peer: PeerId, token: bytes) -> Grant | None:
        """Return the lease that `peer` holds under `token`, if it stands."""
        grant = self.grants.get(token)
        return grant if grant and grant.peer == peer else None

    def due_steps(self) -> Iterator[DueStep]:
        """Yield every outer step whose contributions are complete, in the topology's order."""
        for module in self.view.topology.modules:
            version = self.view.version(module) + 1
            if not 1 <= version <= self.manifest.training.rounds:
                continue
            live = [p for p in self.view.topology.paths_through(module) if self.weights[p]]
            arrived = [self.accepted.get((p, version)) for p in live]
            if live and all(arrived):
                yield DueStep(
                    module=module,
                    version=version,
                    state=self.view.states[module][-1],
                    momentum=self.view.momenta.get(module),
                    residual=self.view.residual(module),
                    contributions=tuple(
                        self._contribution(each, module) for each in arrived if each
                    ),
                )

    def blobs_needed(self) -> set[Digest]:
        """Return the blobs that a next step, a lease, an evaluation or a user of the run reads."""
        needed = {states[-1] for states in self.view.states.values()}
        needed |= set(self.view.momenta.values())
        for module in self.view.states:
            needed |= self._updates_needed(module)
        for path in self.live_paths if self.view.seeded else ():
            kept = self.view.kept_version(path)
            needed |= {digest for _, digest in self.view.path_states(path, kept)}
            if self.view.path_version(path) < self.manifest.training.rounds:
                needed |= self._moments_needed(path)
        # A warm start stays: nobody else can make it again, or repeat the seed phase without it.
        needed |= {state.digest for state in self.manifest.start}
        for accepted in self.accepted.values():
            needed |= accepted.submission.digests()
        for grant in self.grants.values():
            needed |= {each.digest for each in (*grant.lease.modules, *grant.lease.moments)}
        for path, round_ in self.debts:
            lease = self.lease_again(path, round_)
            needed |= {each.digest for each in (*lease.modules, *lease.moments)}
        for work in self._evaluations(behind=0):
            needed |= {digest for _, digest in self.view.path_states(work.path, work.round)}
        return needed

    def _updates_needed(self, module: ModuleId) -> set[Digest]:
        """Those that lead to the newest version, and what the last of them left out."""
        residual = self.view.residual(module)
        newest = self.view.back_from(module, self.view.version(module))
        return {update for update, _ in newest} | ({residual} if residual else set())

    def _moments_needed(self, path: int) -> set[Digest]:
        """Of every module the last two: the very last may be of a round that others have ahead."""
        needed: set[Digest] = set()
        for module in self.view.topology.path_modules[path]:
            needed |= set(list(self.view.moments.get((path, module), {}).values())[-2:])
        return needed

    # ------------------------------------------------------------------ events

    def adopt(self, spec: Digest) -> tuple[Change, ...]:
        """Adopt the router spec, once."""
        return (Recorded(SpecAdopted(epoch=0, spec=spec)),) if self.view.spec is None else ()

    def ask(
        self, peer: PeerId, spec: Digest, *, token: bytes, now: float
    ) -> tuple[tuple[Change, ...], Granted | NoLease]:
        """Give `peer` work, named by the fresh random `token`, or say why there is none."""
        refusal = self._why_not(peer, spec)
        if refusal:
            return (), refusal
        self.debts.came(peer)
        # Whoever asks holds nothing: it restarted, or never got our last answer.
        ended = tuple(
            LeaseEnded(held.lease.token, "its holder asked for another")
            for held in self.grants.values()
            if held.peer == peer
        )
        taken = [g for g in self.grants.values() if g.peer != peer]
        work = self._next_work(peer, {(g.lease.kind, g.lease.path, g.lease.round) for g in taken})
        if work is None:
            return ended, self._nothing_to_do()
        grant = Grant(self._lease(work, spec, token), peer, now)
        return (*ended, grant), Granted(lease=grant.lease)

    def heartbeat(self, peer: PeerId, token: bytes, *, done: int, now: float) -> Stands | Fallen:
        """Renew a lease of which `done` steps are done. The one event that is not saved."""
        grant = self.grant_of(peer, token)
        if grant is None:
            return Fallen(reason="the lease ended: its time ran out, or it was given to another")
        self.debts.came(peer)
        grant = replace(grant, beat=now, gone=math.inf)
        if done > grant.done:
            grant = replace(grant, done=done, moved=now)
        self.grants[token] = grant
        return Stands()

    def hand_back(self, peer: PeerId, token: bytes, reason: str) -> tuple[Change, ...]:
        """End a lease at its holder's wish."""
        grant = self.grant_of(peer, token)
        if grant is None:
            return ()
        ended = LeaseEnded(token, f"handed back: {reason}")
        before = (grant.lease.path, grant.lease.round - 1)
        debt = self.debts.get(before) if grant.lease.moments else None
        if debt is None:
            return (ended,)
        return ended, *self.lost(before)  # their maker cannot work from them

    def submit(
        self, peer: PeerId, submission: Submission
    ) -> tuple[tuple[Change, ...], Stands | Fallen]:
        """Accept the result of a lease that stands; its blobs are here and were checked."""
        grant = self.grant_of(peer, submission.token)
        if grant is None:
            return (), Fallen(reason="the lease no longer stands: the work was given to another")
        lease = grant.lease
        wrong = self.misfit(lease, submission)
        if wrong:
            return (LeaseEnded(lease.token, wrong),), Fallen(reason=wrong)
        if self.is_again(lease):
            return self._made_again(lease, peer, submission), Stands()
        if lease.kind == "train":
            return (TrainingAccepted(lease.path, lease.round, peer, submission),), Stands()
        entry = (
            self._seeded(peer, submission)
            if lease.kind == "seed"
            else self._evaluated(lease, peer, submission.evaluation)
        )
        return (LeaseEnded(lease.token, "done"), Recorded(entry)), Stands()

    def is_again(self, lease: Lease) -> bool:
        """Return whether a lease is of a round that has ended, for its moments alone."""
        return lease.kind == "train" and lease.round <= self.view.path_version(lease.path)

    def lease_again(self, path: int, round_: int) -> Lease:
        """Return the lease, but for its token, under which `path` was trained in `round_`."""
        assert self.view.spec is not None
        return self._lease(_Work("train", path, round_), self.view.spec, bytes(TOKEN_BYTES))

    def kept(self, place: Place) -> tuple[Change, ...]:
        """Note that the moments owed for `place` are here; nobody need make them again."""
        ended = tuple(
            LeaseEnded(grant.lease.token, "the moments are here after all")
            for grant in self.grants.values()
            if (grant.lease.path, grant.lease.round) == place and self.is_again(grant.lease)
        )
        return (*ended, MomentsKept(place)) if self.debts.get(place) else ()

    def lost(self, place: Place) -> tuple[Change, ...]:
        """Note that nobody can be expected to bring the moments of `place`."""
        debt = self.debts.get(place)
        moments = debt.moments if debt else self._told_moments(*place)
        return (MomentsOwed(place, Debt(moments, None)),)

    def restored(self, now: float) -> tuple[Change, ...]:
        """Owe the newest moments of every path, once the saved changes are applied.

        What was here before a restart is looked at once more; makers have a lease's time to live
        to come back.
        """
        last = self.manifest.training.rounds
        gone = now + self.manifest.schedule.lease_ttl
        owed = {
            (path, round_): Debt(moments, self.trained_by.get(path), gone)
            for path in self.live_paths
            if (round_ := self.view.path_version(path)) < last
            and (moments := self._told_moments(path, round_))
        }
        for place, each in self.accepted.items():
            if each.submission.moments and place[1] < last:
                owed[place] = Debt(each.submission.moments, each.peer, gone)
        return tuple(MomentsOwed(place, debt) for place, debt in owed.items())

    def _told_moments(self, path: int, round_: int) -> tuple[ModuleDigest, ...]:
        """Return the moments of `path` after `round_` as the ledger tells; none if it does not."""
        told = self.view.path_moments(path, round_ + 1)
        return tuple(ModuleDigest(module=m, digest=d) for m, d in told)

    def stepped(
        self, step: DueStep, *, state: Digest, momentum: Digest, quantised: Quantised | None = None
    ) -> tuple[Change, ...]:
        """Record an outer step that was taken."""
        entry = ModuleUpdated(
            module=step.module,
            version=step.version,
            contributions=step.contributions,
            state=state,
            momentum=momentum,
            quantised=quantised,
        )
        return (Recorded(entry),)

    def discard(self, path: int, round_: int) -> tuple[Change, ...]:
        """Take back the acceptance of a submission whose blobs are no longer readable."""
        return (TrainingDiscarded(path, round_),) if (path, round_) in self.accepted else ()

    def gone(self, peer: PeerId, now: float) -> None:
        """Note that `peer`'s connection broke: its leases end soon unless it comes back."""
        self.debts.went(peer, now)
        for token, grant in self.grants.items():
            if grant.peer == peer:
                self.grants[token] = replace(grant, gone=now)

    def expire(self, now: float) -> tuple[Change, ...]:
        """End the leases whose time ran out, and give up moments whose maker is gone."""
        lost = (
            change
            for place in self.debts.overdue(now, RECONNECT_SECONDS)
            for change in self.lost(place)
        )
        return (
            *lost,
            *(
                LeaseEnded(token, f"{short_peer(grant.peer)} is silent, or does not get on")
                for token, grant in self.grants.items()
                if grant.deadline <= now
            ),
        )

    # ------------------------------------------------------------------ changes

    def apply(self, change: Change) -> None:
        """Make one change; the shell saved it before."""
        match change:
            case Grant():
                self.grants[change.lease.token] = change
                if change.lease.kind == "train":
                    self.trained_by[change.lease.path] = change.peer
            case LeaseEnded():
                self.grants.pop(change.token, None)
            case TrainingAccepted():
                self.grants.pop(change.submission.token, None)
                self.accepted[change.path, change.round] = change
                if change.submission.moments and change.round < self.manifest.training.rounds:
                    place = (change.path, change.round)
                    self.debts.owe(place, Debt(change.submission.moments, change.peer))
            case TrainingDiscarded():
                self.accepted.pop((change.path, change.round), None)
                self.debts.drop((change.path, change.round))
            case MomentsOwed():
                self.debts.owe(change.place, change.debt)
            case MomentsKept():
                self.debts.pay(change.place)
            case Recorded():
                self.view.apply(change.entry)
                if isinstance(change.entry, ModuleUpdated):
                    for each in change.entry.contributions:
                        self.trained_by[each.path] = each.peer
                    self.forget_taken_in()

    def forget_taken_in(self) -> None:
        """Drop what no round needs: accepted submissions that all modules of their path took in."""
        rounds = self.manifest.training.rounds
        for path in self.live_paths:
            if self.view.path_version(path) == rounds:
                self.debts.forget(path, rounds)
        for path, round_ in list(self.accepted):
            if self.view.path_version(path) >= round_:
                del self.accepted[path, round_]

    # ------------------------------------------------------------------ decisions

    def _why_not(self, peer: PeerId, spec: Digest) -> NoLease | None:
        members = self.manifest.schedule.members
        if members and peer not in members:
            return NoLease(
                code="not-admitted", reason="the run takes listed peers only", retry_after=60.0
            )
        if spec != self.view.spec:
            return NoLease(
                code="other-spec", reason="the run routes by another spec", retry_after=10.0
            )
        return None

    def _next_work(self, peer: PeerId, taken: set[tuple[LeaseKind, int, int]]) -> _Work | None:
        """Pick the first piece of work that nobody holds."""
        if not self.view.seeded:
            return None if ("seed", 0, 0) in taken else _Work("seed", 0, 0)
        for work in (
            # An evaluation that lags behind keeps old states alive: it goes first.
            *self._evaluations(behind=2),
            *sorted(self._trainings(), key=lambda work: self._preference(peer, work)),
            *self._evaluations(behind=0),
        ):
            barred = work.kind == "train" and self.debts.bars(peer, work.path, work.round)
            if not barred and (work.kind, work.path, work.round) not in taken:
                return work
        return None

    def _trainings(self) -> Iterator[_Work]:
        for path in self.live_paths:
            version = self.view.path_version(path)
            round_ = self.debts.lost(path, version) or version + 1
            if round_ <= self.manifest.training.rounds and (path, round_) not in self.accepted:
                yield _Work("train", path, round_)

    def _preference(self, peer: PeerId, work: _Work) -> tuple[int, bool, bool, int]:
        """The oldest round first; in it a path at hand, then one that nobody else has at hand."""
        last = self.trained_by.get(work.path)
        return work.round, last != peer, last is not None, work.path

    def _evaluations(self, *, behind: int) -> Iterator[_Work]:
        """Evaluations to do of versions at least `behind` the newest of their path."""
        rounds = self.manifest.training.rounds
        for version in range(rounds + 1):
            for path in self.live_paths:
                newest = self.view.path_version(path)
                missing = (version, path) not in self.view.evaluations
                if missing and version <= newest - behind:
                    yield _Work("evaluate", path, version)

    def _nothing_to_do(self) -> NoLease:
        if self.finished:
            rounds = self.manifest.training.rounds
            return NoLease(
                code="run-over", reason=f"round {rounds} of {rounds} is done", retry_after=30.0
            )
        held = ", ".join(
            f"{g.lease.kind} of path {g.lease.path} round {g.lease.round}"
            for g in list(self.grants.values())[:4]
        )
        if held:
            why = f"all work is leased ({held})"
        elif owed := next(iter(self.debts), None):
            why = f"the moments of path {owed[0]} round {owed[1]} are still with their maker"
        else:
            why = "an outer step is being taken"
        return NoLease(code="no-lease", reason=why, retry_after=RETRY_SECONDS)

    def _lease(self, work: _Work, spec: Digest, token: bytes) -> Lease:
        version = work.round if work.kind == "evaluate" else work.round - 1
        modules = (
            self.manifest.start
            if work.kind == "seed"
            else tuple(
                ModuleDigest(module=m, digest=d)
                for m, d in self.view.path_states(work.path, version)
            )
        )
        moments = self.view.path_moments(work.path, work.round) if work.kind == "train" else ()
        windows = self.manifest.source.windows
        return Lease(
            run=self.run,
            token=token,
            kind=work.kind,
            path=work.path,
            round=work.round,
            window=(work.round - 1) % windows if work.kind == "train" else 0,
            spec=spec,
            modules=modules,
            moments=tuple(ModuleDigest(module=m, digest=d) for m, d in moments),
            ttl=self.manifest.schedule.lease_ttl,
        )

    def misfit(self, lease: Lease, submission: Submission) -> str:
        """Say what is wrong with the shape of a submission; empty if nothing."""
        expected: tuple[ModuleId, ...] = ()
        if lease.kind != "evaluate":
            expected = self.view.topology.path_modules[lease.path]
        if tuple(blob.module for blob in submission.blobs) != expected:
            return "the submission names other modules than the lease"
        carried = lease.kind == "train" and self.manifest.training.inner_state == "carry"
        if tuple(each.module for each in submission.moments) != (expected if carried else ()):
            return "the submission lacks moments, or has some that were not asked for"
        if (submission.evaluation is not None) != (lease.kind == "evaluate"):
            return "the submission lacks an evaluation, or has one that was not asked for"
        return ""

    def _made_again(self, lease: Lease, peer: PeerId, submission: Submission) -> tuple[Change, ...]:
        place, ended = (lease.path, lease.round), LeaseEnded(lease.token, "done")
        if self.debts.get(place) is None:
            return (ended,)
        owed = MomentsOwed(place, Debt(submission.moments, peer))
        if submission.moments == self._told_moments(*place):
            return ended, owed
        replaced = MomentsReplaced(
            path=lease.path, round=lease.round, peer=peer, moments=submission.moments
        )
        return ended, Recorded(replaced), owed

    def _seeded(self, peer: PeerId, submission: Submission) -> Seeded:
        trained = {blob.module: blob.digest for blob in submission.blobs}
        top = self.view.topology
        return Seeded(
            peer=peer,
            states=tuple(
                ModuleDigest(module=m, digest=trained[top.counterpart(m)]) for m in top.modules
            ),
        )

    def _evaluated(self, lease: Lease, peer: PeerId, result: Evaluation | None) -> Evaluated:
        assert result is not None  # misfit refused it before
        return Evaluated(
            path=lease.path,
            version=lease.round,
            peer=peer,
            documents=result.documents,
            tokens=result.tokens,
            nll=result.nll,
        )

    def _contribution(self, accepted: TrainingAccepted, module: ModuleId) -> Contribution:
        submission = accepted.submission
        return Contribution(
            path=accepted.path,
            peer=accepted.peer,
            delta=digest_of(module, submission.blobs),
            weight=self.weights[accepted.path],
            moments=digest_of(module, submission.moments) if submission.moments else None,
        )
