"""Rules of this file: streams in memory on a virtual clock, so that delays are exact.

One test uses sockets, since the kernel's table tells who dialled; it waits for bytes alone.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, memory_stream_one_way_pair

from dipaco.cli.testnet.chaos.forwarder import (
    LOCALHOST,
    SOMEBODY,
    Cut,
    Mesh,
    carry,
    forward,
)
from dipaco.cli.testnet.chaos.grammar import Way
from dipaco.cli.testnet.chaos.line import Line


def mesh(**lines: Line) -> Mesh:
    return Mesh(lines, 0, lambda: {"a": os.getpid()})


@asynccontextmanager
async def carrying(
    between: Mesh, way: tuple[str, str]
) -> AsyncIterator[tuple[trio.abc.SendStream, trio.abc.ReceiveStream, trio.CancelScope]]:
    """Give the outer ends of one direction, and the scope that its end cancels."""
    put, inner = memory_stream_one_way_pair()
    outer, take = memory_stream_one_way_pair()
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        nursery.start_soon(carry, between, way, (inner, outer), scope)
        yield put, take, scope
        nursery.cancel_scope.cancel()


async def test_bytes_take_the_delay_of_both_lines_and_the_time_of_the_slower_rate(
    autojump_clock: MockClock,
) -> None:
    line = Line(up=1000.0, down=4000.0, delay=0.25)
    async with carrying(mesh(a=line, b=line), ("a", "b")) as (put, take, _):
        await put.send_all(bytes(1000))
        received = 0
        while received < 1000:
            received += len(await take.receive_some())
        assert trio.current_time() == pytest.approx(1.0 + 0.25 + 0.5)


async def test_a_cut_holds_bytes_back_in_its_direction_until_it_is_healed(
    autojump_clock: MockClock,
) -> None:
    between = mesh()
    inside = frozenset("b")
    await between.cut(inside, "in")
    async with (
        carrying(between, ("a", "b")) as (put, take, _),
        carrying(between, ("b", "a")) as (back, answer, _),
    ):
        await put.send_all(b"there")
        await back.send_all(b"back")
        assert await answer.receive_some() == b"back"
        with trio.move_on_after(60) as waited:
            await take.receive_some()
        assert waited.cancelled_caught
        await between.heal(inside, "in")
        assert await take.receive_some() == b"there"
    assert between.carried == {("a", "b"): 5, ("b", "a"): 4}


async def test_the_end_of_a_connection_waits_behind_a_cut_as_bytes_do(
    autojump_clock: MockClock,
) -> None:
    between = mesh()
    inside = frozenset("a")
    await between.cut(inside, "both")
    async with carrying(between, ("a", "b")) as (put, _, scope):
        await put.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert not scope.cancel_called
        await between.heal(inside, "both")
        await trio.testing.wait_all_tasks_blocked()
        assert scope.cancel_called


async def test_a_cut_never_meets_a_connection_whose_dialler_is_not_known() -> None:
    between = mesh()
    await between.cut(frozenset("b"), "both")
    assert between.is_cut("a", "b") and not between.is_cut(SOMEBODY, "b")


def test_a_cut_holds_what_crosses_it_in_its_direction() -> None:
    def held(way: Way) -> list[str]:
        cut = Cut(frozenset("ab"), way)
        return [f"{s}{t}" for s in "abcd" for t in "abcd" if s != t and cut.holds(s, t)]

    assert held("in") == ["ca", "cb", "da", "db"]
    assert held("out") == ["ac", "ad", "bc", "bd"]
    assert held("both") == ["ac", "ad", "bc", "bd", "ca", "cb", "da", "db"]


def test_the_same_connection_loses_the_same_segments_in_every_run() -> None:
    def pauses() -> list[float]:
        lossy = mesh(a=Line(up=1e6, down=1e6, delay=0.01, loss=0.2))
        losses = lossy.losses("a", "b")
        return [losses.pause(1448, 0.01) for _ in range(100)]

    assert pauses() == pauses() and len(set(pauses())) == 2


async def test_connections_are_passed_on_under_the_name_of_who_dialled() -> None:
    between = mesh()
    [listener] = await trio.open_tcp_listeners(0, host=LOCALHOST)
    [target] = await trio.open_tcp_listeners(0, host=LOCALHOST)
    with trio.fail_after(30):
        async with target, trio.open_nursery() as nursery:
            port = target.socket.getsockname()[1]
            nursery.start_soon(forward, between, "b", listener, port)
            dialled = await trio.open_tcp_stream(LOCALHOST, listener.socket.getsockname()[1])
            async with dialled, await target.accept() as accepted:
                await dialled.send_all(b"question")
                assert await accepted.receive_some() == b"question"
                await accepted.send_all(b"answer")
                assert await dialled.receive_some() == b"answer"
                await accepted.aclose()
                assert await dialled.receive_some() == b""
            nursery.cancel_scope.cancel()
    assert between.carried == {("a", "b"): 8, ("b", "a"): 6}


async def test_a_port_that_two_nodes_dialled_from_is_told_apart_by_its_target() -> None:
    between = mesh()
    [target] = await trio.open_tcp_listeners(0, host=LOCALHOST)
    async with target, await trio.open_tcp_stream(LOCALHOST, target.socket.getsockname()[1]) as end:
        port, to = end.socket.getsockname()[1], end.socket.getpeername()[1]
        assert await between.dialler(port, to) == "a"
        assert await between.dialler(port, to + 1) == SOMEBODY
