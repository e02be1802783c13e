"""A small call between two nodes on this machine, with and without the updates of tiny reads.

Two hosts in one process over loopback, TCP, Noise and yamux as between nodes: 200 bytes there, the
same back. The peer is libp2p's own rule, a window update for each read. In turns.
"""

import time
from statistics import median
from typing import Any

import libp2p.stream_muxer.yamux.yamux as yamux
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.measure import Result, versus
from dipaco.node.network import shims
from dipaco.node.network.host import HostTransport, open_host
from dipaco.node.network.transport import Stream
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.wire.address import Address

ECHO, LISTEN = "/bench/echo/1", (Address.parse("/ip4/127.0.0.1/tcp/0"),)
TURNS, CALLS, BYTES = 9, 200, 200

Sample = tuple[float, float]
"""Milliseconds of a call, and CPU milliseconds a side."""


def run() -> list[Result]:
    """Return the median time of a call, and its CPU a side."""
    kept, each = trio.run(_turns)
    call = versus("small call, median", [a for a, _ in kept], [a for a, _ in each], "ms")
    cpu = versus("small call, CPU a side", [b for _, b in kept], [b for _, b in each], "ms")
    call["note"] = cpu["note"] = "ours: no window update for reads below 4 KiB"
    return [call, cpu]


async def _turns() -> tuple[list[Sample], list[Sample]]:
    async with (
        open_host(Ed25519PrivateKey.generate(), listen=LISTEN) as one,
        open_host(Ed25519PrivateKey.generate(), listen=LISTEN) as other,
    ):
        other.serve(ECHO, _echo)
        await one.dial(other.me, other.addresses)
        kept, each = [], []
        for _ in range(TURNS):
            kept.append(await _sample(one, other, shims._update_window))
            each.append(await _sample(one, other, shims._update))
    return kept, each


async def _echo(stream: Stream) -> None:
    while True:
        try:
            await stream.send(await stream.receive(BYTES))
        except Unavailable:
            return


async def _sample(one: HostTransport, other: HostTransport, rule: Any) -> Sample:
    yamux.YamuxStream._auto_tune_and_send_window_update = rule  # type: ignore[method-assign]
    stream = await one.open(other.me, ECHO)
    taken, cpu = [], time.process_time()
    for _ in range(CALLS):
        start = time.perf_counter()
        await stream.send(bytes(BYTES))
        left = BYTES
        while left:
            left -= len(await stream.receive(left))
        taken.append(1000 * (time.perf_counter() - start))
    cpu = time.process_time() - cpu
    await stream.close()
    return median(taken), 1000 * cpu / CALLS / 2
