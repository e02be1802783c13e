"""What the libp2p host promises beyond the contract of all transports.

Rules of this file: real hosts on loopback, real time; strangers speak through bare sockets.
"""

import ast
import contextlib
import logging
import socket
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
from dipaco.protocol.errors import ConfigError, Unavailable
from dipaco.protocol.wire.address import Address
from tests.node.network.peers import KEYS, PEERS
from tests.node.network.test_shims import LISTEN, is_served
from tests.node.network.test_transport_contract import ECHO, echo, until

NETWORK = Path(host_module.__file__).parent


def _port(node: HostTransport) -> int:
    return node.addresses[0].port


def test_only_two_modules_know_of_libp2p_and_one_place_catches_everything() -> None:
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
    assert importers == {"host.py", "shims.py"}
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


@pytest.mark.parametrize(
    "words",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<!DOCTYPE HTML>\n",
        b"<!DOCTYPE HTML>\n<html>\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"\x00" * 300,
        b"",
    ],
    ids=["http", "html", "ssh", "tls", "zeros", "nothing"],
)
async def test_a_server_of_another_kind_is_told_as_that(words: bytes) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(words)
            await stream.receive_some(1)

    async with open_host(KEYS[0]) as node, trio.open_nursery() as nursery:
        (server,) = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        there = Address("ip4", *server.socket.getsockname())
        with pytest.raises(Unavailable, match=r"no libp2p node answers there.* at 127\.0\.0\.1:"):
            await node.dial(PEERS[1], [there])
        nursery.cancel_scope.cancel()


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
