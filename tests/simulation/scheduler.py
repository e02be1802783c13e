"""The scheduler of a universe: a thin shell round the real `Schedule`, in the order of service.py.

Save, then send: changes are saved by the real `save_change`, applied, and only then answered.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from dipaco.node.kinds.changes import Change, DueStep
from dipaco.node.kinds.pending_moments import Place
from dipaco.node.kinds.state import SchedulingState
from dipaco.node.kinds.table import kind_of
from dipaco.node.kinds.train import is_again
from dipaco.node.scheduler.deps import SchedulerDeps
from dipaco.node.scheduler.journaled import save_change, saved_changes
from dipaco.node.scheduler.reclaim import reclaimed
from dipaco.node.scheduler.retention import blobs_needed
from dipaco.node.scheduler.schedule import Schedule
from dipaco.node.storage.files import DiskFull
from dipaco.node.storage.journal import Journal, SavedLease, SavedResult
from dipaco.protocol.errors import ConfigError, Unavailable
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.signed import sign
from dipaco.protocol.work.calls import (
    AskLease,
    AskNext,
    Fallen,
    HandBack,
    Heartbeat,
    Reclaim,
    Stands,
    Submit,
)
from dipaco.protocol.work.kinds import TOKEN_BYTES, Result, TrainLease
from dipaco.protocol.work.ledger import Entry, LedgerRecord
from tests.simulation import toy
from tests.simulation.blobs import Blobs, most_blobs
from tests.simulation.calls import Fetch, Pull
from tests.simulation.chain import Chain, write_of
from tests.simulation.disk import Disk, Write
from tests.simulation.oracle import Oracle
from tests.simulation.signatures import signing_key
from tests.simulation.world import Node, Pause, Signal, Task, Wait, World
from tests.values import digest, peer

SPEC = digest("spec")
LOOK_SECONDS = 0.5  # between two looks of the oracle at the ends of leases
EXPIRY_SECONDS = 1.0  # between looks for leases whose time ran out
STEP_SECONDS = 0.3  # of an outer step, and of an inspection
RETRY_SECONDS = 5.0  # before what failed is tried again
LEASES, RESULTS, PLACES = "leases", "results", "places"


class SimulatedJournal:
    """The scheduler's tables, in transactions, as `Journal` has them."""

    def __init__(self, disk: Disk, *, old: bool) -> None:
        """old: of the version before, which saves no places."""
        self._disk, self._old = disk, old
        self._writes: list[Write] | None = None

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Save what is written within as one transaction; raises DiskFull."""
        self._writes = []
        try:
            yield
            self._disk.commit(self._writes)
        finally:
            self._writes = None

    def put(self, write: Write) -> None:
        """Write a row within `saving`."""
        assert self._writes is not None
        self._writes.append(write)

    def save_lease(self, saved: SavedLease) -> None:
        self.put((LEASES, (saved.token, saved.peer), saved.data))

    def drop_lease(self, token: bytes) -> None:
        for key in self._disk.rows(LEASES):
            if key[0] == token:
                self.put((LEASES, key, None))

    def forget_lease(self, token: bytes) -> None:
        """Drop a lease in a transaction of its own."""
        with self.saving():
            self.drop_lease(token)

    def save_result(self, saved: SavedResult) -> None:
        for key in self._disk.rows(RESULTS):
            if key[:2] == (saved.round, saved.path):
                self.put((RESULTS, key, None))
        self.put((RESULTS, (saved.round, saved.path, saved.peer), saved.data))

    def drop_result(self, run: Digest, round_: int, path: int) -> None:
        for key in self._disk.rows(RESULTS):
            if key[:2] == (round_, path):
                self.put((RESULTS, key, None))

    def drop_results(self, before_round: int) -> None:
        """Drop the results that rounds before this one have taken in."""
        old = [key for key in self._disk.rows(RESULTS) if cast(int, key[0]) < before_round]
        self._disk.commit([(RESULTS, key, None) for key in old])

    def leases(self, run: Digest) -> Iterator[SavedLease]:
        for (token, who), data in self._disk.rows(LEASES).items():
            yield SavedLease(run, cast(bytes, token), cast(PeerId, who), data)

    def results(self, run: Digest) -> Iterator[SavedResult]:
        for (round_, path, who), data in self._disk.rows(RESULTS).items():
            yield SavedResult(run, cast(int, round_), cast(int, path), cast(PeerId, who), data)

    def save_place(self, run: Digest, key: str, peer: PeerId) -> None:
        if not self._old and not any(row[0] == key for row in self._disk.rows(PLACES)):
            self.put((PLACES, (key, peer), b""))

    def drop_place(self, run: Digest, key: str) -> None:
        for row in self._disk.rows(PLACES):
            if row[0] == key:
                self.put((PLACES, row, None))

    def places(self, run: Digest) -> list[tuple[str, PeerId]]:
        return [(cast(str, key), cast(PeerId, who)) for key, who in self._disk.rows(PLACES)]

    def foreign(self, error: Exception) -> ConfigError:
        return ConfigError(f"the journal is of another version: {error}")


@dataclass(eq=False)
class Lock:
    """Held by one task of a node at a time, in the order in which they asked."""

    node: Node
    taken: bool = False
    released: Signal = field(default_factory=Signal)

    def take(self) -> Task:
        """Take it, once it is free."""
        while self.taken:
            yield Wait(self.released)
        self.taken = True

    def release(self) -> None:
        """Give it back."""
        self.taken = False
        self.node.wake(self.released, 1)


class SchedulerNode(Node):
    """Hands out the work of the run and takes in its results."""

    def __init__(
        self, world: World, name: str, run: Digest, manifest: Manifest, oracle: Oracle
    ) -> None:
        super().__init__(world, name, peer(name))
        self.run, self.manifest, self.oracle = run, manifest, oracle
        self.key = signing_key(name)
        self.term = 0
        self.ready = True
        """Whether it schedules."""

    def boot(self) -> None:
        self.journal = SimulatedJournal(self.disk, old=self.old)
        self.blobs = Blobs(self.disk, self.oracle)
        self.chain = Chain(self.run, self.manifest, self.disk, self.oracle)
        self.run_store = self  # `save_change` appends to the ledger through it
        self.resume()

    def resume(self) -> None:
        """Take up the schedule where the journal ends."""
        record = self.chain.record
        self.schedule = Schedule(SchedulingState(self.run, record.rounds, record.state))
        self._collecting: set[Place] = set()
        self._stepping = False
        self.making: set[Digest] = set()
        """Blobs of a step that is not recorded yet."""
        self._submitted: dict[bytes, frozenset[Digest]] = {}
        self._arriving: set[bytes] = set()
        self._appended: list[LedgerRecord] = []
        """What the changes that are being made appended."""
        self.lock = Lock(self)
        """Of decisions about the ledger: they are made one after the other."""
        self._awake = self.now
        """Since when it can end leases."""
        self._looks = -math.inf
        """When the ends of its leases are next held against the oracle's rule."""
        self._most_blobs = most_blobs(self.manifest)
        for change in saved_changes(self.run, cast(Journal, self.journal), self.now):
            self.schedule.apply(change)
        self.schedule.forget_taken_in()
        for pending in self.schedule.restored(self.now):
            self.schedule.apply(pending)
        self.spawn(self._expire())
        self.spawn(self._adopt())

    # ------------------------------------------------------------------ requests

    def answer(self, who: PeerId, request: Any) -> Any:
        schedule, token = self.schedule, self.random.randbytes(TOKEN_BYTES)
        match request:
            case AskLease(spec=spec):
                changes, reply = schedule.ask(who, spec, token=token, now=self.now)
                self.make(changes)
                return reply
            case AskNext(spec=spec, token=first):
                changes, reply = schedule.ask_next(who, spec, first, token=token, now=self.now)
                self.make(changes)
                return reply
            case Heartbeat(token=held, progress=progress):
                return schedule.heartbeat(who, held, progress=progress, now=self.now)
            case Reclaim() if self.old:
                raise Unavailable("this version knows no such question")
            case Reclaim(lease=lease):
                changes, stands = reclaimed(schedule, who, lease, now=self.now)
                self.make(changes)
                return stands
            case HandBack():
                return self._hand_back(who, request)
            case Submit(result=result):
                return self._submit(who, result)
            case Fetch():
                return self.blobs.answer(request)
            case Pull(first=first_record):
                return self.chain.part(first_record)
        raise AssertionError(request)

    def disconnected(self, who: PeerId) -> None:
        self.schedule.gone(who, self.now)

    def look(self) -> None:
        awake = max(self._awake, self.local(self.frozen_until))
        since = math.inf if self.disk.full else awake + EXPIRY_SECONDS
        self.oracle.schedule(self.schedule)
        if self.now >= self._looks:
            self._looks = self.now + LOOK_SECONDS
            self.oracle.leases(self.schedule, self.now, since=since)
        self.oracle.table("blobs", len(self.blobs), self._most_blobs)

    def _hand_back(self, who: PeerId, request: HandBack) -> Stands:
        grant = self.schedule.grant_of(who, request.token)
        self.make(self.schedule.hand_back(who, request.token, request.reason, now=self.now))
        lease = grant.lease if grant else None
        if isinstance(lease, TrainLease) and not all(map(self.blobs.has, _moments(lease))):
            self.make(self.schedule.moments_lost((lease.path, lease.round - 1)))
        return Stands()

    def _submit(self, who: PeerId, result: Result) -> Task:
        self.schedule.handing_in(who, result.token, self.now)
        grant = self.schedule.may_count(who, result.token)
        if grant is None or self.schedule.misfit(grant, result, self.now):
            return (yield from self._count(who, result))
        arriving = self._arriving  # of this life: the task may be closed in a later one
        if result.token in arriving:
            raise Unavailable("this result is being taken in already: ask again")
        blobs = kind_of(grant.lease).to_inspect(self.schedule.state, grant.lease, result)
        wanted = [blob for blob, _ in blobs]
        self._submitted[result.token] = frozenset(wanted)
        arriving.add(result.token)
        try:
            for blob in wanted:
                was_here = self.blobs.has(blob)
                # Twice: what is lost on the way is asked for again while its connection stands.
                if not (yield from self.blobs.fetch(blob, (who, who))):
                    raise Unavailable("a blob of the result could not be fetched")
                if not was_here:
                    self.schedule.got_on(who, result.token, self.now)
            yield Pause(STEP_SECONDS)
            return (yield from self._count(who, result))
        finally:
            arriving.discard(result.token)

    def _count(self, who: PeerId, result: Result) -> Task:
        lock = self.lock
        yield from lock.take()
        try:
            changes, reply = self.decided(who, result)
            yield from self.record(changes)
            return reply
        finally:
            lock.release()

    def decided(self, who: PeerId, result: Result) -> tuple[tuple[Change, ...], Stands | Fallen]:
        """Return what a result changes, and the answer to its volunteer."""
        grant = self.schedule.may_count(who, result.token)
        wrong = self.schedule.misfit(grant, result, self.now) if grant else ""
        if wrong:
            self.oracle.struck(who, wrong)
        lease = grant.lease if grant else None
        if isinstance(lease, TrainLease) and is_again(self.schedule.state, lease):
            self.oracle.made_again(result.token)
        return self.schedule.submit(who, result, now=self.now)

    # ------------------------------------------------------------------ the run's own work

    def _adopt(self) -> Task:
        while self.schedule.ledger.spec is None:
            lock = self.lock
            yield from lock.take()
            try:
                yield from self.record(self.schedule.adopt(SPEC))
            except Unavailable:
                yield Pause(RETRY_SECONDS)
            finally:
                lock.release()

    def _expire(self) -> Task:
        while True:
            try:
                self.make(self.schedule.expire(self.now))
                self._go_on()
            except DiskFull:
                self._awake = self.now
            yield Pause(EXPIRY_SECONDS)

    def _go_on(self) -> None:
        """Begin whatever is due and not in work."""
        if not self._stepping and self.due_step() is not None:
            self._stepping = True
            self.spawn(self._take_steps())
        for place in self.schedule.state.pending:
            if place not in self._collecting:
                self._collecting.add(place)
                self.spawn(self._collect(place))

    def _take_steps(self) -> Task:
        while (step := self.due_step()) is not None:
            yield Pause(STEP_SECONDS)
            try:
                if not (yield from self._discard_lost(step)):
                    yield from self._step(step)
                self._forget_old_blobs()
            except Unavailable:
                yield Pause(RETRY_SECONDS)
        self._stepping = False

    def due_step(self) -> DueStep | None:
        """Return an outer step that can be taken."""
        return next(self.schedule.due_steps(), None)

    def _discard_lost(self, step: DueStep) -> Task:
        yield from ()
        lost = [each.path for each in step.contributions if not self.blobs.has(each.delta)]
        for path in lost:
            self.make(self.schedule.discard(path, step.version))
        return bool(lost)

    def _step(self, step: DueStep) -> Task:
        number = self.blobs.number
        state, momentum = toy.outer_step(
            number(step.state),
            number(step.momentum) if step.momentum else 0,
            self.weighted(step),
        )
        made, kept = self.blobs.write((state, momentum))
        self.making |= {made, kept}
        lock = self.lock
        yield from lock.take()
        try:
            yield from self.record(self.schedule.stepped(step, state=made, momentum=kept))
        finally:
            lock.release()
        self.making.clear()
        self.journal.drop_results(self.schedule.rounds.done + 1)

    def weighted(self, step: DueStep) -> list[tuple[int, int]]:
        """Return weight and pseudo-gradient of every path of a step."""
        return [(each.weight, self.blobs.number(each.delta)) for each in step.contributions]

    def _collect(self, place: Place) -> Task:
        while (pending := self.schedule.state.pending.get(place)) is not None:
            try:
                there = True
                for each in pending.moments:
                    named = (pending.maker,) if pending.maker else ()
                    there &= yield from self.blobs.fetch(each.digest, (*named, *self.others))
                    self.schedule.state.pending.got_on(place, self.now)
                now = self.schedule.state.pending.get(place)
                if there and now is not None and now.moments == pending.moments:
                    self.make(self.schedule.moments_arrived(place))
                    self._forget_old_blobs()
            except Unavailable:
                pass
            yield Pause(RETRY_SECONDS)
        self._collecting.discard(place)

    def _forget_old_blobs(self) -> None:
        for token in self._submitted.keys() - self.schedule.grants.keys() - self._arriving:
            del self._submitted[token]
        needed = blobs_needed(self.schedule).union(self.making, *self._submitted.values())
        self.blobs.keep_only(needed)

    # ------------------------------------------------------------------ save, then send

    def record(self, changes: tuple[Change, ...]) -> Task:
        """Make changes of which the ledger may tell; raises Unavailable, and nothing has happened.

        Here a record is final once it is signed and saved.
        """
        self.make(changes)
        yield from ()

    def make(self, changes: tuple[Change, ...]) -> None:
        """Save, then do; raises DiskFull, and then nothing has happened."""
        if not changes:
            return
        before, saved = len(self.chain.records), False
        self._appended.clear()
        try:
            with self.journal.saving():
                for change in changes:
                    self.save(change)
            saved = True
        finally:
            if not saved:
                self.chain.reread()
        for change in changes:
            self.schedule.apply(change)
            self.oracle.change(change, self.term)
        self._go_on()
        self.chain.note_final(self._appended, self.chain.records[before:])
        if self._appended:
            for other in self.others:
                self.send(other, self.chain.part(before))

    def save(self, change: Change) -> None:
        """Save a change by the real code, within a transaction."""
        save_change(change, self.run, cast(SchedulerDeps, self))

    def append(self, run: Digest, entry: Entry, key: Any, *, term: int | None = None) -> None:
        """Append an entry to the ledger, as `RunStore.append` does."""
        record = self.chain.record
        made = LedgerRecord(
            run=run,
            term=record.term if term is None else term,
            seq=record.length,
            previous=record.head,
            entry=entry,
        )
        signed = sign(made, key)
        self.journal.put(write_of(made.seq, signed))
        self._appended += self.chain.take([signed])


def _moments(lease: TrainLease) -> list[Digest]:
    return [each.digest for each in lease.moments]
