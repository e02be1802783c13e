"""Whole nodes over the transport in memory: virtual time, real journals and blobs, fake work.

Or real derivations, by the worker process's own code, in this process.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio
from msgspec.structs import replace

from dipaco.node.api.reporter import StatusReporter
from dipaco.node.assembly import Node, assemble, reporter_of
from dipaco.node.config import NodeConfig, NodeSection, RunSection, WhenSection
from dipaco.node.daemon import run_node
from dipaco.node.jobs.values import Answer, Derive, Failed, Job, Materialise, Progress
from dipaco.node.network.memory import MemoryNetwork
from dipaco.node.runs.files import keep_run, sign_manifest
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal
from dipaco.node.worker.performer import Performer
from dipaco.node.worker.process import perform
from dipaco.protocol.errors import DipacoError
from dipaco.protocol.routing.spec import RouterSpec, spec_digest
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.signed import sign
from dipaco.protocol.work.ledger import SpecAdopted
from tests.node.scheduler.fakes import FakeWorker
from tests.settings import settings
from tests.values import TOKENIZER, key, manifest, peer

SCHEDULER = "scheduler"
RUN = run_id(manifest())


async def at_once(function: Callable[..., Any], *arguments: Any) -> Any:
    """Do disk work on the loop: the virtual clock does not see threads."""
    await trio.lowlevel.checkpoint()
    return function(*arguments)


class NoBus:
    """No D-Bus: nobody answers."""

    async def read(self, name: str, path: str, interface: str, value: str) -> None:
        await trio.lowlevel.checkpoint()


def fake(home: Home, **settings: Any) -> FakeWorker:
    return FakeWorker(BlobStore(home.blobs), **settings)


class RealReader:
    """Derives and materialises as the worker process does, real files and all; never trains."""

    def __init__(self, home: Home, *, local_sources: bool = True, crash: int = 0) -> None:
        """crash   how many jobs the process dies of before it does one."""
        run = RunSection(local_sources=local_sources)
        self._performer = Performer(settings(home.root, run=run))
        self._crash = crash
        self.done: list[Job] = []
        self.begun: list[tuple[float, Job]] = []
        """Every job, with the time."""
        self.pids: tuple[int, ...] = ()

    async def run(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
        await trio.lowlevel.checkpoint()
        self.begun.append((trio.current_time(), job))
        if self._crash:
            self._crash -= 1
            return Failed(kind="local", reason="the worker process was ended by signal SIGSEGV")
        if not isinstance(job, Derive | Materialise):
            await trio.sleep_forever()
        answer = perform(self._performer, job, on_progress)
        self.done.append(job)
        return answer

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()


@dataclass
class SwarmNode:
    """A node that runs, and the means to end it."""

    parts: Node
    reporter: StatusReporter
    worker: Any
    """`FakeWorker` or `RealReader`."""
    stop: trio.Event
    scope: trio.CancelScope
    ended: trio.Event
    error: BaseException | None = None


class Swarm:
    """Nodes by name on one network; each keeps its home over restarts."""

    def __init__(self, tmp_path: Path, nursery: trio.Nursery) -> None:
        self.network = MemoryNetwork()
        self.in_thread: Any = at_once
        """How the nodes that start from now on do disk work."""
        self._homes = tmp_path
        self._nursery = nursery
        self._address: Address | None = None
        self.clock: Callable[[], float] = time.time
        """Unix time, seconds."""
        self.when = WhenSection()
        """When the nodes that start from now on work."""
        self.ports = {SCHEDULER: 4000}
        """By name of a node the port that it has after each start; others get a new one."""
        self.seeds: tuple[Address, ...] = ()
        """The addresses that every node is told; empty: that of the node that started first."""
        self.after_commit: Callable[[str, Journal], bool] = lambda name, journal: False
        """Told whenever a node has saved something; True: the node is killed at that moment."""

    async def start(
        self,
        name: str,
        *,
        run: tuple[str, ...] = (),
        verify: str = "require",
        signers: tuple[PeerId, ...] = (),
        invitation: str = "",
        founds: bool = False,
        keeper: bool = False,
        bootstrap: SwarmNode | None = None,
        worker: Callable[..., Any] = fake,
        **settings: Any,
    ) -> SwarmNode:
        """Start the node called `name`, to train `run`.

        founds      whether it is a rendezvous node; the one called `SCHEDULER` always is one.
        keeper      whether it keeps the run that was put into its home, and trains none.
        bootstrap   its seed [for all but the scheduler: the node that was started first].
        """
        config = NodeConfig(
            home=Home.at(self._homes / name).root,
            node=NodeSection(
                rendezvous=founds or name == SCHEDULER,
                keeper=keeper,
                bootstrap=self._told(name, bootstrap),
            ),
            run=RunSection(id=run, verify=verify, signers=signers, invitation=invitation),
            when=replace(self.when, on_battery=True),
        )
        return await self._nursery.start(self._live, name, config, partial(worker, **settings))

    def _told(self, name: str, bootstrap: SwarmNode | None) -> tuple[Address, ...]:
        """Return the addresses of its seeds."""
        if bootstrap is not None:
            return (bootstrap.parts.transport.addresses[0],)
        if self.seeds:
            return tuple(each for each in self.seeds if each.peer != peer(name))
        return () if name == SCHEDULER or self._address is None else (self._address,)

    async def _live(
        self, name: str, config: NodeConfig, work: Callable[[Home], Any], *, task_status: Any
    ) -> None:
        home, rendezvous = Home(config.home), config.node.rendezvous
        worker = work(home)
        if rendezvous:
            BlobStore(home.blobs).write(TOKENIZER)  # the volunteers fetch it
        ended, stop = trio.Event(), trio.Event()
        with contextlib.closing(Journal.open(home.journal)) as journal, trio.CancelScope() as scope:
            async with self.network.join(peer(name), port=self.ports.get(name)) as transport:
                self._address = self._address or transport.addresses[0]
                self._watch(name, journal, scope)
                parts = assemble(
                    config,
                    home,
                    key(name),
                    journal,
                    worker,
                    transport,
                    in_thread=self.in_thread,
                    bus=NoBus(),
                    clock=self.clock,
                )
                reporter = reporter_of(parts, leave=stop.set)
                node = SwarmNode(parts, reporter, worker, stop, scope, ended)
                ready = partial(task_status.started, node)
                try:
                    await run_node(parts, reporter, stop, ready=ready)
                except* DipacoError as group:  # anything else is a bug, and fails the test
                    node.error = leaf(group)
        ended.set()

    def _watch(self, name: str, journal: Journal, scope: trio.CancelScope) -> None:
        saving = journal.saving

        @contextlib.contextmanager
        def watched() -> Iterator[None]:
            with saving():
                yield
            if not journal._depth and self.after_commit(name, journal):
                self.network.kill(peer(name))
                scope.cancel()

        journal.saving = watched  # type: ignore[method-assign]

    async def kill(self, node: SwarmNode) -> None:
        """End a node as SIGKILL does: no goodbye."""
        self.network.kill(node.parts.me)
        node.scope.cancel()
        await node.ended.wait()


def leaf(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


async def until(condition: Callable[[], bool], *, seconds: float = 3600.0) -> None:
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.5)


def found(swarm_home: Path, run: Manifest, name: str = SCHEDULER) -> None:
    """Put the run into the scheduler's home, as `start --run FILE` does."""
    keep_run(swarm_home / name, sign_manifest(run, key("owner")))


def publish(scheduler: SwarmNode, run: Manifest, spec: RouterSpec) -> None:
    """Have the scheduler publish the run, and adopt `spec` for it, whatever it is."""
    parts, adopted = scheduler.parts, SpecAdopted(epoch=0, spec=spec_digest(spec))
    parts.run_store.publish("manifest", sign(run, key("owner")))
    parts.run_store.publish("spec", sign(spec, parts.key))
    parts.run_store.append(run_id(run), adopted, parts.key)
