"""Who knows whom: every part of a node is made here, and nothing else is done here."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version as version_of

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.node.api.reporter import StatusReporter
from dipaco.node.config import NetworkSection, NodeConfig
from dipaco.node.jobs.runner import JobRunner
from dipaco.node.keeper.service import KeeperService
from dipaco.node.limits.apps import AppsLimit
from dipaco.node.limits.battery import BatteryLimit
from dipaco.node.limits.bus import Bus
from dipaco.node.limits.device import Device, DeviceLimit
from dipaco.node.limits.disk import Disk, DiskLimit, free_bytes
from dipaco.node.limits.gate import Gate
from dipaco.node.limits.heat import HeatLimit
from dipaco.node.limits.hours import HoursLimit
from dipaco.node.limits.in_use import UseLimit
from dipaco.node.limits.memory import MemoryLimit
from dipaco.node.limits.metered import MeteredLimit
from dipaco.node.limits.order import GpuLimit, OrderLimit, Orders
from dipaco.node.limits.quota import Account, QuotaLimit
from dipaco.node.limits.values import Limit
from dipaco.node.limits.watch import Watch
from dipaco.node.network.addresses import sign_records
from dipaco.node.network.asleep import Awakening
from dipaco.node.network.blob_stream import InThread
from dipaco.node.network.caps import Caps
from dipaco.node.network.dialer import Dialer
from dipaco.node.network.directory import Directory
from dipaco.node.network.door import MOST_CONNECTIONS
from dipaco.node.network.exchange import Exchange
from dipaco.node.network.finding import Finder
from dipaco.node.network.gossip import Gossip
from dipaco.node.network.guard import Guard
from dipaco.node.network.liveness import Liveness
from dipaco.node.network.outside import Outsiders
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.rpc import Rpc
from dipaco.node.network.transport import Transport
from dipaco.node.runs.pinned import pinned_blobs
from dipaco.node.runs.record import RunRecord
from dipaco.node.runs.store import RunStore
from dipaco.node.scheduler.request_router import RequestRouter
from dipaco.node.scheduler.retention import blobs_needed_at_start
from dipaco.node.settings import Settings
from dipaco.node.status.activity import Activity
from dipaco.node.status.counters import StorageMeter
from dipaco.node.status.event_log import EventLog
from dipaco.node.status.history import History
from dipaco.node.status.totals import Sums, estimated_watts
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.claims import Claims
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal
from dipaco.node.storage.roster import Roster
from dipaco.node.storage.stored import tidy
from dipaco.node.verification.spot_check import SpotCheck
from dipaco.node.verification.verifier import Verifier
from dipaco.node.volunteer.retention import blobs_needed
from dipaco.protocol.routing.policy import Policy
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId, peer_id
from dipaco.protocol.wire.signed import Signed
from dipaco.protocol.work.calls import (
    AskHolders,
    AskLease,
    AskNext,
    HandBack,
    Heartbeat,
    Reclaim,
    Submit,
    TermLeft,
)

PACKAGE = "dipaco-node"
VERSION = version_of(PACKAGE)
Service = Callable[..., Awaitable[None]]
"""Runs until cancelled; started by `nursery.start`."""
FAREWELL_SECONDS = 5.0  # to tell peers why this node refuses a run, before it ends
MAX_RUNS_TOLD = 16  # of one peer record


@dataclass(frozen=True)
class Node:
    """What a node is made of; each part owns its own state."""

    config: NodeConfig
    home: Home
    key: Ed25519PrivateKey
    journal: Journal
    blobs: BlobStore
    claims: Claims
    activity: Activity
    run_store: RunStore
    worker: JobRunner
    transport: Transport
    reputation: Reputation
    rpc: Rpc
    exchange: Exchange
    finder: Finder
    gossip: Gossip
    liveness: Liveness
    dialer: Dialer
    outsiders: Outsiders
    directory: Directory | None
    request_router: RequestRouter
    keeper: KeeperService
    verifier: Verifier
    disk: Disk
    orders: Orders
    account: Account
    gate: Gate
    """Of the volunteer's work."""
    watch: Watch
    storage: StorageMeter

    @property
    def me(self) -> PeerId:
        """This node."""
        return peer_id(self.key)

    def prefix(self, peer: PeerId) -> str:
        """Return the IP prefix by which `peer` is counted; empty: it is not counted."""
        return self.reputation.prefix(peer)

    @property
    def guard(self) -> Guard:
        """Runs what touches the values of peers."""
        return self.transport.guard

    @property
    def services(self) -> tuple[Service, ...]:
        """What runs as long as the node does, in the order of starting."""
        directory = (self.directory.run,) if self.directory else ()
        return (
            self.rpc.run,
            *directory,
            self.exchange.run,
            self.liveness.run,
            self.gossip.run,
            self.dialer.run,
            Awakening(self.transport, self.dialer.try_all_again).run,
            self.storage.run,
            self.activity.sums.run,
            self.activity.history.run,
            self.account.run,
        )


def assemble(
    config: NodeConfig,
    home: Home,
    key: Ed25519PrivateKey,
    journal: Journal,
    worker: JobRunner,
    transport: Transport,
    *,
    device: Device | None = None,
    in_thread: InThread = trio.to_thread.run_sync,
    bus: Bus | None = None,
    clock: Callable[[], float] = time.time,
) -> Node:
    """Make every part of a node; none of them runs yet.

    device   that the worker trains on [the CPU].
    bus      of this machine, asked for use and network [the system bus].
    clock    returns Unix time, seconds.
    """
    guard = transport.guard
    run_store = RunStore(journal, peer_id(key), guard=guard)
    blobs = BlobStore(home.blobs)
    blobs.remove_drafts()
    claims = claims_of(home, blobs, run_store, journal, peer_id(key), guard=guard)
    most = config.storage.cache_max
    walk = partial(tidy, blobs, claims, most)
    storage = StorageMeter(home.root, in_thread=in_thread, walk=walk, guard=guard)
    traffic = transport.traffic
    device = device or Device()

    def watts() -> float:  # of a device that may be found later
        return estimated_watts(device.name, config.compute.torch_threads)

    sums = Sums(journal, lambda: (traffic.sent, traffic.received), watts)
    history, event_log = History(home.root, clock=clock), EventLog(home.events)
    activity = Activity(worked=storage.look_soon, sums=sums, history=history, event_log=event_log)
    request_router = RequestRouter()
    disk, orders = Disk(partial(free_bytes, home.root)), Orders(home.root, clock=clock)
    set_caps(transport.caps, config.network)
    account = Account(journal, lambda: transport.caps.carried, clock)
    watch = Watch(
        config,
        orders,
        disk,
        lambda: worker.pids,
        traffic=account.today,
        device=device,
        in_thread=in_thread,
        bus=bus,
        clock=clock,
    )
    gate = Gate(activity, limits_of(config), watch.observed, look=watch.look, clock=clock)
    orders.changed = gate.changed
    reputation = Reputation(transport, exempt=config.node.exempt_prefixes)
    seeds = frozenset(address.peer for address in config.seeds)
    reputation.vouch(seeds.__contains__)
    reputation.vouch(partial(_schedules, run_store))
    reputation.vouch(partial(_trained, run_store))
    rpc = Rpc(transport, reputation)
    directory = None
    if config.node.rendezvous:
        roster = Roster(home.root / "directory.cbor")
        exempt = config.node.exempt_prefixes
        known = reputation.known
        directory = Directory(
            transport, rpc, roster, known=known, exempt=exempt, in_thread=in_thread
        )
    gossip = Gossip(transport, reputation, run_store, origin=reputation.prefix)
    run_store.wanting = gossip.compare_again
    request_router.unheard = lambda: gossip.unheard
    run_store.favoured = frozenset(peer for peer in seeds if peer)
    exchange = Exchange(
        transport, rpc, reputation, blobs, in_thread=in_thread, prefix=reputation.prefix
    )
    exchange.quiet = partial(_is_quiet, config, gate, account)
    claims.pin(lambda: exchange.fetching)
    _answer_calls(rpc, request_router)
    keeper = KeeperService(key, journal, run_store, blobs, exchange, request_router.scheduling)
    keeper.serve(rpc, gossip.rpc)
    return Node(
        config=config,
        home=home,
        key=key,
        journal=journal,
        blobs=blobs,
        claims=claims,
        activity=activity,
        run_store=run_store,
        worker=worker,
        transport=transport,
        reputation=reputation,
        rpc=rpc,
        exchange=exchange,
        finder=Finder(exchange, rpc, reputation, guard, me=peer_id(key)),
        gossip=gossip,
        liveness=_liveness(transport, rpc, directory),
        dialer=_dialer(config, home, key, transport, rpc, reputation, run_store, in_thread),
        outsiders=Outsiders(transport, rpc),
        directory=directory,
        request_router=request_router,
        keeper=keeper,
        disk=disk,
        orders=orders,
        account=account,
        gate=gate,
        watch=watch,
        storage=storage,
        verifier=Verifier(
            key=key,
            run_store=run_store,
            journal=journal,
            worker=worker,
            exchange=exchange,
            activity=activity,
            policy=Policy.parse(config.run.verify),
            software=f"{PACKAGE} {VERSION}",
            blame=reputation.blame_signer,
            spot_check=SpotCheck(blobs, exchange, worker, activity, reputation.blame_signer),
            spread=partial(gossip.spread, within=FAREWELL_SECONDS),
        ),
    )


def claims_of(
    home: Home,
    blobs: BlobStore,
    run_store: RunStore,
    journal: Journal,
    me: PeerId | None,
    *,
    guard: Guard | None = None,
) -> Claims:
    """Return the claims of all known runs: nothing is removed before each of them has its own.

    me   this node; None: it has no key yet.
    """
    guard = guard or Guard()

    def pinned() -> set[Digest]:
        runs = tuple(run_store.runs.values())
        return pinned_blobs(home.root, (record.manifest for record in runs))

    def needed_by(record: RunRecord) -> set[Digest]:
        if me in record.manifest.schedule.schedulers + record.manifest.schedule.named_keepers:
            return blobs_needed_at_start(record, journal)
        return blobs_needed(record, me, blobs.has)

    claims, kept = Claims(blobs, pinned), run_store.kept()
    for run, record in run_store.runs.items():
        needed = guard.call("finding the blobs that a run needs", None, needed_by, record)
        if needed is not None or record not in kept:
            claims.claim(run, needed or set())
    return claims


def limits_of(config: NodeConfig) -> tuple[Limit, ...]:
    """Return the limits on a volunteer's work."""
    when, network = config.when, config.network
    chosen: tuple[tuple[bool, Limit], ...] = (
        (True, OrderLimit()),
        (True, GpuLimit()),
        (True, DeviceLimit()),
        (True, MemoryLimit()),
        (True, DiskLimit(config.storage.min_free)),
        (bool(when.hours), HoursLimit(when.hours)),
        (bool(when.exclusive_apps), AppsLimit()),
        (when.idle_only, UseLimit(when.idle_minutes)),
        (not when.on_battery, BatteryLimit()),
        (bool(network.daily_quota), QuotaLimit(network.daily_quota)),
        (network.metered == "pause", MeteredLimit()),
        (True, HeatLimit(config.compute.max_temp_c)),
    )
    return tuple(limit for wanted, limit in chosen if wanted)


def _is_quiet(config: NodeConfig, gate: Gate, account: Account) -> bool:
    """Return whether no blobs go over the wire now.

    A pause of training leaves those alone that others need of a scheduler or a keeper; a quota that
    is spent does not.
    """
    quota, serves = config.network.daily_quota, config.node.rendezvous or config.node.keeps
    return bool(quota and account.today() >= quota) or (gate.quiet and not serves)


def set_caps(caps: Caps, network: NetworkSection) -> None:
    """Have the caps of the configuration hold from now on."""
    caps.set(up=network.max_up or None, down=network.max_down or None, limit_lan=network.limit_lan)


def follow(node: Node, config: NodeConfig) -> None:
    """Have the limits and caps of a changed configuration hold from now on."""
    node.watch.follow(config)
    node.gate.follow(limits_of(config))
    node.exchange.quiet = partial(_is_quiet, config, node.gate, node.account)
    set_caps(node.transport.caps, config.network)


def reporter_of(
    node: Node,
    *,
    leave: Callable[[], None],
    restart: Callable[[], None] = lambda: None,
    live: Callable[[], Settings] | None = None,
) -> StatusReporter:
    """Return what answers the local API.

    leave     begins to end the node; after `restart` it is for a new start.
    live      returns the settings as they are now [those of the start].
    """
    return StatusReporter(
        version=VERSION,
        me=node.me,
        home=node.home,
        config=node.config,
        activity=node.activity,
        run_store=node.run_store,
        transport=node.transport,
        liveness=node.liveness,
        worker=node.worker,
        exchange=node.exchange,
        storage=node.storage,
        schedulers=node.request_router.schedulers,
        leave=leave,
        restart=restart,
        live=live,
        saved_records=node.journal.ledger,
        celsius=lambda: node.watch.observed().celsius,
        today=node.account.today,
        orders=node.orders,
        look_back=node.outsiders.ask,
        device=node.watch.device,
        started=time.time(),
    )


def _answer_calls(rpc: Rpc, request_router: RequestRouter) -> None:
    rpc.handle(AskLease, request_router.ask)
    rpc.handle(AskNext, request_router.ask_next)
    rpc.handle(Heartbeat, request_router.heartbeat)
    rpc.handle(Reclaim, request_router.reclaim)
    rpc.handle(HandBack, request_router.hand_back)
    rpc.handle(Submit, request_router.submit)
    rpc.handle(AskHolders, request_router.holders)
    rpc.handle(TermLeft, request_router.term_left)

    def on_peer(peer: PeerId, ready: bool) -> None:
        if not ready:
            request_router.gone(peer)

    rpc.watch(on_peer)


def _dialer(
    config: NodeConfig,
    home: Home,
    key: Ed25519PrivateKey,
    transport: Transport,
    rpc: Rpc,
    reputation: Reputation,
    run_store: RunStore,
    in_thread: InThread,
) -> Dialer:
    return Dialer(
        transport,
        rpc,
        reputation,
        Roster(home.root / "peers.cbor"),
        seeds=config.seeds,
        records=partial(_own_records, config, key, run_store),
        exempt=config.node.exempt_prefixes,
        keep=partial(_schedules, run_store),
        # Every node connects to a rendezvous node; the others hold tens of connections.
        low=config.node.low_conns,
        high=MOST_CONNECTIONS if config.node.rendezvous else config.node.high_conns,
        in_thread=in_thread,
    )


def _liveness(transport: Transport, rpc: Rpc, directory: Directory | None) -> Liveness:
    if directory is None:
        return Liveness(transport, rpc)
    return Liveness(transport, rpc, heard=directory.renew)


def _own_records(
    config: NodeConfig, key: Ed25519PrivateKey, run_store: RunStore, places: tuple[Address, ...]
) -> tuple[Signed, ...]:
    return sign_records(
        key,
        places,
        roles=("rendezvous",) if config.node.rendezvous else ("volunteer",),
        runs=tuple(record.run for record in run_store.kept())[:MAX_RUNS_TOLD],
        sequence=time.time_ns() // 1_000_000,
    )


def _schedules(run_store: RunStore, peer: PeerId) -> bool:
    """Return whether a manifest names `peer` as scheduler or keeper of a run of this node."""
    return any(
        peer in record.manifest.schedule.schedulers + record.manifest.schedule.named_keepers
        for record in run_store.kept()
    )


def _trained(run_store: RunStore, peer: PeerId) -> bool:
    return any(peer in record.state.contributors.values() for record in run_store.kept())
