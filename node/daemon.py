"""The node's lifetimes: start everything in order, run until told to leave, take it down in order.

Two nurseries are two lifetimes: the network serves until the last work has ended, so that a lease
can be handed back on the way out. What ends the node by itself is an error that nobody below may
handle: a Refusal, a bug. A full disk pauses it.
"""

import logging
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from dipaco.node.api.clients import MAX_CLIENTS
from dipaco.node.api.port import Port, port_of
from dipaco.node.api.reporter import StatusReporter
from dipaco.node.api.server import Ends, serve_api
from dipaco.node.assembly import PACKAGE, VERSION, Node, assemble, reporter_of
from dipaco.node.config import NodeConfig
from dipaco.node.descriptors import clients, connections, raise_limit, shortage
from dipaco.node.jobs.pool import Pair, Pool
from dipaco.node.jobs.runner import Worker
from dipaco.node.jobs.settings import WorkerSettings, settings_of
from dipaco.node.network.door import MOST_CONNECTIONS
from dipaco.node.network.host import open_host
from dipaco.node.network.identity import load_or_new_identity, save_identity
from dipaco.node.roles.run import run_roles, trains
from dipaco.node.runs.remembered import last_run
from dipaco.node.runs.signers import pinned_signers
from dipaco.node.status.log_lines import listening
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal
from dipaco.node.storage.mark import check_mark
from dipaco.protocol.wire.identity import fingerprint, peer_id

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

GRACE_SECONDS = 5.0  # for goodbyes; the whole exit has 10
IDLE = frozenset({signal.SIGUSR1, signal.SIGUSR2})  # else they would end the process
HEEDED = IDLE | {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
Say = Callable[[str], None]


async def run_daemon(config: NodeConfig, say: Say) -> int:
    """Run a node until a signal or `stop` ends it; returns 0.

    say   prints one line for the person who started it.

    Raises ConfigError, HomeTaken, NoDevice, Refusal, Unverifiable, DiskFull: see
    docs/operation.md.
    """
    settings = settings_of(config)  # before anything is made in a home that cannot be used
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(_heed_signals, stop)
        limit = raise_limit()
        if few := shortage(limit):
            log.warning("%s", few)
        home = Home.at(config.home)
        with home.held():
            home.clear_temporary()
            await _open(config, settings, home, say, stop, limit)
        nursery.cancel_scope.cancel()
    return 0


async def _open(
    config: NodeConfig,
    settings: WorkerSettings,
    home: Home,
    say: Say,
    stop: trio.Event,
    limit: int,
) -> None:
    """Open all that the node of a held home needs, run it, and close all.

    limit   of open files.
    """
    on_log = partial(log.info, "worker: %s")
    worker, device = Worker(settings, on_log), None
    if trains(config):
        device = await worker.find_device()
    second = Worker(settings, on_log)
    pool = Pair(worker, second) if trains(config) else Pool(worker, second)
    key = load_or_new_identity(home.identity)
    say(f"{PACKAGE} {VERSION}  peer {peer_id(key)}  home {home.root}")
    if device is not None:
        say(f"device   {device}")
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
            trains_on = device.device if device else "cpu"
            node = assemble(config, home, key, journal, pool, transport, device=trains_on)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pool.end_idle)
                await _live(node, say, stop, clients(limit, MAX_CLIENTS))
                nursery.cancel_scope.cancel()
    finally:
        journal.close()


async def _live(node: Node, say: Say, stop: trio.Event, most: int) -> None:
    """Run a node that a person started: with local API and a greeting.

    most   clients of each end of the API.
    """
    reporter, port = reporter_of(node, leave=stop.set), port_of(node.config, node.home)
    with listening(reporter.log_lines):
        await _serve(node, reporter, port, say, stop, most)


async def _serve(
    node: Node, reporter: StatusReporter, port: Port | None, say: Say, stop: trio.Event, most: int
) -> None:
    async with trio.open_nursery() as nursery:
        ends = await nursery.start(partial(serve_api, node.home, reporter, port, most=most))
        node.activity.event_log.add("node", "started", f"version {VERSION}, process {os.getpid()}")
        await run_node(node, reporter, stop, ready=partial(_greet, node, say, ends))
        nursery.cancel_scope.cancel()


async def run_node(
    node: Node, reporter: StatusReporter, stop: trio.Event, *, ready: Callable[[], None]
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
            working.start_soon(run_roles, node, reporter)
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
    port = f"  {ends.url}" if ends.url else ""
    say(f"ready    api unix:{ends.socket}{port}")
    if addresses:
        widest = max(
            addresses, key=lambda address: address.scope
        )  # loopback is of use on this machine alone
        say(f"to join this network:  {PACKAGE} start --bootstrap {widest}")


def _greet_signers(node: Node, say: Say) -> None:
    """Tell the pinned signers of the names that a person gave, or of the last run's."""
    last, pins = last_run(node.home.root), pinned_signers(node.home.root)
    record = node.run_store.runs.get(last) if last is not None else None
    names = node.config.run.id or ((record.manifest.name,) if record else ())
    for name in names:
        if name in pins:
            say(f"signer   of {name}: {fingerprint(pins[name])}")


async def _heed_signals(
    stop: trio.Event, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED
) -> None:
    """The first TERM, INT or HUP begins to leave, a further TERM or INT leaves at once.

    A closed terminal may send HUP twice. Under nohup HUP is ignored already, and stays so.
    """
    heeded = HEEDED
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        heeded -= {signal.SIGHUP}
    with trio.open_signal_receiver(*heeded) as signals:
        task_status.started()
        async for number in signals:
            name = signal.Signals(number).name
            if number in IDLE:
                log.info("signal %s has no effect: ask with %s status", name, PACKAGE)
            elif not stop.is_set():
                log.info("signal %s: leaving", name)
                stop.set()
            elif number != signal.SIGHUP:
                os._exit(128 + number)


async def _announce(node: Node) -> None:
    async for item, size in node.run_store.announcements:
        await node.guard.run("announcing a value", None, node.gossip.announce, item, size)
