"""A served home: a real server on a real unix socket, and clients of it, well behaved or not."""

import http.client
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from socket import SHUT_WR
from typing import Any

import trio

from dipaco.node.api.clients import MAX_CLIENTS
from dipaco.node.api.server import serve_api
from dipaco.node.storage.files import Home
from tests.node.api.fake_node import FakeNode


class Served:
    """A home whose daemon is `FakeNode`."""

    def __init__(self, home: Home, node: FakeNode) -> None:
        self.home, self.node = home, node

    async def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Call the client outside the server's loop."""
        return await trio.to_thread.run_sync(partial(function, self.home.root, *arguments, **named))

    async def connect(self) -> trio.SocketStream:
        """Connect as a client of any manners."""
        return await trio.open_unix_socket(str(self.home.socket))

    async def send(self, data: bytes) -> bytes:
        """Send bytes and return all that comes back until the server hangs up."""
        async with await self.connect() as stream:
            await stream.send_all(data)
            stream.socket.shutdown(SHUT_WR)
            return await received(stream)

    async def ask(self, method: str, target: str, body: bytes = b"") -> "Answer":
        """Send one request as any HTTP client would, and return the answer."""
        return answers(await self.send(request(method, target, body)))[0]


@asynccontextmanager
async def serving(root: Path, *, most: int = MAX_CLIENTS) -> AsyncIterator[Served]:
    """Serve a home at `root` while the block runs, to `most` clients."""
    home, node = Home.at(root), FakeNode()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_api, home, node, most=most))
        yield Served(home, node)
        nursery.cancel_scope.cancel()


def request(method: str, target: str, body: bytes = b"", *more: str) -> bytes:
    """Return a request, `more` being header lines."""
    host = () if any(line.startswith("Host:") for line in more) else ("Host: localhost",)
    lines = [f"{method} {target} HTTP/1.1", *host, *more]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


async def received(stream: trio.SocketStream) -> bytes:
    """Return all that comes until the server hangs up, with bytes of ours unread or without."""
    parts = bytearray()
    try:
        async for part in stream:
            parts += part
    except trio.BrokenResourceError:
        pass
    return bytes(parts)


class Answer:
    """One answer of the server."""

    def __init__(self, raw: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = raw.status, raw.headers, raw.read()

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class _Bytes:
    """What http.client reads answers from."""

    def __init__(self, data: bytes) -> None:
        self.file = _Kept(data)

    def makefile(self, mode: str) -> io.BytesIO:
        return self.file


class _Kept(io.BytesIO):
    """Stays open from one answer to the next."""

    def close(self) -> None:
        """Do nothing."""


def answers(data: bytes) -> list[Answer]:
    """Return the answers that `data` holds."""
    source, found = _Bytes(data), []
    while source.file.tell() < len(data):
        raw = http.client.HTTPResponse(source)  # type: ignore[arg-type]
        raw.begin()
        found.append(Answer(raw))
    return found
