"""The role of a scheduler: hand out the work of every run whose manifest names this node.

No limit ends this role, since its volunteers need its answers. A full disk pauses what it writes
alone: the scheduler then answers that it cannot save now.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import trio

from dipaco.node.api.reporter import StatusReporter
from dipaco.node.catalogue import RunRecord
from dipaco.node.limits.disk import DiskLimit
from dipaco.node.limits.gate import Gate
from dipaco.node.roles.role import Role
from dipaco.node.scheduling.service import Scheduler, Tools
from dipaco.node.storage.files import DiskFull
from dipaco.node.wiring import Parts
from dipaco.protocol.digest import Digest
from dipaco.protocol.identity import short_peer
from dipaco.protocol.signed import sign

log = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_SECONDS = 1.0  # between two looks at what no bell announces: connections, leases


async def schedule_all(parts: Parts, overview: StatusReporter) -> None:
    """Schedule every run whose manifest names this node first, as they become known."""
    begun: set[Digest] = set()
    async with trio.open_nursery() as nursery:
        while True:
            for run, record in parts.catalogue.runs.items():
                if run not in begun and record.scheduler == parts.me:
                    begun.add(run)
                    overview.run = overview.run or record
                    nursery.start_soon(_schedule, parts, record)
            if not begun:
                parts.board.say("directory", peers=len(parts.transport.peers()))
            with trio.move_on_after(LOOK_SECONDS):
                await parts.catalogue.changed.wait()


async def _schedule(parts: Parts, record: RunRecord) -> None:
    """Publish the run's router, then hand out its work until cancelled."""
    writes = _Writes(parts)
    spec = record.adopted(0)
    if spec is None:
        derived = await parts.verifier.derived_spec(record)
        await writes.do(partial(parts.catalogue.publish, "spec", sign(derived, parts.key)))
    else:
        derived = spec.spec
    parts.board.verdict = "verified"
    tools = Tools(
        key=parts.key,
        catalogue=parts.catalogue,
        journal=parts.journal,
        blobs=parts.blobs,
        exchange=parts.exchange,
        worker=parts.worker,
        blame=parts.standing.blame,
    )
    scheduler = await writes.do(lambda: Scheduler(record, derived, tools, trio.current_time()))
    parts.desk.schedulers[record.run] = scheduler
    log.info("scheduling run %s for %s", record.manifest.name, short_peer(parts.me))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scheduler.serve)
        nursery.start_soon(_reshard, parts, record, scheduler, tools, writes)
        while True:
            _say_what_is_scheduled(parts, record, scheduler, writes)
            with trio.move_on_after(LOOK_SECONDS):
                await tools.changed.wait()


class _Writes:
    """Writes that wait while the disk is full."""

    def __init__(self, parts: Parts) -> None:
        self._disk: DiskLimit = parts.disk
        self.gate = Gate(parts.board, (self._disk,))

    async def do(self, write: Callable[[], T]) -> T:
        """Return what `write` returns; it is tried again until the disk has space for it."""
        while True:
            try:
                return write()
            except DiskFull as full:
                self._disk.note(full, trio.current_time())
                await self.gate.wait_open()


async def _reshard(
    parts: Parts, record: RunRecord, scheduler: Scheduler, tools: Tools, writes: _Writes
) -> None:
    """Once the scores of the run stand, derive its next router, publish it, go on by it."""
    while not scheduler.schedule.switch_due:
        await tools.changed.wait()
    derived = await parts.verifier.derived_spec(record, epoch=record.view.epoch + 1)
    await writes.do(partial(parts.catalogue.publish, "spec", sign(derived, parts.key)))
    await writes.do(partial(scheduler.adopt, derived))


def _say_what_is_scheduled(
    parts: Parts, record: RunRecord, scheduler: Scheduler, writes: _Writes
) -> None:
    rounds, schedule = record.rounds.last, scheduler.schedule
    closed = parts.disk.no_space(scheduler.full) if scheduler.full else writes.gate.closed
    if closed:
        parts.board.pause(closed.code, str(closed))
    elif scheduler.stepping:
        step = scheduler.stepping
        parts.board.say("outer-step", module=step.module, round=step.version)
    elif record.rounds.finished:
        parts.board.say("run-over", round=rounds, rounds=rounds)
    else:
        parts.board.say(
            "scheduling",
            round=min(record.rounds.done + 1, rounds),
            rounds=rounds,
            held=len(schedule.grants),
            paths=record.manifest.paths,
        )


ROLE = Role(wanted=lambda config: config.node.rendezvous, run=schedule_all)
