"""Addresses in signed records, and bytes counted per peer.

Rules of this file: values; names are looked up in a resolver of the test's own.
"""

import socket
from typing import Any

import pytest
import trio

from dipaco.node.network.addresses import addresses_of, resolve, sign_records
from dipaco.node.network.transport import Traffic
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.messages import MAX_ADDRESSES, PeerRecord, open_record
from tests.node.network.peers import KEYS, PEERS

LOOP, HOUSE, WORLD = "/ip4/127.0.0.1/tcp/4410", "/ip4/10.0.0.2/tcp/4410", "/dns4/a.example/tcp/1"


@pytest.mark.parametrize(
    "text",
    [
        "/ip4",
        "/ip4/8.8.8.8",
        "/ip4/0.0.0.0/tcp/1",
        "/ip6/::/tcp/1",
        "/ip4/8/tcp/1",
        "/ip4/1.1.1.1/tcp/0",
    ],
)
def test_a_record_whose_address_nobody_can_dial_is_its_peers_fault(text: str) -> None:
    def record(*texts: str) -> PeerRecord:
        return PeerRecord(peer=PEERS[0], addresses=texts, roles=(), runs=(), sequence=1)

    assert addresses_of(record(LOOP, WORLD)) == (Address.parse(LOOP), Address.parse(WORLD))
    with pytest.raises(RemoteProtocolError, match=f"the address '{text}'"):
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
    assert signed() == [()]
    many = [f"/ip4/8.8.8.{n}/tcp/1" for n in range(20)]
    assert signed(*many) == [tuple(many[:MAX_ADDRESSES])]


class Names(trio.abc.HostnameResolver):
    """Says of every name that it has these IP addresses."""

    def __init__(self, *ips: str) -> None:
        self._ips = ips

    async def getaddrinfo(self, host: Any, *_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 0)) for ip in self._ips]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


async def test_a_name_becomes_its_ip_addresses_however_they_are_written() -> None:
    trio.socket.set_custom_hostname_resolver(
        Names("8.8.8.8", "2001:DB8::0:1", "::ffff:1.2.3.4", "fe80::1%eth0")
    )
    found = await resolve(Address.parse(f"{WORLD}/p2p/{PEERS[0]}"))
    assert found == [
        Address.parse(f"/{place}/tcp/1/p2p/{PEERS[0]}")
        for place in ("ip4/8.8.8.8", "ip6/2001:db8::1", "ip6/::ffff:1.2.3.4")
    ]


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
