"""The schedule of one run: who may do what next, as a pure state machine.

Owns the life of leases, and dispatches to the kinds of work (`dipaco.node.kinds`). It knows no
clock, no disk and no network: every event takes `now` (seconds on any steady clock) and returns
the changes to make and the reply to send. The shell saves the changes, applies them, then answers
(service.py), so a restart resumes at the exact state and never denies what a peer has seen.

The ledger's fold is not its own: the shell brings an entry into it when it saves one, and the
schedule reads it.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice

from msgspec import UNSET

from dipaco.node.kinds.base import Work
from dipaco.node.kinds.changes import (
    RECONNECT_SECONDS,
    STALL_TTLS,
    Change,
    DueStep,
    Grant,
    LeaseEnded,
    MomentsArrived,
    MomentsPending,
    Recorded,
    TrainingAccepted,
    TrainingDiscarded,
)
from dipaco.node.kinds.pending_moments import Pending, Place
from dipaco.node.kinds.state import SchedulingState
from dipaco.node.kinds.table import KINDS, TRAIN, kind_of, work_of
from dipaco.node.kinds.train import is_again, moments_arrived, moments_lost, moments_to_look_at
from dipaco.node.scheduler.in_hand import RETRY_SECONDS as NEXT_SECONDS
from dipaco.node.scheduler.in_hand import end_with, to_hold
from dipaco.node.scheduler.late_paths import LatePaths
from dipaco.node.scheduler.parking import Parking
from dipaco.node.scheduler.sharing import MOST_IN_HAND, leases_to_take, work_to_share
from dipaco.node.scheduler.standing import Standing
from dipaco.protocol.numbers import count
from dipaco.protocol.routing.labels import MAX_SHEETS_PER_WINDOW
from dipaco.protocol.run.modules import ModuleId, digest_of
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId, short_peer
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
from dipaco.protocol.work.run_state import MAX_REPLACED

RETRY_SECONDS = 2.0  # at least, before a volunteer without a lease asks again
MAX_COUNTED = 4096  # peers whose newest result that counts is remembered, the latest
MOST_TRIED = 8 + MOST_IN_HAND  # leases of others that are looked at for a peer without work
ALL_PLACES = 1 << 16  # more than any work has
MAX_RETRY_SECONDS = 10.0  # at most; a new ledger record wakes it earlier


class Schedule:
    """All that the scheduler knows of one run."""

    def __init__(self, state: SchedulingState) -> None:
        self.state = state
        self.ledger = state.ledger
        self.rounds = state.rounds
        self.manifest = state.manifest
        self.grants: dict[bytes, Grant] = {}
        self.parking = Parking()
        self.standing = Standing()
        for peer in self.ledger.contributors.values():
            self.standing.trained(peer)
        self._counted: dict[PeerId, tuple[Token, ...]] = {}
        """Per peer the tokens of its two newest results that count: answers may have been lost."""
        self._late = LatePaths(self.rounds, self.ledger)
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
        """Say why the run can never go on: peers disagree for good, or moments are lost too often.

        Empty: it can.
        """
        for path, round_ in self.state.pending:
            lost = self.state.pending.first_lost(path, self.ledger.path_version(path))
            if lost == round_ and not self.ledger.may_replace(path, round_):
                return (
                    f"the run cannot go on: the moments of path {path} round {round_} were lost "
                    f"{MAX_REPLACED} times after they had arrived here"
                )
        scores = self.state.scores
        found = next(scores.undecided(self.rounds.live_paths), None) if scores else None
        if scores is None or found is None:
            return ""
        path, window = found
        peers = ", ".join(short_peer(each.peer) for each in scores.given(path, window))
        return (
            f"the run cannot go on: of path {path}, window {window} there are "
            f"{MAX_SHEETS_PER_WINDOW} score sheets, the most, and no majority agrees ({peers})"
        )

    def grant_of(self, peer: PeerId, token: Token) -> Grant | None:
        """Return the lease that `peer` holds under `token`, if it stands."""
        grant = self.grants.get(token)
        return grant if grant and grant.peer == peer else None

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
        ended = tuple(
            LeaseEnded(
                held.lease.token,
                "its holder asked for another",
                failed=None if held.behind in self.grants else now,
            )
            for held in self.grants.values()
            if held.peer == peer
        )
        taken = Counter(work_of(g.lease) for g in self.grants.values() if g.peer != peer)
        work = self._next_work(peer, prefix, taken, now)
        if work is None:
            work, given_up = self._taken_from_another(peer, prefix, taken, now)
            ended += given_up
        if work is None:
            work = work_to_share(self.grants.values(), self.standing, peer, prefix, now)
        if work is None:
            return ended, self._nothing_to_do(now)
        lease: Lease = work.kind.lease(self.state, work, token)
        return (*ended, Grant(lease, peer, now, prefix=prefix)), Granted(lease=lease)

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
        held = [grant for grant in self.grants.values() if grant.peer == peer]
        # It never got our last answer.
        lost = [grant for grant in held if grant.behind == first]
        ended = tuple(LeaseEnded(g.lease.token, "its holder asked for another") for g in lost)
        begun = [grant for grant in held if grant not in lost]
        work, behind = None, first
        if [grant.lease.token for grant in begun] == [first] and self._may_hold_two(peer, prefix):
            others = (grant for grant in self.grants.values() if grant not in lost)
            taken = Counter(work_of(grant.lease) for grant in others)
            if begun[0].handed_in:
                taken[work_of(begun[0].lease)] += ALL_PLACES  # nobody does the same work twice
                work, behind = self._next_work(peer, prefix, taken, now), b""
            else:
                work = to_hold(self.state, peer, taken, self._expected(now, besides=peer))
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
        grant = self.grant_of(peer, token)
        if grant is None:
            return Fallen(reason=self._why_fallen(token))
        self.state.pending.heard_from(peer)
        self.standing.heard_from(peer, now)
        grant = replace(grant, beat=now, gone=math.inf, prefix=prefix)
        if progress > grant.progress:
            grant = replace(grant, progress=progress, moved=now)
        if grant.behind and grant.behind not in self.grants:
            grant = replace(grant, behind=b"", begun=now)
        self.grants[token] = grant
        return Stands()

    def handing_in(self, peer: PeerId, token: Token, now: float) -> None:
        """Note that a result is on its way: its holder goes on with the lease in hand. Not saved.

        The lease may have ended: the result is refused then, and its holder goes on all the same.
        """
        for each in [grant for grant in self.grants.values() if grant.peer == peer]:
            if each.lease.token == token:
                self.grants[token] = replace(each, handed_in=True)
            elif each.behind == token:
                self.grants[each.lease.token] = replace(each, behind=b"", begun=now)

    def got_on(self, peer: PeerId, token: Token, now: float) -> None:
        """Note that the result of a lease is arriving, or being inspected. It is not saved."""
        grant = self.grant_of(peer, token)
        if grant is not None:
            self.grants[token] = replace(grant, moved=now)

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
        """Accept the result of a lease that stands; its blobs are here and were inspected."""
        if result.token in self._counted.get(peer, ()):
            return (), Stands()
        grant = self.grant_of(peer, result.token)
        if grant is None:
            return (), Fallen(reason=self._why_fallen(result.token))
        wrong = self.misfit(grant, result, now)
        if wrong:
            return (LeaseEnded(result.token, wrong, failed=now),), Fallen(reason=wrong)
        if isinstance(result, TrainResult):
            self.standing.trained(peer, now)
        if not grant.restored:
            self.standing.took(peer, work_of(grant.lease), now - grant.since)
        changes = kind_of(grant.lease).accept(self.state, grant.lease, peer, result)
        return (*changes, *self._not_needed(grant)), Stands()

    def _not_needed(self, done: Grant) -> Iterator[LeaseEnded]:
        """Yield the end of the leases of others for work of which a result counts."""
        work = work_of(done.lease)
        if work.kind.one_result:
            for each in self.grants.values():
                if each is not done and work_of(each.lease) == work:
                    yield LeaseEnded(each.lease.token, "another peer was done before")

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
        """Take back the acceptance of a result whose blobs are no longer readable."""
        return (TrainingDiscarded(path, round_),) if (path, round_) in self.state.accepted else ()

    def gone(self, peer: PeerId, now: float) -> None:
        """Note that `peer`'s connection broke: its leases end soon unless it comes back."""
        self.state.pending.disconnected(peer, now)
        self.standing.gone(peer)
        for token, grant in self.grants.items():
            if grant.peer == peer:
                self.grants[token] = replace(grant, gone=now)

    def go_on_without(self, now: float) -> tuple[Change, ...]:
        """Have the paths miss their round that are late, where the run has a quorum."""
        late = self._late.overdue(self.state.accepted, now)
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
            token: LeaseEnded(token, _why_expired(grant, now), failed=now)
            for token, grant in self.grants.items()
            if grant.deadline <= now
        }
        return (
            *(moments_lost(self.state, place) for place in overdue),
            *expired.values(),
            *end_with(expired.keys(), self.grants.values()),
        )

    def woke(self, now: float) -> None:
        """Renew what stands, as a restart does: the scheduler stood still, not its peers.

        It is not saved. A connection that had broken before counts as broken now.
        """
        for token, held in self.grants.items():
            moved = held.moved if math.isinf(held.moved) else now
            gone = held.gone if math.isinf(held.gone) else now
            self.grants[token] = replace(held, granted=now, moved=moved, gone=gone, restored=True)
        self.state.pending.woke(now)

    # ------------------------------------------------------------------ changes

    def apply(self, change: Change) -> None:
        """Make one change; the shell saved it before, an entry in the ledger's fold too."""
        state = self.state
        match change:
            case Grant(lease=lease):
                self.grants[lease.token] = change
                if isinstance(lease, TrainLease):
                    state.granted_to[lease.path] = change.peer
            case LeaseEnded():
                self._end(change)
            case TrainingAccepted(path=path, round=round_, peer=peer, result=result):
                grant = self.grants.pop(result.token, None)
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
            case Recorded(entry=ModuleUpdated() | RoundMissed()):
                self.forget_taken_in()
            case Recorded(entry=SpecAdopted()):
                self._forget_dead_paths()

    def _end(self, ended: LeaseEnded) -> None:
        grant = self.grants.pop(ended.token, None)
        if not ended.counted:
            self._why_ended[ended.token] = ended.reason
            if len(self._why_ended) > MAX_COUNTED:
                del self._why_ended[next(iter(self._why_ended))]
        if grant and ended.counted:
            self._note_counted(grant.peer, ended.token)
        elif grant and ended.failed is not None:
            prefix = "" if self.standing.proven(grant.peer) else grant.prefix
            self.parking.failed(grant.peer, ended.reason, ended.failed, prefix=prefix)
            self.standing.failed(grant.peer)

    def _why_fallen(self, token: Token) -> str:
        why = self._why_ended.get(token, "its time ran out, or the work was given to another")
        return one_line(f"the lease no longer stands: {why}")

    def _note_counted(self, peer: PeerId, token: Token, trained_in: str = "") -> None:
        self._counted[peer] = (*self._counted.pop(peer, ())[-1:], token)
        if len(self._counted) > MAX_COUNTED:
            del self._counted[next(iter(self._counted))]
        self.parking.worked(peer, prefix=trained_in)

    def forget_taken_in(self) -> None:
        """Drop what no round needs: accepted results that all modules of their path took in."""
        ledger, last = self.ledger, self.rounds.last
        for path in self.rounds.live_paths:
            if ledger.path_version(path) == last:
                self.state.pending.forget(path, last)
        for path, round_ in list(self.state.accepted):
            if ledger.path_version(path) >= round_:
                del self.state.accepted[path, round_]

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

    def _next_work(
        self, peer: PeerId, prefix: str, taken: Counter[Work], now: float
    ) -> Work | None:
        """Pick the first piece of work that has a place left.

        A peer that has proven nothing gets small work first, and of other work what the proven
        peers leave that ask next. As long as nobody is proven all are treated alike, and so are
        peers whose prefix is not counted.
        """
        small_first = bool(prefix) and len(self.standing) > 0 and not self.standing.proven(peer)
        kinds = sorted(KINDS, key=lambda kind: not kind.small) if small_first else KINDS
        kept = self._expected(now) if small_first else 0
        overdue = (kind.overdue(self.state) for kind in kinds)
        due = (kind.due(self.state, peer) for kind in kinds)
        for work in chain.from_iterable(chain(overdue, due)):
            if taken[work] >= work.places:
                continue
            if kept and not work.kind.small:
                kept -= 1
                continue
            return work
        return None

    def _may_hold_two(self, peer: PeerId, prefix: str) -> bool:
        """Return whether a peer may hold a second lease; new peers share by prefix."""
        return not prefix or self.standing.proven(peer)

    def _expected(self, now: float, *, besides: PeerId | None = None) -> int:
        """Return how many proven peers ask for work soon: those that hold none, or small work."""
        busy = {grant.peer for grant in self.grants.values() if not kind_of(grant.lease).small}
        return len(self.standing.awaited(now) - busy - {besides})

    def _taken_from_another(
        self, peer: PeerId, prefix: str, taken: Counter[Work], now: float
    ) -> tuple[Work | None, tuple[LeaseEnded, ...]]:
        """Pick a piece of work that another peer has to give up, and the end of its lease."""
        found = leases_to_take(self.grants.values(), self.standing, peer, prefix, now)
        for each in islice(found, MOST_TRIED):
            held = work_of(each.grant.lease)
            taken[held] -= 1
            work = self._next_work(peer, prefix, taken, now)
            taken[held] += 1
            if work is None and each.failed:
                left = (grant for grant in self.grants.values() if grant is not each.grant)
                work = work_to_share(left, self.standing, peer, prefix, now)
            if work is not None:
                token, failed = each.grant.lease.token, now if each.failed else None
                behind = end_with({token}, self.grants.values()) if each.failed else ()
                return work, (LeaseEnded(token, each.reason, failed=failed), *behind)
        return None, ()

    def _nothing_to_do(self, now: float) -> NoLease:
        if self.rounds.finished:
            last = self.rounds.last
            return NoLease(
                code="run-over", reason=f"round {last} of {last} is done", retry_after=30.0
            )
        reason = one_line(self._why_idle())
        return NoLease(code="no-lease", reason=reason, retry_after=self._next_look(now))

    def _next_look(self, now: float) -> float:
        """Return after how many seconds there may be work of which no ledger record tells.

        That is when a lease or the wait for moments ends by itself.
        """
        ends = min((grant.deadline - now for grant in self.grants.values()), default=math.inf)
        return max(RETRY_SECONDS, min(MAX_RETRY_SECONDS, ends))

    def _why_idle(self) -> str:
        """Say what is waited for."""
        if deadlock := self.deadlock:
            return deadlock
        grants = list(self.grants.values())[:4]
        if grants:
            held = ", ".join(kind_of(g.lease).text(g.lease) for g in grants)
            return f"all work is leased ({held})"
        if pending := next(iter(self.state.pending), None):
            path, round_ = pending
            return f"the moments of path {path} round {round_} are still with their maker"
        scores = self.state.scores
        if not scores:
            return "an outer step is being taken"
        wanted = next(scores.vacancies(self.rounds.live_paths), None)
        if wanted is None:
            return "the next router is being derived"
        return f"path {wanted.path} is to be scored by {count(wanted.places, 'more peer')}"

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


def _why_expired(grant: Grant, now: float) -> str:
    """Say why a lease ends whose time ran out."""
    peer = short_peer(grant.peer)
    if grant.gone + RECONNECT_SECONDS <= now:
        return f"{peer} went away"
    if grant.silent_at <= now:
        return f"{peer} is silent"
    return f"{peer} does not get on"
