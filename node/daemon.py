"""The node's lifetimes: start everything in order, run until told to leave, take it down in order.

Two nurseries are two lifetimes: the network serves until the last work has ended, so that a lease
can be handed back on the way out. What ends the node by itself is an error that nobody below may
handle: a Refusal, a bug. A full disk pauses it.
"""

import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import msgspec
import trio

from dipaco.node.api.clients import MAX_CLIENTS
from dipaco.node.api.port import Port, port_of
from dipaco.node.api.reporter import RESTART, StatusReporter
from dipaco.node.api.server import Ends, serve_api
from dipaco.node.assembly import PACKAGE, VERSION, Node, assemble, follow, reporter_of
from dipaco.node.config import NodeConfig
from dipaco.node.descriptors import clients, connections, raise_limit, shortage
from dipaco.node.jobs.pool import Pair, Pool
from dipaco.node.jobs.runner import Worker
from dipaco.node.jobs.settings import WorkerSettings, settings_of
from dipaco.node.jobs.values import Described
from dipaco.node.limits.device import LOOK_SECONDS, Device
from dipaco.node.live_config import LiveConfig
from dipaco.node.logs import set_level
from dipaco.node.network.door import MOST_CONNECTIONS
from dipaco.node.network.host import open_host
from dipaco.node.network.identity import load_or_new_identity, save_identity
from dipaco.node.roles.rehearsal import rehearse
from dipaco.node.roles.run import run_roles, trains
from dipaco.node.runs.remembered import last_run
from dipaco.node.runs.signers import pinned_signers
from dipaco.node.service_state import ServiceManager
from dipaco.node.signals import Actions, heed_signals
from dipaco.node.status.log_lines import listening
from dipaco.node.stay import Stay, stay_over
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal
from dipaco.node.storage.mark import check_mark
from dipaco.protocol.errors import NoDevice
from dipaco.protocol.wire.identity import fingerprint, peer_id

log = logging.getLogger(__name__)

FOREVER = Stay()
GRACE_SECONDS = 5.0  # for goodbyes; the whole exit has 10
Say = Callable[[str], None]
Work = Callable[[Node, StatusReporter], Awaitable[None]]


@dataclass
class Process:
    """The daemon's process: what it runs with, and how it is told and tells."""

    live: LiveConfig
    say: Say
    """Prints one line for the person who started it."""
    stay: Stay
    opened: Callable[[], None] | None
    """Called once its local API answers and its work has begun."""
    stop: trio.Event = field(default_factory=trio.Event)
    code: int = 0
    """The exit code."""
    service: ServiceManager = field(default_factory=ServiceManager)
    node: Node | None = None
    """None: it is starting."""
    status: Callable[[], str] = "the node is starting".__str__
    """Returns the status as one line."""

    @property
    def config(self) -> NodeConfig:
        """The configuration as it is now."""
        return self.live.config

    def read_again(self) -> None:
        """Take up a changed configuration file, and tell in one line what came of it."""
        reread = self.live.read_again()
        log.log(logging.WARNING if reread.fault else logging.INFO, "%s", reread)
        set_level(self.config.log.level)
        if self.node is not None and reread.taken:
            follow(self.node, self.config)

    def toggle(self) -> None:
        """Pause, or resume if a pause holds."""
        if self.node is not None:
            self.node.orders.toggle()

    def restart(self) -> None:
        """End with the exit code that has a service started again."""
        self.code = RESTART

    def actions(self) -> Actions:
        """Return what signals do."""
        return Actions(
            leave=self.stop.set,
            leaving=self.stop.is_set,
            changed=lambda: self.live.changed,
            read_again=self.read_again,
            toggle=self.toggle,
            tell=lambda: self.say(f"status   {self.status()}"),
        )


async def run_daemon(
    live: LiveConfig,
    say: Say,
    stay: Stay = FOREVER,
    *,
    opened: Callable[[], None] | None = None,
) -> int:
    """Run a node until a signal, `stop` or the end of its stay; returns its exit code.

    say      prints one line for the person who started it.
    opened   is called once its local API answers and its work has begun.

    Raises ConfigError, HomeTaken, Refusal, Unverifiable, DiskFull, and for a bounded stay without
    peers or device Unavailable or NoDevice: see docs/operation.md.
    """
    process = Process(live, say, stay, opened)
    settings = settings_of(live.config)  # before anything is made in a home that cannot be used
    async with trio.open_nursery() as nursery:
        heed = partial(heed_signals, process.actions(), service=process.service.is_there)
        await nursery.start(heed)
        limit = raise_limit()
        if few := shortage(limit):
            log.warning("%s", few)
        home = Home.at(live.config.home)
        with home.held():
            home.clear_temporary()
            await _open(process, settings, home, limit)
        nursery.cancel_scope.cancel()
    return process.code


async def _open(process: Process, settings: WorkerSettings, home: Home, limit: int) -> None:
    """Open all that the node of a held home needs, run it, and close all.

    limit   of open files.
    """
    config = process.config
    on_log = partial(log.info, "worker: %s")
    worker, device = Worker(settings, on_log), Device()
    if trains(config):
        device = await _device_of(worker, process.stay)
    second = Worker(settings, on_log)
    pool = Pair(worker, second) if trains(config) else Pool(worker, second)
    key = load_or_new_identity(home.identity)
    process.say(f"{PACKAGE} {VERSION}  peer {peer_id(key)}  home {home.root}")
    if device.words:
        process.say(f"device   {device.words}")
    journal = Journal.open(home.journal)
    try:
        check_mark(home, journal)
        async with open_host(
            key,
            listen=config.node.listen,
            announce=config.node.announce,
            most=connections(limit, MOST_CONNECTIONS),
            exempt=config.node.exempt_prefixes,
        ) as transport:
            save_identity(home.identity, key)  # a node that cannot listen leaves no key
            node = assemble(config, home, key, journal, pool, transport, device=device)
            process.node = node
            if process.stay.paused:
                node.orders.start_paused()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pool.end_idle)
                await _live(node, process, clients(limit, MAX_CLIENTS))
                nursery.cancel_scope.cancel()
    finally:
        journal.close()


async def _device_of(worker: Worker, stay: Stay) -> Device:
    """Return the device to train on; a node that stays waits for one.

    Raises NoDevice for one that does not stay.
    """

    async def find() -> Described:
        try:
            return await worker.find_device()
        finally:
            await worker.close()  # another limit may forbid work: the device is then to be free

    try:
        found = await worker.find_device()
    except NoDevice as missing:
        if stay.tasks is not None or stay.dry_run:
            raise
        words = f"none yet: {missing}; looks every {LOOK_SECONDS:.0f} s"
        return Device(words=words, missing=str(missing), find=find)
    return Device(found.device, str(found))


async def _live(node: Node, process: Process, most: int) -> None:
    """Run a node that a person started: with local API and a greeting.

    most   clients of each end of the API.
    """
    reporter = reporter_of(
        node,
        leave=process.stop.set,
        restart=process.restart,
        live=lambda: process.live.settings,
    )
    port = port_of(node.config, node.home)
    process.status = lambda: msgspec.json.encode(reporter.status()).decode()
    with listening(reporter.log_lines):
        await _serve(node, reporter, process, port, most)


async def _serve(
    node: Node, reporter: StatusReporter, process: Process, port: Port | None, most: int
) -> None:
    async with trio.open_nursery() as nursery:
        ends = await nursery.start(partial(serve_api, node.home, reporter, port, most=most))
        nursery.start_soon(reporter.watch_rounds)
        await _serve_metrics(node, reporter, nursery, process.say)
        nursery.start_soon(_tell_manager, node, process)
        nursery.start_soon(_end_stay, node, process)
        node.activity.event_log.add("node", "started", f"version {VERSION}, process {os.getpid()}")

        def ready() -> None:
            _greet(node, process.say, ends)
            process.service.ready()
            if process.opened is not None:
                process.opened()

        work = partial(_rehearse, process=process) if process.stay.dry_run else run_roles
        await run_node(node, reporter, process.stop, ready=ready, work=work)
        nursery.cancel_scope.cancel()


async def _serve_metrics(
    node: Node, reporter: StatusReporter, nursery: trio.Nursery, say: Say
) -> None:
    """Serve the metrics, if a person wants them."""
    if not node.config.metrics.listen:
        return
    from dipaco.node.metrics.server import serve_metrics  # 70 ms, for those that use it

    url = await nursery.start(serve_metrics, node.config.metrics.listen, reporter)
    if url:
        say(f"metrics  {url}")


async def _rehearse(node: Node, reporter: StatusReporter, process: Process) -> None:
    """Do a dry run, and leave."""
    await rehearse(node, reporter, process.say)
    process.stop.set()


async def _tell_manager(node: Node, process: Process) -> None:
    """Tell the service manager each state and its reason, until cancelled."""
    while process.service.is_there:
        if process.stop.is_set():
            process.service.stopping()
        process.service.status(f"{node.activity.state}: {node.activity.reason.text}")
        await node.activity.told.wait()


async def _end_stay(node: Node, process: Process) -> None:
    """Leave when a bounded stay is over."""
    if process.stay.is_bounded:
        await stay_over(process.stay, node.activity, lambda: bool(node.transport.peers()))
        log.info("leaving, as the command line asks")
        process.stop.set()


async def run_node(
    node: Node,
    reporter: StatusReporter,
    stop: trio.Event,
    *,
    ready: Callable[[], None],
    work: Work = run_roles,
) -> None:
    """Run a node's network and its work until `stop`; `ready` is called when both have begun.

    The network outlives the work. Whatever the work raises ends the node.
    """
    async with trio.open_nursery() as serving:
        for service in node.services:
            await serving.start(service)
        serving.start_soon(_announce, node)
        ready()
        async with trio.open_nursery() as working:
            working.start_soon(work, node, reporter)
            await stop.wait()
            node.activity.say("stopping")
            working.cancel_scope.cancel()
        with trio.move_on_after(GRACE_SECONDS):
            await node.worker.close()
        serving.cancel_scope.cancel()


def _greet(node: Node, say: Say, ends: Ends) -> None:
    addresses = node.transport.addresses
    say(f"listen   {'  '.join(map(str, addresses))}")
    _greet_signers(node, say)
    # Without the token: what is printed here may go into a log that others read.
    port = f"  ui {ends.url} ({PACKAGE} ui prints its token)" if ends.url else ""
    say(f"ready    api unix:{ends.socket}{port}")
    if addresses:
        widest = max(
            addresses, key=lambda address: address.scope
        )  # loopback is of use on this machine alone
        say(f"to join this network:  {PACKAGE} start --bootstrap {widest}")
    if node.config.node.rendezvous:
        say(f"to invite to its run:  {PACKAGE} invite")


def _greet_signers(node: Node, say: Say) -> None:
    """Tell the pinned signers of the names that a person gave, or of the last run's."""
    last, pins = last_run(node.home.root), pinned_signers(node.home.root)
    record = node.run_store.runs.get(last) if last is not None else None
    names = node.config.run.id or ((record.manifest.name,) if record else ())
    for name in names:
        if name in pins:
            say(f"signer   of {name}: {fingerprint(pins[name])}")


async def _announce(node: Node) -> None:
    async for item, size in node.run_store.announcements:
        await node.guard.run("announcing a value", None, node.gossip.announce, item, size)
