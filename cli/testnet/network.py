"""Runs a local network to its last round, plays a fault tape on the way, and makes the report.

It waits for events (a `ready` line, an answer of the API), never for a fixed time. A watchdog ends
a network in which nothing changes or, once faults meet it, no result is accepted and no record of
the ledger is written.
"""

import signal
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console

from dipaco.cli.testnet.chaos.executor import Executor
from dipaco.cli.testnet.chaos.forwarder import Mesh, forward
from dipaco.cli.testnet.chaos.line import Line
from dipaco.cli.testnet.chaos.namespaces import PORT, PREFIX, Namespaces, open_namespaces
from dipaco.cli.testnet.chaos.observer import Observer
from dipaco.cli.testnet.chaos.tape import Fault, NodeNames
from dipaco.cli.testnet.display import View, view
from dipaco.cli.testnet.local_run import LocalRun, role_key
from dipaco.cli.testnet.processes import LocalNode, LocalSwarm
from dipaco.cli.testnet.snapshot import Snapshot
from dipaco.cli.views.chaos import stood
from dipaco.cli.views.report import NodeReport, Report, build
from dipaco.node.api.values import LedgerView, NoDaemon
from dipaco.node.descriptors import raise_limit
from dipaco.node.network.keys import own_peer, save_key
from dipaco.node.runs.files import RunFile, write_run
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.numbers import span

POLL_SECONDS = 0.5
AIM_POLL_SECONDS = 0.1  # between polls while a volunteer is to be met in the middle of a lease
STILL_TTLS = 5  # lease times without any movement after which the network counts as stuck
RENDEZVOUS = "r"  # the rendezvous node's home, below the plan's
RUN_FILE = "local.run"  # in that home
FIRST = "rendezvous"
"""The name of the first node, which founds the network and is its first scheduler."""
LOCALHOST = "127.0.0.1"
LOOPBACK = f"/ip4/{LOCALHOST}/tcp/0"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The options of `testnet`."""

    local: LocalRun
    seed: int
    """The seed of the keys."""
    names: NodeNames
    tape: tuple[Fault, ...]
    home: Path
    """The folder of all homes."""
    settings: Mapping[str, str]
    """The environment variables of the nodes' configuration."""
    lines: Mapping[str, Line] = field(default_factory=dict)
    """By node; a node without one has loopback's."""
    netns: bool = False
    """Whether network namespaces are to take the place of forwarders."""
    soak: float | None = None
    """Seconds after which the network is ended and judged; None: it runs to its last round."""

    @property
    def run(self) -> RunFile:
        """The run to train."""
        return self.local.run

    @property
    def forwarded(self) -> bool:
        """Whether the nodes need forwarders or namespaces."""
        return bool(self.lines) or any(fault.kind == "partition" for fault in self.tape)

    @property
    def patience(self) -> float:
        """Seconds without progress after which the network is stuck."""
        faults = (fault.seconds for fault in self.tape if fault.seconds is not None)
        return STILL_TTLS * self.run.manifest.schedule.lease_ttl + max(faults, default=0.0)

    def home_of(self, name: str) -> Path:
        """Return the home of a node."""
        folder = RENDEZVOUS if name == FIRST else name.replace("node-", "n")  # r, n1, keeper-1
        return self.home / folder


def run_network(plan: Plan) -> Report:
    """Run `plan` to its end.

    Raises Unavailable when a node cannot be started, KeyboardInterrupt on INT and TERM; no process
    outlives the call.
    """
    raise_limit()  # of every node, too
    with view(plan.run.manifest, Console(stderr=True)) as shown:
        return trio.run(LocalNetwork(plan, shown).run)


class LocalNetwork:
    """One run of a local network."""

    def __init__(self, plan: Plan, shown: View) -> None:
        self.plan, self.view = plan, shown
        self.observer = Observer(FIRST)
        exempt = f"127.0.0.0/8,{PREFIX}"  # all nodes are of one prefix
        settings = {**plan.settings, "DIPACO_NODE_EXEMPT_PREFIXES": exempt}
        self.swarm = LocalSwarm(settings, self.observer.read)
        self.result: Report | None = None
        self._mesh: Mesh | None = None
        self._spaces: Namespaces | None = None
        self._joining: tuple[str, ...] = ()

    def _processes(self) -> Mapping[str, int]:
        return {node.name: node.process.pid for node in self.swarm.nodes if node.running}

    async def run(self) -> Report:
        """Start all nodes, watch them to the end, end them, and return the report."""
        try:
            async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
                nursery.start_soon(_interrupted, nursery.cancel_scope)
                if self.plan.netns or self.plan.forwarded:
                    await self._lay_lines(stack)
                await self._train(nursery)
                nursery.cancel_scope.cancel()
        except* Unavailable as group:
            raise _first(group) from None
        if self.result is None:
            raise KeyboardInterrupt
        return self.result

    async def _lay_lines(self, stack: AsyncExitStack) -> None:
        """Make what shapes and cuts the lines: namespaces if they are wanted and allowed."""
        if self.plan.netns:
            try:
                spaces = open_namespaces(self.plan.lines)
                self._spaces = await stack.enter_async_context(spaces)
            except Unavailable as reason:
                self.view.say(f"no network namespaces here ({reason}): forwarders are used")
        if self._spaces is None:
            self._mesh = Mesh(self.plan.lines, self.plan.seed, self._processes)

    async def _train(self, nursery: trio.Nursery) -> None:
        self.observer.begin()
        try:
            await self._start(nursery)
            async with trio.open_nursery() as playing:
                executor = self._executor(nursery, playing)
                if self.plan.tape or self.plan.soak:
                    playing.start_soon(executor.play, self.observer.first_lease)
                    soaking = self.plan.soak is not None
                    playing.start_soon(self.observer.sample, self.swarm, soaking)
                snapshot, stuck = await self._watch(executor)
                self.result = await self._report(snapshot, executor, stuck)
                playing.cancel_scope.cancel()  # before `close` ends nodes that a fault waits for
        finally:
            await self.swarm.close()

    def _executor(self, nursery: trio.Nursery, playing: trio.Nursery) -> Executor:
        async def join(name: str) -> LocalNode:
            return await self._start_node(nursery, name, self._joining)

        return Executor(
            tape=self.plan.tape,
            swarm=self.swarm,
            cuts=self._spaces or self._mesh,
            nursery=nursery,
            playing=playing,
            now=self.observer.now,
            say=self.view.say,
            scheduling=lambda: self.observer.scheduling,
            join=join,
        )

    async def _start(self, nursery: trio.Nursery) -> None:
        """Start all nodes at once.

        The first node's port is known before it listens: the others import what they need
        meanwhile, and dial it again if they are faster.
        """
        home = Home.at(self.plan.home_of(FIRST))
        if self.plan.local.tokenizer is not None:
            BlobStore(home.blobs).write(self.plan.local.tokenizer)
        run = home.root / RUN_FILE
        write_run(run, self.plan.run)
        async with trio.open_nursery() as waiting:
            first = await self._start_node(nursery, FIRST, ("--rendezvous", "--run", str(run)))
            waiting.start_soon(self.swarm.wait_ready, first)
            address = f"{first.place}/p2p/{own_peer(home.root)}"
            self.view.say(f"rendezvous node at {address}")
            self._joining = ("--bootstrap", address, "--run", self.plan.run.id.hex())
            named = ("--bootstrap", address, "--run", str(run))
            names = self.plan.names
            for name, arguments in (
                *((name, ("--rendezvous", *named)) for name in names.schedulers[1:]),
                *((name, ("--keeper", *named)) for name in names.keepers),
                *((name, self._joining) for name in names.volunteers),
            ):
                node = await self._start_node(nursery, name, arguments)
                waiting.start_soon(self.swarm.wait_ready, node)

    async def _start_node(
        self, nursery: trio.Nursery, name: str, arguments: tuple[str, ...]
    ) -> LocalNode:
        """Start a node in its namespace or behind its forwarder, if the network has any."""
        home = Home.at(self.plan.home_of(name))
        if not home.identity.exists():
            named = name in (*self.plan.names.schedulers, *self.plan.names.keepers)
            key = role_key(self.plan.seed, name) if named else Ed25519PrivateKey.generate()
            save_key(home.identity, key)
        peer = own_peer(home.root)
        assert peer is not None
        self.observer.name(name, peer)
        fixed = name == FIRST or self._mesh is not None
        listen = told = f"/ip4/{LOCALHOST}/tcp/{free_port()}" if fixed else LOOPBACK
        where: tuple[str, ...] = ("--listen", listen)
        within: tuple[str, ...] = ()
        if self._spaces is not None:
            await self._spaces.add(name)
            told = f"/ip4/{self._spaces.host(name)}/tcp/{PORT}"
            where = ("--listen", told)
            within = self._spaces.command(name)
        elif self._mesh is not None:
            [listener] = await trio.open_tcp_listeners(0, host=LOCALHOST)
            told = f"/ip4/{LOCALHOST}/tcp/{listener.socket.getsockname()[1]}"
            where = ("--listen", listen, "--announce", told)
            nursery.start_soon(forward, self._mesh, name, listener, port_of(listen))
        node = await self.swarm.start(nursery, name, home.root, (*arguments, *where), within)
        node.place = told
        return node

    async def _watch(self, executor: Executor) -> tuple[Snapshot, str]:
        """Poll all nodes until the run or the soak is over; return why it is stuck, or ''."""
        watchdog = Watchdog(self.plan.patience)
        ledger = NO_LEDGER
        while True:
            statuses = await self.swarm.statuses()
            ledger = await self._ledger(ledger)
            now = self.observer.now()
            snapshot = Snapshot(now, statuses, ledger)
            self.view.show(snapshot)
            if self.plan.soak is not None and now > self.plan.soak:
                return snapshot, ""
            if ledger.finished:
                early = f"the run ended after {span(now)}, before the soak: give more --rounds"
                return snapshot, "" if self.plan.soak is None else early
            for node in self.swarm.ended():
                return snapshot, node.exit_text()
            executor.meet(snapshot)
            faulty = bool(self.plan.tape) and self.observer.first_lease.is_set()
            movement = self.observer.progress if faulty else snapshot.movement
            if watchdog.is_still(movement, now):
                what = "no result was accepted and no record written" if faulty else NOTHING
                return snapshot, f"{what} for {span(watchdog.limit)}"
            await trio.sleep(AIM_POLL_SECONDS if executor.waits_for_round else POLL_SECONDS)

    async def _ledger(self, before: LedgerView) -> LedgerView:
        """Ask the node that schedules, else any other; return `before` if nobody knows more."""
        scheduling = self.observer.scheduling
        for node in sorted(self.swarm.nodes, key=lambda node: node.name != scheduling):
            if node.answers:
                try:
                    found = await self.swarm.ledger(node)
                except NoDaemon:
                    continue
                return found if found.records >= before.records else before
        return before

    async def _report(self, snapshot: Snapshot, executor: Executor, stuck: str) -> Report:
        if stuck:
            for line in (f"stuck: {stuck}", *dump(self.swarm).split("\n")):
                self.view.say(line)
        chaos = None
        if self.plan.tape or self.plan.soak is not None:
            chaos = await self.observer.chaos(self.plan.seed, executor, stuck, self.plan.soak)
        return build(
            "testnet",
            self.plan.run.manifest,
            completed=not stuck and (chaos is None or stood(chaos)),
            seconds=snapshot.elapsed,
            states=snapshot.ledger.states,
            evaluations=snapshot.ledger.evaluations,
            nodes=[r for node in self.swarm.nodes if (r := node_report(node)) is not None],
            chaos=chaos,
        )


NOTHING = "nothing changed"
NO_LEDGER = LedgerView(
    run="", records=0, head="", versions={}, states={}, evaluations=(), finished=False
)


def port_of(place: str) -> int:
    """Return the port of `/ip4/HOST/tcp/PORT`."""
    return int(place.rpartition("/")[2])


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        port: int = probe.getsockname()[1]
        return port


class Watchdog:
    """Detects that nothing changes for too long."""

    def __init__(self, limit: float) -> None:
        """limit: seconds without a change."""
        self.limit = limit
        self._seen: object = None
        self._since = 0.0

    def is_still(self, movement: object, now: float) -> bool:
        """Return whether `movement` has been the same for longer than the limit."""
        if movement != self._seen:
            self._seen, self._since = movement, now
        return now - self._since > self.limit


def node_report(node: LocalNode) -> NodeReport | None:
    """Return the report of a node by its last status, None if it never answered."""
    status = node.last
    if status is None:
        return None
    return NodeReport(
        name=node.name,
        peer=status.peer,
        verdict=status.run.verdict if status.run else "unverified",
        killed=node.killed,
        sent=status.network.sent,
        received=status.network.received,
        blobs=status.network.blobs,
        memory=status.memory,
        totals=status.totals,
        stages=status.stages,
    )


def dump(swarm: LocalSwarm) -> str:
    """Return every node's last status and last lines, for finding the cause."""
    blocks = []
    for node in swarm.nodes:
        status = node.last
        state = f"{status.state}: {status.reason.text}; task {status.task}" if status else "silent"
        lines = "".join(f"\n    {line}" for line in node.tail)
        blocks.append(f"  {node.name} ({node.state}) {state}{lines}")
    return "\n".join(blocks)


def _first(group: BaseExceptionGroup[Unavailable]) -> Unavailable:
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


async def _interrupted(scope: trio.CancelScope) -> None:
    heeded = {signal.SIGINT, signal.SIGTERM}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # it is ignored under nohup
        heeded.add(signal.SIGHUP)  # the terminal was closed: no node may outlive this process
    with trio.open_signal_receiver(*heeded) as signals:
        async for _ in signals:
            scope.cancel()
