"""What one peer may do to a connection: windows, streams, frames, and the bytes that wait.

Rules of this file: real hosts on loopback; the offender writes frames of its own making, and a
third host is served all the while. Libp2p's own reading loop forgives or answers each of these.
"""

import contextlib
import random
import struct
from typing import Any

import libp2p.stream_muxer.yamux.yamux as yamux
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.stream_muxer.exceptions import MuxedStreamError
from trio.testing import wait_all_tasks_blocked

from dipaco.node.network import libp2p_yamux as bounded
from dipaco.node.network import shims
from dipaco.node.network.host import HostTransport, open_host
from dipaco.node.network.transport import Stream
from dipaco.protocol.errors import Unavailable
from tests.node.network.peers import KEYS
from tests.node.network.test_shims import SINK, is_served, two
from tests.node.network.test_transport_contract import ECHO, QUIET, until

SYN, ACK, FIN, RST = yamux.FLAG_SYN, yamux.FLAG_ACK, yamux.FLAG_FIN, yamux.FLAG_RST
DATA, UPDATE, PING = yamux.TYPE_DATA, yamux.TYPE_WINDOW_UPDATE, yamux.TYPE_PING
WINDOW = yamux.DEFAULT_WINDOW_SIZE


def _frame(kind: int, flags: int, stream: int, length: int, body: bytes = b"") -> bytes:
    return struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, kind, flags, stream, length) + body


def _link(node: HostTransport) -> Any:
    (connection,) = node._net.get_connections()
    return connection.muxed_conn


async def _never_read(_stream: Stream) -> None:
    await trio.sleep_forever()


BREACHES = {
    "another version": b"\x01" + _frame(PING, SYN, 0, 0)[1:],
    "an unknown kind": _frame(7, 0, 1, 0),
    "a huge frame": _frame(DATA, SYN, 101, bounded.LONGEST_FRAME + 1),
    "data beyond the first window": _frame(DATA, SYN, 101, WINDOW + 1),
    "a stream of ours": _frame(UPDATE, SYN, 100, 0),
    "stream zero": _frame(UPDATE, SYN, 0, 0),
    "a stream opened twice": 2 * _frame(UPDATE, SYN, 101, 0),
    "an earlier stream": _frame(UPDATE, SYN, 101, 0) + _frame(UPDATE, SYN, 99, 0),
    "data for a stream that nobody opened": _frame(DATA, 0, 101, 1, b"x"),
    "data for a stream that we shall open": _frame(DATA, 0, 1000, 1, b"x"),
    "a window of more than 32 bits": _frame(UPDATE, SYN, 101, 0)
    + 2 * _frame(UPDATE, 0, 101, 0xFFFF_FFFF),
}


@pytest.mark.parametrize("words", BREACHES.values(), ids=BREACHES.keys())
async def test_a_frame_that_breaks_a_rule_ends_the_connection(words: bytes) -> None:
    async with two() as (offender, victim), open_host(KEYS[2]) as honest:
        await honest.dial(victim.me, victim.addresses)
        await _link(offender)._write_frame(words)
        await until(lambda: victim.peers() == {honest.me})
        await until(lambda: not offender.peers())
        assert await is_served(honest, victim)


async def test_what_is_sent_beyond_the_window_is_neither_kept_nor_forgiven() -> None:
    async with two() as (offender, victim):
        victim.serve(SINK, _never_read)
        stream: Any = await offender.open(victim.me, SINK)
        raw, part = stream._stream.muxed_stream, bytes(WINDOW // 4)
        theirs, most = _link(victim), 0
        with contextlib.suppress(Exception):
            for _ in range(40):  # 2.5 MiB; 170 MB of 170 were kept before
                await raw.conn._write_frame(_frame(DATA, 0, raw.stream_id, len(part), part))
                most = max(most, theirs.unread)
        # The bytes that agreed on the protocol are still owed: the last part does not fit.
        assert WINDOW - len(part) <= most <= shims.LARGEST_WINDOW
        await until(lambda: not victim.peers())


async def test_data_for_a_stream_that_was_reset_is_dropped_and_harms_nothing() -> None:
    async with two() as (sender, receiver):
        begun = trio.Event()

        async def refuse(stream: Stream) -> None:
            await stream.receive(1)
            begun.set()
            raise Unavailable("no")

        receiver.serve(SINK, refuse)
        stream: Any = await sender.open(receiver.me, SINK)
        raw = stream._stream.muxed_stream
        await stream.send(b"x")
        await begun.wait()
        for _ in range(3):
            await raw.conn._write_frame(_frame(DATA, 0, raw.stream_id, 1000, bytes(1000)))
        assert await is_served(sender, receiver)
        await until(lambda: _link(receiver).unread == 0)  # of what came before the reset as well


async def test_data_after_the_end_of_a_stream_is_not_kept() -> None:
    async with two() as (sender, receiver):
        receiver.serve(SINK, _never_read)
        stream: Any = await sender.open(receiver.me, SINK)
        raw = stream._stream.muxed_stream
        await raw.conn._write_frame(_frame(DATA, FIN, raw.stream_id, 4, b"last"))
        await raw.conn._write_frame(_frame(DATA, 0, raw.stream_id, 4, b"more"))
        assert await is_served(sender, receiver)
        assert _link(receiver).unread == 4


@pytest.mark.parametrize("cheap", [_frame(PING, SYN, 0, 7), _frame(UPDATE, 0, 1, 0)])
async def test_a_flood_of_frames_that_carry_nothing_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, cheap: bytes
) -> None:
    monkeypatch.setattr(bounded, "FRAMES", 10.0)
    monkeypatch.setattr(bounded, "BURST", 300.0)
    async with two() as (offender, victim), open_host(KEYS[2]) as honest:
        await honest.dial(victim.me, victim.addresses)
        await _link(offender)._write_frame(400 * cheap)
        await until(lambda: victim.peers() == {honest.me})


async def test_a_peer_opens_a_bounded_number_of_streams_that_never_negotiate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounded, "MOST_STREAMS", 8)
    async with two() as (offender, victim):
        link, theirs = _link(offender), _link(victim)
        opened = [await link.open_stream() for _ in range(50)]
        await until(lambda: theirs._newest >= opened[-1].stream_id)
        assert len(theirs.streams) <= 8 + 2  # and our own to it
        assert victim.peers()


async def test_the_fullest_connection_ends_when_too_much_waits_for_readers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounded, "UNREAD", 1000)
    monkeypatch.setattr(bounded, "UNREAD_IN_ALL", 200_000)
    async with two() as (greedy, victim), open_host(KEYS[2]) as modest:
        await modest.dial(victim.me, victim.addresses)
        victim.serve(SINK, _never_read)
        await (await modest.open(victim.me, SINK)).send(bytes(10_000))
        await (await greedy.open(victim.me, SINK)).send(bytes(195_000))
        await until(lambda: victim.peers() == {modest.me})
        assert await is_served(modest, victim)


async def test_a_stream_that_both_ends_closed_leaves_nothing() -> None:
    async with two() as (one, other):
        for _ in range(5):
            assert await is_served(one, other)
        await wait_all_tasks_blocked(QUIET)
        ours = [number for number in _link(other).streams if _link(other)._is_theirs(number)]
        assert len(ours) <= 2  # gossip, and what has not ended yet


async def test_a_peer_proposes_a_few_protocols_and_none_with_a_long_name() -> None:
    name = b"\x09/unknown\n"
    async with two() as (offender, victim):
        for words in (20 * name, b"\xff\x7f" + bytes(16_383)):
            raw = await _link(offender).open_stream()
            await raw.write(b"\x13/multistream/1.0.0\n" + words)
            with trio.fail_after(5), pytest.raises(MuxedStreamError):
                while await raw.read(4096):  # answers until the reset
                    pass
        assert await is_served(offender, victim)
        assert ECHO in victim._host.multiselect.handlers  # type: ignore[attr-defined]


async def test_tiny_reads_send_no_window_updates() -> None:
    async with two() as (one, other):
        stream: Any = await one.open(other.me, ECHO)
        number = stream._stream.muxed_stream.stream_id
        updates: list[bool] = []

        def count(muxer: Any) -> None:
            send = muxer._write_frame

            async def counted(data: bytes) -> None:
                head = struct.unpack(yamux.YAMUX_HEADER_FORMAT, data[: yamux.HEADER_SIZE])
                if head[3] == number:
                    updates.append(head[1] == UPDATE)
                await send(data)

            muxer._write_frame = counted

        for node in (one, other):
            count(_link(node))
        for _ in range(50):
            await stream.send(b"x" * 200)
            assert await stream.receive(200)
        assert len(updates) >= 100 and not any(updates)
        await stream.close()


@pytest.mark.parametrize("seed", range(3))
async def test_reads_of_any_sizes_leave_the_sender_half_of_its_window(seed: int) -> None:
    """And all bytes arrive: 2 MB, which are four windows."""
    sizes, total = random.Random(seed), 2 << 20
    async with two() as (sender, receiver):
        read, low = 0, []
        done = trio.Event()

        async def take(stream: Any) -> None:
            nonlocal read
            raw = stream._stream.muxed_stream
            while read < total:
                read += len(await stream.receive(sizes.choice((1, 100, 4095, 4096, 70_000))))
                unread = len(raw.conn.stream_buffers[raw.stream_id])
                if not unread and 2 * raw.recv_window < raw.target_recv_window:
                    low.append(raw.recv_window)
            done.set()

        receiver.serve(SINK, take)
        stream: Any = await sender.open(receiver.me, SINK)
        sent = 0
        while sent < total:
            part = min(total - sent, sizes.choice((1, 100, 3000, 50_000)))
            await stream.send(bytes(part))
            sent += part
        with trio.fail_after(20):
            await done.wait()
        assert read == total and not low


def test_many_tiny_reads_are_told_of_before_half_of_the_window_is_used() -> None:
    window, updates = WINDOW, 0
    for _ in range(1000):
        window -= 1000
        if shims.needs_update(window, WINDOW, 1000):
            window, updates = WINDOW, updates + 1
        assert 2 * window >= WINDOW
    assert updates == 1_000_000 // (WINDOW // 2 + 1000)


@settings(deadline=None)
@given(data=st.data())
def test_an_update_is_owed_no_longer_than_half_of_the_window(data: st.DataObject) -> None:
    """The window as both sides count it, for arrivals and reads of any sizes."""
    target = window = WINDOW
    unread = 0
    for _ in range(data.draw(st.integers(1, 60))):
        came = data.draw(st.integers(0, window))
        window, unread = window - came, unread + came
        taken = data.draw(st.integers(0, unread))
        unread -= taken
        if taken and shims.needs_update(window, target, taken):
            window = max(window, target - unread)
        if not unread:
            assert 2 * window >= target  # the peer can go on
        assert window + unread <= target
