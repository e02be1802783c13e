"""The ping of a peer while a client asks the node for its status 1,000 times a minute.

Real processes over loopback: a rendezvous node whose cache holds many files, a peer over libp2p
which pings it, and a client of the local API. The client asks in turns that node and another node
of this machine that is not pinged: both sides have the same load on the processors.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from subprocess import PIPE

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.measure import Result
from dipaco.cli.testnet.processes import LocalSwarm
from dipaco.node.assembly import assemble, reporter_of
from dipaco.node.config import NodeConfig, NodeSection
from dipaco.node.daemon import run_node
from dipaco.node.jobs.runner import Worker
from dipaco.node.jobs.settings import settings_of
from dipaco.node.network.host import open_host
from dipaco.node.network.rpc import Rpc
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import Ping, Pong

FILES, FOLDER = 10_000, 100  # of the cache, and of one folder
STATUSES = 1000  # a minute
TURNS, SECONDS = 30, 1.5  # of each kind; short, since a shared machine's load changes
PAUSE = 0.02  # s between two pings
SETTLE_SECONDS = 3.0  # for a new peer's first exchanges
ANY = "/ip4/127.0.0.1/tcp/0"
MARK = 1.1


def run() -> list[Result]:
    """Measure the median and the 99th percentile."""
    with tempfile.TemporaryDirectory(prefix="dipaco-bench-") as folder:
        quiet, asked, statuses = trio.run(_measure, Path(folder))
    milliseconds = median(statuses)
    note = (
        f"the peer is our ping while another node is asked; {len(asked):,} pings each, a cache of "
        f"{FILES:,} files, {len(statuses):,} statuses of {milliseconds:.1f} ms (median)"
    )
    middle = _result("ping, median, 1,000 statuses a minute / another's", asked, quiet, 50)
    middle |= {"mark": MARK, "better": "lower", "note": note}
    return [middle, _result("ping, p99, 1,000 statuses a minute / another's", asked, quiet, 99)]


def _result(name: str, ours: list[float], peer: list[float], percentile: int) -> Result:
    mine, theirs = (quantiles(side, n=100)[percentile - 1] for side in (ours, peer))
    return Result(
        name=name,
        ours=mine,
        peer=theirs,
        ratio=mine / theirs,
        unit="ms",
        samples={"ours": ours, "peer": peer},
    )


async def _measure(root: Path) -> tuple[list[float], list[float], list[float]]:
    """Return the pings without statuses and with them, and the statuses, in ms."""
    homes, swarm = (Home.at(root / "other"), Home.at(root / "node")), LocalSwarm({})
    async with trio.open_nursery() as nursery:
        try:
            arguments = ["--rendezvous", "--listen", ANY]
            for home in homes:
                _fill(home)
                node = await swarm.start(nursery, home.root.name, home.root, arguments)
                await swarm.wait_ready(node)
            (address,) = (await swarm.statuses())["node"].network.listen
            async with _peer(Home.at(root / "peer"), address) as rpc:
                peer = PeerId(address.rpartition("/")[2])
                return await _in_turns(rpc, peer, (homes[0].root, homes[1].root))
        finally:
            await swarm.close()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def _peer(home: Home, address: str) -> AsyncIterator[Rpc]:
    """Run another whole node, connected to the one at `address`."""
    key, ready = Ed25519PrivateKey.generate(), trio.Event()
    config = NodeConfig(home=home.root, node=NodeSection(bootstrap=(Address.parse(address),)))
    with closing(Journal.open(home.journal)) as journal:
        worker = Worker(settings_of(config), print)
        async with (
            open_host(key, listen=[Address.parse(ANY)]) as transport,
            trio.open_nursery() as nursery,
        ):
            node = assemble(config, home, key, journal, worker, transport)
            reporter = reporter_of(node, leave=lambda: None)
            nursery.start_soon(partial(run_node, node, reporter, trio.Event(), ready=ready.set))
            await ready.wait()
            while not node.rpc.ready():
                await trio.sleep(0.1)
            await trio.sleep(SETTLE_SECONDS)
            yield node.rpc
            nursery.cancel_scope.cancel()


async def _in_turns(
    rpc: Rpc, peer: PeerId, homes: tuple[Path, Path]
) -> tuple[list[float], list[float], list[float]]:
    """Ping `peer`, whose home is the second, while either node is asked."""
    pings: tuple[list[float], list[float]] = [], []
    statuses: list[float] = []
    count = round(STATUSES * SECONDS / 60)
    command = [sys.executable, "-m", "benchmarks.asker", str(count), str(SECONDS)]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as client:
        assert client.stdin is not None and client.stdout is not None
        for turn in range(2 * TURNS):
            client.stdin.write(f"{homes[turn % 2]}\n")
            client.stdin.flush()
            pings[turn % 2].extend(await _ping(rpc, peer))
            took = await trio.to_thread.run_sync(client.stdout.readline)
            statuses += map(float, took.split()) if turn % 2 else ()
        client.stdin.close()
    return *pings, statuses


def _fill(home: Home) -> None:
    for number in range(FILES):
        folder = home.cache / "shards" / str(number // FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(number)).write_bytes(b"text")


async def _ping(rpc: Rpc, peer: PeerId) -> list[float]:
    """Ping for `SECONDS`; returns the round trips, ms."""
    took, end = [], trio.current_time() + SECONDS
    while trio.current_time() < end:
        begun = time.perf_counter()
        await rpc.call(peer, Ping(), Pong, timeout=10)
        took.append(1000 * (time.perf_counter() - begun))
        await trio.sleep(PAUSE)
    return took
