"""A volunteer of a universe: it asks, fetches, trains in integers, hands in, follows the ledger."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET, UnsetType

from dipaco.node.kinds.table import kind_of, work_of
from dipaco.node.storage.files import DiskFull
from dipaco.node.volunteer.retention import HandedIn, blobs_needed, handed_in, not_handed_over
from dipaco.protocol.errors import RemoteProtocolError, Unavailable
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleDigest, ModuleId
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.calls import (
    AskLease,
    AskNext,
    Fallen,
    Granted,
    HandBack,
    Heartbeat,
    NoLease,
    Reclaim,
    Stands,
    Submit,
)
from dipaco.protocol.work.kinds import (
    EvaluateLease,
    EvaluateResult,
    Evaluation,
    Lease,
    Result,
    ScoreLease,
    SeedLease,
    SeedResult,
    TrainLease,
    TrainResult,
)
from dipaco.protocol.work.terms import Head
from tests.simulation import toy
from tests.simulation.blobs import Blobs, most_blobs
from tests.simulation.calls import Fetch, Part, Pull
from tests.simulation.chain import Chain
from tests.simulation.granted import grant_next_term
from tests.simulation.oracle import Oracle
from tests.simulation.scheduler import SPEC
from tests.simulation.usurping import usurp
from tests.simulation.world import Ask, Away, Node, Pause, Task, World
from tests.values import peer

FOLLOW_SECONDS = 5.0  # between looks at the ledger of others
RETRY_SECONDS = 2.0
PROGRESS_SECONDS = 5.0
BEATS = 4  # heartbeats in a lease's time to live
FETCH_TRIES = 6  # before a lease is handed back
HAND_BACK = 0.03  # share of leases that a volunteer hands back for no reason
EVALUATION = Evaluation(documents=1, tokens=10, nll=30.0)


@dataclass(eq=False)
class Held:
    """A lease that is held."""

    lease: Lease
    stands: bool = True
    progress: int = 0
    result: Result | None = None
    """Once the work is done."""


class VolunteerNode(Node):
    """Works for the run to its end."""

    def __init__(
        self, world: World, name: str, run: Digest, manifest: Manifest, oracle: Oracle
    ) -> None:
        super().__init__(world, name, peer(name))
        self.run, self.manifest, self.oracle = run, manifest, oracle
        self.seconds = self.random.choice((1.0, 6.0, 25.0))
        """Of one piece of training; others take less."""
        self._most_blobs = most_blobs(manifest)
        self.holds_two = self.random.random() < 0.5

    def boot(self) -> None:
        self.blobs = Blobs(self.disk, self.oracle)
        self.chain = Chain(self.run, self.manifest, self.disk, self.oracle)
        self.held: list[Held] = []
        self._shown: dict[bytes, PeerId] = {}
        """By token of a lease the scheduler that granted it, or to which it was shown last."""
        self._handed_in: dict[int, HandedIn] = {}
        self.spawn(self._follow())
        self.spawn(self._work())

    @property
    def scheduler(self) -> PeerId:
        """Whom the ledger names."""
        return self.chain.record.scheduler

    @property
    def _head(self) -> Head | UnsetType:
        if self.old or not self.manifest.schedule.named_keepers:
            return UNSET
        return self.chain.record.chain_head

    # ------------------------------------------------------------------ what others ask and tell

    def answer(self, who: PeerId, request: Any) -> Any:
        match request:
            case Fetch():
                return self.blobs.answer(request)
            case Pull(first=first):
                return self.chain.part(first)
        raise AssertionError(request)

    def usurp(self) -> Task:
        return usurp(self, self.run, self.manifest, self.chain.record.term)

    def heard(self, who: PeerId, message: Any) -> None:
        if isinstance(message, Part):  # a proof against a scheduler tells a volunteer nothing
            self._offer(who, message)

    def owner_grants(self) -> bool:
        return grant_next_term(self.disk, self.run, self.manifest, self.oracle)

    def look(self) -> None:
        self.oracle.table("leases of a volunteer", len(self.held), 2)
        self.oracle.table("blobs", len(self.blobs), self._most_blobs)

    def _offer(self, who: PeerId, part: Part) -> None:
        try:
            self.chain.offer(part)
        except RemoteProtocolError as error:
            self.oracle.struck(who, str(error))
        except DiskFull:
            self.chain.reread()

    def _follow(self) -> Task:
        while True:
            who = self.random.choice((self.scheduler, *self.others))
            reply = yield Ask(who, Pull(len(self.chain.records)))
            if isinstance(reply, Part):
                self._offer(who, reply)
            yield Pause(FOLLOW_SECONDS)

    # ------------------------------------------------------------------ work

    def _work(self) -> Task:
        while not self.chain.record.over:
            reply = yield Ask(self.scheduler, AskLease(run=self.run, spec=SPEC, head=self._head))
            if isinstance(reply, Granted):
                yield from self._go_through(self._take(reply.lease))
                continue
            self.held.clear()
            yield Pause(reply.retry_after if isinstance(reply, NoLease) else RETRY_SECONDS)

    def _take(self, lease: Lease) -> Held:
        try:
            kind_of(lease).check(self.chain.record.state, lease)
        except RemoteProtocolError as error:
            self.oracle.struck(self.scheduler, str(error))
        self._shown = {each.lease.token: self._shown[each.lease.token] for each in self.held}
        self._shown[lease.token] = self.scheduler
        held = Held(lease)
        self.held.append(held)
        self.spawn(self._beat(held))
        return held

    def _go_through(self, first: Held) -> Task:
        """Do a lease, and those that are held behind it, one after the other."""
        self.held = [first]
        current: Held | None = first
        while current is not None:
            following = None
            if (yield from self._prepare(current)):
                if self.holds_two and len(self.held) == 1:
                    following = yield from self._ask_next(current)
                yield from self._perform(current)
            if current.result is None:
                yield from self._give_up(current)
            elif following is None:
                yield from self._hand_in(current, current.result)
            else:
                self.spawn(self._hand_in(current, current.result))
            current = following
        while self.held:
            yield Pause(RETRY_SECONDS)

    def _ask_next(self, first: Held) -> Task:
        request = AskNext(run=self.run, spec=SPEC, token=first.lease.token)
        reply = yield Ask(self.scheduler, request)
        return self._take(reply.lease) if isinstance(reply, Granted) and first.stands else None

    def _beat(self, held: Held) -> Task:
        while held in self.held and held.stands:
            beat = Heartbeat(
                run=self.run, token=held.lease.token, progress=held.progress, tokens_per_second=1.0
            )
            self.spawn(self._beat_once(held, beat))
            yield Pause(held.lease.ttl / BEATS)

    def _beat_once(self, held: Held, beat: Heartbeat) -> Task:
        reply = yield from self._reclaim(held)
        if isinstance(reply, Stands):
            reply = yield Ask(self.scheduler, beat, held.lease.ttl / BEATS)
        if isinstance(reply, Fallen):
            held.stands = False

    def _reclaim(self, held: Held) -> Task:
        """Show a lease to the scheduler of a new term, which did not grant it, once."""
        scheduler, token = self.scheduler, held.lease.token
        if self.old or self._shown.get(token, scheduler) == scheduler:
            return Stands()
        reply = yield Ask(scheduler, Reclaim(lease=held.lease))
        if isinstance(reply, Stands):
            self.world.note_fault("lease shown again")
            self._shown[token] = scheduler
        return reply

    def _prepare(self, held: Held) -> Task:
        """Fetch the inputs; False: they cannot be had."""
        if self.random.random() < HAND_BACK:
            return False
        for _ in range(FETCH_TRIES):
            missing = [each for each in sorted(held.lease.inputs) if not self.blobs.has(each)]
            if not missing or not held.stands:
                break
            schedule = self.manifest.schedule
            for each in missing:
                named = (*schedule.named_keepers, *schedule.schedulers[:1])
                holders = [self.scheduler, *named, *self._some_others()]
                try:
                    yield from self.blobs.fetch(each, holders)
                except DiskFull:
                    return False
                held.progress += 1
        return held.stands and all(self.blobs.has(each) for each in held.lease.inputs)

    def _some_others(self) -> list[PeerId]:
        return self.random.sample(self.others, min(1, len(self.others)))

    def _give_up(self, held: Held) -> Task:
        self._drop(held)
        if held.stands:
            back = HandBack(run=self.run, token=held.lease.token, reason="it cannot be done here")
            yield Ask(self.scheduler, back)
            yield Pause(RETRY_SECONDS)

    def _perform(self, held: Held) -> Task:
        small = not isinstance(held.lease, SeedLease | TrainLease)
        left = 0.5 if small else self.seconds
        while left > 0 and held.stands:
            yield Pause(min(left, PROGRESS_SECONDS))
            left -= PROGRESS_SECONDS
            held.progress += 1
        if held.stands:
            with suppress(Unavailable):
                held.result = self._result(held.lease)

    def _result(self, lease: Lease) -> Result:
        match lease:
            case SeedLease(token=token):
                modules = self.manifest.topology.path_modules[0]
                seed = toy.seed_model(modules)
                states = self._named(modules, self.blobs.write(seed[m] for m in modules))
                steps = self.manifest.training.seed_steps
                return SeedResult(token=token, states=states, **self._figures(steps))
            case TrainLease():
                return self._trained(lease)
            case EvaluateLease(token=token):
                return EvaluateResult(token=token, evaluation=EVALUATION)
            case ScoreLease():
                raise AssertionError("no universe has a re-sharding")

    def _trained(self, lease: TrainLease) -> TrainResult:
        number = self.blobs.number
        states = {ModuleId(each.module): number(each.digest) for each in lease.modules}
        moments = {ModuleId(each.module): number(each.digest) for each in lease.moments}
        deltas, after = toy.train(states, moments, lease.path, lease.round)
        carried: tuple[ModuleDigest, ...] = ()
        if self.manifest.training.inner_state == "carry":
            carried = self._named(after, self.blobs.write(after.values()))
        return TrainResult(
            token=lease.token,
            deltas=self._named(deltas, self.blobs.write(deltas.values())),
            moments=carried,
            **self._figures(self.manifest.training.inner_steps),
        )

    def _figures(self, steps: int) -> dict[str, Any]:
        tokens = steps * self.manifest.training.batch * self.manifest.model.context
        return {"tokens": tokens, "seconds": 0.5, "loss_first": 3.0, "loss_last": 2.0}

    @staticmethod
    def _named(modules: Iterable[ModuleId], blobs: list[Digest]) -> tuple[ModuleDigest, ...]:
        pairs = zip(modules, blobs, strict=True)
        return tuple(ModuleDigest(module=module, digest=blob) for module, blob in pairs)

    # ------------------------------------------------------------------ handing in

    def _hand_in(self, held: Held, result: Result) -> Task:
        lease = held.lease
        while held.stands:
            scheduler = self.scheduler
            reply = yield from self._reclaim(held)
            if not isinstance(reply, Away):
                reply = yield Ask(scheduler, Submit(run=self.run, result=result), 30.0)
            if isinstance(reply, Fallen):
                break
            if isinstance(reply, Stands):
                if isinstance(lease, TrainLease) and isinstance(result, TrainResult):
                    self.oracle.stands(self.peer, lease, result, scheduler)
                    found = handed_in(lease, result, self.chain.record.state)
                    self._handed_in[work_of(lease).path] = found
                break
            yield Pause(RETRY_SECONDS)
        self._drop(held)
        done = set() if isinstance(lease, TrainLease) else result.digests
        self._forget_old_blobs(done)

    def _drop(self, held: Held) -> None:
        self.held = [each for each in self.held if each is not held]

    def _forget_old_blobs(self, handed_in: set[Digest]) -> None:
        record = self.chain.record
        self._handed_in = not_handed_over(self._handed_in, record.state)
        needed = blobs_needed(record, self.peer, self.blobs.has) | handed_in
        for each in self._handed_in.values():
            needed |= {moment.digest for moment in each.moments}
        for held in self.held:
            needed |= held.lease.inputs | (held.result.digests if held.result else set())
        self.blobs.keep_only(needed)
