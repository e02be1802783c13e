"""The role of a volunteer: train one run whenever no limit forbids it."""

import logging
from functools import partial

import trio

from dipaco.node.api.reporter import StatusReporter
from dipaco.node.assembly import Node
from dipaco.node.jobs.options import check_moment_bits
from dipaco.node.roles.role import Role
from dipaco.node.runs.files import choose_run
from dipaco.node.runs.record import RunRecord
from dipaco.node.storage.files import DiskFull
from dipaco.node.volunteer.deps import VolunteerDeps
from dipaco.node.volunteer.loop import Volunteer
from dipaco.protocol.wire.digest import short

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks at what no condition tells of: connections


async def train(node: Node, reporter: StatusReporter) -> None:
    """Wait for the run that is wanted, then train it under the node's gate; raises Refusal."""
    record = reporter.run = await _choose(node)
    check_moment_bits(node.config.compute.moment_bits, record.manifest)
    log.info("joined run %s (%s)", record.manifest.name, short(record.run))
    deps = VolunteerDeps(
        run_store=node.run_store,
        blobs=node.blobs,
        exchange=node.exchange,
        rpc=node.rpc,
        worker=node.worker,
        activity=node.activity,
        verifier=node.verifier,
        gate=node.gate,
        heartbeat_seconds=node.config.lease.heartbeat_s,
        claims=node.claims,
        me=node.me,
    )
    await node.gate.run(partial(_work, node, Volunteer(record, deps)))


async def _work(node: Node, volunteer: Volunteer) -> None:
    """Work until cancelled, or until a write finds no space; the device is free afterwards."""
    try:
        await volunteer.run()
    except DiskFull as full:
        node.disk.note(full, trio.current_time())
    finally:
        with trio.CancelScope(shield=True):
            await node.worker.close()  # an idle process holds memory of the device, too


async def _choose(node: Node) -> RunRecord:
    """Wait for the run that is wanted: the one named, else the only one on offer."""
    wanted = node.config.run.id
    while True:
        runs = node.run_store.runs
        choice = choose_run(wanted, {run: each.manifest.name for run, each in runs.items()})
        if len(choice.found) == 1:
            return runs[choice.found[0]]
        trouble = node.dialer.reason()
        if trouble:
            node.activity.say("no-peer", trouble=trouble)
        elif choice.found:
            node.activity.say("several-runs", offers=choice.offers)
        else:
            node.activity.say("no-run", peers=len(node.transport.peers()))
        with trio.move_on_after(LOOK_SECONDS):
            await node.run_store.changed.wait()


ROLE = Role(wanted=lambda config: not config.node.rendezvous, run=train)
