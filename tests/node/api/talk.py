"""Connections in memory to the API's server: clients of a port, without a port."""

from collections.abc import Callable
from dataclasses import dataclass, field

import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair

from dipaco.node.api.access import Access
from dipaco.node.api.answers import Answers
from dipaco.node.api.clients import Clients
from dipaco.node.api.connection import Request
from dipaco.node.api.routes import Route, route_of
from dipaco.node.api.server import GONE, Door, serve_stream
from tests.node.api.fake_node import FakeNode
from tests.node.api.served import Answer, answers, request

TOKEN = "a-token-of-a-test"
BEARER = f"Authorization: Bearer {TOKEN}"


@dataclass
class Port:
    """What serves a port: each connection is a task of `nursery`."""

    nursery: trio.Nursery
    node: FakeNode = field(default_factory=FakeNode)
    clients: Clients = field(default_factory=Clients)
    ended: int = 0
    """Connections that are over."""

    def __post_init__(self) -> None:
        self.answers, self.access = Answers(self.node), Access(TOKEN)
        self.route: Callable[[Request], Route] = route_of

    def connect(self, *, waits: bool = False) -> trio.abc.Stream:
        """Return a client's end of a new connection.

        waits   whether the server's bytes wait for their reader: no buffer takes them.
        """
        ours, theirs = lockstep_stream_pair() if waits else memory_stream_pair()
        self.nursery.start_soon(self._serve, theirs)
        return ours

    async def _serve(self, stream: trio.abc.Stream) -> None:
        try:
            async with stream:
                door = Door(self.answers, self.clients, self.access, self.route)
                await serve_stream(door, stream)
        except* GONE:
            pass
        self.ended += 1

    async def ask(self, method: str, target: str, *headers: str, body: bytes = b"") -> Answer:
        """Send one request and return its answer."""
        with trio.fail_after(60):
            async with self.connect() as stream:
                await stream.send_all(request(method, target, body, *headers, "Connection: close"))
                return answers(await all_of(stream))[0]


async def all_of(stream: trio.abc.ReceiveStream) -> bytes:
    """Return all bytes until the server hangs up."""
    return b"".join([part async for part in stream])


async def until_seen(stream: trio.abc.ReceiveStream, words: bytes) -> bytes:
    """Return what comes up to the part that completes `words`."""
    seen = bytearray()
    while words not in seen:
        part = await stream.receive_some()
        assert part, f"the server hung up after {bytes(seen)!r}"
        seen += part
    return bytes(seen)
