"""The honest network as processes on this machine, over real sockets.

Attackers come from other addresses of the loopback network, so that they are of other prefixes
than the honest nodes, which alone are exempt. Each kind of attack has a network of its own; a node
that an attack ends is paid for by a new network.
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.cli.testnet.local_run import LocalRun, local_keys, local_run
from dipaco.cli.testnet.network import LOOPBACK, dump
from dipaco.cli.testnet.processes import LOG_NAME, LocalNode, LocalSwarm
from dipaco.cli.testnet.settings import node_settings
from dipaco.cli.views.report import read_report
from dipaco.node.descriptors import raise_limit
from dipaco.node.network.keys import save_key
from dipaco.node.runs.files import write_run
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.identity import PeerId, peer_id, short_peer
from tests.adversary.arena import MB, MOST_MB, Arena, Calls, Measure, Outcome, ThirdParty
from tests.adversary.client import Target
from tests.adversary.memory import disk_megabytes
from tests.adversary.probe import READY
from tests.adversary.registry import Attack, act_out
from tests.adversary.wire import WireDoor
from tests.values import key

RUN = """
name = "attacked"
seed = 3
[source]
kind = "synthetic"
documents = 160
[model]
d_model = 16
heads = 2
kv_heads = 2
d_ff = 32
context = 48
[grid]
levels = [{ experts = 2, blocks = 1 }]
[routing]
sample = 80
dimension = 16
validation_bp = 1500
[training]
seed_steps = 4
rounds = 24
inner_steps = 30
batch = 8
[training.inner]
[training.outer]
"""
PROBE = "adversary probe"
SETTLE_SECONDS = 3.0  # after an attack, before anything is measured
RETURN_SECONDS = 25.0  # in which memory and descriptors may come back
END_SECONDS = 300.0  # for the rest of the run, on a busy machine
VOLUNTEERS = 2
CROWDED = {"crowd": 4}
"""Kinds that are tried on more volunteers."""


class SocketThirdParty(ThirdParty):
    """A listening socket that closes what it accepts."""

    def __init__(self, place: Address) -> None:
        self._place, self._knocks = place, 0

    @property
    def address(self) -> Address:
        return self._place

    @property
    def knocks(self) -> int:
        return self._knocks

    async def take(self, stream: trio.SocketStream) -> None:
        """Count one."""
        self._knocks += 1
        await stream.aclose()


class ProcessArena(Arena):
    """See `Arena`; made by `process_arena`."""

    def __init__(self, home: Path, local: LocalRun, seconds: float, volunteers: int) -> None:
        super().__init__()
        self.seconds = seconds
        self.manifest = local.run.manifest
        self.calls = Calls()
        self._home, self._local, self._count = home, local, volunteers
        settings = node_settings({}, home / "r")
        self.swarm = LocalSwarm(settings | {"DIPACO_NODE_EXEMPT_PREFIXES": "127.0.0.0/24"})
        self._probe = key(PROBE)
        self._read: dict[str, int] = {}

    async def begin(self, nursery: trio.Nursery) -> None:
        """Start all nodes and the probe, and wait for the seed model."""
        home = Home.at(self._home / "r")
        save_key(home.identity, local_keys(0).rendezvous)
        if self._local.tokenizer is not None:
            BlobStore(home.blobs).write(self._local.tokenizer)
        run = home.root / "local.run"
        write_run(run, self._local.run)
        founding = ("--rendezvous", "--run", str(run), "--listen", LOOPBACK)
        first = await self.swarm.start(nursery, "scheduler", home.root, founding)
        await self._wait_ready(first)
        address = (await self.swarm.statuses())["scheduler"].network.listen[0]
        for number in range(1, self._count + 1):
            joining = ("--bootstrap", address, "--listen", LOOPBACK)
            await self.swarm.start(nursery, f"node-{number}", self._home / f"n{number}", joining)
        for node in self.swarm.nodes[1:]:
            await self._wait_ready(node)
        targets = [
            Target(name, PeerId(status.peer), (Address.parse(status.network.listen[0]),))
            for name, status in (await self.swarm.statuses()).items()
        ]
        self.scheduler, self.volunteers = targets[0], tuple(targets[1:])
        while not (await self.swarm.ledger(first)).versions:
            self._check_alive()
            await trio.sleep(0.5)
        ready = trio.Event()
        nursery.start_soon(self._follow_probe, ready)
        with trio.fail_after(60):
            await ready.wait()

    async def _wait_ready(self, node: LocalNode) -> None:
        try:
            await self.swarm.wait_ready(node)
        except Unavailable as error:
            raise Unavailable(f"{error}\n{dump(self.swarm)}") from None

    def _check_alive(self) -> None:
        if self.swarm.ended():
            raise Unavailable(dump(self.swarm))

    async def _follow_probe(self, ready: trio.Event) -> None:
        command = [
            sys.executable, "-m", "tests.adversary.probe",
            self._probe.private_bytes_raw().hex(), self.run.hex(),
            *(f"{each.name}={each.addresses[0]}" for each in self.everybody),
        ]  # fmt: skip
        async with trio.open_nursery() as nursery:
            process = await nursery.start(
                partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
            )
            pending = b""
            async for part in process.stdout:
                *lines, pending = (pending + part).split(b"\n")
                for line in lines:
                    if line.decode() == READY:
                        ready.set()
                        continue
                    seconds, _, what = line.decode().partition(" ")
                    self.calls.note(what, float(seconds))

    @staticmethod
    def ip(prefix: int, host: int) -> str:
        return f"127.{prefix}.7.{host}"

    @asynccontextmanager
    async def door(self, key: Ed25519PrivateKey, ip: str) -> AsyncIterator[WireDoor]:
        async with trio.open_nursery() as nursery:
            door = WireDoor(key, ip, nursery)
            try:
                yield door
            finally:
                await door.close()
                nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def third_party(self, prefix: int) -> AsyncIterator[SocketThirdParty]:
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host=self.ip(prefix, 1))
            port = listener.socket.getsockname()[1]
            party = SocketThirdParty(Address("ip4", self.ip(prefix, 1), port))
            nursery.start_soon(trio.serve_listeners, party.take, [listener])
            yield party
            nursery.cancel_scope.cancel()

    async def progress(self) -> int:
        return (await self.swarm.ledger(self.swarm.nodes[0])).records

    # ---------------------------------------------------------------- measures

    async def try_out(self, attack: Attack) -> Outcome:
        """Run one attack, and say what it did."""
        outcome = Outcome(attack.name, attack.purpose, most_lines=attack.lines)
        self._new_lines()
        before, began = self._measure(), time.monotonic()
        self.calls, self.strangers, self.got_in = Calls(), [], 0
        with trio.move_on_after(20 * self.seconds + 120) as whole:  # some need 100 s
            outcome.said = await act_out(attack, self)
        if whole.cancelled_caught:
            outcome.said = "the attack itself did not end"
        await trio.sleep(SETTLE_SECONDS)
        outcome.calls, self.calls = self.calls, Calls()
        with trio.move_on_after(RETURN_SECONDS):
            while True:
                outcome.compare(before, self._measure())
                if outcome.megabytes <= MOST_MB and outcome.descriptors <= 4:
                    break
                await trio.sleep(1.0)
        outcome.seconds = time.monotonic() - began
        outcome.strangers, outcome.got_in = len(self.strangers), self.got_in
        if not outcome.calls.count:
            outcome.calls.note("call at all", math.inf)
        outcome.read_log(self._new_lines(), self.strangers, self._honest())
        await self._ask_all(outcome)
        return outcome

    async def _ask_all(self, outcome: Outcome) -> None:
        """Have the local API of every node answer, as an honest call like the others."""
        began = trio.current_time()
        answers = await self.swarm.statuses()
        silent = [each.name for each in self.everybody if each.name not in answers]
        took = math.inf if silent else trio.current_time() - began
        outcome.calls.note(f"status of {', '.join(silent) or 'all'}", took)

    def _honest(self) -> dict[str, str]:
        honest = {short_peer(each.peer): each.name for each in self.everybody}
        return honest | {short_peer(peer_id(self._probe)): "probe"}

    def _new_lines(self) -> dict[str, list[str]]:
        """Return what every node has logged since the last call."""
        found = {}
        for node in self.swarm.nodes:
            with suppress(FileNotFoundError):
                data = (node.home / LOG_NAME).read_bytes()
                found[node.name] = (
                    data[self._read.get(node.name, 0) :].decode(errors="replace").split("\n")
                )
                self._read[node.name] = len(data)
        return found

    def _measure(self) -> Measure:
        alive = [node for node in self.swarm.nodes if node.running]
        return Measure(
            megabytes={node.name: _resident(node) for node in alive},
            descriptors={node.name: _descriptors(node) for node in alive},
            disk={node.name: disk_megabytes(node.home) for node in alive},
            dead=tuple(node.exit_text() for node in self.swarm.ended()),
        )

    async def end(self) -> dict[str, dict[int, str]]:
        """Let the run end, and return the digests of every module's versions."""
        with trio.fail_after(END_SECONDS):
            while True:
                self._check_alive()
                ledger = await self.swarm.ledger(self.swarm.nodes[0])
                if ledger.finished:
                    return {name: dict(states) for name, states in ledger.states.items()}
                await trio.sleep(1.0)


def _resident(node: LocalNode) -> float:
    with suppress(FileNotFoundError, ProcessLookupError):
        pages = int(Path(f"/proc/{node.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MB
    return 0.0


def _descriptors(node: LocalNode) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):
        return len(list(Path(f"/proc/{node.process.pid}/fd").iterdir()))
    return 0


@asynccontextmanager
async def process_arena(
    local: LocalRun, seconds: float, volunteers: int
) -> AsyncIterator[ProcessArena]:
    """Run an honest network for the block; no process outlives it."""
    with TemporaryDirectory() as home:
        async with trio.open_nursery() as nursery:
            arena = ProcessArena(Path(home), local, seconds, volunteers)
            try:
                await arena.begin(nursery)
                yield arena
            finally:
                await arena.swarm.close()
                nursery.cancel_scope.cancel()


def reference_states(run: Path) -> dict[str, dict[int, str]]:
    """Return the digests that one process computes."""
    report = run.with_suffix(".json")
    command = [sys.executable, "-P", "-m", "dipaco.cli.entry", "reference", str(run)]
    subprocess.run([*command, "--report", str(report)], check=True, capture_output=True)
    return {name: dict(states) for name, states in read_report(report).states.items()}


async def try_on_processes(
    attacks: Sequence[Attack], seconds: float, show: Callable[[Outcome], None]
) -> None:
    """Try attacks, those of one kind on one network, and show what each did."""
    raise_limit()
    with TemporaryDirectory() as folder:
        run = Path(folder) / "attacked.toml"
        run.write_text(RUN)
        local = local_run(run, seed=0, rounds=None)
        reference = await trio.to_thread.run_sync(reference_states, run)
        for kind, group in groupby(attacks, key=lambda attack: attack.kind):
            waiting = list(group)
            while waiting:
                waiting = await _try_some(kind, waiting, local, seconds, reference, show)


async def _try_some(
    kind: str,
    waiting: list[Attack],
    local: LocalRun,
    seconds: float,
    reference: dict[str, dict[int, str]],
    show: Callable[[Outcome], None],
) -> list[Attack]:
    """Try attacks on one network until one ends a node; returns those that are left."""
    async with process_arena(local, seconds, CROWDED.get(kind, VOLUNTEERS)) as arena:
        outcome = await arena.try_out(waiting.pop(0))
        while waiting and not outcome.dead:
            show(outcome)
            outcome = await arena.try_out(waiting.pop(0))
        if not outcome.dead:
            outcome.digests = await _compared(arena, reference)
        show(outcome)
    return waiting


async def _compared(arena: ProcessArena, reference: dict[str, dict[int, str]]) -> str:
    try:
        ended = await arena.end()
    except trio.TooSlowError:
        return f"the run does not end within {END_SECONDS:.0f} s"
    except Unavailable as error:
        return str(error)
    return "" if ended == reference else "the run's states differ from the reference's"
