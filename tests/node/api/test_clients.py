"""Rules of this file: no program that uses the local API keeps another one from it.

Seats alone at a time that is set; then a real server whose clients all are of one process.
"""

import os
from collections.abc import AsyncIterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.api import server
from dipaco.node.api.clients import (
    IDLE_LEAST,
    KEPT,
    MAX_OF_ONE,
    Client,
    Clients,
    process_of,
)
from dipaco.node.api.connection import BRIEF_SECONDS, IDLE_SECONDS
from dipaco.protocol.errors import Unavailable
from tests.node.api.served import Served, answers, received, request, serving

STATUS = request("GET", "/v1/status")
LEDGER = request("GET", "/v1/ledger")
SEATS = 16


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path / "home", most=SEATS) as served:
        yield served


class Seated:
    """Connections that sit, and the names of those that were ended, at a time that is set."""

    def __init__(self) -> None:
        self.clients, self.now = Clients(SEATS), 0.0
        self.ended: list[str] = []

    def sit(self, name: str, count: int = 1, *, busy: bool = False) -> list[Client]:
        """Let connections of a process sit, one second after the ones before."""
        self.now += 1
        found = []
        for number in range(count):
            end = partial(self.ended.append, f"{name}-{number}")
            found.append(self.clients.take(name, self.now + number / 100, end))
        for each in found:
            each.waiting = None if busy else each.waiting
        return found


@pytest.fixture
def seated() -> Seated:
    return Seated()


def test_a_busy_process_has_so_many_seats_and_others_have_theirs(seated: Seated) -> None:
    seated.sit("1", MAX_OF_ONE, busy=True)
    with pytest.raises(Unavailable, match=f"{MAX_OF_ONE}"):
        seated.sit("1")
    (other,) = seated.sit("2")
    assert not other.brief and not seated.ended


def test_a_process_with_all_its_seats_ends_its_own_longest_waiting_connection(
    seated: Seated,
) -> None:
    seated.sit("2")
    seated.sit("1", MAX_OF_ONE)
    seated.now += IDLE_LEAST
    seated.sit("1")
    assert seated.ended == ["1-0"]


def test_where_all_is_full_the_process_with_the_most_connections_makes_room(
    seated: Seated,
) -> None:
    seated.sit("1", SEATS - KEPT - MAX_OF_ONE)
    seated.sit("2", MAX_OF_ONE)
    seated.now += IDLE_LEAST
    (new,) = seated.sit("3")
    assert not new.brief and seated.ended == ["2-0"]


def test_room_is_made_beside_the_kept_seats_too(seated: Seated) -> None:
    (first,) = seated.sit("0", busy=True)
    for name in range(1, SEATS):
        seated.sit(f"{name}", busy=True)
    first.waiting = seated.now
    (new,) = seated.sit("new")
    assert not new.brief and seated.ended == ["0-0"]


def test_a_connection_that_was_just_made_is_let_ask(seated: Seated) -> None:
    seated.sit("1", MAX_OF_ONE)
    seated.now -= 1  # `sit` lets a second pass
    with pytest.raises(Unavailable, match="as many"):
        seated.sit("1")
    assert not seated.ended


def test_some_seats_are_kept_for_a_short_question(seated: Seated) -> None:
    for name in range(SEATS - KEPT):
        seated.sit(f"{name}", busy=True)
    assert [client.brief for name in range(KEPT) for client in seated.sit(f"k{name}")] == (
        [True] * KEPT
    )
    with pytest.raises(Unavailable, match="all connections are taken"):
        seated.sit("last")


def test_a_seat_is_free_again_when_its_connection_ends(seated: Seated) -> None:
    for _ in range(3 * SEATS):
        (client,) = seated.sit("1", busy=True)
        assert not client.brief
        seated.clients.leave(client)


# ------------------------------------------------------------------------------ a real server


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection is of a process of its own."""
    numbers = iter(range(1000))
    monkeypatch.setattr(server, "process_of", lambda stream: f"{next(numbers)}")


async def crowd(served: Served, stack: ExitStack, size: int) -> list[trio.SocketStream]:
    """Return connections that have been served once each."""
    found = []
    for _ in range(size):
        stream = await served.connect()
        stack.callback(stream.socket.close)
        await stream.send_all(STATUS)
        assert (await stream.receive_some(100)).startswith(b"HTTP/1.1 200 ")
        found.append(stream)
    return found


async def test_a_client_that_sits_on_connections_is_told_so(served: Served) -> None:
    with ExitStack() as stack:
        await crowd(served, stack, MAX_OF_ONE)
        (answer,) = answers(await served.send(STATUS))
        assert answer.status == 503 and f"{MAX_OF_ONE}" in answer.json["error"]


async def test_its_process_is_known_to_the_server(served: Served) -> None:
    async with await served.connect() as stream:
        assert process_of(stream) == f"{os.getpid()}"


async def test_status_and_stop_get_through_a_crowd_and_nothing_else(
    served: Served, strangers: None
) -> None:
    with ExitStack() as stack:
        await crowd(served, stack, SEATS - KEPT)
        for asked, status in ((STATUS, 200), (LEDGER, 503), (request("POST", "/v1/stop"), 202)):
            (answer,) = answers(await served.send(asked))
            assert answer.status == status
        (only,) = answers(await served.send(STATUS + STATUS))  # one question, then it is over
        assert only.status == 200
    assert served.node.stops == [(False, False)]


async def test_a_kept_seat_is_held_for_a_moment_alone(
    served: Served, strangers: None, autojump_clock: MockClock
) -> None:
    assert BRIEF_SECONDS < IDLE_SECONDS
    served.node.fetched = trio.Event()
    with ExitStack() as stack:
        await crowd(served, stack, SEATS - KEPT)
        begun = trio.current_time()
        async with await served.connect() as silent:
            assert await received(silent) == b""
        assert trio.current_time() - begun == pytest.approx(BRIEF_SECONDS)


async def test_a_connection_in_a_crowd_makes_room_once_it_waits(
    served: Served, strangers: None, autojump_clock: MockClock
) -> None:
    with ExitStack() as stack:
        first, *_ = await crowd(served, stack, SEATS - KEPT)
        await trio.sleep(2 * IDLE_LEAST)
        (answer,) = answers(await served.send(LEDGER))
        assert answer.status == 200
        while await first.receive_some(1000):  # what was left of its answer, then the end
            pass
