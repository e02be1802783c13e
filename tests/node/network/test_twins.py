"""Two processes with one key.

Rules of this file: real hosts on loopback, real time; waits are for events.
"""

import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from dipaco.node.network import twins as twins_module
from dipaco.node.network.framing import frame
from dipaco.node.network.host import HostTransport, open_host
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.rpc import Rpc
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.wire.messages import Ping, Pong
from tests.node.network.peers import KEYS, PEERS
from tests.node.network.test_shims import LISTEN, is_served
from tests.node.network.test_transport_contract import ECHO, echo, ends, until

HUB, TWIN = 1, (0, 2)
"""Numbers of keys: the twin's PeerID is the smaller one, then the larger; the smaller one opens."""


@asynccontextmanager
async def calls(transport: HostTransport) -> AsyncIterator[Rpc]:
    """Run calls on a transport; pings are answered."""
    rpc = Rpc(transport, Reputation(transport))

    async def pong(_peer: object, _ping: Ping) -> Pong:
        return Pong()

    rpc.handle(Ping, pong)
    async with trio.open_nursery() as nursery:
        await nursery.start(rpc.run)
        yield rpc
        nursery.cancel_scope.cancel()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.INFO]


@pytest.mark.parametrize("key", TWIN)
async def test_the_first_of_two_goes_on_and_both_say_so_once(
    caplog: pytest.LogCaptureFixture, key: int
) -> None:
    async with (
        open_host(KEYS[HUB], listen=LISTEN) as hub,
        open_host(KEYS[key], listen=LISTEN) as first,
        open_host(KEYS[key], listen=LISTEN) as second,
        calls(hub) as at_hub,
        calls(first) as at_first,
        calls(second),
    ):
        changes: list[bool] = []
        await first.dial(hub.me, hub.addresses)
        await until(lambda: first.me in at_hub.ready() and hub.me in at_first.ready())
        await until(lambda: hub._twins._names)  # it knows which process came first
        at_first.watch(lambda _peer, ready: changes.append(ready))
        at_hub.watch(lambda _peer, ready: changes.append(ready))
        for _ in range(5):
            await second.dial(hub.me, hub.addresses)
            await until(lambda: not second.peers())
        assert changes == []  # nobody took the first one's stream
        assert hub.peers() == {first.me} and first.peers() == {hub.me}
        await at_hub.call(first.me, Ping(), Pong, timeout=10)
        await at_first.call(hub.me, Ping(), Pong, timeout=10)
        assert "another node runs with this node's key" in second.trouble
        assert first.trouble == hub.trouble == ""
        kept, turned_away = sorted(lines(caplog), key=lambda line: "was first" in line)
        assert "another node runs with this node's key, at 127.0.0.1" in kept
        assert "another node runs with this node's key and was first" in turned_away


async def test_who_was_turned_away_comes_in_when_the_other_one_leaves() -> None:
    async with open_host(KEYS[HUB], listen=LISTEN) as hub, open_host(KEYS[0]) as second:
        hub.serve(ECHO, echo)
        async with open_host(KEYS[0]) as first:
            await first.dial(hub.me, hub.addresses)
            await until(lambda: hub._twins._names)
            await second.dial(hub.me, hub.addresses)
            await until(lambda: not second.peers())
            assert second.trouble
        await until(lambda: not hub.peers())
        await second.dial(hub.me, hub.addresses)
        await until(lambda: not second.trouble)
        assert await is_served(second, hub)


async def test_a_process_that_is_dead_without_a_sign_is_replaced_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(twins_module, "ALIVE_TIMEOUT", 0.05)
    async with (
        open_host(KEYS[HUB], listen=LISTEN) as hub,
        open_host(KEYS[0]) as dead,
        open_host(KEYS[0]) as second,
    ):
        hub.serve(ECHO, echo)

        async def say_nothing(_stream: object) -> None:
            await trio.sleep_forever()

        monkeypatch.setattr(dead._twins, "answer_notice", say_nothing)
        await dead.dial(hub.me, hub.addresses)
        await until(lambda: hub._twins._names)
        await second.dial(hub.me, hub.addresses)
        await until(lambda: not dead.peers())
        assert await is_served(second, hub)
        assert second.trouble == ""


async def test_two_connections_of_one_process_both_serve() -> None:
    async with open_host(KEYS[0], listen=LISTEN) as one, open_host(KEYS[1], listen=LISTEN) as other:
        for node in (one, other):
            node.serve(ECHO, echo)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.dial, other.me, other.addresses)
            nursery.start_soon(other.dial, one.me, one.addresses)
        await until(lambda: one.peers() and other.peers())
        assert await is_served(one, other)
        assert await is_served(other, one)
        assert one.trouble == other.trouble == ""


@pytest.mark.parametrize("words", [b"not an address", b"\xff" * 8, b"1.2.3.4\nready"])
async def test_a_notice_of_garbage_is_not_repeated_in_the_log(
    caplog: pytest.LogCaptureFixture, words: bytes
) -> None:
    async with open_host(KEYS[0], listen=LISTEN) as node, open_host(KEYS[1]) as liar:
        await liar.dial(node.me, node.addresses)
        stream = await liar.open(node.me, twins_module.TWIN)
        await stream.send(len(words).to_bytes(4, "big") + words)
        assert await ends(stream)
        assert lines(caplog) == []
        assert node.peers() == {PEERS[1]}


async def test_a_connection_is_greeted_once_and_notices_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(twins_module, "NOTICES", 2.0)
    async with open_host(KEYS[1], listen=LISTEN) as hub, open_host(KEYS[2]) as other:
        await other.dial(hub.me, hub.addresses)
        await until(lambda: hub._twins._names)
        answered = 0
        for protocol, sent in (
            (twins_module.HELLO, bytes(16)),
            (twins_module.TWIN, frame(b"9.9.9.9")),
        ):
            for _ in range(4):
                with contextlib.suppress(Unavailable):
                    stream = await other.open(hub.me, protocol)
                    await stream.send(sent)
                    answered += bool(await stream.receive(1))
        assert answered == 2  # the first two notices
