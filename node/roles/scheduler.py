"""The role of a scheduler: hand out the work of the runs that the operator put into this home.

A manifest of a stranger that names this node gives it no work. A run that cannot be scheduled does
not end a node that schedules others. No limit ends this role, since its volunteers need its
answers. A full disk pauses what it writes alone: the scheduler then answers that it cannot save
now.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TypeVar

import trio

from dipaco.node.api.reporter import StatusReporter
from dipaco.node.assembly import Node
from dipaco.node.limits.disk import DiskLimit
from dipaco.node.limits.gate import Gate
from dipaco.node.roles.role import Role
from dipaco.node.runs.record import RunRecord
from dipaco.node.scheduler.deps import SchedulerDeps
from dipaco.node.scheduler.scheduled import ScheduledRun
from dipaco.node.scheduler.service import Scheduler
from dipaco.node.status.activity import Activity
from dipaco.node.storage.files import DiskFull
from dipaco.node.verification.verifier import Verifier
from dipaco.protocol.errors import Refusal
from dipaco.protocol.wire.identity import short_peer
from dipaco.protocol.wire.signed import sign

log = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_SECONDS = 1.0  # between two looks at what no condition tells of: connections, leases


async def schedule_all(node: Node, reporter: StatusReporter) -> None:
    """Schedule every run of the operator whose manifest names this node first.

    Raises the Refusal of the last run that is left.
    """
    async with trio.open_nursery() as nursery:
        while True:
            begun = _take_up(node)
            for each in begun:
                reporter.run = reporter.run or each.record
                nursery.start_soon(_attend, node, each)
            if not node.scheduled:
                node.activity.say("directory", peers=len(node.transport.peers()))
            with trio.move_on_after(LOOK_SECONDS):
                await node.run_store.changed.wait()


def _take_up(node: Node) -> list[ScheduledRun]:
    """Return the runs to schedule that are new since the last call."""
    store = node.run_store
    found = [
        record
        for run, record in store.runs.items()
        if run in store.own and run not in node.scheduled and record.scheduler == node.me
    ]
    alone = len(found) + len(node.scheduled) == 1
    return [
        node.scheduled.add(
            record, node.activity if alone else node.activity.for_run(record.manifest.name)
        )
        for record in found
    ]


async def _attend(node: Node, run: ScheduledRun) -> None:
    """Schedule one run until cancelled; if it is refused, the others go on."""
    try:
        await _schedule(node, run)
    except* Refusal as group:
        run.failed = True
        if all(each.failed for each in node.scheduled):
            raise
        problem = "; ".join(map(str, leaves(group)))
        log.error("run %s is not scheduled: %s", run.record.manifest.name, problem)
        run.activity.say("not-scheduled", problem=problem)


def leaves(group: BaseExceptionGroup[Refusal]) -> Iterator[Refusal]:
    """Yield the errors in a group and in the groups within it."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


async def _schedule(node: Node, run: ScheduledRun) -> None:
    """Publish the run's router, then hand out its work until cancelled."""
    record = run.record
    writes = _Writes(node, run.activity)
    verifier = replace(node.verifier, activity=run.activity)
    spec = record.adopted(0)
    if spec is None:
        derived = await verifier.derived_spec(record)
        await writes.do(partial(node.run_store.publish, "spec", sign(derived, node.key)))
    else:
        derived = spec.spec
    run.activity.verdict = "verified"
    deps = SchedulerDeps(
        key=node.key,
        run_store=node.run_store,
        journal=node.journal,
        blobs=node.blobs,
        exchange=node.exchange,
        worker=node.worker,
        blame=node.reputation.blame,
    )
    scheduler = await writes.do(lambda: Scheduler(record, derived, deps, trio.current_time()))
    node.request_router.schedulers[record.run] = run.scheduler = scheduler
    log.info("scheduling run %s for %s", record.manifest.name, short_peer(node.me))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scheduler.serve)
        nursery.start_soon(_reshard, node, verifier, record, scheduler, deps, writes)
        while True:
            _say_what_is_scheduled(node, run, scheduler, writes)
            with trio.move_on_after(LOOK_SECONDS):
                await deps.changed.wait()


class _Writes:
    """Writes that wait while the disk is full."""

    def __init__(self, node: Node, activity: Activity) -> None:
        self._disk: DiskLimit = node.disk
        self.gate = Gate(activity, (self._disk,))

    async def do(self, write: Callable[[], T]) -> T:
        """Return what `write` returns; it is tried again until the disk has space for it."""
        while True:
            try:
                return write()
            except DiskFull as full:
                self._disk.note(full, trio.current_time())
                await self.gate.wait_open()


async def _reshard(
    node: Node,
    verifier: Verifier,
    record: RunRecord,
    scheduler: Scheduler,
    deps: SchedulerDeps,
    writes: _Writes,
) -> None:
    """Once the scores of the run stand, derive its next router, publish it, go on by it."""
    while not scheduler.schedule.switch_due:
        await deps.changed.wait()
    derived = await verifier.derived_spec(record, epoch=record.state.epoch + 1)
    await writes.do(partial(node.run_store.publish, "spec", sign(derived, node.key)))
    await writes.do(partial(scheduler.adopt, derived))


def _say_what_is_scheduled(
    node: Node, run: ScheduledRun, scheduler: Scheduler, writes: _Writes
) -> None:
    record, activity, schedule = run.record, run.activity, scheduler.schedule
    rounds = record.rounds.last
    closed = node.disk.no_space(scheduler.full) if scheduler.full else writes.gate.closed
    if closed:
        activity.pause(closed.code, str(closed))
    elif scheduler.stepping:
        step = scheduler.stepping
        activity.say("outer-step", module=step.module, round=step.version)
    elif record.rounds.finished:
        activity.say("run-over", round=rounds, rounds=rounds, next="its states stay on offer")
    else:
        activity.say(
            "scheduling",
            round=min(record.rounds.done + 1, rounds),
            rounds=rounds,
            held=len(schedule.grants),
            paths=record.manifest.paths,
        )


ROLE = Role(wanted=lambda config: config.node.rendezvous, run=schedule_all)
