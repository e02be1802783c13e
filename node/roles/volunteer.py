"""The role of a volunteer: train one run whenever no limit forbids it."""

import logging
from functools import partial

import trio

from dipaco.node.api.reporter import StatusReporter
from dipaco.node.catalogue import RunRecord
from dipaco.node.roles.role import Role
from dipaco.node.runs import choose_run
from dipaco.node.scheduling.volunteer import Gear, Volunteer
from dipaco.node.storage.files import DiskFull
from dipaco.node.training.options import check_moment_bits
from dipaco.node.wiring import Parts
from dipaco.protocol.digest import short

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks at what no bell announces: connections


async def train(parts: Parts, overview: StatusReporter) -> None:
    """Wait for the run that is wanted, then train it under the node's gate; raises Refusal."""
    record = overview.run = await _choose(parts)
    check_moment_bits(parts.config.compute.moment_bits, record.manifest)
    log.info("joined run %s (%s)", record.manifest.name, short(record.run))
    gear = Gear(
        key=parts.key,
        catalogue=parts.catalogue,
        blobs=parts.blobs,
        exchange=parts.exchange,
        rpc=parts.rpc,
        worker=parts.worker,
        board=parts.board,
        verifier=parts.verifier,
        gate=parts.gate,
        heartbeat_seconds=parts.config.lease.heartbeat_s,
        cache_max=parts.config.storage.cache_max,
    )
    await parts.gate.run(partial(_work, parts, Volunteer(record, gear)))


async def _work(parts: Parts, volunteer: Volunteer) -> None:
    """Work until cancelled, or until a write finds no space; the device is free afterwards."""
    try:
        await volunteer.run()
    except DiskFull as full:
        parts.disk.note(full, trio.current_time())
    finally:
        with trio.CancelScope(shield=True):
            await parts.worker.close()  # an idle process holds memory of the device, too


async def _choose(parts: Parts) -> RunRecord:
    """Wait for the run that is wanted: the one named, else the only one on offer."""
    wanted = parts.config.run.id
    while True:
        runs = parts.catalogue.runs
        choice = choose_run(wanted, {run: each.manifest.name for run, each in runs.items()})
        if len(choice.found) == 1:
            return runs[choice.found[0]]
        trouble = parts.dialer.reason()
        if trouble:
            parts.board.say("no-peer", trouble=trouble)
        elif choice.found:
            parts.board.say("several-runs", offers=choice.offers)
        else:
            parts.board.say("no-run", peers=len(parts.transport.peers()))
        with trio.move_on_after(LOOK_SECONDS):
            await parts.catalogue.changed.wait()


ROLE = Role(wanted=lambda config: not config.node.rendezvous, run=train)
