"""Addresses in signed records, and bytes counted per peer.

Rules of this file: values; names are looked up in a resolver of the test's own.
"""

import socket
from typing import Any

import pytest
import trio

from dipaco.node.network.addresses import OwnNames, addresses_of, resolve, sign_records
from dipaco.node.network.transport import Traffic
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.messages import MAX_ADDRESSES, PeerRecord, open_record
from tests.node.network.peers import KEYS, PEERS

LOOP, HOUSE, WORLD = "/ip4/127.0.0.1/tcp/4410", "/ip4/10.0.0.2/tcp/4410", "/ip4/8.8.8.8/tcp/1"
NAME = "/dns4/a.example/tcp/1"


@pytest.mark.parametrize(
    "text",
    [
        "/ip4",
        "/ip4/8.8.8.8",
        "/ip4/0.0.0.0/tcp/1",
        "/ip6/::/tcp/1",
        "/ip4/8/tcp/1",
        "/ip4/1.1.1.1/tcp/0",
        NAME,
        "/dns/localhost/tcp/1",
        "/dns6/xn--a/tcp/1",
        "/ip4/0.1.2.3/tcp/1",
        "/ip4/224.0.0.1/tcp/1",
        "/ip4/240.0.0.1/tcp/1",
        "/ip4/255.255.255.255/tcp/1",
        "/ip4/169.254.169.254/tcp/80",
        "/ip6/fe80::1/tcp/1",
        "/ip6/fec0::1/tcp/1",
        "/ip6/ff02::1/tcp/1",
        "/ip6/::ffff:8.8.8.8/tcp/1",
        "/ip6/::8.8.8.8/tcp/1",
        "/ip6/64:ff9b::808:808/tcp/1",
        "/ip6/2002:808:808::1/tcp/1",
        "/ip6/2001:0:808:808::1/tcp/1",
    ],
)
def test_a_record_with_an_address_that_no_peer_may_name_is_its_peers_fault(text: str) -> None:
    def record(*texts: str) -> PeerRecord:
        return PeerRecord(peer=PEERS[0], addresses=texts, roles=(), runs=(), sequence=1)

    assert addresses_of(record(LOOP, WORLD)) == (Address.parse(LOOP), Address.parse(WORLD))
    with pytest.raises(RemoteProtocolError, match="the address '/"):
        addresses_of(record(LOOP, text))


def test_a_node_signs_one_record_per_scope() -> None:
    def signed(*addresses: str) -> list[tuple[str, ...]]:
        places = map(Address.parse, addresses)
        records = sign_records(KEYS[0], places, roles=(), runs=(), sequence=1)
        return [open_record(record).addresses for record in records]

    assert signed(f"{LOOP}/p2p/{PEERS[0]}", HOUSE, WORLD) == [
        (WORLD,),
        (WORLD, HOUSE),
        (WORLD, HOUSE, LOOP),
    ]
    assert signed(LOOP) == [(LOOP,)]
    assert signed(LOOP, NAME, "/ip4/169.254.1.2/tcp/1", "/ip6/fe80::1/tcp/1") == [(LOOP,)]
    assert signed() == [()]
    many = [f"/ip4/8.8.8.{n}/tcp/1" for n in range(20)]
    assert signed(*many) == [tuple(many[:MAX_ADDRESSES])]


class Names(trio.abc.HostnameResolver):
    """Says of every name that it has these IP addresses."""

    def __init__(self, *ips: str, error: Exception | None = None) -> None:
        self.ips = ips
        self.error = error

    async def getaddrinfo(self, host: Any, *_: Any) -> list[Any]:
        if self.error is not None:
            raise self.error
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 0)) for ip in self.ips]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


async def test_a_name_becomes_its_ip_addresses_however_they_are_written() -> None:
    trio.socket.set_custom_hostname_resolver(
        Names("8.8.8.8", "2001:DB8::0:1", "::ffff:1.2.3.4", "fe80::1%eth0")
    )
    found = await resolve(Address.parse(f"{NAME}/p2p/{PEERS[0]}"))
    assert found == [
        Address.parse(f"/{place}/tcp/1/p2p/{PEERS[0]}")
        for place in ("ip4/8.8.8.8", "ip6/2001:db8::1", "ip6/::ffff:1.2.3.4")
    ]


@pytest.mark.parametrize(
    "error",
    [
        UnicodeError("label too long"),
        ValueError("embedded null character"),
        socket.gaierror("no such name"),
    ],
)
async def test_a_look_up_that_fails_in_any_way_finds_nothing(error: Exception) -> None:
    trio.socket.set_custom_hostname_resolver(Names(error=error))
    assert await resolve(Address.parse(NAME)) == []


async def test_a_nodes_own_name_becomes_its_ip_addresses_before_it_signs() -> None:
    resolver, names, places = Names("8.8.8.8"), OwnNames(), list(map(Address.parse, (LOOP, NAME)))
    trio.socket.set_custom_hostname_resolver(resolver)
    assert names.replaced_in(places) == tuple(places)
    assert await names.look_up(places)
    assert list(map(str, names.replaced_in(places))) == [LOOP, WORLD]
    assert not await names.look_up(places)
    resolver.error = socket.gaierror("no such name")
    assert not await names.look_up(places)  # a break of the resolver changes nothing
    assert list(map(str, names.replaced_in(places))) == [LOOP, WORLD]
    resolver.error, resolver.ips = None, ("1.1.1.1", "2600::1")
    assert await names.look_up(places)
    found = [LOOP, "/ip4/1.1.1.1/tcp/1", "/ip6/2600::1/tcp/1"]
    assert list(map(str, names.replaced_in(places))) == found


async def test_an_ip_address_is_not_looked_up() -> None:
    trio.socket.set_custom_hostname_resolver(Names())
    assert await resolve(Address.parse(LOOP)) == [Address.parse(LOOP)]


def test_traffic_of_forgotten_peers_stays_in_the_totals() -> None:
    traffic = Traffic()
    traffic.MAX_PEERS = 2
    for peer in PEERS[:3]:
        traffic.count(peer, sent=1, received=10)
    traffic.count(PEERS[1], sent=1)
    assert (traffic.sent, traffic.received) == (4, 30)
    assert traffic.by_peer == {PEERS[2]: (1, 10), PEERS[1]: (2, 10)}
