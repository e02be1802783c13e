"""The schedule of one run: who may do what next, as a pure state machine.

Owns the life of leases, and dispatches to the kinds of work (`dipaco.node.kinds`). It knows no
clock, no disk and no network: every event takes `now` (seconds on any steady clock) and returns
the changes to make and the reply to send. The shell saves the changes, applies them, then answers
(service.py), so a restart resumes at the exact state and never denies what a peer has seen.

The ledger's fold is not its own: the shell brings an entry into it when it saves one, and the
schedule reads it.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

from msgspec import UNSET

from dipaco.node.kinds.base import Work
from dipaco.node.kinds.changes import (
    RECONNECT_SECONDS,
    STALL_TTLS,
    Change,
    Compared,
    DueStep,
    Grant,
    LeaseEnded,
    MomentsArrived,
    MomentsPending,
    PlaceLeft,
    PlaceTaken,
    Recorded,
    TrainingAccepted,
    TrainingDiscarded,
)
from dipaco.node.kinds.pending_moments import Pending, Place
from dipaco.node.kinds.state import SchedulingState
from dipaco.node.kinds.table import TRAIN, kind_of, work_of
from dipaco.node.kinds.train import is_again, moments_arrived, moments_lost, moments_to_look_at
from dipaco.node.scheduler.choosing import Asker, Choosing
from dipaco.node.scheduler.grants import Grants
from dipaco.node.scheduler.in_hand import RETRY_SECONDS as NEXT_SECONDS
from dipaco.node.scheduler.in_hand import end_with
from dipaco.node.scheduler.late import LateLeases, compared
from dipaco.node.scheduler.late_paths import LatePaths
from dipaco.node.scheduler.open_work import OpenWork
from dipaco.node.scheduler.parking import Parking
from dipaco.node.scheduler.queue import Queue, retry_after
from dipaco.node.scheduler.standing import Standing
from dipaco.node.scheduler.waiting import deadlock, why_expired, why_idle
from dipaco.protocol.run.modules import ModuleId, digest_of
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.text import one_line
from dipaco.protocol.work.bounds import wrong_seconds
from dipaco.protocol.work.calls import Fallen, Granted, NoLease, Stands
from dipaco.protocol.work.kinds import (
    TOKEN_BYTES,
    Lease,
    Result,
    SeedResult,
    Token,
    TrainLease,
    TrainResult,
)
from dipaco.protocol.work.ledger import (
    Contribution,
    ModuleUpdated,
    Quantised,
    RoundMissed,
    SpecAdopted,
)

MAX_COUNTED = 4096  # peers whose newest result that counts is remembered, the latest
MAX_COMPARED = 256  # results that were compared and are remembered, the last ones


class Schedule:
    """All that the scheduler knows of one run."""

    def __init__(self, state: SchedulingState) -> None:
        self.state = state
        self.ledger = state.ledger
        self.rounds = state.rounds
        self.manifest = state.manifest
        self.grants = Grants()
        self.open = OpenWork(state, self.grants)
        self.queue = Queue()
        self.blocked = ""
        """Why no outer step can be taken, told by the shell; empty: they can."""
        self.parking = Parking()
        self.standing = Standing()
        self.choosing = Choosing(state, self.grants, self.open, self.standing, self.queue)
        self.late = LateLeases()
        self.compared = deque[Compared](maxlen=MAX_COMPARED)
        """The last results that were compared."""
        for peer in self.ledger.contributors.values():
            self.standing.trained(peer)
        self._counted: dict[PeerId, tuple[Token, ...]] = {}
        """Per peer the tokens of its two newest results that count: answers may have been lost."""
        self._late_paths = LatePaths(self.rounds, self.ledger)
        self._why_ended: dict[Token, str] = {}
        """By token why the newest leases ended that did not count: their holders may not know."""

    # ------------------------------------------------------------------ questions

    @property
    def switch_due(self) -> bool:
        """Whether the scores of all live paths stand: the next router can be derived."""
        scores = self.state.scores
        return scores is not None and scores.complete(self.rounds.live_paths)

    @property
    def deadlock(self) -> str:
        """Say why the run can never go on, as `waiting.deadlock` does; empty: it can."""
        return deadlock(self.state)

    def grant_of(self, peer: PeerId, token: Token) -> Grant | None:
        """Return the lease that `peer` holds under `token`, if it stands."""
        grant = self.grants.get(token)
        return grant if grant and grant.peer == peer else None

    def may_count(self, peer: PeerId, token: Token) -> Grant | None:
        """Return the lease of `peer` under `token` if a result of it may count now.

        It stands, or it ended a while ago and its work is still open.
        """
        if grant := self.grant_of(peer, token):
            return grant
        late = self.late.find(peer, token)
        if late is None:
            return None
        lease, work = late.grant.lease, work_of(late.grant.lease)
        may = (
            self.open.may(work, peer)
            and lease.modules == work.kind.lease(self.state, work, token).modules
        )
        return late.grant if may else None

    def due_steps(self) -> Iterator[DueStep]:
        """Yield every outer step whose contributions are complete, in the topology's order."""
        for module, version, paths in self.rounds.due_steps(self.state.accepted):
            results = (self.state.accepted[path, version] for path in paths)
            yield DueStep(
                module=module,
                version=version,
                state=self.ledger.states[module][-1],
                momentum=self.ledger.momenta.get(module),
                residual=self.ledger.residual(module),
                contributions=tuple(self._contribution(each, module) for each in results),
            )

    def lease_again(self, place: Place) -> TrainLease:
        """Return the lease, but for its token, of a path's training in a round."""
        return TRAIN.lease(self.state, Work(TRAIN, *place), bytes(TOKEN_BYTES))

    # ------------------------------------------------------------------ events

    def adopt(self, spec: Digest) -> tuple[Change, ...]:
        """Adopt the router spec, once."""
        return (self._adopted(0, spec),) if self.ledger.spec is None else ()

    def switch(self, spec: Digest) -> tuple[Change, ...]:
        """Adopt the next epoch's router spec, if that is due."""
        return (self._adopted(self.ledger.epoch + 1, spec),) if self.switch_due else ()

    def _adopted(self, epoch: int, spec: Digest) -> Recorded:
        with_quorum = self.manifest.training.quorum is not UNSET
        paths = self.rounds.live_by(spec) if with_quorum else UNSET
        return Recorded(SpecAdopted(epoch=epoch, spec=spec, live=paths))

    def ask(
        self, peer: PeerId, spec: Digest, *, token: Token, now: float, prefix: str = ""
    ) -> tuple[tuple[Change, ...], Granted | NoLease]:
        """Give `peer` work, named by the fresh random `token`, or say why there is none.

        prefix   of the peer's IP address; empty: it is not counted.
        """
        refusal = self._why_not(peer, spec, now, prefix)
        if refusal:
            return (), refusal
        self.standing.heard_from(peer, now)
        self.state.pending.heard_from(peer)
        # Whoever asks holds nothing: it restarted, or never got our last answer.
        held = self.grants.of(peer)
        ended = tuple(
            LeaseEnded(
                each.lease.token,
                "its holder asked for another",
                failed=None if each.behind in self.grants else now,
            )
            for each in held
        )
        asker = Asker(peer, prefix, now, given_up=[self.grants.work(each) for each in held])
        choice, key = self.choosing.first_lease(asker), self.choosing.key(peer, prefix)
        ended += choice.ended
        if choice.work is None:
            queued, reply = self._nothing_to_do(asker, key, choice.held_back)
            return (*ended, *queued), reply
        lease: Lease = choice.work.kind.lease(self.state, choice.work, token)
        served = self._served(key, choice.work, now)
        return (*ended, *served, Grant(lease, peer, now, prefix=prefix)), Granted(lease=lease)

    def ask_next(
        self,
        peer: PeerId,
        spec: Digest,
        first: Token,
        *,
        token: Token,
        now: float,
        prefix: str = "",
    ) -> tuple[tuple[Change, ...], Granted | NoLease]:
        """Give `peer` a second lease to hold in hand, or say why there is none.

        first   the token of the lease that it works on.
        token, prefix   as for `ask`. A new peer of a counted prefix has one lease at a time.
        """
        refusal = self._why_not(peer, spec, now, prefix)
        if refusal:
            return (), refusal
        self.standing.heard_from(peer, now)
        held = self.grants.of(peer)
        # It never got our last answer.
        lost = [grant for grant in held if grant.behind == first]
        ended = tuple(LeaseEnded(g.lease.token, "its holder asked for another") for g in lost)
        begun = [grant for grant in held if grant not in lost]
        work, behind = None, first
        if [grant.lease.token for grant in begun] == [first] and self._may_hold_two(peer, prefix):
            given_up = [self.grants.work(each) for each in lost]
            if begun[0].handed_in:
                own = [self.grants.work(begun[0])]  # nobody does the same work twice
                work = self.choosing.left(Asker(peer, prefix, now, given_up, own)).work
                behind = b""
            else:
                work = self.choosing.to_hold(Asker(peer, prefix, now, given_up))
        if work is None:
            reason = "there is no work for a second lease"
            return ended, NoLease(code="no-lease", reason=reason, retry_after=NEXT_SECONDS)
        lease: Lease = work.kind.lease(self.state, work, token)
        granted = Grant(lease, peer, now, prefix=prefix, behind=behind)
        return (*ended, granted), Granted(lease=lease)

    def heartbeat(
        self, peer: PeerId, token: Token, *, progress: int, now: float, prefix: str = ""
    ) -> Stands | Fallen:
        """Renew a lease, whose holder counts so much `progress`. It is not saved."""
        self.state.pending.heard_from(peer)
        self.standing.heard_from(peer, now)
        grant = self.grant_of(peer, token)
        if grant is None:
            late = self.may_count(peer, token)
            stall = STALL_TTLS * self.manifest.schedule.lease_ttl
            if late and late.handed_in and now < max(late.granted, late.moved) + stall:
                return Stands()  # what it hands in may count, while it arrives
            return Fallen(reason=self._why_fallen(token))
        self.queue.heard_from(self.choosing.key(peer, prefix), now)
        grant = replace(grant, beat=now, gone=math.inf, prefix=prefix)
        if progress > grant.progress:
            grant = replace(grant, progress=progress, moved=now)
        if grant.behind and grant.behind not in self.grants:
            grant = replace(grant, behind=b"", begun=now)
        self.grants.put(grant)
        return Stands()

    def handing_in(self, peer: PeerId, token: Token, now: float) -> None:
        """Note that a result is on its way: its holder goes on with the lease in hand. Not saved.

        The lease may have ended: its holder goes on all the same.
        """
        self.late.handing_in(peer, token)
        for each in self.grants.of(peer):
            if each.lease.token == token:
                self.grants.put(replace(each, handed_in=True))
            elif each.behind == token:
                self.grants.put(replace(each, behind=b"", begun=now))

    def got_on(self, peer: PeerId, token: Token, now: float) -> None:
        """Note that the result of a lease is arriving, or being inspected. It is not saved."""
        grant = self.grant_of(peer, token)
        if grant is not None:
            self.grants.put(replace(grant, moved=now))
        else:
            self.late.got_on(peer, token, now)

    def hand_back(
        self, peer: PeerId, token: Token, reason: str, *, now: float
    ) -> tuple[Change, ...]:
        """End a lease at its holder's wish, or since its result cannot be used."""
        grant = self.grant_of(peer, token)
        if grant is None:
            return ()
        follow = kind_of(grant.lease).hand_back(self.state, grant.lease)
        failed = None if grant.behind in self.grants else now  # not begun: nothing was wasted
        return LeaseEnded(token, f"handed back: {reason}", failed=failed), *follow

    def submit(
        self, peer: PeerId, result: Result, *, now: float
    ) -> tuple[tuple[Change, ...], Stands | Fallen]:
        """Accept the result of a lease that may count; its blobs are here and were inspected."""
        if result.token in self._counted.get(peer, ()):
            return (), Stands()
        grant = self.may_count(peer, result.token)
        if grant is None:
            return self._too_late(peer, result)
        wrong = self.misfit(grant, result, now)
        if wrong:
            return (LeaseEnded(result.token, wrong, failed=now),), Fallen(reason=wrong)
        if isinstance(result, TrainResult):
            self.standing.trained(peer, now)
        if not grant.restored:
            self.standing.took(peer, work_of(grant.lease), now - grant.since)
        changes = kind_of(grant.lease).accept(self.state, grant.lease, peer, result)
        return (*changes, *self._not_needed(grant)), Stands()

    def _too_late(self, peer: PeerId, result: Result) -> tuple[tuple[Change, ...], Fallen]:
        """Refuse the result of a lease that has ended, and compare it with the one that counts."""
        reason = self._why_fallen(result.token)
        late = self.late.find(peer, result.token)
        if late is None:
            return (), Fallen(reason=reason)
        work = work_of(late.grant.lease)
        counted = late.counted or self.state.accepted.get((work.path, work.round))
        found = compared(result, peer, counted) if counted else None
        if found is None:
            return (), Fallen(reason=reason)
        how = "agrees with it" if found.agreed else "differs from it"
        return (found,), Fallen(
            reason=f"another peer was done before, and its result counts; yours {how}"
        )

    def _not_needed(self, done: Grant) -> Iterator[LeaseEnded]:
        """Yield the end of the leases of others for work of which a result counts."""
        work = work_of(done.lease)
        if work.kind.one_result:
            for each in self.grants.doing(work):
                if each is not done:
                    reason = "another peer was done before"
                    yield LeaseEnded(each.lease.token, reason, late=True)

    def misfit(self, grant: Grant, result: Result, now: float) -> str:
        """Say what is wrong with the shape and the figures of a result; empty if nothing."""
        kind = kind_of(grant.lease)
        if not isinstance(result, kind.result_type):
            return f"the result is of other work than the lease, which is to {kind.name}"
        wrong = ""
        if isinstance(result, SeedResult | TrainResult) and not grant.restored:
            wrong = wrong_seconds(result, now - grant.granted)
        return wrong or kind.misfit(self.state, grant.lease, result)

    def moments_arrived(self, place: Place) -> tuple[Change, ...]:
        """Note that the pending moments of a path and round are here: nobody makes them again."""
        ended = tuple(
            LeaseEnded(grant.lease.token, "the moments are here after all")
            for grant in self.grants.values()
            if isinstance(grant.lease, TrainLease)
            and (grant.lease.path, grant.lease.round) == place
            and is_again(self.state, grant.lease)
        )
        return *ended, *moments_arrived(self.state, place)

    def moments_lost(self, place: Place) -> tuple[Change, ...]:
        """Note that nobody can be expected to bring the moments of a path and round."""
        return (moments_lost(self.state, place),)

    def restored(self, now: float) -> tuple[Change, ...]:
        """Have the newest moments of every path looked at, once the saved changes are applied."""
        return moments_to_look_at(self.state, now)

    def stepped(
        self, step: DueStep, *, state: Digest, momentum: Digest, quantised: Quantised | None = None
    ) -> tuple[Change, ...]:
        """Record an outer step that was taken, unless the ledger has it by now."""
        if self.ledger.version(step.module) >= step.version:
            return ()
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
        """Take back the acceptance of a result whose blobs are no longer readable."""
        return (TrainingDiscarded(path, round_),) if (path, round_) in self.state.accepted else ()

    def gone(self, peer: PeerId, now: float) -> None:
        """Note that `peer`'s connection broke: its leases end soon unless it comes back."""
        self.state.pending.disconnected(peer, now)
        self.standing.gone(peer)
        self.queue.gone(peer)
        for grant in self.grants.of(peer):
            self.grants.put(replace(grant, gone=now))

    def go_on_without(self, now: float) -> tuple[Change, ...]:
        """Have the paths miss their round that are late, where the run has a quorum."""
        late = self._late_paths.overdue(self.state.accepted, now)
        return (
            *(
                LeaseEnded(token, f"late: round {lease.round} goes on without path {lease.path}")
                for token, lease in ((each, grant.lease) for each, grant in self.grants.items())
                if isinstance(lease, TrainLease) and (lease.path, lease.round) in late
            ),
            *(Recorded(RoundMissed(path=path, round=round_)) for path, round_ in late),
        )

    def expire(self, now: float) -> tuple[Change, ...]:
        """End the leases whose time ran out, and give up moments that do not come."""
        upload = STALL_TTLS * self.manifest.schedule.lease_ttl
        overdue = self.state.pending.overdue(now, away=RECONNECT_SECONDS, upload=upload)
        expired = {
            token: LeaseEnded(token, why_expired(grant, now), failed=now, late=True)
            for token, grant in self.grants.items()
            if grant.deadline <= now
        }
        return (
            *(moments_lost(self.state, place) for place in overdue),
            *expired.values(),
            *end_with(expired.keys(), self.grants.values()),
            *map(PlaceLeft, self.queue.lapsed(now)),
        )

    def overtaken(self) -> tuple[Change, ...]:
        """End the leases whose work the ledger has already, after it grew by records of others.

        A home that was restored from an old copy learns from its peers what it signed before.
        """
        self.open.changed()
        self.forget_taken_in()
        return tuple(
            LeaseEnded(token, "the ledger has the result already")
            for token, held in self.grants.items()
            if kind_of(held.lease).recorded(self.state, held.lease, held.peer)
        )

    def woke(self, now: float) -> None:
        """Renew what stands, as a restart does: the scheduler stood still, not its peers.

        It is not saved. A connection that had broken before counts as broken now.
        """
        for held in tuple(self.grants.values()):
            moved = held.moved if math.isinf(held.moved) else now
            gone = held.gone if math.isinf(held.gone) else now
            self.grants.put(replace(held, granted=now, moved=moved, gone=gone, restored=True))
        self.state.pending.woke(now)

    # ------------------------------------------------------------------ changes

    def apply(self, change: Change) -> None:
        """Make one change; the shell saved it before, an entry in the ledger's fold too."""
        state = self.state
        if not isinstance(change, Grant | LeaseEnded | PlaceTaken | PlaceLeft | Compared):
            self.open.changed()
        match change:
            case Grant(lease=lease):
                self.grants.put(change)
                self.open.leased(work_of(lease))
                if isinstance(lease, TrainLease):
                    state.granted_to[lease.path] = change.peer
            case LeaseEnded():
                self._end(change)
            case TrainingAccepted(path=path, round=round_, peer=peer, result=result):
                grant = self.grants.drop(result.token) or self.late.drop(result.token)
                self._note_counted(peer, result.token, grant.prefix if grant else "")
                self.standing.trained(peer)
                state.accepted[path, round_] = change
                if result.moments and round_ < self.rounds.last:
                    state.pending.add((path, round_), Pending(result.moments, peer))
            case TrainingDiscarded(path=path, round=round_):
                state.accepted.pop((path, round_), None)
                state.pending.drop((path, round_))
            case MomentsPending():
                state.pending.add(change.place, change.pending)
            case MomentsArrived():
                state.pending.arrived(change.place)
            case Compared():
                self.compared.append(change)
            case PlaceTaken():
                self.queue.take(change.key, change.peer, change.now, held_back=change.held_back)
            case PlaceLeft(key=key):
                self.queue.leave(key)
            case Recorded(entry=ModuleUpdated(module=module)):
                self._forget_taken_in_by(self.ledger.topology.paths_through(ModuleId(module)))
            case Recorded(entry=RoundMissed()):
                self.forget_taken_in()
            case Recorded(entry=SpecAdopted()):
                self._forget_dead_paths()

    def _end(self, ended: LeaseEnded) -> None:
        if not ended.counted:
            self._why_ended[ended.token] = ended.reason
            if len(self._why_ended) > MAX_COUNTED:
                del self._why_ended[next(iter(self._why_ended))]
        grant = self.grants.drop(ended.token)
        if grant:
            self.open.leased(work_of(grant.lease))
        else:
            grant = self.late.drop(ended.token)
        if grant is None:
            return
        small = kind_of(grant.lease).small
        if ended.counted:
            self._note_counted(grant.peer, ended.token, small=small)
        elif ended.failed is not None:
            prefix = "" if self.standing.proven(grant.peer) else grant.prefix
            self.parking.failed(grant.peer, ended.reason, ended.failed, prefix=prefix, small=small)
            self.standing.failed(grant.peer)
        if ended.late:
            work = work_of(grant.lease)
            if ended.failed is not None and work.kind is TRAIN and ended.failed < grant.deadline:
                self.standing.was_slow(grant.peer, ended.failed - grant.since)
            self.late.add(grant, self.state.accepted.get((work.path, work.round)))

    def _why_fallen(self, token: Token) -> str:
        why = self._why_ended.get(token, "its time ran out, or the work was given to another")
        return one_line(f"the lease no longer stands: {why}")

    def _note_counted(
        self, peer: PeerId, token: Token, trained_in: str = "", *, small: bool = False
    ) -> None:
        self._counted[peer] = (*self._counted.pop(peer, ())[-1:], token)
        if len(self._counted) > MAX_COUNTED:
            del self._counted[next(iter(self._counted))]
        self.parking.worked(peer, prefix=trained_in, small=small)

    def forget_taken_in(self) -> None:
        """Drop what no round needs: accepted results that all modules of their path took in."""
        for path, round_ in list(self.state.accepted):
            if self.ledger.path_version(path) >= round_:
                del self.state.accepted[path, round_]
        self._forget_taken_in_by(self.rounds.live_paths)

    def _forget_taken_in_by(self, paths: Iterable[int]) -> None:
        """Drop the same of some paths, whose versions grew by one at most."""
        last = self.rounds.last
        for path in paths:
            version = self.ledger.path_version(path)
            self.state.accepted.pop((path, version), None)
            if version == last:
                self.state.pending.forget(path, last)

    def _forget_dead_paths(self) -> None:
        """Drop the pending moments of paths that a new router gives no documents."""
        alive = self.rounds.live_paths
        for path, round_ in self.state.pending:
            if path not in alive:
                self.state.pending.forget(path, round_)

    # ------------------------------------------------------------------ decisions

    def _why_not(self, peer: PeerId, spec: Digest, now: float, prefix: str) -> NoLease | None:
        members = self.manifest.schedule.members
        if members and peer not in members:
            return NoLease(
                code="not-admitted", reason="the run takes listed peers only", retry_after=60.0
            )
        if spec != self.ledger.spec:
            return NoLease(
                code="other-spec", reason="the run routes by another spec", retry_after=10.0
            )
        counted = "" if self.standing.proven(peer) else prefix
        if parked := self.parking.parked(peer, now, prefix=counted):
            whose = "" if parked.peer == peer else f" of new peers of {prefix}"
            reason = (
                f"{parked.failures} leases in a row{whose} ended without a result ({parked.reason})"
            )
            return NoLease(code="parked", reason=one_line(reason), retry_after=parked.until - now)
        return None

    def _may_hold_two(self, peer: PeerId, prefix: str) -> bool:
        """Return whether a peer may hold a second lease; new peers share by prefix."""
        return not prefix or self.standing.proven(peer)

    def _served(self, key: str, work: Work, now: float) -> tuple[PlaceLeft, ...]:
        """Return the end of a place whose holder gets work; small work leaves it where it is."""
        if key in self.queue and work.kind.small:
            self.queue.passes(key, now)
            return ()
        return (PlaceLeft(key),) if key in self.queue else ()

    def _nothing_to_do(
        self, asker: Asker, key: str, held_back: str
    ) -> tuple[tuple[Change, ...], NoLease]:
        if not self.grants and self.rounds.finished:
            last = self.rounds.last
            reason = f"round {last} of {last} is done"
            return (), NoLease(code="run-over", reason=reason, retry_after=30.0)
        reason = one_line(held_back or self.blocked or why_idle(self.state, self.grants))
        queued, number, places = self._place(asker, key, bool(held_back))
        wait = retry_after(number, leased=bool(self.grants))
        self.queue.asked(key, asker.peer, asker.now, wait=wait)
        if held_back:
            self.queue.passes(key, asker.now)
        if number is None:
            return (), NoLease(code="no-lease", reason=reason, retry_after=wait)
        return queued, NoLease(
            code="no-lease", reason=reason, retry_after=wait, place=number, places=places
        )

    def _place(
        self, asker: Asker, key: str, held_back: bool
    ) -> tuple[tuple[Change, ...], int | None, int]:
        """Return the changes by which an asker has a place, its number, and the number of all."""
        queue, new = self.queue, key != asker.peer
        number = 1 + sum(1 for _ in queue.before(key, last=new))
        if key in queue:
            return (), number, len(queue)
        displaced = queue.displaced_by(new=new)
        if displaced is None:
            return (), None, len(queue)
        taken = PlaceTaken(key, asker.peer, asker.now, held_back)
        if displaced:
            return (PlaceLeft(displaced), taken), number, len(queue)
        return (taken,), number, len(queue) + 1

    def _contribution(self, accepted: TrainingAccepted, module: ModuleId) -> Contribution:
        result, steps = accepted.result, 0
        if result.moments:
            taken = result.steps_taken(self.manifest.training.inner_steps)
            steps = self.ledger.steps_before(accepted.path, accepted.round) + taken
        return Contribution(
            path=accepted.path,
            peer=accepted.peer,
            delta=digest_of(module, result.deltas),
            weight=self.rounds.weights_at(accepted.round)[accepted.path],
            moments=digest_of(module, result.moments) if result.moments else None,
            steps=steps,
        )
