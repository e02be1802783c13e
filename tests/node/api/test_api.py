"""Rules of this file: a real server on a real unix socket, the real client in a thread."""

import json
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from dipaco.node.api.client import (
    ask_config,
    ask_fetch,
    ask_finish,
    ask_ledger,
    ask_outside,
    ask_pause,
    ask_resume,
    ask_status,
    ask_stop,
    ask_why,
)
from dipaco.node.api.server import serve_api
from dipaco.node.api.values import Fetched, Fetching, FetchRequest, LedgerView, NoDaemon, Ordered
from dipaco.node.storage.files import Home
from dipaco.protocol.errors import ConfigError, RemoteProtocolError, Unavailable
from tests.node.api.fake_node import MISSING, RUN, TASK, FakeNode, ledger, status, task
from tests.node.api.served import Served, serving

INCOMPLETE = """
import sys, msgspec
from dipaco.node.api import client
found = []
def note(frame, event, argument):
    if event == "call" and frame.f_code.co_name == "get_class_annotations":
        found.append(frame)
sys.setprofile(note)
for kind in (
    client.Status, client.LedgerView, client.Stopping, client.Fault, client.Fetched,
    client.Fetching, client.FetchFailed, client.Ordered, client.Why,
):
    msgspec.json.Decoder(kind)
sys.setprofile(None)
print(len(found))
"""
"""Prints how many structs msgspec has to complete after the client is imported."""


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path / "home") as served:
        yield served


async def test_status_comes_back_as_it_was_given(served: Served) -> None:
    assert await served.call(ask_status) == status(work=task())


async def test_the_ledger_comes_back_as_it_was_given(served: Served) -> None:
    assert await served.call(ask_ledger) == ledger()


def test_threads_find_the_types_of_all_answers_complete() -> None:
    """Decoding a type whose structs another thread completes at that moment crashes a process."""
    done = subprocess.run([sys.executable, "-c", INCOMPLETE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


async def test_the_settings_of_the_daemon_can_be_asked_for(served: Served) -> None:
    (setting,) = (await served.call(ask_config)).settings
    assert (setting.key, setting.value) == ("network.max_up", "2 Mbit/s")


async def test_stop_reaches_the_daemon_with_its_haste_and_the_wish_for_a_new_start(
    served: Served,
) -> None:
    await served.call(ask_stop)
    await served.call(ask_stop, now=True)
    await served.call(ask_stop, restart=True)
    await trio.testing.wait_all_tasks_blocked()  # the answer comes first, the deed after it
    assert served.node.stops == [(False, False), (True, False), (False, True)]


async def test_orders_reach_the_daemon_and_it_tells_the_order_that_stands(served: Served) -> None:
    paused = await served.call(ask_pause, until=1_900_000_000.5)
    assert paused == Ordered(mode="user", since=1_800_000_000.0, until=1_900_000_000.5)
    assert (await served.call(ask_pause)).until is None
    assert (await served.call(ask_resume)).mode == "runs"
    assert (await served.call(ask_pause, gpu=0)).gpus_off == (0,)
    assert (await served.call(ask_resume, gpu=0)).gpus_off == ()
    assert (await served.call(ask_finish)).mode == "finishing"


async def test_a_gpu_of_another_number_or_with_an_end_is_refused(served: Served) -> None:
    with pytest.raises(ConfigError, match="this node trains on cuda:0, not on cuda:3"):
        await served.call(ask_pause, gpu=3)
    with pytest.raises(ConfigError, match="a GPU is off until resume: leave until out"):
        await served.call(ask_pause, gpu=0, until=1_900_000_000.5)


async def test_what_peers_say_of_the_node_comes_back(served: Served) -> None:
    view = await served.call(ask_outside)
    assert (view.port, [each.port for each in view.answers]) == (4410, ["answers"])


async def test_the_reasons_of_a_moment_come_back_as_they_were_given(served: Served) -> None:
    found = await served.call(ask_why, at=1_799_999_999.25)
    assert found.at == 1_799_999_999.25 and found.reasons == (TASK,)
    assert (await served.call(ask_why)).at == 1_800_000_000.0


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", "/v1/pause", b'{"until": 1}'),
        ("POST", "/v1/pause", b'{"until": 1e300}'),
        ("POST", "/v1/pause", b'{"until": "18:00"}'),
        ("POST", "/v1/pause", b'{"for": 5}'),
        ("POST", "/v1/resume", b'{"at": 5}'),
        ("GET", "/v1/why?at=nan", b""),
        ("GET", "/v1/why?at=-1", b""),
        ("GET", "/v1/why?at=14:05", b""),
        ("GET", "/v1/why?when=5", b""),
    ],
)
async def test_an_order_or_a_moment_that_is_none_is_refused(
    served: Served, method: str, target: str, body: bytes
) -> None:
    answer = await served.ask(method, target, body)
    assert answer.status == 400 and "error" in answer.json


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
    with pytest.raises(Unavailable, match=r"^no connected peer has it$"):
        await served.call(ask_fetch, request, lambda progress: None, timeout=5.0)


async def test_a_fetch_is_json_lines_the_last_of_which_is_its_end(served: Served) -> None:
    served.node.fetched.set()
    answer = await served.ask("POST", "/v1/fetch", json.dumps({"run": RUN, "blob": RUN}).encode())
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/x-ndjson")
    *_, last = map(json.loads, answer.body.splitlines())
    assert last == {"event": "done", "bytes": 10}


async def test_any_http_client_gets_json_that_is_not_kept(served: Served) -> None:
    answer = await served.ask("GET", "/v1/status")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json["peer"] == status().peer


async def test_only_the_owner_may_speak(served: Served) -> None:
    mode = served.home.socket.stat().st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600


async def test_the_daemon_may_say_why_it_cannot(served: Served) -> None:
    def nothing() -> LedgerView:
        raise Unavailable("this node is in no run")

    served.node.ledger = nothing  # type: ignore[method-assign]
    assert (await served.ask("GET", "/v1/ledger")).status == 503
    with pytest.raises(Unavailable, match=r"^this node is in no run$"):
        await served.call(ask_ledger)


def test_without_a_daemon_the_client_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon, match="no daemon runs in"):
        ask_status(tmp_path)


def test_a_daemon_that_hangs_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(Home(tmp_path).socket))
        silent.listen()
        with pytest.raises(NoDaemon, match="does not answer within"):
            ask_status(tmp_path, timeout=0.05)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: "


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        (b'{"error": "not a request"}\n', RemoteProtocolError, "another version"),
        (HEAD + b"2\r\n\r\n{}", RemoteProtocolError, "another version"),
        (HEAD + b"99999999999\r\n\r\n", RemoteProtocolError, "longer than"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\nOops", RemoteProtocolError, "version"),
        (HEAD + b"20\r\n\r\n{}", NoDaemon, "ended before its answer"),
        (b"", NoDaemon, "ended before its answer"),
    ],
    ids=["no-http", "no-status", "too-long", "no-error-either", "cut", "nothing"],
)
async def test_an_answer_that_is_none_is_told_in_one_line(
    tmp_path: Path, said: bytes, error: type[Exception], words: str
) -> None:
    async def say(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(4096)
            await stream.send_all(said)

    with trio.socket.socket(socket.AF_UNIX) as listener:
        await listener.bind(str(Home(tmp_path).socket))
        listener.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, say, [trio.SocketListener(listener)])
            with pytest.raises(error, match=words):
                await trio.to_thread.run_sync(ask_status, tmp_path)
            nursery.cancel_scope.cancel()


async def test_the_socket_of_a_killed_daemon_is_taken_over_and_removed(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(home.socket))
    async with serving(tmp_path):
        assert await trio.to_thread.run_sync(ask_status, home.root)
    assert not home.socket.exists()


async def test_a_home_without_room_for_a_socket_is_a_clear_error(tmp_path: Path) -> None:
    home = Home(tmp_path / ("x" * 120))
    home.root.mkdir()
    with pytest.raises(ConfigError, match=r"cannot make .*api\.sock"):
        await serve_api(home, FakeNode())
