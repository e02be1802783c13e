"""The local API: whatever bytes a client sends are answered in HTTP, or its connection ends."""

from collections.abc import Callable, Iterator
from functools import partial

import trio

from dipaco.node.api.access import Access
from dipaco.node.api.answers import Answers
from dipaco.node.api.clients import Clients
from dipaco.node.api.connection import Connection
from dipaco.node.api.server import Door, converse
from dipaco.protocol.errors import Unavailable
from tests.fuzz.mutate import Text
from tests.fuzz.target import Target, hold
from tests.node.api.fake_node import MISSING, RUN, FakeNode
from tests.node.api.served import request
from tests.node.api.talk import BEARER, TOKEN

WORDS: tuple[str | bytes, ...] = (
    *"""
    GET POST HEAD PUT OPTIONS CONNECT TRACE PRI * /v1/status /v1/ledger /v1/stop /v1/fetch
    /v1/stream ?after=1 &
    HTTP/1.1 HTTP/1.0 HTTP/2.0 HTTP/9.9 Host: Content-Length: Transfer-Encoding: Expect:
    Authorization: Bearer Origin: null localhost 127.0.0.1:7397
    chunked gzip 100-continue close keep-alive Connection: Upgrade: 0 -1 +1 4096 4097 1e3
    """.split(),
    *('{"now":true}', '{"now":1}', "{", "}", "[" * 50, '"\\ud800"', "\\u0000", "NaN", "1e999"),
    *("\r\n", "\n", "\r", "\0", "\t", " ", "\r\n\r\n", "0\r\n\r\n", "5\r\nhello\r\n", "\x1b[31m"),
    b"\xff",
    b"\xc3\x28",
    "a" * 300,
)


class Pipe:
    """A stream in memory: gives what the client sent, keeps what it is answered."""

    def __init__(self, data: bytes) -> None:
        self.data = self._rest = data
        self.parts: list[bytes] = []
        """What was sent at once: a whole answer, or a part of one."""

    async def receive_some(self, most: int) -> bytes:
        part, self._rest = self._rest[:most], self._rest[most:]
        return part

    async def send_all(self, data: bytes) -> None:
        self.parts.append(data)


class Node(FakeNode):
    """A daemon whose peers have no blob: no fetch waits for the clock."""

    async def fetch(self, run: str, blob: str, on_progress: Callable[[int, int], None]) -> int:
        raise Unavailable(f"nobody has {run} {blob}")


async def _served(pipe: Pipe) -> None:
    client = Clients().take("", trio.current_time(), lambda: None)
    access = Access(TOKEN) if b"Authorization" in pipe.data else None
    door = Door(Answers(Node()), Clients(), access)
    await converse(door, client, Connection(pipe))  # type: ignore[arg-type]


def ask(data: bytes) -> None:
    """Serve one client that sends `data` and then no more, and read the answers as HTTP."""
    pipe = Pipe(data)
    trio.run(_served, pipe)
    begun = [part[:12] for part in pipe.parts if part.startswith(b"HTTP/1.1 ")]
    hold(pipe.parts[:1] == [] or pipe.parts[0].startswith(b"HTTP/1.1 "), "an answer without a head")
    hold(b"HTTP/1.1 500" not in begun, "a bug in an answer")


def seeds() -> tuple[bytes, ...]:
    fetch = f'{{"run":"{RUN}","blob":"{MISSING}"}}'.encode()
    status = request("GET", "/v1/status")
    return (
        status,
        status + request("GET", "/v1/ledger") + status,
        request("POST", "/v1/stop", b'{"now":false}'),
        request("POST", "/v1/fetch", fetch),
        request("POST", "/v1/stop", b"", "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n",
        request("POST", "/v1/stop", b"{}", "Expect: 100-continue"),
        request("HEAD", "/v1/status", b"", "Connection: close"),
        request("GET", "/v1/stream"),
        request("GET", "/v1/status", b"", BEARER, "Origin: http://localhost"),
    )


def targets() -> Iterator[Target]:
    """Yield the whole of what a client sends on one connection."""
    yield Target("api/lines", seeds, (), partial(Text, WORDS), call=ask, limit=1 << 20, batch=200)
