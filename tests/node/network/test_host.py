"""What the libp2p host promises beyond the contract of all transports.

Rules of this file: real hosts on loopback, real time; strangers speak through bare sockets.
"""

import ast
import contextlib
import errno
import logging
import os
import resource
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from dipaco.node.network import host as host_module
from dipaco.node.network.host import HostTransport, open_host
from dipaco.node.network.transport import Stream
from dipaco.protocol.errors import ConfigError, Unavailable
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.identity import short_peer
from tests.node.network.peers import KEYS, PEERS
from tests.node.network.test_shims import LISTEN, is_served
from tests.node.network.test_transport_contract import ECHO, echo, ends, until

NETWORK = Path(host_module.__file__).parent


def _port(node: HostTransport) -> int:
    return node.addresses[0].port


def test_few_modules_know_of_libp2p_and_one_place_catches_everything() -> None:
    importers, broad = set(), []
    for path in NETWORK.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.partition(".")[0] in ("libp2p", "multiaddr") for name in names):
                importers.add(path.name)
            if isinstance(node, ast.ExceptHandler) and ast.unparse(node.type or node) in (
                "Exception",
                "BaseException",
            ):
                broad.append(path.name)
    assert importers == {
        "host.py",
        "libp2p_gossip.py",
        "libp2p_tcp.py",
        "libp2p_yamux.py",
        "shims.py",
    }
    assert broad == ["shims.py"]


async def test_the_key_is_the_name() -> None:
    async with open_host(KEYS[3]) as node:
        assert node.me == PEERS[3]
        assert node.addresses == ()


async def test_a_port_that_is_taken_is_named_even_by_a_socket_that_would_share_it() -> None:
    async with open_host(KEYS[0], listen=LISTEN) as node:
        taken = Address("ip4", "127.0.0.1", _port(node))
        with pytest.raises(ConfigError, match=f"cannot listen on {taken}: address already in use"):
            async with open_host(KEYS[1], listen=[*LISTEN, taken]):
                pass
    async with open_host(KEYS[1], listen=[taken]) as successor:  # free again at once
        assert _port(successor) == _port(node)


@pytest.mark.parametrize(
    "address",
    ["/dns4/localhost/tcp/0", f"/ip4/127.0.0.1/tcp/0/p2p/{PEERS[0]}", "/ip4/8.8.8.8/tcp/0"],
)
async def test_an_address_that_cannot_be_listened_on_is_named(address: str) -> None:
    with pytest.raises(ConfigError, match="cannot listen on"):
        async with open_host(KEYS[0], listen=[Address.parse(address)]):
            pass


async def test_what_is_announced_replaces_what_is_found() -> None:
    announced = Address.parse("/dns4/me.example/tcp/4001")
    async with open_host(KEYS[0], listen=LISTEN, announce=[announced]) as node:
        assert node.addresses == (announced.with_peer(PEERS[0]),)


async def test_a_wildcard_is_never_handed_out() -> None:
    async with open_host(KEYS[0], listen=[Address.parse("/ip4/0.0.0.0/tcp/0")]) as node:
        assert node.addresses
        assert not any(address.dial_fault() for address in node.addresses)


async def test_names_are_looked_up_as_the_system_does() -> None:
    async with open_host(KEYS[0], listen=LISTEN) as one, open_host(KEYS[1]) as other:
        await other.dial(one.me, [Address("dns4", "localhost", _port(one))])
        assert other.peers() == {one.me}


async def test_a_name_that_nobody_has_is_unavailable() -> None:
    async with open_host(KEYS[1]) as node:
        with pytest.raises(Unavailable, match=r"no such host in /dns4/nobody\.invalid/tcp/1"):
            await node.dial(PEERS[0], [Address.parse("/dns4/nobody.invalid/tcp/1")])


async def test_a_relay_is_not_dialled_in_place_of_the_peer_behind_it() -> None:
    async with open_host(KEYS[0], listen=LISTEN) as relay, open_host(KEYS[1]) as node:
        circuit = Address("ip4", "127.0.0.1", _port(relay), peer=PEERS[2], relay=relay.me)
        with pytest.raises(Unavailable, match="this version dials no peer through a relay"):
            await node.dial(PEERS[2], [circuit])
        assert not node.peers() and not relay.peers()


async def test_what_the_block_raises_comes_out_bare() -> None:
    with pytest.raises(ConfigError, match=r"^mine$"):
        async with open_host(KEYS[0], listen=LISTEN):
            raise ConfigError("mine")


async def test_a_dialer_in_plaintext_is_refused() -> None:
    pair = create_new_key_pair(KEYS[1].private_bytes_raw())
    plain = new_host(key_pair=pair, sec_opt={PLAINTEXT_PROTOCOL_ID: InsecureTransport(pair)})
    async with open_host(KEYS[0], listen=LISTEN) as node:
        async with plain.run([]):
            with trio.fail_after(20), pytest.raises(Exception, match="failed to upgrade"):
                await plain.get_network().dial_addr(
                    Multiaddr(str(node.addresses[0])), node._host.get_id()
                )
        assert node.peers() == frozenset()


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        b"\xff" * 4096,
        b"\x13/multistream/1.0.0\n\x07/noise\n" + b"\xff\xff" + bytes(65535),
        b"",
    ],
)
async def test_strangers_that_speak_something_else_harm_nobody(words: bytes) -> None:
    async with open_host(KEYS[0], listen=LISTEN) as node, open_host(KEYS[1]) as guest:
        node.serve(ECHO, echo)
        await guest.dial(node.me, node.addresses)
        strangers = [await trio.open_tcp_stream("127.0.0.1", _port(node)) for _ in range(5)]
        for stranger in strangers:
            await stranger.send_all(words)
        with trio.fail_after(10):
            assert await is_served(guest, node)
            await guest.hang_up(node.me)
            await guest.dial(node.me, node.addresses)
            assert await is_served(guest, node)
        for stranger in strangers:
            await stranger.aclose()


async def test_no_more_than_most_connections_are_kept() -> None:
    async with (
        open_host(KEYS[0], listen=LISTEN, most=2) as hub,
        open_host(KEYS[1]) as one,
        open_host(KEYS[2]) as other,
        open_host(KEYS[3]) as third,
    ):
        hub.serve(ECHO, echo)
        for node in (one, other):
            await node.dial(hub.me, hub.addresses)
        with contextlib.suppress(Unavailable):
            await third.dial(hub.me, hub.addresses)
        await until(lambda: not third.peers())
        assert hub.peers() == {one.me, other.me}
        assert await is_served(one, hub)


async def test_a_dead_port_is_passed_over_within_milliseconds() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = Address("ip4", "127.0.0.1", unused.getsockname()[1])
    async with open_host(KEYS[0], listen=LISTEN) as one, open_host(KEYS[1]) as other:
        with trio.fail_after(5):
            await other.dial(one.me, [dead, *one.addresses])
        assert other.peers() == {one.me}


async def test_everyday_failures_of_libp2p_are_not_logged() -> None:
    async with open_host(KEYS[0], listen=LISTEN):
        for name in ("libp2p", "libp2p.network.auto_connector", "libp2p.network.swarm"):
            assert not logging.getLogger(name).isEnabledFor(logging.ERROR)


@pytest.mark.parametrize(
    "words",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<!DOCTYPE HTML>\n<html>",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\xff" * 4000,
        b"\x13/multistream/1.0.0\n\x03na\n",
        b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x40" + bytes(80),
    ],
)
async def test_a_server_of_another_kind_is_called_that(words: bytes) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(1000)
            await stream.send_all(words)
            await stream.send_eof()
            with contextlib.suppress(trio.BrokenResourceError):
                async for _ in stream:  # no reset overtakes the words
                    pass

    async with open_host(KEYS[1]) as node, trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, host="127.0.0.1")
        (listener,) = await nursery.start(serve, answer, 0)
        place = Address("ip4", "127.0.0.1", listener.socket.getsockname()[1])
        with pytest.raises(Unavailable, match="no libp2p node answers there, at 127") as error:
            await node.dial(PEERS[0], [place])
        assert "msg_bytes" not in str(error.value)
        nursery.cancel_scope.cancel()


async def test_a_look_up_of_a_name_that_takes_too_long_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(_place: Address) -> list[Address]:
        await trio.sleep_forever()
        return []

    monkeypatch.setattr(host_module, "resolve", never)
    monkeypatch.setattr(host_module, "DIAL_TIMEOUT", 0.01)
    async with open_host(KEYS[1]) as node:
        with pytest.raises(Unavailable, match=r"the look-up of /dns4/slow\.example/tcp/1"):
            await node.dial(PEERS[0], [Address.parse("/dns4/slow.example/tcp/1")])


async def test_the_addresses_follow_the_machines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_host(KEYS[0], listen=[Address.parse("/ip4/0.0.0.0/tcp/0")]) as node:
        before, port = node.addresses, _port(node)

        def moved(_address: Multiaddr) -> list[Multiaddr]:
            return [Multiaddr(f"/ip4/10.77.0.3/tcp/{port}")]

        monkeypatch.setattr(host_module, "expand_wildcard_address", moved)
        assert [str(each.without_peer) for each in node.addresses] == [str(moved(before)[0])]

        def offline(address: Multiaddr) -> list[Multiaddr]:
            return [address]

        monkeypatch.setattr(host_module, "expand_wildcard_address", offline)
        assert not any(each.dial_fault() for each in node.addresses)

        def out_of_files(_address: Multiaddr) -> list[Multiaddr]:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(host_module, "expand_wildcard_address", out_of_files)
        assert [each.port for each in node.addresses] == [port]


@contextlib.contextmanager
def no_descriptor_free() -> Iterator[None]:
    """Take away every file descriptor that is not in use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_a_free_descriptor_a_node_waits_says_so_once_and_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_host(KEYS[0], listen=LISTEN) as node, open_host(KEYS[1]) as guest:
        node.serve(ECHO, echo)
        await guest.dial(node.me, node.addresses)
        place = Address("ip4", "127.0.0.1", _port(node))
        with trio.socket.socket() as stranger:
            with no_descriptor_free():
                await stranger.connect(("127.0.0.1", _port(node)))
                with pytest.raises(Unavailable, match="too many open files at 127"):
                    await guest.dial(PEERS[2], [place])
                await until(lambda: caplog.records)
                refused = logging.getLogger("trio.serve_listeners")
                for _ in range(50):  # the next seconds
                    refused.error("accept returned EMFILE; retrying")
                assert await is_served(guest, node)
            (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
            assert line.getMessage() == (
                "connections to this node wait: too many open files (see `ulimit -n`)"
            )
            assert line.exc_info is None
        await guest.hang_up(node.me)
        await guest.dial(node.me, node.addresses)
        assert await is_served(guest, node)


async def test_the_end_of_a_connection_is_one_line_for_debugging_with_peer_and_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="dipaco")
    async with open_host(KEYS[0], listen=LISTEN) as node, open_host(KEYS[1]) as guest:

        async def away(stream: Stream) -> None:
            await stream.receive(1)  # else the other end may hear of it while it opens the stream
            raise Unavailable("the connection ended")

        node.serve(ECHO, away)
        await guest.dial(node.me, node.addresses)
        stream = await guest.open(node.me, ECHO)
        await stream.send(b"?")
        assert await ends(stream)
        await guest.hang_up(node.me, "it was asked for")
        await until(lambda: not node.peers())
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
    ended = [line for line in caplog.messages if "connection ended:" in line]
    assert sorted(ended) == sorted(
        [
            f"peer={short_peer(node.me)} connection ended: it was asked for",
            f"peer={short_peer(guest.me)} connection ended: by the peer, or it broke",
        ]
    )
    (streams,) = [line for line in caplog.messages if f" stream {ECHO}" in line]
    assert streams == f"peer={short_peer(guest.me)} stream {ECHO} ended: the connection ended"
