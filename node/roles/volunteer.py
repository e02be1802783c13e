"""The role of a volunteer: train one run whenever no limit forbids it.

A run that is over is left only for another that the configuration lists; else the node says which
runs a person could choose next.
"""

import logging
from dataclasses import dataclass, field
from functools import partial

import trio

from dipaco.node.api.reporter import StatusReporter
from dipaco.node.assembly import Node
from dipaco.node.config import NodeConfig
from dipaco.node.jobs.options import check_moment_bits
from dipaco.node.network.guard import leaves
from dipaco.node.roles.offers import RunChooser
from dipaco.node.roles.role import Role
from dipaco.node.runs.record import RunRecord
from dipaco.node.storage.files import DiskFull
from dipaco.node.volunteer.deps import VolunteerDeps
from dipaco.node.volunteer.loop import Volunteer
from dipaco.protocol.errors import DipacoError
from dipaco.protocol.wire.digest import short

log = logging.getLogger(__name__)


async def train(node: Node, reporter: StatusReporter) -> None:
    """Train the run that is wanted, and once it is over the next one that is listed.

    Raises the error of the last run that was listed.
    """
    chooser = RunChooser(node)
    while True:
        record = await chooser.next_run()
        if record not in reporter.runs:
            _begin(node, reporter, record)
        if record.over:
            chooser.say_over(record)
            await chooser.something_new()
            continue
        name = f"{record.manifest.name} ({short(record.run)})"
        log.info("joined run %s", name)
        try:
            await _work_for(node, record)
        except* DipacoError as group:
            chooser.refused.add(record.run)
            if len(node.config.run.id) <= len(chooser.refused):
                raise
            problem = "; ".join(map(str, leaves(group)))
            log.error("run %s is left for the next one: %s", name, problem)


def _begin(node: Node, reporter: StatusReporter, record: RunRecord) -> None:
    """Have the status tell of this run, and no longer of the one before."""
    for each in reporter.runs:
        node.activity.runs.pop(each.run, None)
    reporter.runs[:] = [record]
    verdict = node.verifier.remembered(record)
    if verdict is not None:
        node.activity.of(record.run).verdict = verdict.outcome.value


@dataclass
class _Stay:
    """The work for one run, from joining it to its end."""

    ended: trio.Event = field(default_factory=trio.Event)
    error: DipacoError | None = None


async def _work_for(node: Node, record: RunRecord) -> None:
    """Work under the node's gate until the run is over; raises the error that ends the work."""
    check_moment_bits(node.config.compute.moment_bits, record.manifest)
    deps = VolunteerDeps(
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
    stay, volunteer = _Stay(), Volunteer(record, deps)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_say_fault, node, record)
        nursery.start_soon(_say_finishing, node, record)
        nursery.start_soon(node.gate.run, partial(_work, node, volunteer, stay))
        await stay.ended.wait()
        nursery.cancel_scope.cancel()
    if stay.error is not None:
        raise stay.error


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


async def _work(node: Node, volunteer: Volunteer, stay: _Stay) -> None:
    """Work until the run has ended, or a write finds no space; the device is free afterwards."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_close_worker_at_end, node)
        nursery.start_soon(volunteer.follow_others)  # a paused node asks nobody anything
        try:
            await volunteer.run()
            stay.ended.set()
        except DiskFull as full:
            node.disk.note(full)
        except DipacoError as error:
            stay.error = error
            stay.ended.set()
        nursery.cancel_scope.cancel()
    if stay.ended.is_set():
        await trio.sleep_forever()  # the gate would begin the work anew


async def _close_worker_at_end(node: Node) -> None:
    """End the worker processes once the work is cancelled: an idle one holds the device, too.

    Beside the work, whose own end waits for the scheduler.
    """
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await node.worker.close()


def _wanted(config: NodeConfig) -> bool:
    return not config.node.rendezvous and (config.node.train or not config.node.keeps)


ROLE = Role(wanted=_wanted, run=train)
