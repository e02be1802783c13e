"""The honest network as whole nodes over the transport in memory, on virtual time.

The calls' times are virtual and show what waits for what; `Watch` measures the CPU time for which
one step of a task holds the loop, which on virtual time nothing else shows.
"""

import contextlib
import ctypes
import gc
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from dipaco.node.logs import TextFormatter
from dipaco.node.network.memory import MemoryTransport
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.identity import PeerId, peer_id, short_peer
from tests.adversary.arena import MB, MOST_MB, Arena, Calls, Measure, Outcome, ThirdParty
from tests.adversary.client import Target
from tests.adversary.probe import Probe
from tests.adversary.registry import Attack, act_out
from tests.node.scheduler.swarm import SCHEDULER, Swarm, SwarmNode, found, until
from tests.values import key, manifest

VOLUNTEERS = ("anna", "bert")
PROBE = "probe"
ROUNDS = 8  # so that the run outlasts the attacks: some 15 virtual minutes
ATTACK_SECONDS = 20.0  # virtual
SETTLE_SECONDS = 10.0  # virtual: broken connections are noticed, and honest peers come back
END_SECONDS = 7200.0  # virtual, for the rest of the run
HERE = str(Path(__file__).parent)


def small_run() -> Manifest:
    """Return the honest run."""
    plain = manifest()
    return replace(plain, training=replace(plain.training, rounds=ROUNDS))


class Watch(trio.abc.Instrument):
    """The longest time that one step of an honest task holds the loop, in CPU seconds."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._began = 0.0

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        """Note the time."""
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Take in a step, unless an attacker made it, or fake work that a process would do."""
        took = time.thread_time() - self._began
        if took > self.longest and not _is_ours(task):
            self.longest = took


def _is_ours(task: trio.lowlevel.Task) -> bool:
    frame = getattr(task.coro, "cr_frame", None)
    names = [getattr(task.coro, "cr_code", None)]
    inner: object = task.coro
    while inner is not None:  # the innermost coroutine is where the step ended
        names.append(getattr(inner, "cr_code", None))
        inner = getattr(inner, "cr_await", None)
    files = [code.co_filename for code in names if code is not None]
    return frame is None or any(HERE in name or name.endswith("fakes.py") for name in files)


class _Listener(logging.Handler):
    """Keeps the lines that the nodes would log."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(TextFormatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += self.format(record).split("\n")


class MemoryThirdParty(ThirdParty):
    """A place in the network in memory."""

    def __init__(self, place: Address) -> None:
        self._place, self._knocks = place, 0

    @property
    def address(self) -> Address:
        return self._place

    @property
    def knocks(self) -> int:
        return self._knocks

    def note(self) -> None:
        """Count one."""
        self._knocks += 1


class MemoryArena(Arena):
    """See `Arena`; made by `memory_arena`."""

    def __init__(self, swarm: Swarm, home: Path) -> None:
        super().__init__()
        self.seconds = ATTACK_SECONDS
        self.manifest = small_run()
        self.nodes: dict[str, SwarmNode] = {}
        self.calls = Calls()
        self.watch = Watch()
        self._listener = _Listener()
        self._swarm, self._home = swarm, home

    async def begin(self, nursery: trio.Nursery) -> None:
        """Start the honest nodes and the probe."""
        found(self._home, self.manifest)
        for name in (SCHEDULER, *VOLUNTEERS):
            self.nodes[name] = await self._swarm.start(name)
        targets = tuple(
            Target(name, node.parts.me, node.parts.transport.addresses)
            for name, node in self.nodes.items()
        )
        self.scheduler, self.volunteers = targets[0], targets[1:]
        probe = await nursery.start(self._probe)
        await probe.connected.wait()
        ledger = self.nodes[SCHEDULER].reporter.ledger
        await until(lambda: bool(ledger().versions))  # the seed model is there

    async def _probe(self, task_status: Any) -> None:
        async with self._swarm.network.join(peer_id(key(PROBE)), ip="62.1.1.1") as transport:
            probe = Probe(
                transport, self.run, self.everybody, lambda what, took: self.calls.note(what, took)
            )
            task_status.started(probe)
            await probe.serve()

    @staticmethod
    def ip(prefix: int, host: int) -> str:
        return f"45.{prefix}.7.{host}"

    @asynccontextmanager
    async def door(self, key: Ed25519PrivateKey, ip: str) -> AsyncIterator[MemoryTransport]:
        async with self._swarm.network.join(peer_id(key), ip=ip) as transport:
            yield transport

    @asynccontextmanager
    async def third_party(self, prefix: int) -> AsyncIterator[MemoryThirdParty]:
        network = self._swarm.network
        victim = MemoryThirdParty(Address("ip4", self.ip(prefix, 1), 80))
        at = network.at

        def counted(place: Address) -> MemoryTransport | None:
            if place.host == victim.address.host:
                victim.note()
            return at(place)

        network.at = counted  # type: ignore[method-assign]
        try:
            yield victim
        finally:
            network.at = at  # type: ignore[method-assign]

    async def progress(self) -> int:
        return self.nodes[SCHEDULER].parts.run_store.runs[self.run].length

    # ---------------------------------------------------------------- measures

    async def try_out(self, attack: Attack) -> Outcome:
        """Run one attack, and say what it did."""
        outcome = Outcome(
            attack.name,
            attack.purpose,
            most_lines=attack.lines * len(self.nodes),
            most_megabytes=MOST_MB * len(self.nodes),  # one process holds them all
        )
        before, began = self._measure(), time.monotonic()
        self.calls, self.watch.longest, self.strangers = Calls(), 0.0, []
        self.got_in = 0
        with self._listening():
            outcome.said = await act_out(attack, self)
            outcome.hold = self.watch.longest
            await trio.sleep(SETTLE_SECONDS)
        outcome.seconds = time.monotonic() - began
        outcome.strangers, outcome.got_in = len(self.strangers), self.got_in
        outcome.calls = self.calls
        outcome.compare(before, self._measure())
        outcome.read_log({"all": self._listener.lines}, self.strangers, self._honest())
        outcome.struck += self._struck()
        return outcome

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        self._listener.lines = []
        ours = logging.getLogger("dipaco")
        level = ours.level
        ours.addHandler(self._listener)
        ours.setLevel(logging.INFO)
        try:
            yield
        finally:
            ours.removeHandler(self._listener)
            ours.setLevel(level)

    def _honest(self) -> dict[str, str]:
        peers = {each.name: each.peer for each in self.everybody} | {PROBE: peer_id(key(PROBE))}
        return {short_peer(peer): name for name, peer in peers.items()}

    def _struck(self) -> list[str]:
        honest: dict[str, PeerId] = {each.name: each.peer for each in self.everybody}
        honest[PROBE] = peer_id(key(PROBE))
        return [
            f"{name}, by {judge}"
            for judge, node in self.nodes.items()
            for name, peer in honest.items()
            if node.parts.reputation.strikes(peer)
        ]

    def _measure(self) -> Measure:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        dead = tuple(
            f"{name} ({node.error!r})" for name, node in self.nodes.items() if node.ended.is_set()
        )
        return Measure(
            megabytes={"all": pages * os.sysconf("SC_PAGE_SIZE") / MB},
            descriptors={"all": len(list(Path("/proc/self/fd").iterdir()))},
            disk={name: disk_megabytes(self._home / name) for name in self.nodes},
            dead=dead,
        )

    async def end(self) -> dict[str, list[str]]:
        """Let the run end, and return the digests of every module's versions."""
        ledger = self.nodes[SCHEDULER].reporter.ledger
        await until(lambda: ledger().finished, seconds=END_SECONDS)
        return {module: list(states.values()) for module, states in ledger().states.items()}


def disk_megabytes(home: Path) -> float:
    """Return what a folder takes."""
    found = 0
    for path in home.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            found += path.stat().st_size if path.is_file() else 0
    return found / MB


@asynccontextmanager
async def memory_arena(home: Path) -> AsyncIterator[MemoryArena]:
    """Run an honest network for the block."""
    # What the tests before have left is no node's: a collection of it would count as a held loop.
    gc.collect()
    gc.freeze()
    async with trio.open_nursery() as nursery:
        arena = MemoryArena(Swarm(home, nursery), home)
        trio.lowlevel.add_instrument(arena.watch)
        await arena.begin(nursery)
        try:
            yield arena
        finally:
            trio.lowlevel.remove_instrument(arena.watch)
            nursery.cancel_scope.cancel()
            gc.unfreeze()
