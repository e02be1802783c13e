"""Caps on the wire.

Rules of this file: virtual time, over lanes alone or the memory transport; the last tests take real
hosts on loopback, for what the memory transport has not: frames, windows and sockets.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.network.caps import (
    BURST_SECONDS,
    PIECE_SECONDS,
    URGENT,
    Caps,
    Lane,
    is_near,
)
from dipaco.node.network.host import HostTransport, open_host
from dipaco.node.network.memory import MemoryNetwork, MemoryTransport
from dipaco.node.network.transport import Stream
from dipaco.node.quantities import MIN_RATE
from dipaco.protocol.wire.address import Address
from tests.node.network.peers import KEYS, PEERS

RATE = 500_000.0  # bytes per s: 4 Mbit/s
TOLERANCE = 0.05
SINK = "/test/sink/1"
ECHO = "/test/echo/1"
LISTEN = (Address.parse("/ip4/127.0.0.1/tcp/0"),)


async def keep_sending(lane: Lane, size: int, sent: list[tuple[float, int]]) -> None:
    while True:
        await lane.turn(urgent=size <= URGENT)
        lane.carry(size)
        sent.append((trio.current_time(), size))


def most_in_a_window(sent: list[tuple[float, int]], seconds: float) -> int:
    """Return the most bytes of any `seconds` in a row."""
    return max(
        sum(size for when, size in sent if start <= when < start + seconds) for start, _ in sent
    )


async def test_every_ten_seconds_carry_the_cap_whoever_sends(autojump_clock: MockClock) -> None:
    lane, sent = Lane(), list[tuple[float, int]]()
    lane.limit(RATE)
    with trio.move_on_after(30):
        async with trio.open_nursery() as nursery:
            for size in (lane.piece, lane.piece, 16_000, 5_000):
                nursery.start_soon(keep_sending, lane, size, sent)
    assert most_in_a_window(sent, 10) <= 10 * RATE * (1 + TOLERANCE)
    assert most_in_a_window(sent, 1) <= RATE * (1 + BURST_SECONDS + PIECE_SECONDS)  # smooth
    assert lane.carried >= 30 * RATE * (1 - TOLERANCE)


async def test_an_idle_time_is_no_credit(autojump_clock: MockClock) -> None:
    lane, sent = Lane(), list[tuple[float, int]]()
    lane.limit(RATE)
    await trio.sleep(3600)
    with trio.move_on_after(1):
        await keep_sending(lane, lane.piece, sent)
    assert lane.carried <= RATE * (1 + BURST_SECONDS + PIECE_SECONDS)


async def test_a_small_message_waits_for_one_piece_behind_any_number_of_blobs(
    autojump_clock: MockClock,
) -> None:
    lane, waited = Lane(), list[float]()
    lane.limit(MIN_RATE)
    with trio.move_on_after(20):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(keep_sending, lane, lane.piece, [])
            while True:
                await trio.sleep(0.7)
                began = trio.current_time()
                await lane.turn(urgent=True)
                lane.carry(100)
                waited.append(trio.current_time() - began)
    assert len(waited) > 20
    assert max(waited) <= (lane.piece + 100) / MIN_RATE


async def test_senders_of_large_pieces_take_turns(autojump_clock: MockClock) -> None:
    lane = Lane()
    lane.limit(RATE)
    each: list[list[tuple[float, int]]] = [[] for _ in range(4)]
    with trio.move_on_after(10):
        async with trio.open_nursery() as nursery:
            for sent in each:
                nursery.start_soon(keep_sending, lane, lane.piece, sent)
    assert max(map(len, each)) - min(map(len, each)) <= 1


async def test_a_new_cap_acts_on_what_waits(autojump_clock: MockClock) -> None:
    lane = Lane()
    lane.limit(1.0)
    lane.carry(1000)  # 1000 s of debt
    async with trio.open_nursery() as nursery:
        sent = list[tuple[float, int]]()
        nursery.start_soon(keep_sending, lane, 10_000, sent)
        await trio.sleep(5)
        assert not sent
        lane.limit(10_000.0)
        await trio.sleep(2.5)
        assert 2 <= len(sent) <= 4
        nursery.cancel_scope.cancel()


async def test_whoever_gives_up_holds_nobody_back(autojump_clock: MockClock) -> None:
    lane = Lane()
    lane.limit(RATE)
    lane.carry(int(RATE))
    with trio.move_on_after(0.5):
        await lane.turn(urgent=True)
        pytest.fail("a second of debt is paid in half of it")
    await lane.turn(urgent=False)
    assert trio.current_time() == pytest.approx(1 - BURST_SECONDS)


def test_what_is_near_does_not_count_unless_the_operator_says_so() -> None:
    caps = Caps()
    assert all(map(is_near, ("127.0.0.1", "192.168.1.9", "10.0.0.2", "::1", "fe80::1", "fd00::2")))
    assert not any(map(is_near, ("8.8.8.8", "100.64.0.7", "2a00::1", None)))
    assert not caps.counts(near=True) and caps.counts(near=False)
    caps.limit_lan = True
    assert caps.counts(near=True)


def test_a_small_cap_has_one_holder_of_a_blob_send_and_no_cap_as_many_as_ever() -> None:
    caps = Caps()
    assert caps.holders(3) == 3 and caps.window(near=False) is None
    caps.down.rate = 125_000.0
    assert caps.holders(3) == 1
    assert caps.window(near=False) == 25_000 and caps.window(near=True) is None
    caps.down.rate = 10e6
    assert caps.holders(3) == 3 and caps.window(near=False) == 256 << 10


# ------------------------------------------------------------------ over the memory transport


@asynccontextmanager
async def pair(
    *, ip: str = "8.8.8.8", up: float | None = None, down: float | None = None
) -> AsyncIterator[tuple[MemoryTransport, MemoryTransport]]:
    """Two connected nodes: the first one, under caps, and one at `ip`, which serves."""
    network = MemoryNetwork()
    async with network.join(PEERS[0], ip="1.1.1.1") as one, network.join(PEERS[1], ip=ip) as other:
        one.caps.set(up=up, down=down, limit_lan=False)
        other.serve(SINK, sink)
        other.serve(ECHO, flood)
        await one.dial(other.me, other.addresses)
        yield one, other


async def sink(stream: Stream) -> None:
    while await stream.receive(1 << 20):
        pass


async def flood(stream: Stream) -> None:
    while True:
        await stream.send(bytes(50_000))


async def send_for_ever(stream: Stream) -> None:
    while True:
        await stream.send(bytes(100_000))


async def receive_for_ever(stream: Stream) -> None:
    while True:
        await stream.receive(1 << 20)


async def test_all_streams_together_send_at_the_cap(autojump_clock: MockClock) -> None:
    async with pair(up=RATE) as (one, other):
        with trio.move_on_after(10):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(send_for_ever, await one.open(other.me, SINK))
        assert one.caps.up.carried == pytest.approx(10 * RATE, rel=TOLERANCE)
        assert one.caps.up.carried == one.traffic.sent


async def test_all_streams_together_receive_at_the_cap(autojump_clock: MockClock) -> None:
    async with pair(down=RATE) as (one, other):
        with trio.move_on_after(10):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(receive_for_ever, await one.open(other.me, ECHO))
        assert one.caps.down.carried == pytest.approx(10 * RATE, rel=TOLERANCE)


async def test_a_peer_of_the_local_network_is_served_at_full_speed(
    autojump_clock: MockClock,
) -> None:
    async with pair(ip="192.168.1.9", up=RATE) as (one, other):
        stream, began = await one.open(other.me, SINK), trio.current_time()
        await stream.send(bytes(100 * int(RATE)))
        assert trio.current_time() == began
        assert one.caps.carried == 0


# ------------------------------------------------------------------ real hosts on loopback


@asynccontextmanager
async def hosts() -> AsyncIterator[tuple[HostTransport, HostTransport]]:
    async with open_host(KEYS[0], listen=LISTEN) as one, open_host(KEYS[1], listen=LISTEN) as other:
        other.serve(SINK, sink)
        other.serve(ECHO, flood)
        await one.dial(other.me, other.addresses)
        yield one, other


async def test_every_byte_of_a_connection_is_counted_at_both_ends() -> None:
    async with open_host(KEYS[0], listen=LISTEN) as one, open_host(KEYS[1], listen=LISTEN) as other:
        for host in (one, other):
            host.caps.limit_lan = True
            host.serve(ECHO, flood)
        await one.dial(other.me, other.addresses)
        stream = await one.open(other.me, ECHO)
        got = 0
        while got < 200_000:
            got += len(await stream.receive(1 << 20))
        assert 200_000 < one.caps.down.carried <= other.caps.up.carried
        assert one.caps.up.carried > 200  # a handshake, negotiations, window updates


async def test_a_cap_narrows_the_window_of_a_stream_and_what_is_sent_at_once() -> None:
    async with hosts() as (one, other):
        stream = await one.open(other.me, ECHO)
        await stream.receive(1 << 20)
        one.caps.set(up=4e6, down=20e6, limit_lan=True)
        one.caps.down.rate = 500_000.0  # a window of a fifth; the lane itself still runs at 20e6
        muxed = stream._stream.muxed_stream  # type: ignore[attr-defined]
        got = 0
        while got < 600_000:
            got += len(await stream.receive(1 << 20))
        assert 0 < muxed.recv_window <= 100_000
        assert max(map(len, one.caps.pieces(bytes(500_000)))) == one.caps.up.piece
        assert b"".join(one.caps.pieces(bytes(range(256)) * 2000)) == bytes(range(256)) * 2000
