"""Rules of this file: whatever a client does costs its own connection; the next one is served.

A real server on a real unix socket in this loop, virtual time where time matters.
"""

import itertools
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.node.api import routes
from dipaco.node.api.connection import IDLE_SECONDS, SEND_SECONDS
from dipaco.node.api.routes import FETCH_SECONDS, STALL_SECONDS
from dipaco.node.api.values import MAX_BODY, MAX_HEAD, MAX_REPLY
from dipaco.node.network.door import MOST_CONNECTIONS
from dipaco.node.runs.strangers import MAX_RUNS
from dipaco.node.status.document import PeerStatus, Status
from dipaco.protocol.run.manifest import MAX_MODULE_ELEMENTS
from tests.node.api.fake_node import PEER, RUN, ledger, status
from tests.node.api.served import Answer, Served, answers, received, request, serving

STATUS = request("GET", "/v1/status")
FETCH = request("POST", "/v1/fetch", json.dumps({"run": RUN, "blob": "cd" * 32}).encode())


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path / "home") as served:
        yield served
        with trio.fail_after(5):
            assert (await served.ask("GET", "/v1/status")).status == 200


def in_one_line(answer: Answer) -> str:
    """Return an error's words."""
    words = answer.json["error"]
    assert answer.json == {"code": answer.status, "error": words} and words and "\n" not in words
    return str(words)


@pytest.mark.parametrize(
    ("method", "target", "body", "status"),
    [
        ("GET", "/nowhere", b"", 404),
        ("GET", "/v1/status?x=1", b"", 400),
        ("GET", "/v1/status?x", b"", 400),
        ("GET", "/v1/status?" + "a=1&" * 100 + "a=1", b"", 400),
        ("GET", "/v1/status?a=%ff", b"", 400),
        ("GET", "http://localhost/v1/status", b"", 404),
        ("POST", "/v1/stop?now=true", b"", 400),
        ("GET", "/v1/losses?most=1001", b"", 400),
        ("GET", "/v1/losses?run=../etc", b"", 400),
        ("GET", "/v1/records?most=101", b"", 400),
        ("GET", "/v1/records?first=-1", b"", 400),
        ("GET", "/v1/../etc/passwd", b"", 404),
        ("POST", "/v1/status", b"", 405),
        ("OPTIONS", "/v1/status", b"", 405),
        ("CONNECT", "/v1/status", b"", 405),
        ("GET", "/v1/stop", b"", 405),
        ("POST", "/v1/stop", b"stop", 400),
        ("POST", "/v1/stop", b'{"now":1}', 400),
        ("POST", "/v1/stop", b'{"later":true}', 400),
        ("POST", "/v1/stop", b'{"now":' + 1000 * b"[", 400),
        ("POST", "/v1/stop", b"\xff\xfe", 400),
        ("POST", "/v1/fetch", b"", 400),
        ("POST", "/v1/fetch", b'{"run":"../etc","blob":"../passwd"}', 400),
        ("POST", "/v1/stop", b"{" + MAX_BODY * b" " + b"}", 413),
    ],
)
async def test_a_request_for_nothing_is_answered_in_one_line(
    served: Served, method: str, target: str, body: bytes, status: int
) -> None:
    answer = await served.ask(method, target, body)
    assert answer.status == status and in_one_line(answer)
    assert ("Allow" in answer.headers) == (status == 405)
    assert not served.node.stops


async def test_a_faulty_field_is_told_in_words(served: Served) -> None:
    answer = await served.ask("POST", "/v1/fetch", b'{"run":"demo","blob":"' + b"0" * 64 + b'"}')
    words = "not a request: Expected `str` of other characters - at `$.run`"
    assert in_one_line(answer) == words


async def test_head_gets_no_body_and_hurts_nobody(served: Served) -> None:
    answer = await served.send(request("HEAD", "/v1/status"))
    assert answer.startswith(b"HTTP/1.1 405 ") and answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b'{"verb": "status"}\n', 400),
        (bytes(range(256)), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 400),
        (b"GET /v1/status HTTP/1.1\r\n\r\n", 400),  # no Host
        (request("POST", "/v1/stop", b"", "Content-Length: many"), 400),
        (request("POST", "/v1/stop", b"", "Transfer-Encoding: gzip"), 501),
        (b"x" * 9000, 431),
        (request("GET", "/v1/status", b"", "Cookie: " + "x" * 2 * MAX_HEAD), 431),
    ],
    ids=["old", "bytes", "tls", "no-host", "length", "encoding", "endless", "headers"],
)
async def test_garbage_is_refused_in_one_line(served: Served, data: bytes, status: int) -> None:
    (answer,) = answers(await served.send(data))
    assert answer.status == status and in_one_line(answer)


@pytest.mark.parametrize("data", [b"x" * 9000, b"\n", STATUS, STATUS[:20], FETCH, FETCH[:-5]])
async def test_a_client_that_goes_away_hurts_nobody(served: Served, data: bytes) -> None:
    async with await served.connect() as stream:
        await stream.send_all(data)


async def test_a_client_that_goes_away_in_mid_fetch_ends_it(served: Served) -> None:
    async with await served.connect() as stream:
        await stream.send_all(FETCH)
        while b"progress" not in await stream.receive_some(1000):
            pass
    with trio.fail_after(5):
        await served.node.given_up.wait()


def broken(*_: object) -> Any:
    raise ZeroDivisionError("in an answer")


async def test_a_bug_in_an_answer_is_told_and_logged_and_ends_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(served.node, "ledger", broken)
        answer = await served.ask("GET", "/v1/ledger")
    assert answer.status == 500 and "ZeroDivisionError" in in_one_line(answer)
    assert "ZeroDivisionError: in an answer" in caplog.text


async def test_an_answer_that_no_json_can_hold_is_such_a_bug(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(served.node, "status", lambda: status(peer="caf\udce9"))
        assert (await served.ask("GET", "/v1/status")).status == 500


async def test_a_bug_in_a_fetch_ends_its_connection_alone(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(served.node, "fetch", broken)
        assert b"done" not in await served.send(FETCH)
    assert "ZeroDivisionError: in an answer" in caplog.text


async def test_one_connection_may_ask_again_and_again(served: Served) -> None:
    asked = [STATUS, request("GET", "/nowhere"), request("GET", "/v1/ledger"), b"garbage\r\n\r\n"]
    found = answers(await served.send(b"".join(asked) + STATUS))
    assert [answer.status for answer in found] == [200, 404, 200, 400]


async def test_a_request_that_wants_to_be_encouraged_is(served: Served) -> None:
    head, _, body = request("POST", "/v1/stop", b"{}", "Expect: 100-continue").partition(b"{")
    async with await served.connect() as stream:
        await stream.send_all(head)
        assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 100 ")
        await stream.send_all(b"{" + body)
        assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 202 ")


@pytest.mark.parametrize("data", [b"", STATUS[:20], FETCH[:-5]], ids=["nothing", "head", "body"])
async def test_half_a_request_is_waited_for_so_long(
    served: Served, data: bytes, autojump_clock: MockClock
) -> None:
    async with await served.connect() as stream:
        await stream.send_all(data)
        begun = trio.current_time()
        assert await received(stream) == b""
        assert trio.current_time() - begun == pytest.approx(IDLE_SECONDS)


async def test_a_drop_now_and_then_buys_no_time(served: Served, autojump_clock: MockClock) -> None:
    async with await served.connect() as stream:
        begun = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            for byte in STATUS * 2:
                await stream.send_all(bytes([byte]))
                await trio.sleep(5)
        assert trio.current_time() - begun < IDLE_SECONDS + 10


async def test_a_client_that_does_not_read_is_let_go(
    served: Served, autojump_clock: MockClock
) -> None:
    served.node.ledger = lambda: ledger(dict.fromkeys(map(str, range(9999)), 1))  # type: ignore[method-assign]
    async with await served.connect() as stream:
        await stream.send_all(9 * request("GET", "/v1/ledger"))
        await trio.sleep(2 * SEND_SECONDS)
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(STATUS)


async def last_line(served: Served) -> dict[str, Any]:
    """Ask for a fetch and return its last line."""
    (answer,) = answers(await served.send(FETCH))
    found: dict[str, Any] = json.loads(answer.body.splitlines()[-1])
    return found


async def test_a_fetch_that_gets_nothing_ends(served: Served, autojump_clock: MockClock) -> None:
    begun = trio.current_time()
    words = f"no byte of the blob came for {STALL_SECONDS:g} s: ask again later"
    assert await last_line(served) == {"event": "failed", "error": words}
    assert trio.current_time() - begun == pytest.approx(STALL_SECONDS, abs=1)
    assert served.node.given_up.is_set()


async def test_a_fetch_that_gets_a_byte_now_and_then_ends_too(
    served: Served, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "FETCH_SECONDS", 4 * STALL_SECONDS)

    async def drop_by_drop(run: str, blob: str, on_progress: Callable[[int, int], None]) -> int:
        for count in itertools.count():
            on_progress(count, 1 << 40)
            await trio.sleep(STALL_SECONDS / 2)
        return 0

    monkeypatch.setattr(served.node, "fetch", drop_by_drop)
    begun = trio.current_time()
    assert (await last_line(served))["error"].startswith("the fetch took longer than ")
    assert trio.current_time() - begun == pytest.approx(4 * STALL_SECONDS, abs=1)
    assert FETCH_SECONDS * 1e6 > 8 * 8 * MAX_MODULE_ELEMENTS  # the largest blob at 1 Mbit/s


@pytest.mark.parametrize(("more", "expected"), [(0, 200), (1, 503)])
async def test_an_answer_has_at_most_so_many_bytes(
    served: Served, monkeypatch: pytest.MonkeyPatch, more: int, expected: int
) -> None:
    around = len(msgspec.json.encode(replace(ledger(), head="")))
    monkeypatch.setattr(
        served.node, "ledger", lambda: replace(ledger(), head="a" * (MAX_REPLY - around + more))
    )
    answer = await served.ask("GET", "/v1/ledger")
    assert answer.status == expected
    if more:
        assert f"{MAX_REPLY + 1} bytes, more than {MAX_REPLY}" in in_one_line(answer)
    else:
        assert len(answer.body) == MAX_REPLY


def crowded() -> Status:
    """Return the status of a node with all the peers, and all the offers, that it may have."""
    made = status()
    guest = PeerStatus(id=PEER, address="ffff:" * 7 + "255.255.255.255", rtt_ms=123.456789012345678)
    offer = replace(made.offers[0], name="z" * 64, verified=1 << 53, refuted=1 << 53)
    return replace(made, peers=(guest,) * 2 * MOST_CONNECTIONS, offers=(offer,) * MAX_RUNS)


async def test_a_status_of_a_crowd_has_some_hundred_kilobytes(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.node, "status", crowded)
    answer = await served.ask("GET", "/v1/status")
    assert answer.status == 200 and len(answer.body) < 256 << 10
