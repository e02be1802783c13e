"""Scopes of addresses, and bytes counted per peer.

Rules of this file: pure functions and values.
"""

import pytest

from dipaco.node.network.addresses import Scope, scope_of, scope_of_ip, sign_records
from dipaco.node.network.transport import Traffic, parse_address
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.messages import MAX_ADDRESSES, open_record
from tests.node.network.peers import KEYS, PEERS

LOOP, HOUSE, WORLD = "/ip4/127.0.0.1/tcp/4410", "/ip4/10.0.0.2/tcp/4410", "/dns4/a.example/tcp/1"


@pytest.mark.parametrize(
    ("address", "scope"),
    [
        (LOOP, Scope.MACHINE),
        ("/ip6/::1/tcp/1", Scope.MACHINE),
        ("/dns4/localhost/tcp/1", Scope.MACHINE),
        (HOUSE, Scope.HOUSE),
        ("/ip4/169.254.1.1/tcp/1", Scope.HOUSE),
        ("/ip6/fe80::1%eth0/tcp/1", Scope.HOUSE),
        ("/ip4/8.8.8.8/tcp/1", Scope.WORLD),
        (WORLD, Scope.WORLD),
    ],
)
def test_an_address_has_the_scope_from_which_it_is_of_use(address: str, scope: Scope) -> None:
    assert scope_of(address) == scope


@pytest.mark.parametrize(
    "address",
    [
        "",
        "/",
        "/ip4",
        "/ip4/8.8.8.8",
        "/ip4/0.0.0.0/tcp/1",
        "/ip6/::/tcp/1",
        "/ip4/8/tcp/1",
        "/x/y/z/1",
    ],
)
def test_an_address_that_nobody_can_dial_is_refused(address: str) -> None:
    with pytest.raises(RemoteProtocolError):
        scope_of(address)


def test_an_unknown_ip_gets_what_strangers_get() -> None:
    assert scope_of_ip(None) == Scope.WORLD


def test_a_node_signs_one_record_per_scope() -> None:
    def signed(*addresses: str) -> list[tuple[str, ...]]:
        records = sign_records(KEYS[0], addresses, roles=(), runs=(), sequence=1)
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


def test_an_address_is_split_into_peer_and_place() -> None:
    assert parse_address(f"{LOOP}/p2p/{PEERS[0]}") == (PEERS[0], LOOP)


def test_traffic_of_forgotten_peers_stays_in_the_totals() -> None:
    traffic = Traffic()
    traffic.MAX_PEERS = 2
    for peer in PEERS[:3]:
        traffic.count(peer, sent=1, received=10)
    traffic.count(PEERS[1], sent=1)
    assert (traffic.sent, traffic.received) == (4, 30)
    assert traffic.by_peer == {PEERS[2]: (1, 10), PEERS[1]: (2, 10)}
