"""Rules of this file: over TCP only a client with the token is answered, whatever page it is of.

The server on streams in memory; one test has a real port.
"""

import http.client
import json
import socket
import stat
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from dipaco.node.api.port import LEAST_TOKEN, MAX_TOKEN, port_of, token_in
from dipaco.node.api.port import Port as Wanted
from dipaco.node.api.server import UNKNOWN_SECONDS, serve_api
from dipaco.node.config import NodeConfig, UiSection
from dipaco.node.storage.files import Home
from dipaco.protocol.errors import ConfigError
from tests.node.api.fake_node import FakeNode
from tests.node.api.served import answers, request
from tests.node.api.talk import BEARER, TOKEN, Port, all_of


@pytest.fixture
async def port(nursery: trio.Nursery) -> AsyncIterator[Port]:
    yield Port(nursery)


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "localhost:7397", "127.0.0.1:9000", "[::1]:1", "LOCALHOST"]
)
async def test_this_machine_is_asked_by_any_of_its_names(port: Port, host: str) -> None:
    answer = await port.ask("GET", "/v1/status", BEARER, f"Host: {host}")
    assert answer.status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7397",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.2",
        "10.0.0.1",
        "localhost@evil.example",
        "evil.example@localhost",
        "localhost/",
        "localhost:port",
        "localhost:99999",
        "[::1",
        "localhost, localhost",
        "",
    ],
)
async def test_a_foreign_name_that_leads_here_is_refused(port: Port, host: str) -> None:
    answer = await port.ask("GET", "/v1/status", BEARER, f"Host: {host}")
    assert answer.status == 421 and "127.0.0.1" in answer.json["error"]


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://localhost:7397",
        "http://localhost",
        "http://localhost:8080",
        "http://127.0.0.1:7397",
        "http://localhost:7397/",
        "null",
        "",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_another_page_is_refused_even_with_the_token(
    port: Port, origin: str, method: str
) -> None:
    headers = (BEARER, "Host: localhost:7397", f"Origin: {origin}")
    answer = await port.ask(method, "/v1/stop", *headers)
    assert answer.status == 403 and not port.node.stops
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


async def test_the_nodes_own_page_is_answered(port: Port) -> None:
    headers = (BEARER, "Host: localhost:7397", "Origin: http://localhost:7397")
    assert (await port.ask("POST", "/v1/stop", *headers)).status == 202
    await trio.testing.wait_all_tasks_blocked()
    assert port.node.stops == [(False, False)]


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("Authorization: Bearer",),
        ("Authorization: Bearer wrong",),
        (f"Authorization: Bearer {TOKEN}x",),
        (f"Authorization: Bearer {TOKEN[:-1]}",),
        (f"Authorization: Basic {TOKEN}",),
        (f"Authorization: {TOKEN}",),
        ("Authorization: Bearer \xe9\xff",),
        (BEARER, BEARER),
        (f"Cookie: token={TOKEN}",),
    ],
)
async def test_without_the_token_nothing_is_told_and_nothing_is_done(
    port: Port, headers: tuple[str, ...]
) -> None:
    for method, target in (("GET", "/v1/status"), ("POST", "/v1/stop"), ("GET", "/nowhere")):
        answer = await port.ask(method, target, *headers)
        assert answer.status == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.json["code"] == 401 and TOKEN not in answer.json["error"]
    assert not port.node.stops


async def test_a_token_in_the_address_counts_for_nothing(port: Port) -> None:
    assert (await port.ask("GET", f"/v1/status?token={TOKEN}")).status == 401


async def test_a_refused_client_has_to_connect_again(port: Port) -> None:
    async with port.connect() as stream:
        await stream.send_all(request("GET", "/v1/status") + request("GET", "/v1/status"))
        assert [answer.status for answer in answers(await all_of(stream))] == [401]


async def test_whoever_has_not_shown_the_token_is_waited_for_less_long(
    port: Port, autojump_clock: MockClock
) -> None:
    begun = trio.current_time()
    async with port.connect() as stream:
        assert await all_of(stream) == b""
    assert trio.current_time() - begun == pytest.approx(UNKNOWN_SECONDS)


# ------------------------------------------------------------------------------ a real port


async def test_a_port_and_the_socket_are_served_at_once(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    async with trio.open_nursery() as nursery:
        wanted = Wanted("127.0.0.1", 0, TOKEN)
        ends = await nursery.start(serve_api, home, FakeNode(), wanted)
        asked = partial(over_tcp, ends.url.removeprefix("http://"))
        status, body = await trio.to_thread.run_sync(asked)
        assert status == 200 and json.loads(body)["pid"] == 4242
        assert ends.socket == home.socket and home.socket.exists()
        nursery.cancel_scope.cancel()


def over_tcp(place: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(place, timeout=10)
    try:
        connection.request("GET", "/v1/status", headers={"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


async def test_a_port_that_is_taken_costs_that_end_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        async with trio.open_nursery() as nursery:
            wanted = Wanted("127.0.0.1", number, TOKEN)
            ends = await nursery.start(serve_api, Home.at(tmp_path), FakeNode(), wanted)
            assert ends.url == "" and ends.socket.exists()
            nursery.cancel_scope.cancel()
    assert f"no local API at 127.0.0.1:{number}: " in caplog.text and "ui.listen" in caplog.text


# ------------------------------------------------------------------------------ the token's file


def test_a_token_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "ui.token"
    token = token_in(path)
    assert token_in(path) == token and len(token) >= 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token_in(tmp_path / "other") != token


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"short", b"x" * (LEAST_TOKEN - 1), b"a b\tc" * 9, b"\xff" * 40]
)
def test_a_file_without_a_token_is_told_with_its_cure(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "ui.token"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"ui\.token holds no token: remove it"):
        token_in(path)


def test_a_token_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "ui.token"
    path.write_bytes(b"x" * (MAX_TOKEN + 2))
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=f"more than {MAX_TOKEN + 1} bytes"):
        token_in(path)


def test_a_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ui.token"
    token_in(path)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="make it 0600"):
        token_in(path)


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:7397", ("127.0.0.1", 7397)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:80", ("localhost", 80)),
    ],
)
def test_the_port_is_that_of_the_configuration(
    tmp_path: Path, listen: str, expected: tuple[str, int]
) -> None:
    home = Home.at(tmp_path)
    config = NodeConfig(home=tmp_path, ui=UiSection(listen=listen))
    port = port_of(config, home)
    assert port is not None and port.token == token_in(home.token)
    assert (port.host, port.port) == expected
    own = NodeConfig(home=tmp_path, ui=UiSection(listen=listen, token="t" * LEAST_TOKEN))
    assert port_of(own, home) == Wanted(port.host, port.port, "t" * LEAST_TOKEN)


def test_without_a_port_no_token_is_made(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    assert port_of(NodeConfig(home=tmp_path, ui=UiSection(listen="")), home) is None
    assert not home.token.exists()
