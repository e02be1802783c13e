"""The node: wires its parts, runs them, and takes them down in order.

Two nurseries are two lifetimes: the network serves until the last work has ended, so that a lease
can be handed back on the way out. What ends the node by itself is an error that nobody below may
handle: a Refusal, a full disk, a bug.
"""

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version as version_of

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.node.board import Board
from dipaco.node.catalogue import Catalogue, RunRecord
from dipaco.node.config import NodeConfig
from dipaco.node.control.server import serve_api
from dipaco.node.network.addresses import sign_records
from dipaco.node.network.dialer import Dialer
from dipaco.node.network.directory import Directory
from dipaco.node.network.exchange import Exchange
from dipaco.node.network.gossip import Gossip
from dipaco.node.network.host import load_or_create_identity, open_host
from dipaco.node.network.liveness import Liveness
from dipaco.node.network.rpc import Rpc
from dipaco.node.network.standing import Standing
from dipaco.node.network.transport import Transport
from dipaco.node.overview import Overview
from dipaco.node.runs import kept_runs
from dipaco.node.scheduling.service import Desk, Scheduler, Tools
from dipaco.node.scheduling.verification import Verifier
from dipaco.node.scheduling.volunteer import Gear, Volunteer
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal
from dipaco.node.storage.roster import Roster
from dipaco.node.training.worker import Worker, WorkerSettings
from dipaco.protocol.digest import Digest, short
from dipaco.protocol.identity import PeerId, peer_id, short_peer
from dipaco.protocol.signed import Signed, sign
from dipaco.protocol.work import AskLease, HandBack, Heartbeat, Submit

log = logging.getLogger(__name__)

PACKAGE = "dipaco-node"
GRACE_SECONDS = 8.0  # for handing back the lease and saying goodbye; the whole exit has 10

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Parts:
    """What a node is made of; each part owns its own state."""

    config: NodeConfig
    home: Home
    key: Ed25519PrivateKey
    journal: Journal
    blobs: BlobStore
    board: Board
    catalogue: Catalogue
    worker: Worker
    transport: Transport
    standing: Standing
    rpc: Rpc
    exchange: Exchange
    gossip: Gossip
    liveness: Liveness
    dialer: Dialer
    directory: Directory | None
    desk: Desk
    verifier: Verifier

    @property
    def me(self) -> PeerId:
        """This node."""
        return peer_id(self.key)


async def run_daemon(config: NodeConfig, say: Say) -> int:
    """Run a node until a signal or `stop` ends it; returns 0.

    say   prints one line for the person who started it.

    Raises ConfigError, HomeTaken, Refusal, Unverifiable, DiskFull: see docs/operation.md.
    """
    home = Home.at(config.home)
    with home.held():
        key = load_or_create_identity(home.identity)
        say(f"{PACKAGE} {version_of(PACKAGE)}  peer {peer_id(key)}  home {home.root}")
        journal = Journal.open(home.journal)
        try:
            async with open_host(key, config.node.listen, config.node.announce) as transport:
                await _serve(_wire(config, home, key, journal, transport), say)
        finally:
            journal.close()
    return 0


def _wire(
    config: NodeConfig,
    home: Home,
    key: Ed25519PrivateKey,
    journal: Journal,
    transport: Transport,
) -> _Parts:
    blobs = BlobStore(home.blobs)
    blobs.remove_drafts()
    board, catalogue, desk = Board(), Catalogue(journal), Desk()
    worker = Worker(_worker_settings(config, home), partial(log.info, "worker: %s"))
    standing = Standing(transport)
    rpc = Rpc(transport, standing)
    directory = None
    if config.node.rendezvous:
        directory = Directory(transport, rpc, Roster(home.root / "directory.cbor"))
    dialer = Dialer(
        transport,
        rpc,
        standing,
        Roster(home.root / "peers.cbor"),
        seeds=config.node.bootstrap,
        records=partial(_own_records, config, key, transport, catalogue),
        keep=partial(_schedules, catalogue),
    )
    return _Parts(
        config=config,
        home=home,
        key=key,
        journal=journal,
        blobs=blobs,
        board=board,
        catalogue=catalogue,
        worker=worker,
        transport=transport,
        standing=standing,
        rpc=rpc,
        exchange=Exchange(transport, rpc, standing, blobs),
        gossip=Gossip(transport, standing, catalogue),
        liveness=Liveness(transport, rpc, heard=directory.renew if directory else _nobody_listens),
        dialer=dialer,
        directory=directory,
        desk=desk,
        verifier=Verifier(
            key=key,
            catalogue=catalogue,
            journal=journal,
            worker=worker,
            board=board,
            policy=config.run.verify,
            software=f"{PACKAGE} {version_of(PACKAGE)}",
            blame=standing.blame,
        ),
    )


def _nobody_listens(peer: PeerId) -> None:
    """Stand in for a directory on a node that keeps none."""


def _worker_settings(config: NodeConfig, home: Home) -> WorkerSettings:
    return WorkerSettings(
        home=home.root,
        device=config.compute.device,
        threads=config.compute.threads or max(1, (os.cpu_count() or 1) - 1),
        max_shards=config.storage.max_shards,
        cache_bytes=config.storage.cache_max,
        max_batch=config.compute.max_batch,
        local_sources=config.run.local_sources,
    )


def _own_records(
    config: NodeConfig, key: Ed25519PrivateKey, transport: Transport, catalogue: Catalogue
) -> tuple[Signed, ...]:
    return sign_records(
        key,
        transport.addresses,
        roles=("rendezvous",) if config.node.rendezvous else ("volunteer",),
        runs=tuple(catalogue.runs)[:16],
        sequence=time.time_ns() // 1_000_000,
    )


def _schedules(catalogue: Catalogue, peer: PeerId) -> bool:
    return any(peer in r.manifest.schedule.schedulers for r in catalogue.runs.values())


# ---------------------------------------------------------------------- lifetimes


async def _serve(parts: _Parts, say: Say) -> None:
    """Run the network until the work has ended."""
    stop = trio.Event()
    overview = _overview(parts, stop)
    _answer_volunteers(parts)
    async with trio.open_nursery() as serving:
        serving.start_soon(_heed_signals, stop)
        for service in (
            parts.rpc.run,
            parts.exchange.run,
            parts.liveness.run,
            parts.gossip.run,
            parts.dialer.run,
        ):
            await serving.start(service)
        if parts.directory:
            await serving.start(parts.directory.run)
        serving.start_soon(_announce, parts)
        path = await serving.start(serve_api, parts.home, overview)
        _greet(parts, say, str(path))
        async with trio.open_nursery() as working:
            working.start_soon(_work, parts, overview)
            await stop.wait()
            parts.board.say("stopping")
            working.cancel_scope.cancel()
        with trio.move_on_after(GRACE_SECONDS):
            await parts.worker.close()
        serving.cancel_scope.cancel()


def _overview(parts: _Parts, stop: trio.Event) -> Overview:
    return Overview(
        version=version_of(PACKAGE),
        me=parts.me,
        home=parts.home,
        config=parts.config,
        board=parts.board,
        catalogue=parts.catalogue,
        transport=parts.transport,
        liveness=parts.liveness,
        worker=parts.worker,
        schedulers=parts.desk.schedulers,
        leave=stop.set,
        started=time.time(),
    )


def _greet(parts: _Parts, say: Say, socket: str) -> None:
    addresses = parts.transport.addresses
    say(f"listen   {'  '.join(addresses)}")
    say(f"ready    api unix:{socket}")
    if addresses:
        say(f"to join this network:  {PACKAGE} start --bootstrap {addresses[0]}")


async def _heed_signals(stop: trio.Event) -> None:
    """The first TERM or INT begins to leave, the second leaves at once."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            if stop.is_set():
                os._exit(128 + number)
            log.info("signal %s: leaving", signal.Signals(number).name)
            stop.set()


async def _announce(parts: _Parts) -> None:
    async for item, size in parts.catalogue.announcements:
        await parts.gossip.announce(item, size)


def _answer_volunteers(parts: _Parts) -> None:
    desk = parts.desk
    parts.rpc.handle(AskLease, desk.ask)
    parts.rpc.handle(Heartbeat, desk.heartbeat)
    parts.rpc.handle(HandBack, desk.hand_back)
    parts.rpc.handle(Submit, desk.submit)

    def on_peer(peer: PeerId, ready: bool) -> None:
        if not ready:
            desk.gone(peer)

    parts.rpc.watch(on_peer)


# ---------------------------------------------------------------------- work


async def _work(parts: _Parts, overview: Overview) -> None:
    """Schedule the runs that name this node, or train."""
    for run in kept_runs(parts.home.root):
        parts.catalogue.publish("manifest", run.signed)
    if parts.config.node.rendezvous:
        await _schedule_all(parts, overview)
    else:
        await _train(parts, overview)


async def _train(parts: _Parts, overview: Overview) -> None:
    record = overview.run = await _choose(parts)
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
        heartbeat_seconds=parts.config.lease.heartbeat_s,
        store_bytes=parts.config.storage.cache_max,
    )
    await Volunteer(record, gear).run()


async def _choose(parts: _Parts) -> RunRecord:
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
        with trio.move_on_after(1.0):
            await parts.catalogue.changed.wait()


async def _schedule_all(parts: _Parts, overview: Overview) -> None:
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
            with trio.move_on_after(1.0):
                await parts.catalogue.changed.wait()


async def _schedule(parts: _Parts, record: RunRecord) -> None:
    """Publish the run's router, then hand out its work until cancelled."""
    spec = record.specs.get(record.view.spec) if record.view.spec else None
    if spec is None:
        derived = await parts.verifier.derived_spec(record)
        parts.catalogue.publish("spec", sign(derived, parts.key))
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
    scheduler = Scheduler(record.manifest, record.run, derived, tools, trio.current_time())
    parts.desk.schedulers[record.run] = scheduler
    log.info("scheduling run %s for %s", record.manifest.name, short_peer(parts.me))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scheduler.serve)
        while True:
            _say_what_is_scheduled(parts, record, scheduler)
            with trio.move_on_after(1.0):
                await tools.changed.wait()


def _say_what_is_scheduled(parts: _Parts, record: RunRecord, scheduler: Scheduler) -> None:
    rounds = record.manifest.training.rounds
    schedule = scheduler.schedule
    done = min(map(schedule.view.path_version, schedule.live_paths))
    if scheduler.stepping:
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
