"""The schedule of one run: who may do what next, as a pure state machine.

Owns leases, accepted submissions and the run's ledger view. It knows no clock, no disk and no
network: every event takes `now` (seconds on any steady clock) and returns the changes to make and
the reply to send. The shell saves the changes, applies them, then answers (service.py), so a
restart resumes at the exact state and never denies what a peer has seen.

Rounds are synchronous per module (docs/method.md section 2): path p's lease for round t is ready
as soon as all its modules stand at version t - 1; a module's outer step for round t is due as soon
as every live path through it has an accepted submission. There is no global barrier but one: where
the manifest re-shards, later rounds begin when the new router is adopted (`scoring.py`).
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from dipaco.node.scheduling.changes import (
    RECONNECT_SECONDS,
    STALL_TTLS,
    Change,
    DueStep,
    Grant,
    LeaseEnded,
    MomentsKept,
    MomentsOwed,
    Recorded,
    TrainingAccepted,
    TrainingDiscarded,
)
from dipaco.node.scheduling.debts import Debt, Debts, Place
from dipaco.node.scheduling.scoring import Scoring
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
    Scored,
    Seeded,
    SpecAdopted,
)
from dipaco.protocol.manifest import Manifest
from dipaco.protocol.run_view import RunView
from dipaco.protocol.topology import ModuleId
from dipaco.protocol.work import Fallen, Granted, NoLease, Stands

RETRY_SECONDS = 2.0  # a new ledger record wakes waiting volunteers earlier


@dataclass(frozen=True)
class _Work:
    kind: LeaseKind
    path: int
    round: int
    window: int = 0
    """Of `score`; what else is leased has no choice of it."""
    places: int = field(default=1, compare=False)
    """Peers that may do it at once."""


class Schedule:
    """All that the scheduler knows of one run."""

    def __init__(self, manifest: Manifest, run: Digest, weights: tuple[int, ...]) -> None:
        """weights: n_p per path, tokens as the first router spec counts them; 0: never leased."""
        self.manifest = manifest
        self.run = run
        self.weights = [weights]
        """Of every epoch that is known; whoever adopts a router adds its own first."""
        self.view = RunView(manifest)
        reshard = manifest.routing.reshard
        self.scoring = None if reshard is None else Scoring(reshard, self.view)
        self.grants: dict[bytes, Grant] = {}
        self.accepted: dict[tuple[int, int], TrainingAccepted] = {}
        """By (path, round), until the path's modules have taken it in."""
        self.trained_by: dict[int, PeerId] = {}
        """Who worked on a path last: it has its shard, states and moments at hand."""
        self.debts = Debts()

    # ------------------------------------------------------------------ questions

    @property
    def live_paths(self) -> tuple[int, ...]:
        """Paths that have training data by the newest router."""
        return _live(self.weights[max(0, self.view.epoch)])

    def weights_at(self, round_: int) -> tuple[int, ...]:
        """Return n_p per path in a round; before its router is known, the present ones."""
        return self.weights[min(self.manifest.epoch_of(round_), len(self.weights) - 1)]

    def live_at(self, round_: int) -> tuple[int, ...]:
        """Return the paths that train in a round, and are evaluated at that version."""
        return _live(self.weights_at(round_))

    @property
    def scores(self) -> Scoring | None:
        """The scoring phase while it lasts: no training goes on meanwhile."""
        reshard = self.manifest.routing.reshard
        if reshard is None or self.view.epoch != 0:
            return None
        if any(self.view.path_version(path) < reshard.after_round for path in self.live_paths):
            return None
        return self.scoring

    @property
    def switch_due(self) -> bool:
        """Whether the scores of all live paths stand: the next router can be derived."""
        return self.scores is not None and self.scores.complete(self.live_paths)

    @property
    def finished(self) -> bool:
        """Whether every live path stands at the last version and every version is evaluated."""
        return self.view.finished(self.live_at)

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
            weights = self.weights_at(version)
            live = [p for p in self.view.topology.paths_through(module) if weights[p]]
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

    def due_evaluations(self, *, behind: int = 0) -> Iterator[tuple[int, int]]:
        """Yield (version, path) to evaluate, of versions at least `behind` the path's newest."""
        for version in range(self.manifest.training.rounds + 1):
            for path in self.live_at(version):
                missing = (version, path) not in self.view.evaluations
                if missing and version <= self.view.path_version(path) - behind:
                    yield version, path

    # ------------------------------------------------------------------ events

    def adopt(self, spec: Digest) -> tuple[Change, ...]:
        """Adopt the router spec, once."""
        return (Recorded(SpecAdopted(epoch=0, spec=spec)),) if self.view.spec is None else ()

    def switch(self, spec: Digest) -> tuple[Change, ...]:
        """Adopt the next epoch's router spec, if that is due."""
        epoch = self.view.epoch + 1
        return (Recorded(SpecAdopted(epoch=epoch, spec=spec)),) if self.switch_due else ()

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
        work = self._next_work(
            peer, Counter(_work_of(g.lease) for g in self.grants.values() if g.peer != peer)
        )
        if work is None:
            return ended, self._nothing_to_do()
        grant = Grant(self._lease(work, token), peer, now)
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
        entry = self._entry(lease, peer, submission)
        return (LeaseEnded(lease.token, "done"), Recorded(entry)), Stands()

    def is_again(self, lease: Lease) -> bool:
        """Return whether a lease is of a round that has ended, for its moments alone."""
        return lease.kind == "train" and lease.round <= self.view.path_version(lease.path)

    def lease_again(self, path: int, round_: int) -> Lease:
        """Return the lease, but for its token, under which `path` was trained in `round_`."""
        return self._lease(_Work("train", path, round_), bytes(TOKEN_BYTES))

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
        """End the leases whose time ran out, and give up moments that do not come."""
        upload = STALL_TTLS * self.manifest.schedule.lease_ttl
        lost = (
            change
            for place in self.debts.overdue(now, away=RECONNECT_SECONDS, upload=upload)
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
                elif isinstance(change.entry, SpecAdopted):
                    for path, round_ in self.debts:
                        if not self.weights[-1][path]:  # nobody goes on from them
                            self.debts.forget(path, round_)

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

    def _next_work(self, peer: PeerId, taken: Counter[_Work]) -> _Work | None:
        """Pick the first piece of work that has a place left."""
        if not self.view.seeded:
            seed = _Work("seed", 0, 0)
            return None if taken[seed] else seed
        for work in (
            # An evaluation that lags behind keeps old states alive: it goes first.
            *self._evaluations(behind=2),
            *sorted(self._trainings(), key=lambda work: self._preference(peer, work)),
            *sorted(self._scorings(peer), key=lambda work: self._preference(peer, work)),
            *self._evaluations(behind=0),
        ):
            barred = work.kind == "train" and self.debts.bars(peer, work.path, work.round)
            if not barred and taken[work] < work.places:
                return work
        return None

    def _scorings(self, peer: PeerId) -> Iterator[_Work]:
        scores = self.scores
        for each in scores.vacancies(self.live_paths) if scores else ():
            if scores and not scores.gave(peer, each):
                round_ = self.view.path_version(each.path)
                yield _Work("score", each.path, round_, each.window, each.places)

    def _trainings(self) -> Iterator[_Work]:
        for path in self.live_paths:
            version = self.view.path_version(path)
            round_ = self.debts.lost(path, version) or version + 1
            if round_ > self.manifest.training.rounds or (path, round_) in self.accepted:
                continue
            if self.manifest.epoch_of(round_) <= self.view.epoch:
                yield _Work("train", path, round_)

    def _preference(self, peer: PeerId, work: _Work) -> tuple[int, bool, bool, int]:
        """The oldest round first; in it a path at hand, then one that nobody else has at hand."""
        last = self.trained_by.get(work.path)
        return work.round, last != peer, last is not None, work.path

    def _evaluations(self, *, behind: int) -> Iterator[_Work]:
        for version, path in self.due_evaluations(behind=behind):
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
        return NoLease(code="no-lease", reason=self._why_idle(held), retry_after=RETRY_SECONDS)

    def _why_idle(self, held: str) -> str:
        """Say what is waited for. held: some leases, in words."""
        if held:
            return f"all work is leased ({held})"
        if owed := next(iter(self.debts), None):
            return f"the moments of path {owed[0]} round {owed[1]} are still with their maker"
        if not self.scores:
            return "an outer step is being taken"
        wanted = next(self.scores.vacancies(self.live_paths), None)
        if wanted is None:
            return "the next router is being derived"
        return f"path {wanted.path} is to be scored by {wanted.places} more peers"

    def _lease(self, work: _Work, token: bytes) -> Lease:
        version = work.round if work.kind in ("evaluate", "score") else work.round - 1
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
            window=(work.round - 1) % windows if work.kind == "train" else work.window,
            spec=self.view.specs[self.manifest.epoch_of(work.round)],
            modules=modules,
            moments=tuple(ModuleDigest(module=m, digest=d) for m, d in moments),
            ttl=self.manifest.schedule.lease_ttl,
        )

    def misfit(self, lease: Lease, submission: Submission) -> str:
        """Say what is wrong with the shape of a submission; empty if nothing."""
        expected: tuple[ModuleId, ...] = ()
        if lease.kind in ("seed", "train"):
            expected = self.view.topology.path_modules[lease.path]
        if tuple(blob.module for blob in submission.blobs) != expected:
            return "the submission names other modules than the lease"
        carried = lease.kind == "train" and self.manifest.training.inner_state == "carry"
        if tuple(each.module for each in submission.moments) != (expected if carried else ()):
            return "the submission lacks moments, or has some that were not asked for"
        if (submission.evaluation is not None) != (lease.kind == "evaluate"):
            return "the submission lacks an evaluation, or has one that was not asked for"
        if (submission.sheet is not None) != (lease.kind == "score"):
            return "the submission lacks a score sheet, or has one that was not asked for"
        if submission.sheet and submission.sheet.documents > self.manifest.most_scored:
            return "the score sheet is of more documents than a window has"
        if lease.kind == "score" and not self.scores:
            return "the scores are no longer asked for"
        return ""

    def _entry(self, lease: Lease, peer: PeerId, submission: Submission) -> Entry:
        if lease.kind == "seed":
            return self._seeded(peer, submission)
        if lease.kind == "evaluate":
            return self._evaluated(lease, peer, submission.evaluation)
        assert submission.sheet is not None  # misfit refused it before
        return Scored(path=lease.path, window=lease.window, peer=peer, sheet=submission.sheet)

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
            weight=self.weights_at(accepted.round)[accepted.path],
            moments=digest_of(module, submission.moments) if submission.moments else None,
        )


def _live(weights: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(path for path, weight in enumerate(weights) if weight)


def _work_of(lease: Lease) -> _Work:
    window = lease.window if lease.kind == "score" else 0
    return _Work(lease.kind, lease.path, lease.round, window)
