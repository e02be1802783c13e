"""The role of a scheduler: hand out the work of the runs that the operator put into this home.

A manifest of a stranger that names this node gives it no work. A run that cannot be scheduled does
not end the node: it serves others as a directory, whether or not it schedules another run.

A run with keepers may have several schedulers: the one of the newest term hands out work, the
others stand by. Which one it is, the keepers decide (`standby.py`, `replication.py`), until the
run's owner has it go on without them.

No limit ends this role, since its volunteers need its answers. A full disk pauses what it writes
alone: the scheduler then answers that it cannot save now.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import trio

from dipaco.node.api.reporter import StatusReporter
from dipaco.node.assembly import Node
from dipaco.node.limits.disk import Disk, DiskLimit, no_space
from dipaco.node.limits.gate import Gate, told
from dipaco.node.network.guard import leaves
from dipaco.node.roles.role import Role
from dipaco.node.runs.record import RunRecord
from dipaco.node.scheduler.catching_up import catch_up
from dipaco.node.scheduler.deps import SchedulerDeps
from dipaco.node.scheduler.journaled import take_over
from dipaco.node.scheduler.kept import KeptScheduler
from dipaco.node.scheduler.parking import Parked
from dipaco.node.scheduler.replication import Deposed, Replication
from dipaco.node.scheduler.service import Scheduler
from dipaco.node.scheduler.standby import Standby
from dipaco.node.status.activity import RunActivity
from dipaco.node.storage.files import DiskFull
from dipaco.protocol.errors import DipacoError, Refusal, Unavailable
from dipaco.protocol.numbers import count, span
from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.wire.signed import sign
from dipaco.protocol.work.authority import scheduler_of_term

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_NAMED = 3  # parked peers that a status names
LOOK_SECONDS = 1.0  # between two looks at what no condition tells of: connections, leases


async def schedule_all(node: Node, reporter: StatusReporter) -> None:
    """Schedule every run of the operator whose manifest names this node, when it is its turn."""
    store, begun = node.run_store, set[Digest]()
    async with trio.open_nursery() as nursery:
        while True:
            for run, record in store.runs.items():
                if run in store.own and run not in begun and _has_a_turn(node, record):
                    begun.add(run)
                    if record not in reporter.runs:
                        reporter.runs.append(record)
                    nursery.start_soon(_attend, node, record)
            if not reporter.runs:
                node.activity.say("directory", peers=len(node.transport.peers()))
            with trio.move_on_after(LOOK_SECONDS):
                await node.run_store.changed.wait()


def _has_a_turn(node: Node, record: RunRecord) -> bool:
    """Return whether this node schedules a run now, or may by the word of its keepers."""
    if record.keepers:
        return node.me in record.manifest.schedule.schedulers
    return _of_term(record, _term_due(record)) == node.me


def _term_due(record: RunRecord) -> int:
    """Return the term in which a run without keepers is scheduled now: the owner may say so."""
    return max(record.term, record.granted.term if record.granted else 0)


def _of_term(record: RunRecord, term: int) -> PeerId:
    return scheduler_of_term(record.manifest.schedule.schedulers, term)


async def _attend(node: Node, record: RunRecord) -> None:
    """Schedule one run until cancelled; what goes wrong ends nothing but that."""
    problem = "a bug of this node: its log has the traceback"
    try:
        await node.guard.attempt("scheduling a run", None, _schedule_by_right, node, record)
    except* DipacoError as group:
        problem = "; ".join(map(str, leaves(group)))
    node.request_router.schedulers.pop(record.run, None)
    node.request_router.standbys.pop(record.run, None)
    log.error("run %s is not scheduled: %s", record.manifest.name, problem)
    node.activity.of(record.run).say("not-scheduled", problem=problem)


async def _schedule_by_right(node: Node, record: RunRecord) -> None:
    """Schedule in turns as long as the run's keepers say whose turn it is."""
    if record.keepers:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_take_turns, node, record)
            while record.keepers:
                await node.run_store.changed.wait()
            nursery.cancel_scope.cancel()
        _check_ours(node, record)
    await _schedule(node, record)


async def _schedule(node: Node, record: RunRecord) -> None:
    """Publish the run's router, then hand out its work until cancelled."""
    expected = record.length > 0 or node.dialer.knows_peers
    await catch_up(lambda: node.gossip.unheard, expected=expected)
    writes, deps = _Writes(node, node.activity.of(record.run)), _deps(node)
    derived = await _router(node, record, writes)
    term = _term_due(record)
    _check_ours(node, record)  # what was learnt from peers may say otherwise
    if record.term < term:
        await _begin_granted(node, record)
    scheduler = await writes.do(lambda: Scheduler(record, derived, deps, trio.current_time()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_hand_out, node, record, scheduler, deps, writes)
        while _term_due(record) == term:
            await node.run_store.changed.wait()
        nursery.cancel_scope.cancel()
    await _schedule(node, record)  # in another term: its own, or another scheduler's


def _check_ours(node: Node, record: RunRecord) -> None:
    """Raise Refusal where the run's owner has granted the newest term to another scheduler."""
    term = _term_due(record)
    if (other := _of_term(record, term)) != node.me:
        raise Refusal(f"its owner has granted term {term} to {short_peer(other)}")


async def _begin_granted(node: Node, record: RunRecord) -> None:
    """Begin the term that the run's owner granted, once the ledger that it goes on from is here."""
    while True:
        try:
            return node.run_store.begin_granted(record.run, node.key)
        except Unavailable as away:  # a full disk, too
            node.activity.of(record.run).say("no-quorum", problem=str(away))
        with trio.move_on_after(LOOK_SECONDS):
            await node.run_store.changed.wait()


async def _take_turns(node: Node, record: RunRecord) -> None:
    """Schedule a run with keepers in the terms of this node, and stand by in those of others."""
    verifying = trio.Lock()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_verify_ahead, node, record, verifying)
        await _take_each_turn(node, record, verifying)


async def _verify_ahead(node: Node, record: RunRecord, verifying: trio.Lock) -> None:
    """Verify the run's router while another node schedules: whoever takes over begins at once."""
    while (held := record.adopted(0)) is None:
        await node.run_store.changed.wait()
    if held.author != node.me:
        async with verifying:
            await node.verifier.verified_spec(record)


async def _take_each_turn(node: Node, record: RunRecord, verifying: trio.Lock) -> None:
    writes = _Writes(node, node.activity.of(record.run))
    standby = Standby(record, node.rpc, node.me, node.activity.of(record.run))
    node.request_router.standbys[record.run] = standby
    while True:
        await standby.until_due()
        with node.request_router.preparing(record.run):
            async with verifying:
                derived = await _router(node, record, writes)
        replication = Replication(record, node.run_store, node.gossip.rpc, node.key, node.me)
        kept = await standby.begun(replication)
        if kept is None:
            continue
        deps = _deps(node)
        ours = _of_term(record, replication.before) == node.me
        await writes.do(partial(take_over, record, node.journal, kept, ours=ours))
        now = trio.current_time()
        scheduler = await writes.do(partial(KeptScheduler, record, derived, deps, now, replication))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch_term, standby, scheduler, replication.term)
                await _hand_out(node, record, scheduler, deps, writes)
                nursery.cancel_scope.cancel()
        except* Deposed as group:
            log.info("run %s: %s", record.manifest.name, next(leaves(group)))
        finally:
            node.request_router.schedulers.pop(record.run, None)
            if not scheduler.deposed:
                await standby.say_left(replication.term)


async def _router(node: Node, record: RunRecord, writes: "_Writes") -> RouterSpec:
    """Return the run's router of epoch 0, published, and derived or verified here."""
    activity, held = node.activity.of(record.run), record.adopted(0)
    if held is not None and held.author == node.me:
        spec = held.spec
    elif held is not None:
        spec = await node.verifier.verified_spec(record)
    else:
        spec = await node.verifier.derived_spec(record)
        await writes.do(partial(node.run_store.publish, "spec", sign(spec, node.key)))
    activity.verdict = "verified"
    return spec


def _deps(node: Node) -> SchedulerDeps:
    return SchedulerDeps(
        key=node.key,
        run_store=node.run_store,
        journal=node.journal,
        blobs=node.blobs,
        claims=node.claims,
        exchange=node.exchange,
        worker=node.worker,
        guard=node.guard,
        blame=node.reputation.blame_signer,
        prefix=node.prefix,
    )


async def _watch_term(standby: Standby, scheduler: KeptScheduler, term: int) -> None:
    await standby.until_outdone(term)
    scheduler.depose()


async def _hand_out(
    node: Node, record: RunRecord, scheduler: Scheduler, deps: SchedulerDeps, writes: "_Writes"
) -> None:
    """Hand out the run's work until cancelled, or until the scheduler's term is over."""
    node.request_router.schedulers[record.run] = scheduler
    log.info("scheduling run %s for %s", record.manifest.name, short_peer(node.me))
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await scheduler.serve()
            nursery.cancel_scope.cancel()

        nursery.start_soon(serve)
        nursery.start_soon(_reshard, node, record, scheduler, deps, writes)
        while True:
            doing = "telling of a run"
            node.guard.call(doing, None, _say_what_is_scheduled, node, record, scheduler, writes)
            with trio.move_on_after(LOOK_SECONDS):
                await deps.changed.wait()


class _Writes:
    """Writes that wait while the disk is full."""

    def __init__(self, node: Node, activity: RunActivity) -> None:
        self._disk: Disk = node.disk
        limit = DiskLimit(node.config.storage.min_free)
        self.gate = Gate(activity, (limit,), node.disk.observed)

    async def do(self, write: Callable[[], T]) -> T:
        """Return what `write` returns; it is tried again until the disk has space for it."""
        while True:
            try:
                return write()
            except DiskFull as full:
                self._disk.note(full)
                await self.gate.wait_open()

    async def settle(self, write: Callable[[], Awaitable[None]]) -> None:
        """Await what `write` returns, again until the disk has space for it."""
        while True:
            try:
                return await write()
            except DiskFull as full:
                self._disk.note(full)
                await self.gate.wait_open()


async def _reshard(
    node: Node, record: RunRecord, scheduler: Scheduler, deps: SchedulerDeps, writes: _Writes
) -> None:
    """Once the scores of the run stand, derive its next router, publish it, go on by it."""
    while not scheduler.schedule.switch_due:
        await deps.changed.wait()
    derived = await node.verifier.derived_spec(record, epoch=record.state.epoch + 1)
    await writes.do(partial(node.run_store.publish, "spec", sign(derived, node.key)))
    await writes.settle(partial(scheduler.adopt, derived))


def _say_what_is_scheduled(
    node: Node, record: RunRecord, scheduler: Scheduler, writes: _Writes
) -> None:
    rounds, schedule = record.rounds.last, scheduler.schedule
    activity = node.activity.of(record.run)
    activity.leases = len(schedule.grants)
    if record.fault is not None:
        activity.say_beside("two-ledgers", problem=record.fault)
    disk, full = node.disk, scheduler.full
    closed = no_space(disk.free, full) if full else writes.gate.closed
    if closed:
        activity.pause(told(closed, time.time()))
    elif scheduler.waiting:
        activity.say("no-quorum", problem=scheduler.waiting)
    elif scheduler.lacking:
        activity.say("blocked", problem=scheduler.lacking)
    elif scheduler.stepping:
        step = scheduler.stepping
        activity.say("outer-step", module=step.module, round=step.version)
    elif blocked := scheduler.recovery.why(trio.current_time()):
        activity.say("blocked", problem=blocked)
    elif deadlock := schedule.deadlock:
        activity.say("scores-differ", problem=deadlock)
    elif record.rounds.finished:
        activity.say("run-over", round=rounds, rounds=rounds, next="its states stay on offer")
    else:
        activity.say(
            "scheduling",
            round=min(record.rounds.done + 1, rounds),
            rounds=rounds,
            held=len(schedule.grants),
            paths=record.manifest.paths,
            parked=_parked_in_words(scheduler.parked()),
        )


def _parked_in_words(parked: tuple[Parked, ...]) -> str:
    words = [
        f"; {short_peer(each.peer)} gets no work for {span(each.until - trio.current_time())}: "
        f"{each.failures} leases in a row without a result ({each.reason})"
        for each in parked[:MOST_NAMED]
    ]
    more = len(parked) - len(words)
    return "".join(words) + (f"; and {count(more, 'more peer')}" if more else "")


ROLE = Role(wanted=lambda config: config.node.rendezvous, run=schedule_all)
