"""The guard by itself: which errors it passes on, what it says, whom it has hung up on.

Rules of this file: no network.
"""

import logging

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.network.guard import Guard
from dipaco.protocol.errors import LocalProtocolError, Refusal, Unavailable
from dipaco.protocol.wire.identity import PeerId
from tests.node.network.peers import PEERS


def slip(value: object = "a slip") -> None:
    raise ZeroDivisionError(value)


def test_an_error_on_the_list_is_raised_as_it_is(fed_bugs: list[logging.LogRecord]) -> None:
    def refuse() -> None:
        raise Refusal("no")

    with pytest.raises(Refusal, match="no"):
        Guard().call("asking", PEERS[0], refuse)
    assert not fed_bugs


@pytest.mark.parametrize("error", [ZeroDivisionError, LocalProtocolError, RecursionError])
def test_any_other_costs_the_peer_its_connection(
    error: type[Exception], fed_bugs: list[logging.LogRecord]
) -> None:
    ended: list[PeerId] = []

    def fail() -> None:
        raise error("a slip")

    guard = Guard(lambda peer, why: ended.append(peer))
    assert guard.call("asking", PEERS[0], fail) is None
    assert ended == [PEERS[0]] and len(fed_bugs) == 1


def test_a_kind_at_a_place_is_logged_once_with_its_traceback(
    fed_bugs: list[logging.LogRecord],
) -> None:
    guard, ended = Guard(), list[PeerId]()
    guard = Guard(lambda peer, why: ended.append(peer))
    for number in range(100):
        guard.call("asking", PEERS[number % 2], slip, number)
    assert len(fed_bugs) == 1 and fed_bugs[0].exc_info and len(ended) == 100
    guard.call("telling", PEERS[0], slip)
    assert len(fed_bugs) == 2


def test_the_first_line_is_one_short_printable_line(fed_bugs: list[logging.LogRecord]) -> None:
    Guard().call("asking", None, slip, "\x1b[2J\n\u202e" + "x" * 100_000)
    line = fed_bugs[0].getMessage()
    assert line.isprintable() and len(line) < 500
    assert line.startswith("a bug of this node, while asking (no single peer): ZeroDivisionError")


async def test_of_a_group_the_errors_on_the_list_go_on(fed_bugs: list[logging.LogRecord]) -> None:
    async def both() -> None:
        raise ExceptionGroup("two", [ZeroDivisionError("a slip"), Unavailable("away")])

    with pytest.raises(Unavailable, match="away"):  # bare: it is the only one left
        await Guard().attempt("asking", None, both)
    await Guard().run("asking", None, both)
    assert len(fed_bugs) == 2


async def test_a_cancelled_task_is_cancelled_though_another_of_its_nursery_has_a_bug(
    autojump_clock: MockClock, fed_bugs: list[logging.LogRecord]
) -> None:
    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            slip()

    async def both() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_when_cancelled)
            nursery.start_soon(trio.sleep_forever)

    with trio.move_on_after(1) as scope:
        await Guard().attempt("asking", None, both)
        await trio.sleep_forever()
    assert scope.cancelled_caught and len(fed_bugs) == 1
