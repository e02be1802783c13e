"""Rules of this file: a real server on a real unix socket, the real client in a thread."""

import json
import socket
import stat
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from dipaco.node.control.api import (
    MAX_REQUEST,
    Fetched,
    Fetching,
    FetchRequest,
    LedgerView,
    NoDaemon,
    StatusRequest,
    Stopping,
    ask,
    ask_fetch,
    ask_ledger,
    ask_status,
    ask_stop,
)
from dipaco.node.control.server import serve_api
from dipaco.node.storage.files import Home
from dipaco.protocol.errors import ConfigError, RemoteProtocolError, Unavailable
from tests.node.control.fake_node import MISSING, RUN, FakeNode, ledger, status, task


class Served:
    """A served home."""

    def __init__(self, home: Home, node: FakeNode) -> None:
        self.home, self.node = home, node

    async def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Call the client outside the server's loop."""
        return await trio.to_thread.run_sync(partial(function, self.home.root, *arguments, **named))

    async def send(self, data: bytes) -> bytes:
        """Send bytes and return all that comes back until the server hangs up."""
        stream = await trio.open_unix_socket(str(self.home.socket))
        async with stream:
            await stream.send_all(data)
            stream.socket.shutdown(socket.SHUT_WR)
            return b"".join([part async for part in stream])


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    home, node = Home.at(tmp_path / "home"), FakeNode()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_api, home, node)
        yield Served(home, node)
        nursery.cancel_scope.cancel()


async def test_status_comes_back_as_it_was_given(served: Served) -> None:
    assert await served.call(ask_status) == status(work=task())


async def test_the_ledger_comes_back_as_it_was_given(served: Served) -> None:
    assert await served.call(ask_ledger) == ledger()


async def test_stop_reaches_the_daemon_with_its_haste(served: Served) -> None:
    await served.call(ask_stop)
    await served.call(ask_stop, now=True)
    assert served.node.stops == [False, True]


async def test_a_fetch_says_how_far_it_is_until_it_is_done(served: Served) -> None:
    heard: list[Fetching] = []

    def on_progress(progress: Fetching) -> None:
        heard.append(progress)
        trio.from_thread.run_sync(served.node.fetched.set)

    request = FetchRequest(run=RUN, blob="cd" * 32)
    assert await served.call(ask_fetch, request, on_progress, timeout=5.0) == Fetched(bytes=10)
    assert set(heard) == {Fetching(received=4, total=10)}


async def test_a_fetch_that_fails_says_why(served: Served) -> None:
    request = FetchRequest(run=RUN, blob=MISSING)
    with pytest.raises(Unavailable, match=r"^nobody connected has it$"):
        await served.call(ask_fetch, request, lambda progress: None, timeout=5.0)


async def test_a_client_that_goes_away_in_mid_fetch_hurts_nobody(served: Served) -> None:
    async with await trio.open_unix_socket(str(served.home.socket)) as stream:
        await stream.send_all(json.dumps({"verb": "fetch", "run": RUN, "blob": RUN}).encode())
        await stream.send_all(b"\n")
        assert b"progress" in await stream.receive_some(100)
    assert await served.call(ask_status)


async def test_only_the_owner_may_speak(served: Served) -> None:
    mode = served.home.socket.stat().st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600


async def test_one_connection_may_ask_again_and_again(served: Served) -> None:
    answers = (await served.send(b'{"verb":"status"}\n{"verb":"ledger"}\n')).splitlines()
    assert [list(json.loads(answer)) for answer in answers] == [["ok"], ["ok"]]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"status",
        b'{"verb":"fly"}',
        b'{"verb":"stop","now":1}',
        b'{"verb":"fetch","run":"../etc","blob":"../passwd"}',
        b"\xff\xfe",
    ],
)
async def test_what_is_no_request_is_answered_in_one_line_and_hurts_nobody(
    served: Served, line: bytes
) -> None:
    answers = (await served.send(line + b'\n{"verb":"status"}\n')).splitlines()
    assert json.loads(answers[0])["error"].startswith("not a request")
    assert "ok" in json.loads(answers[-1])


async def test_an_endless_request_is_cut_off(served: Served) -> None:
    answer = await served.send(b"x" * (2 * MAX_REQUEST))
    assert str(MAX_REQUEST) in json.loads(answer)["error"]


async def test_a_client_that_goes_away_in_mid_request_hurts_nobody(served: Served) -> None:
    assert await served.send(b'{"verb"') == b""
    assert await served.call(ask_status)


async def test_the_daemon_may_say_why_it_cannot(served: Served) -> None:
    def nothing() -> LedgerView:
        raise Unavailable("this node is in no run")

    served.node.ledger = nothing  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match=r"^this node is in no run$"):
        await served.call(ask_ledger)


async def test_an_answer_of_another_kind_is_refused(served: Served) -> None:
    with pytest.raises(RemoteProtocolError):
        await served.call(ask, StatusRequest(), Stopping, timeout=5.0)


def test_without_a_daemon_the_client_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon, match="no daemon runs in"):
        ask_status(tmp_path)


def test_a_daemon_that_hangs_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(Home(tmp_path).socket))
        silent.listen()
        with pytest.raises(NoDaemon, match="does not answer within"):
            ask_status(tmp_path, timeout=0.05)


async def test_the_socket_of_a_killed_daemon_is_taken_over_and_removed(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(home.socket))
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_api, home, FakeNode())
        assert await trio.to_thread.run_sync(ask_status, home.root)
        nursery.cancel_scope.cancel()
    assert not home.socket.exists()


async def test_a_home_without_room_for_a_socket_is_a_clear_error(tmp_path: Path) -> None:
    home = Home(tmp_path / ("x" * 120))
    home.root.mkdir()
    with pytest.raises(ConfigError, match=r"cannot make .*api\.sock"):
        await serve_api(home, FakeNode())
