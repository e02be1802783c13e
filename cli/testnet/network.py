"""Runs a local network to its last round, kills volunteers on the way, and makes the report.

It waits for events (a `ready` line, an answer of the API), never for a fixed time. A watchdog ends
a network in which nothing changes.
"""

import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import trio
from rich.console import Console

from dipaco.cli.testnet.display import View, view
from dipaco.cli.testnet.local_run import LocalRun, local_keys
from dipaco.cli.testnet.processes import LocalNode, LocalSwarm
from dipaco.cli.testnet.snapshot import Snapshot, nodes_to_kill
from dipaco.cli.views.report import NodeReport, Report, build
from dipaco.node.descriptors import raise_limit
from dipaco.node.network.keys import own_peer, save_key
from dipaco.node.runs.files import RunFile, write_run
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.numbers import span

POLL_SECONDS = 0.5
KILL_POLL_SECONDS = 0.1  # between polls while a volunteer is to be killed in the middle of a lease
STILL_TTLS = 5  # lease times without any movement after which the network counts as stuck
RENDEZVOUS = "r"  # the rendezvous node's home, below the plan's
LOCALHOST = "127.0.0.1"
LOOPBACK = f"/ip4/{LOCALHOST}/tcp/0"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The options of `testnet`."""

    local: LocalRun
    seed: int
    """The seed of the keys."""
    nodes: int
    """The number of volunteers."""
    kill: int
    """The number of volunteers to kill."""
    home: Path
    """The folder of all homes."""
    settings: Mapping[str, str]
    """The environment variables of the nodes' configuration."""

    @property
    def run(self) -> RunFile:
        """The run to train."""
        return self.local.run


def run_network(plan: Plan) -> Report:
    """Run `plan` to its end.

    Raises Unavailable when a node ends by itself or nothing moves, KeyboardInterrupt on INT and
    TERM; no process outlives the call.
    """
    raise_limit()  # of every node, too
    with view(plan.run.manifest, Console(stderr=True)) as shown:
        return trio.run(LocalNetwork(plan, shown).run)


@dataclass
class LocalNetwork:
    """One run of a local network."""

    plan: Plan
    view: View
    killed: list[str] = field(default_factory=list)
    result: Report | None = None

    async def run(self) -> Report:
        """Start all nodes, watch them to the end, end them, and return the report."""
        swarm = LocalSwarm(self.plan.settings)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_interrupted, nursery.cancel_scope)
                await self._train(swarm, nursery)
                nursery.cancel_scope.cancel()
        except* Unavailable as group:
            raise _first(group) from None
        if self.result is None:
            raise KeyboardInterrupt
        return self.result

    async def _train(self, swarm: LocalSwarm, nursery: trio.Nursery) -> None:
        began = trio.current_time()
        try:
            first = await self._start(swarm, nursery)
            snapshot = await self._watch(swarm, first, began)
            self.result = self._report(swarm, snapshot)
        finally:
            await swarm.close()

    async def _start(self, swarm: LocalSwarm, nursery: trio.Nursery) -> LocalNode:
        """Start all nodes at once, and return the rendezvous node.

        Its port is known before it listens: the others import what they need meanwhile, and dial it
        again if they are faster.
        """
        home = Home.at(self.plan.home / RENDEZVOUS)
        if not home.identity.exists():
            save_key(home.identity, local_keys(self.plan.seed).rendezvous)
        if self.plan.local.tokenizer is not None:
            BlobStore(home.blobs).write(self.plan.local.tokenizer)
        run = home.root / "local.run"
        write_run(run, self.plan.run)
        place = f"/ip4/{LOCALHOST}/tcp/{free_port()}"
        founding = ("--rendezvous", "--run", str(run), "--listen", place)
        first = await swarm.start(nursery, "rendezvous", home.root, founding)
        address = f"{place}/p2p/{own_peer(home.root)}"
        self.view.say(f"rendezvous node at {address}")
        run_name = self.plan.run.id.hex()
        joining = ("--bootstrap", address, "--run", run_name, "--listen", LOOPBACK)
        async with trio.open_nursery() as waiting:
            waiting.start_soon(swarm.wait_ready, first)
            for number in range(1, self.plan.nodes + 1):
                home_n = self.plan.home / f"n{number}"
                node = await swarm.start(nursery, f"node-{number}", home_n, joining)
                waiting.start_soon(swarm.wait_ready, node)
        return first

    async def _watch(self, swarm: LocalSwarm, first: LocalNode, began: float) -> Snapshot:
        """Poll all nodes until the run is finished."""
        watchdog = Watchdog(STILL_TTLS * self.plan.run.manifest.schedule.lease_ttl)
        while True:
            for node in swarm.ended():
                raise Unavailable(node.exit_text())
            statuses = await swarm.statuses()
            ledger = await swarm.ledger(first)
            now = trio.current_time()
            snapshot = Snapshot(now - began, statuses, ledger)
            self.view.show(snapshot)
            if ledger.finished:
                return snapshot
            self._kill(swarm, snapshot)
            if watchdog.is_still(snapshot.movement, now):
                raise Unavailable(f"nothing changed for {span(watchdog.limit)}\n{dump(swarm)}")
            killing = len(self.killed) < self.plan.kill
            await trio.sleep(KILL_POLL_SECONDS if killing else POLL_SECONDS)

    def _kill(self, swarm: LocalSwarm, snapshot: Snapshot) -> None:
        for name in nodes_to_kill(snapshot, killed=self.killed, wanted=self.plan.kill):
            task = snapshot.statuses[name].task
            assert task is not None
            next(node for node in swarm.nodes if node.name == name).kill()
            self.killed.append(name)
            self.view.say(
                f"killed {name} in path {task.path} round {task.round}, "
                f"step {task.done} of {task.total}"
            )

    def _report(self, swarm: LocalSwarm, snapshot: Snapshot) -> Report:
        return build(
            "testnet",
            self.plan.run.manifest,
            completed=len(self.killed) == self.plan.kill,
            seconds=snapshot.elapsed,
            states=snapshot.ledger.states,
            evaluations=snapshot.ledger.evaluations,
            nodes=[report for node in swarm.nodes if (report := node_report(node)) is not None],
        )


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
        alive = "running" if node.running else f"ended with {node.process.returncode}"
        lines = "".join(f"\n    {line}" for line in node.tail)
        blocks.append(f"  {node.name} ({alive}) {state}{lines}")
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
