"""Rules of this file: a client that watches costs its own connection, and is heard when it leaves.

The server on streams in memory, in virtual time.
"""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
import trio.testing
from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.node.api.answers import REPEAT, TICK
from dipaco.node.api.connection import SEND_SECONDS
from dipaco.node.api.stream import PULSE
from dipaco.node.api.values import MAX_HEAD
from dipaco.node.status.document import Status
from dipaco.node.status.event_log import RECENT
from dipaco.node.status.events import Event
from dipaco.node.status.log_lines import listening
from tests.node.api.fake_node import FakeNode, status
from tests.node.api.served import request
from tests.node.api.talk import BEARER, Port, all_of, until_seen

CROWD = 100
STREAM = request("GET", "/v1/stream", b"", BEARER)
STATUS = request("GET", "/v1/status", b"", BEARER)


class Named(FakeNode):
    """A node whose status changes with its name."""

    name = "first"

    def status(self) -> Status:
        return replace(status(), home=self.name)


@pytest.fixture
async def port(nursery: trio.Nursery) -> AsyncIterator[Port]:
    port = Port(nursery, Named())
    yield port
    assert (await port.ask("GET", "/v1/status", BEARER)).status == 200


def told(data: bytes) -> list[Any]:
    """Return the statuses in a stream's bytes."""
    found = [line[6:] for line in data.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line)["home"] for line in found]


async def test_the_status_comes_at_once_and_at_every_change(
    port: Port, autojump_clock: MockClock
) -> None:
    async with port.connect() as stream:
        await stream.send_all(STREAM)
        first = await until_seen(stream, b"\n\n")
        assert b"Content-Type: text/event-stream\r\n" in first and b"\nevent: status\n" in first
        begun, port.node.name = trio.current_time(), "second"  # type: ignore[attr-defined]
        assert told(await until_seen(stream, b'"second"')) == ["second"]
        assert trio.current_time() - begun <= TICK + 0.1


async def test_a_client_sees_life_while_nothing_changes(
    port: Port, autojump_clock: MockClock
) -> None:
    async with port.connect() as stream:
        await stream.send_all(STREAM)
        await until_seen(stream, b"first")
        begun = trio.current_time()
        assert await stream.receive_some()
        assert trio.current_time() - begun <= min(PULSE, REPEAT) + TICK


async def test_a_client_that_leaves_is_heard_at_once_and_leaks_no_task(
    port: Port, autojump_clock: MockClock
) -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    stream = port.connect()
    await stream.send_all(STREAM)
    await until_seen(stream, b"first")
    begun = trio.current_time()
    await stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert port.ended == 1 and trio.current_time() == begun
    assert trio.lowlevel.current_statistics().tasks_living == before


async def test_a_client_that_reads_nothing_is_let_go_and_holds_up_nobody(
    port: Port, autojump_clock: MockClock
) -> None:
    async with port.connect(waits=True) as deaf, port.connect() as other:
        await deaf.send_all(STREAM)
        await other.send_all(STREAM)
        await until_seen(other, b'"first"')
        port.node.name = "second"  # type: ignore[attr-defined]
        begun = trio.current_time()
        await until_seen(other, b'"second"')
        assert trio.current_time() - begun <= TICK + 0.1 and port.ended == 0
        await trio.sleep(SEND_SECONDS)
        assert port.ended == 1


async def test_a_client_that_talks_on_is_let_go(port: Port, autojump_clock: MockClock) -> None:
    async with port.connect() as stream:
        await stream.send_all(STREAM)
        await until_seen(stream, b"first")
        await stream.send_all(b"x" * (MAX_HEAD + 1))
        await all_of(stream)
    assert port.ended == 1


async def test_a_hundred_clients_watch_and_others_still_get_their_answer(
    port: Port, autojump_clock: MockClock
) -> None:
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(port.connect()) for _ in range(CROWD)]
        for stream in streams:
            await stream.send_all(STREAM)
        for stream in streams:
            await until_seen(stream, b'"first"')
        assert (await port.ask("GET", "/v1/ledger", BEARER)).status == 200
        port.node.name = "second"  # type: ignore[attr-defined]
        for stream in streams:
            await until_seen(stream, b'"second"')
    await trio.testing.wait_all_tasks_blocked()
    assert port.ended == CROWD + 1


async def test_a_hundred_clients_at_once_get_a_status_each(
    port: Port, autojump_clock: MockClock
) -> None:
    found = list[int]()

    async def ask() -> None:
        found.append((await port.ask("GET", "/v1/status", BEARER)).status)

    async with trio.open_nursery() as nursery:
        for _ in range(CROWD):
            nursery.start_soon(ask)
    assert found == [200] * CROWD


async def test_silent_strangers_make_room_for_whoever_has_the_token(
    port: Port, autojump_clock: MockClock
) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(2 * CROWD):
            await stack.enter_async_context(port.connect())
        await trio.sleep(1.5)
        async with port.connect() as stream:
            await stream.send_all(STATUS)
            assert b"HTTP/1.1 200 " in await until_seen(stream, b"\r\n\r\n")


async def test_head_and_queries_are_refused(port: Port, autojump_clock: MockClock) -> None:
    assert (await port.ask("GET", "/v1/stream?all=1", BEARER)).status == 400
    async with port.connect() as stream:
        await stream.send_all(request("HEAD", "/v1/stream", b"", BEARER, "Connection: close"))
        assert (await all_of(stream)).startswith(b"HTTP/1.1 405 ")


# ------------------------------------------------------------------------------ events and the log


def watching(topics: str, *headers: str) -> bytes:
    return request("GET", f"/v1/stream?topics={topics}", b"", BEARER, *headers)


def texts(data: bytes) -> list[str]:
    return [json.loads(line[6:])["text"] for line in data.split(b"\n") if line[:6] == b"data: "]


def note(port: Port, count: int) -> None:
    for _ in range(count):
        port.node.event_log.add("state", "no-lease", f"event {port.node.event_log.number + 1}")


async def test_an_event_is_told_at_once(port: Port, autojump_clock: MockClock) -> None:
    note(port, 3)
    async with port.connect() as stream:
        await stream.send_all(watching("events"))
        await until_seen(stream, b"\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        note(port, 1)
        told = await until_seen(stream, b"\n\n")
        assert texts(told) == ["event 4"] and b"id: 4\nevent: event\n" in told
        assert trio.current_time() - begun < TICK / 10


async def test_a_client_that_comes_back_goes_on_where_it_was(
    port: Port, autojump_clock: MockClock
) -> None:
    note(port, 5)
    for asked in (
        watching("events&after=3"),
        watching("events", "Last-Event-ID: 3"),
        watching("events&after=1", "Last-Event-ID: 3"),
    ):
        async with port.connect() as stream:
            await stream.send_all(asked)
            assert texts(await until_seen(stream, b"event 5")) == ["event 4", "event 5"]


@pytest.mark.parametrize("last", ["", "-1", "x", "1e9", "9" * 400, "\xb2"])
async def test_a_mark_that_is_none_is_as_good_as_none(
    port: Port, autojump_clock: MockClock, last: str
) -> None:
    note(port, 2)
    async with port.connect() as stream:
        await stream.send_all(watching("events", f"Last-Event-ID: {last}"))
        await until_seen(stream, b"\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        note(port, 1)
        assert texts(await until_seen(stream, b"event 3")) == ["event 3"]


async def test_what_is_no_longer_in_memory_comes_from_the_journal(
    port: Port, autojump_clock: MockClock
) -> None:
    note(port, 2 * RECENT)
    port.node.saved = [
        Event(number=number, time=1.0, kind="state", code="no-lease", text=f"saved {number}")
        for number in range(1, 2 * RECENT + 1)
    ]
    async with port.connect() as stream:
        await stream.send_all(watching("events&after=10"))
        found = texts(await until_seen(stream, b"event %d" % (2 * RECENT)))
    numbers = [int(text.split()[1]) for text in found]
    assert numbers == list(range(11, 2 * RECENT + 1)) and found[0] == "saved 11"


async def test_a_journal_that_lost_the_rest_holds_up_nobody(
    port: Port, autojump_clock: MockClock
) -> None:
    note(port, RECENT + 5)
    async with port.connect() as stream:
        await stream.send_all(watching("events&after=1"))
        found = texts(await until_seen(stream, b"event %d" % (RECENT + 5)))
    assert len(found) == RECENT


async def test_a_mark_of_another_home_waits_for_no_number(
    port: Port, autojump_clock: MockClock
) -> None:
    async with port.connect() as stream:
        await stream.send_all(watching("events&after=999"))
        await until_seen(stream, b"\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        note(port, 1)
        assert texts(await until_seen(stream, b"event 1")) == ["event 1"]


async def test_lines_of_the_log_of_a_level_are_told(port: Port, autojump_clock: MockClock) -> None:
    log = logging.getLogger("dipaco.test")
    with listening(port.node.log_lines):
        log.warning("before")
        async with port.connect() as stream:
            await stream.send_all(watching("log&level=warning"))
            await until_seen(stream, b"\r\n\r\n")
            await trio.testing.wait_all_tasks_blocked()
            log.error("one\ntwo")
            told = await until_seen(stream, b"\n\n")
    assert texts(told) == [r"one\ntwo"] and b"event: log\n" in told


@pytest.mark.parametrize(
    "query",
    [
        "topics=all",
        "topics=",
        "topics=status,,log",
        "topics=log,log,log,log",
        "after=-1",
        "after=x",
        "after=" + "9" * 400,
        "level=loud",
        "line=1.5",
        "topics=log&topics=status&unknown=1",
    ],
)
async def test_a_faulty_query_is_refused_in_one_line(
    port: Port, autojump_clock: MockClock, query: str
) -> None:
    answer = await port.ask("GET", f"/v1/stream?{query}", BEARER)
    assert answer.status == 400 and answer.json["error"].startswith("not a query: ")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/v1/events", 200),
        ("/v1/events?most=1000&after=3&since=1.5", 200),
        ("/v1/events?most=1001", 400),
        ("/v1/events?most=0", 400),
        ("/v1/events?since=-1", 400),
        ("/v1/events?since=nan", 400),
        ("/v1/events?since=inf", 200),
        ("/v1/tasks?most=2", 200),
        ("/v1/tasks?most=99999999999999999999", 400),
        ("/v1/log?level=error", 200),
        ("/v1/log?level=", 400),
    ],
)
async def test_pages_have_bounds(
    port: Port, autojump_clock: MockClock, target: str, status: int
) -> None:
    assert (await port.ask("GET", target, BEARER)).status == status
