"""Rules of this file: what clients are told costs the node a share of its time, and no more."""

import json
from dataclasses import dataclass

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.node.api.answers import REPEAT, REST, TICK, Answers
from dipaco.node.status.document import Status
from dipaco.protocol.errors import Unavailable
from tests.node.api.fake_node import FakeNode, status


@dataclass
class Counted(FakeNode):
    """Counts how often it is asked for its status."""

    asked: int = 0
    uptime: float = 0.0
    peer: str = "A"

    def status(self) -> Status:
        self.asked += 1
        return replace(status(), uptime_s=self.uptime, peer=self.peer)


@pytest.fixture
def node() -> Counted:
    return Counted()


@pytest.fixture
def answers(node: Counted) -> Answers:
    return Answers(node)


async def test_values_for_clients_take_a_share_of_the_time(
    answers: Answers, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr("time.thread_time", lambda: float(next(ticks)))  # each takes a second
    begun, made = trio.current_time(), list[float]()

    async def ask() -> None:
        made.append(await answers.made(trio.current_time) - begun)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(ask)
    assert made == [0.0, REST, 2 * REST, 3 * REST]


async def test_a_value_that_fails_is_paid_for_too(answers: Answers) -> None:
    def fail() -> None:
        raise Unavailable("no")

    with pytest.raises(Unavailable):
        await answers.made(fail)
    assert await answers.made(lambda: 3) == 3


async def test_files_are_read_for_one_client_after_the_other_with_a_rest(
    answers: Answers, autojump_clock: MockClock
) -> None:
    begun, ended = trio.current_time(), list[float]()

    async def look() -> float:
        await trio.sleep(1.0)
        return trio.current_time() - begun

    async def ask() -> None:
        ended.append(await answers.read(look))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
    assert ended == [1.0, 2.0 + REST, 3.0 + 2 * REST]


async def test_all_who_watch_get_one_status_a_second(
    answers: Answers, node: Counted, autojump_clock: MockClock
) -> None:
    found = list[tuple[int, bytes]]()

    async def watch() -> None:
        found.append(await answers.watched())

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(watch)
    assert node.asked == 1 and len(found) == 20 and len(set(found)) == 1
    await trio.sleep(TICK)
    await answers.watched()
    assert node.asked == 2


async def test_a_status_that_differs_in_its_time_alone_is_the_same_for_a_while(
    answers: Answers, node: Counted, autojump_clock: MockClock
) -> None:
    first, _ = await answers.watched()
    node.uptime = 1.0
    await trio.sleep(TICK)
    assert (await answers.watched())[0] == first
    await trio.sleep(REPEAT)
    number, told = await answers.watched()
    assert number == first + 1 and json.loads(told)["uptime_s"] == 1.0


async def test_a_status_that_changed_has_a_new_number(
    answers: Answers, node: Counted, autojump_clock: MockClock
) -> None:
    first, _ = await answers.watched()
    node.peer = "B"
    await trio.sleep(TICK)
    number, told = await answers.watched()
    assert number == first + 1 and json.loads(told)["peer"] == "B"
