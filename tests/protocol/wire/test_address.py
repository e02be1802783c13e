"""Rules of this file: pure values; texts are made by hand or from values that are drawn."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipaco.protocol.wire.address import MAX_PLACE, MAX_TEXT, Address, Scope, ip_text, scope_of_ip
from dipaco.protocol.wire.identity import PeerId, peer_id_of

PEER, RELAY = peer_id_of(bytes(32)), peer_id_of(bytes([1] * 32))
PLACE = "/ip4/203.0.113.7/tcp/4410"
LONGEST_LABEL = "a" * 63

hosts = st.one_of(
    st.tuples(st.just("ip4"), st.ip_addresses(v=4).map(str)),
    st.tuples(st.just("ip6"), st.ip_addresses(v=6).map(str)),
    st.tuples(
        st.sampled_from(["dns", "dns4", "dns6"]),
        st.from_regex(r"[a-z]([a-z0-9]|\.[a-z]){0,40}", fullmatch=True),
    ),
)
peers = st.none() | st.binary(min_size=32, max_size=32).map(peer_id_of)


@given(hosts, st.integers(0, 65535), peers, peers)
def test_text_and_value_give_each_other(
    host: tuple[str, str], port: int, peer: PeerId | None, relay: PeerId | None
) -> None:
    address = Address(*host, port, peer=peer, relay=relay)
    assert Address.parse(str(address)) == address
    assert Address.parse(str(address.without_peer)) == address.without_peer


@given(
    st.text(max_size=80)
    | st.lists(
        st.sampled_from(
            ["ip4", "dns", "1.2.3.4", "a..b", "tcp", "80", "p2p", "p2p-circuit", "", PEER]
        )
    ).map("/".join)
)
def test_any_other_text_is_a_value_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except ValueError:
        return
    assert str(address) == text


def test_the_peer_of_a_circuit_is_the_last_and_the_relay_the_first() -> None:
    circuit = Address.parse(f"{PLACE}/p2p/{RELAY}/p2p-circuit/p2p/{PEER}")
    assert (circuit.peer, circuit.relay) == (PEER, RELAY)
    assert str(circuit.without_peer) == f"{PLACE}/p2p/{RELAY}/p2p-circuit"
    assert circuit.without_peer.with_peer(PEER) == circuit
    assert Address.parse(f"{PLACE}/p2p/{PEER}").relay is None


def test_spellings_of_one_host_are_one_address() -> None:
    assert Address.parse("/ip6/2001:DB8:0:0::7/tcp/1") == Address("ip6", "2001:db8::7", 1)
    assert Address.parse("/dns4/Me.Example/tcp/1") == Address("dns4", "me.example", 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "does not begin with a slash"),
        ("12D3KooW", "does not begin with a slash: write it like /ip4/203.0.113.7/tcp/4410"),
        ("203.0.113.7:4410", "is no multiaddr: write /ip4/203.0.113.7/tcp/4410"),
        ("[2001:db8::7]:4410", "is no multiaddr: write /ip6/2001:db8::7/tcp/4410"),
        ("me.example:4410", "is no multiaddr: write /dns/me.example/tcp/4410"),
        ("http://me.example:80/", "is no multiaddr: write /dns/me.example/tcp/80"),
        ("http://me.example/", "does not begin with a slash"),
        (f" {PLACE}", "has a blank in it"),
        (f"{PLACE}\n", "has a blank in it"),
        (f"{PLACE},{PLACE}", "has a comma"),
        ("/ip4//203.0.113.7/tcp/1", "has two slashes in a row"),
        (f"/{PLACE}", "has two slashes in a row"),
        ("/", "ends in a slash"),
        (f"{PLACE}/", "ends in a slash"),
        ("/ip4/203.0.113.7", "lacks host or port"),
        (f"/p2p/{PEER}", "lacks host or port"),
        ("/unix/home/tcp/1", "'unix', which is none of ip4, ip6, dns, dns4, dns6"),
        ("/ip4/203.0.113.7/udp/4410/quic-v1", "'udp' after the host"),
        ("/ip4/203.0.113.7/tcp/65536", "port 65536 is not in 0 to 65535"),
        ("/ip4/203.0.113.7/tcp/-1", "port '-1' is no number from 0 to 65535"),
        ("/ip4/203.0.113.7/tcp/04410", "port '04410' is no number"),
        ("/ip4/203.0.113.7/tcp/\u0664", "is no number"),
        ("/ip4/203.0.113/tcp/1", "'203.0.113' is no IP address"),
        ("/ip4/300.0.0.1/tcp/1", "'300.0.0.1' is no IP address"),
        ("/ip4/me.example/tcp/1", "'me.example' is no IP address; a name stands after /dns"),
        ("/ip4/::1/tcp/1", "::1 is no IPv4 address: write /ip6"),
        ("/ip6/127.0.0.1/tcp/1", "127.0.0.1 is no IPv6 address"),
        ("/ip6/fe80::1%eth0/tcp/1", "without a zone"),
        ("/dns4/a..b/tcp/1", "'a..b' is no DNS name"),
        ("/dns4//tcp/1", "has two slashes in a row"),
        ("/dns4/b\u00fccher.example/tcp/1", "is no DNS name; write other letters as xn--"),
        ("/dns4/-a.example/tcp/1", "is no DNS name"),
        (f"/dns4/{LONGEST_LABEL}a.example/tcp/1", "is no DNS name"),
        (f"/dns4/{'.'.join([LONGEST_LABEL] * 4)}/tcp/1", "is no DNS name"),
        ("/dns4/127.0.0.1/tcp/1", "is a number, no DNS name"),
        ("/dns4/0x7f000001/tcp/1", "is a number, no DNS name"),
        (f"{PLACE}/p2p", "ends in /p2p without a PeerID"),
        (f"{PLACE}/p2p/{RELAY}/p2p-circuit/p2p", "ends in /p2p without a PeerID"),
        (f"{PLACE}/p2p/{PEER[:-1]}", "is no PeerID of an Ed25519 key"),
        (f"{PLACE}/p2p/{PEER[:-1]}0", "is no PeerID of an Ed25519 key"),
        (f"{PLACE}/p2p/{PEER} ", "has a blank in it"),
        (f"{PLACE}/p2p/{PEER[:-1]}", "12D3KooW and 44 more characters, here 51 in all"),
        (f"{PLACE}/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "is no PeerID"),
        (f"{PLACE}/p2p-circuit/p2p/{PEER}", "names no relay"),
        (f"{PLACE}/p2p/{PEER}/ws", "where /p2p/PEER is expected"),
        (f"{PLACE}/ws/p2p/{PEER}", "has /ws after the port: this version speaks plain TCP alone"),
        (f"{PLACE}/tcp/4411", "has /tcp/4411 after the port, where /p2p/PEER is expected"),
        (f"{PLACE}/ipfs/{PEER}", "after the port, where /p2p/PEER is expected"),
        (f"{PLACE}/{'a' * MAX_TEXT}", f"longer than {MAX_TEXT} characters"),
    ],
)
def test_an_error_names_the_text_and_what_is_wrong_with_it(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        Address.parse(text)
    assert str(caught.value).startswith(f"{text[:MAX_TEXT]!r}: ")


def test_a_value_cannot_be_made_from_what_no_text_says() -> None:
    for host in ("2001:DB8::7", "Me.Example", "a/b", ""):
        for kind in ("ip6", "dns"):
            with pytest.raises(ValueError, match=r"is no|not "):
                Address(kind, host, 1)
    with pytest.raises(ValueError, match="is no PeerID"):
        Address("ip4", "8.8.8.8", 1, peer=PeerId("me"))


def test_names_may_be_as_long_as_dns_has_them() -> None:
    for name in (
        f"{LONGEST_LABEL}.example",
        "xn--bcher-kva.example",
        "a-b.1c.example",
        "localhost",
        "stack_node.example",
    ):
        assert Address.parse(f"/dns/{name}/tcp/1").host == name


def test_every_address_fits_a_record_of_its_peer() -> None:
    name = ".".join([LONGEST_LABEL] * 3 + ["a" * 53])
    longest = f"/dns/{name}/tcp/1"
    assert len(longest) == MAX_PLACE
    assert len(str(Address.parse(f"{longest}/p2p/{PEER}"))) == MAX_TEXT
    for longer in (f"/dns4/{name}/tcp/1", f"/dns/{name}/tcp/1/p2p/{RELAY}/p2p-circuit"):
        with pytest.raises(ValueError, match="longer than"):
            Address.parse(longer)


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("/ip4/127.0.0.1/tcp/4410", Scope.MACHINE),
        ("/ip6/::1/tcp/1", Scope.MACHINE),
        ("/dns4/localhost/tcp/1", Scope.MACHINE),
        ("/ip4/10.0.0.2/tcp/4410", Scope.HOUSE),
        ("/ip4/169.254.1.1/tcp/1", Scope.HOUSE),
        ("/ip6/fe80::1/tcp/1", Scope.HOUSE),
        ("/ip4/8.8.8.8/tcp/1", Scope.WORLD),
        ("/dns4/a.example/tcp/1", Scope.WORLD),
        (f"/ip4/8.8.8.8/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/{PEER}", Scope.WORLD),
    ],
)
def test_an_address_has_the_scope_from_which_it_is_of_use(text: str, scope: Scope) -> None:
    assert Address.parse(text).scope == scope


def test_an_unknown_ip_gets_what_strangers_get() -> None:
    assert scope_of_ip(None) == Scope.WORLD
    assert scope_of_ip("fe80::1%eth0") == Scope.HOUSE


def test_an_ipv4_address_in_the_form_of_ipv6_has_the_scope_of_the_ipv4_address() -> None:
    for ip, scope in (
        ("::ffff:127.0.0.1", Scope.MACHINE),
        ("::ffff:192.168.1.1", Scope.HOUSE),
        ("::ffff:8.8.8.8", Scope.WORLD),
    ):
        assert scope_of_ip(ip) == scope


def test_an_ip_address_has_one_text() -> None:
    assert ip_text("::FFFF:1.2.3.4") == "1.2.3.4"
    assert ip_text("2001:DB8:0::7%\x1b[31m") == "2001:db8::7"
    with pytest.raises(ValueError, match="does not appear to be"):
        ip_text("me.example")


def test_people_read_host_and_port() -> None:
    assert Address.parse(f"{PLACE}/p2p/{PEER}").host_and_port == "203.0.113.7:4410"
    assert Address.parse("/ip6/::1/tcp/1").host_and_port == "[::1]:1"


def test_a_place_is_judged_for_listening_dialling_and_as_a_seed() -> None:
    def faults(text: str) -> list[bool]:
        address = Address.parse(text)
        found = (
            address.listen_fault(),
            address.dial_fault(),
            address.announce_fault(),
            address.seed_fault(),
        )
        return [each is None for each in found]

    assert faults(PLACE) == [True, True, True, False]
    assert faults("/ip4/0.0.0.0/tcp/4410") == [True, False, False, False]
    assert faults("/ip6/::1/tcp/0") == [True, False, False, False]
    assert faults("/dns/a.example/tcp/1") == [False, True, True, False]
    assert faults(f"{PLACE}/p2p/{PEER}") == [False, True, True, True]
    assert faults(f"{PLACE}/p2p/{RELAY}/p2p-circuit/p2p/{PEER}") == [False, True, True, True]
    assert faults(f"/dns/stack_node/tcp/1/p2p/{PEER}") == [False, True, False, True]
