"""What a node does besides being there: train the run it chose, or schedule those it is for."""

import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import trio

from dipaco.node.api.reporter import StatusReporter
from dipaco.node.catalogue import RunRecord
from dipaco.node.runs import kept_runs
from dipaco.node.scheduling.service import Scheduler, Tools
from dipaco.node.scheduling.volunteer import Gear, Volunteer
from dipaco.node.storage.files import DiskFull
from dipaco.node.training.options import check_moment_bits
from dipaco.node.wiring import Parts
from dipaco.protocol.digest import Digest, short
from dipaco.protocol.identity import short_peer
from dipaco.protocol.signed import sign

log = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_SECONDS = 1.0  # between two looks at what no bell announces: connections, leases


async def work(parts: Parts, overview: StatusReporter) -> None:
    """Schedule the runs that name this node, or train."""
    for run in kept_runs(parts.home.root):
        parts.catalogue.publish("manifest", run.signed)
    if parts.config.node.rendezvous:
        await _schedule_all(parts, overview)
    else:
        await _train(parts, overview)


async def _train(parts: Parts, overview: StatusReporter) -> None:
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
        room=parts.room,
        heartbeat_seconds=parts.config.lease.heartbeat_s,
        store_bytes=parts.config.storage.cache_max,
    )
    await Volunteer(record, gear).run()


async def _choose(parts: Parts) -> RunRecord:
    """Wait for the run that is wanted: the one named, else the only one on offer."""
    wanted = parts.config.run.id
    while True:
        runs = list(parts.catalogue.runs.values())
        found = [r for r in runs if wanted in (r.manifest.name, r.run.hex())]
        found = found or [r for r in runs if r.run.hex().startswith(wanted)]
        if len(found) == 1:
            return found[0]
        trouble = parts.dialer.reason()
        if trouble:
            parts.board.say("no-peer", trouble=trouble)
        elif found:
            names = ", ".join(f"{r.manifest.name} {short(r.run)}" for r in found[:8])
            parts.board.say("several-runs", offers=names)
        else:
            parts.board.say("no-run", peers=len(parts.transport.peers()))
        with trio.move_on_after(LOOK_SECONDS):
            await parts.catalogue.changed.wait()


async def _schedule_all(parts: Parts, overview: StatusReporter) -> None:
    """Schedule every run whose manifest names this node first, as they become known."""
    begun: set[Digest] = set()
    async with trio.open_nursery() as nursery:
        while True:
            for run, record in parts.catalogue.runs.items():
                if run not in begun and record.manifest.schedule.schedulers[0] == parts.me:
                    begun.add(run)
                    overview.run = overview.run or record
                    nursery.start_soon(_schedule, parts, record)
            if not begun:
                parts.board.say("directory", peers=len(parts.transport.peers()))
            with trio.move_on_after(LOOK_SECONDS):
                await parts.catalogue.changed.wait()


async def _schedule(parts: Parts, record: RunRecord) -> None:
    """Publish the run's router, then hand out its work until cancelled."""
    spec = record.adopted(0)
    if spec is None:
        derived = await parts.verifier.derived_spec(record)
        await _once_there_is_room(
            parts, partial(parts.catalogue.publish, "spec", sign(derived, parts.key))
        )
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
    scheduler = await _once_there_is_room(
        parts,
        lambda: Scheduler(record.manifest, record.run, derived, tools, trio.current_time()),
    )
    parts.desk.schedulers[record.run] = scheduler
    log.info("scheduling run %s for %s", record.manifest.name, short_peer(parts.me))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scheduler.serve)
        nursery.start_soon(_reshard, parts, record, scheduler, tools)
        while True:
            _say_what_is_scheduled(parts, record, scheduler)
            with trio.move_on_after(LOOK_SECONDS):
                await tools.changed.wait()


async def _reshard(parts: Parts, record: RunRecord, scheduler: Scheduler, tools: Tools) -> None:
    """Once the scores of the run stand, derive its next router, publish it, go on by it."""
    while not scheduler.schedule.switch_due:
        await tools.changed.wait()
    derived = await parts.verifier.derived_spec(record, epoch=record.view.epoch + 1)
    signed = sign(derived, parts.key)
    await _once_there_is_room(parts, partial(parts.catalogue.publish, "spec", signed))
    await _once_there_is_room(parts, partial(scheduler.adopt, derived))


async def _once_there_is_room(parts: Parts, do: Callable[[], T]) -> T:
    while True:
        try:
            return do()
        except DiskFull as full:
            await parts.room.after(full)


def _say_what_is_scheduled(parts: Parts, record: RunRecord, scheduler: Scheduler) -> None:
    rounds = record.manifest.training.rounds
    schedule = scheduler.schedule
    done = min(map(schedule.view.path_version, schedule.live_paths))
    if scheduler.full:
        parts.room.say(scheduler.full)
    elif scheduler.stepping:
        step = scheduler.stepping
        parts.board.say("outer-step", module=step.module, round=step.version)
    elif schedule.finished:
        parts.board.say("run-over", round=rounds, rounds=rounds)
    else:
        parts.board.say(
            "scheduling",
            round=min(done + 1, rounds),
            rounds=rounds,
            held=len(schedule.grants),
            paths=record.manifest.paths,
        )
