"""The role of a volunteer: train one run whenever no limit forbids it.

A run that is over is left only for another that the configuration lists; else the node says which
runs a person could choose next.
"""

import logging

import trio

from dipaco.node.api.reporter import StatusReporter
from dipaco.node.assembly import Node
from dipaco.node.jobs.options import check_moment_bits
from dipaco.node.roles.offers import RunChooser
from dipaco.node.roles.role import Role
from dipaco.node.runs.record import RunRecord
from dipaco.node.storage.files import DiskFull
from dipaco.node.volunteer.deps import VolunteerDeps
from dipaco.node.volunteer.loop import Volunteer
from dipaco.protocol.errors import DipacoError
from dipaco.protocol.wire.digest import Digest, short

log = logging.getLogger(__name__)


async def train(node: Node, reporter: StatusReporter) -> None:
    """Train the run that is wanted, and once it is over the next one that is listed.

    All of it runs under the node's gate. Raises the error of the last run that was listed.
    """
    if not await node.gate.is_open():  # the process that found the device still holds it
        await node.worker.close()
    await node.gate.run(_Training(node, reporter).go_on)


class _Training:
    """The volunteer's work for one run after the other; what a run has verified stays with it."""

    def __init__(self, node: Node, reporter: StatusReporter) -> None:
        self._node, self._reporter = node, reporter
        self._chooser = RunChooser(node)
        self._volunteers: dict[Digest, Volunteer] = {}
        """Of the run that was chosen last."""

    async def go_on(self) -> None:
        """Work until a write finds no space; the device is free afterwards."""
        failure: DipacoError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_close_worker_at_end, self._node)
            try:
                await self._work()
            except DiskFull as full:
                self._node.disk.note(full)
            except DipacoError as error:  # bare here, a group outside
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _work(self) -> None:
        node, chooser = self._node, self._chooser
        while True:
            record = await chooser.next_run()
            if record not in self._reporter.runs:
                self._volunteers.clear()
                _begin(node, self._reporter, record)
            if record.over:
                chooser.say_over(record)
                await node.worker.close()
                await chooser.something_new()
                continue
            try:
                await _work_for(node, record, self._volunteer_of(record))
            except DiskFull:
                raise
            except DipacoError as error:
                chooser.refused.add(record.run)
                if len(node.config.run.id) <= len(chooser.refused):
                    raise
                log.error("run %s is left for the next one: %s", _name(record), error)

    def _volunteer_of(self, record: RunRecord) -> Volunteer:
        """Return the volunteer of a run; raises ConfigError for settings that do not go with it."""
        if record.run not in self._volunteers:
            log.info("joined run %s", _name(record))
            check_moment_bits(self._node.config.compute.moment_bits, record.manifest)
            self._volunteers[record.run] = Volunteer(record, _deps(self._node, record))
        return self._volunteers[record.run]


def _name(record: RunRecord) -> str:
    return f"{record.manifest.name} ({short(record.run)})"


def _begin(node: Node, reporter: StatusReporter, record: RunRecord) -> None:
    """Have the status tell of this run, and no longer of the one before."""
    for each in reporter.runs:
        node.activity.runs.pop(each.run, None)
    reporter.runs[:] = [record]
    verdict = node.verifier.remembered(record)
    if verdict is not None:
        activity = node.activity.of(record.run)
        activity.verdict, activity.verdict_reason = verdict.outcome.value, verdict.reason


def _deps(node: Node, record: RunRecord) -> VolunteerDeps:
    return VolunteerDeps(
        run_store=node.run_store,
        blobs=node.blobs,
        exchange=node.exchange,
        finder=node.finder,
        rpc=node.rpc,
        worker=node.worker,
        guard=node.guard,
        activity=node.activity.of(record.run),
        verifier=node.verifier,
        gate=node.gate,
        orders=node.orders,
        heartbeat_seconds=node.config.lease.heartbeat_s,
        claims=node.claims,
        me=node.me,
    )


async def _work_for(node: Node, record: RunRecord, volunteer: Volunteer) -> None:
    """Work until the run is over; raises the error that ends the work."""
    failure: DipacoError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(volunteer.follow_others)
        nursery.start_soon(_say_fault, node, record)
        nursery.start_soon(_say_finishing, node, record)
        try:
            await volunteer.run()
        except DipacoError as error:  # bare here, a group outside
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _say_fault(node: Node, record: RunRecord) -> None:
    """Put it into the status, as soon as it is known, that the scheduler contradicts itself."""
    while record.fault is None:
        await node.run_store.changed.wait()
    node.activity.of(record.run).say_beside("two-ledgers", problem=record.fault)


async def _say_finishing(node: Node, record: RunRecord) -> None:
    """Put it into the status whenever the lease in hand is to be the last one for now."""
    activity = node.activity.of(record.run)
    while True:
        if node.orders.finishing:
            activity.say_beside("finishing")
        else:
            activity.no_longer("finishing")
        await node.gate.changed.wait()


async def _close_worker_at_end(node: Node) -> None:
    """End the worker processes once the work is cancelled: an idle one holds the device, too.

    Beside the work, whose own end waits for the scheduler.
    """
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await node.worker.close()


ROLE = Role(wanted=lambda config: config.node.trains, run=train)
