"""How exactly a cap holds on the wire, and how long a small call then waits behind blobs.

Two hosts in one process over loopback, with the forwarder of `testnet` between them, which counts
the bytes of every connection. Three streams send as much as they can for some seconds, up or down;
a small call is made twice a second beside them. The first seconds count: bursts are what to find.
"""

from statistics import median
from typing import Literal

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.measure import Result
from dipaco.cli.testnet.chaos.forwarder import LOCALHOST, SOMEBODY, Mesh, forward
from dipaco.node.network.host import HostTransport, open_host
from dipaco.node.network.transport import Stream
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.wire.address import Address

Way = Literal["up", "down"]
SINK, SOURCE, ECHO = "/bench/sink/1", "/bench/source/1", "/bench/echo/1"
LISTEN = (Address.parse("/ip4/127.0.0.1/tcp/0"),)
MBIT = 125_000.0  # bytes per s
RATES = (1.0, 4.0, 20.0)  # Mbit/s
SECONDS, WINDOW, LOOK = 14.0, 10.0, 0.1  # s of a sample, of a window in it, between two looks
STREAMS, SMALL, PIECE = 3, 200, 16 << 10  # bytes of a call, and of what a stream is given at once
MARK = 1.05  # of the cap, in any ten seconds


def run() -> list[Result]:
    """Return the most bytes per second of any ten, by rate and direction."""
    return [trio.run(_sample, rate, way) for rate in RATES for way in ("up", "down")]


async def _sample(rate: float, way: Way) -> Result:
    cap = rate * MBIT
    async with (
        open_host(Ed25519PrivateKey.generate()) as one,
        open_host(Ed25519PrivateKey.generate(), listen=LISTEN) as other,
        trio.open_nursery() as nursery,
    ):
        for protocol, handler in ((SINK, _sink), (SOURCE, _source), (ECHO, _echo)):
            other.serve(protocol, handler)
        mesh = Mesh({}, 0, dict)
        listener = (await trio.open_tcp_listeners(0, host=LOCALHOST))[0]
        nursery.start_soon(forward, mesh, "other", listener, other.addresses[0].port)
        entrance = f"/ip4/{LOCALHOST}/tcp/{listener.socket.getsockname()[1]}"
        await one.dial(other.me, [Address.parse(entrance)])
        one.caps.set(
            up=cap if way == "up" else None, down=cap if way == "down" else None, limit_lan=True
        )
        looks, waits = await _load(one, other, mesh, way)
        nursery.cancel_scope.cancel()
    steps = round(WINDOW / LOOK)
    rates = [(late - early) / WINDOW for early, late in zip(looks, looks[steps:], strict=False)]
    return Result(
        name=f"bytes {way} of any 10 s, cap {rate:g} Mbit/s",
        ours=max(rates),
        peer=cap,
        ratio=max(rates) / cap,
        unit="B/s",
        samples={"ours": rates, "calls, s": waits},
        mark=MARK,
        better="lower",
        note=f"least {min(rates) / cap:.3f} of the cap; "
        f"a call took {1000 * median(waits):.0f} ms, at most {1000 * max(waits):.0f} ms",
    )


async def _load(
    one: HostTransport, other: HostTransport, mesh: Mesh, way: Way
) -> tuple[list[int], list[float]]:
    """Return the bytes that were carried at each look, and the seconds that each call took."""
    place = (SOMEBODY, "other") if way == "up" else ("other", SOMEBODY)
    looks, waits = list[int](), list[float]()
    async with trio.open_nursery() as nursery:
        echo = await one.open(other.me, ECHO)
        nursery.start_soon(_call_often, echo, waits)
        for _ in range(STREAMS):
            nursery.start_soon(_fill, one, other, way)
        began = trio.current_time()
        for number in range(round(SECONDS / LOOK) + 1):
            await trio.sleep_until(began + number * LOOK)
            looks.append(mesh.carried[place])
        nursery.cancel_scope.cancel()
    return looks, waits


async def _fill(one: HostTransport, other: HostTransport, way: Way) -> None:
    """Send as much as goes up, or have as much sent down."""
    stream = await one.open(other.me, SINK if way == "up" else SOURCE)
    await (_source if way == "up" else _sink)(stream)


async def _call_often(stream: Stream, waits: list[float]) -> None:
    while True:
        began = trio.current_time()
        await stream.send(bytes(SMALL))
        left = SMALL
        while left:
            left -= len(await stream.receive(left))
        waits.append(trio.current_time() - began)
        await trio.sleep(0.5)


async def _sink(stream: Stream) -> None:
    while await stream.receive(1 << 20):
        pass


async def _source(stream: Stream) -> None:
    while True:
        try:
            await stream.send(bytes(PIECE))
        except Unavailable:
            return


async def _echo(stream: Stream) -> None:
    while True:
        try:
            await stream.send(await stream.receive(SMALL))
        except Unavailable:
            return
