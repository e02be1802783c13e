"""Rules of this file: pure values; every code is made here."""

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipaco.protocol.run.invitation import (
    CHECKSUM_BYTES,
    MAX_CHARACTERS,
    TAG,
    WRONG,
    Invitation,
)
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.digest import Digest, sha256, tagged
from dipaco.protocol.wire.identity import PeerId, fingerprint_bytes, peer_id_of

PEER, OWNER = peer_id_of(bytes(32)), peer_id_of(bytes([1] * 32))
RUN = Digest(bytes(range(32)))
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
GOLDEN = "2qNT8Fk9SaNHdzD9YdQAeFUAgygspczyTdjMqiBC19YCC3MhoyHccWQCATumgAa"


def invited(
    *places: str, owner: PeerId = PEER, run: Digest = RUN, peer: PeerId = PEER
) -> Invitation:
    addresses = tuple(Address.parse(place).with_peer(peer) for place in places)
    return Invitation(addresses, run[:4], fingerprint_bytes(owner))


PLAIN = invited("/ip4/203.0.113.7/tcp/4410")
OTHERS = (
    invited("/ip4/203.0.113.7/tcp/4410", owner=OWNER),
    invited("/dns4/node.example.org/tcp/65535"),
    invited("/ip6/2001:db8::7/tcp/1", "/ip4/10.0.0.1/tcp/4410", "/dns/a/tcp/80", owner=OWNER),
)


def checked(body: bytes) -> str:
    return base58.b58encode(body + tagged(TAG, body)[:CHECKSUM_BYTES]).decode()


def test_this_code_stays_readable() -> None:
    assert PLAIN.code == GOLDEN
    assert Invitation.parse(GOLDEN) == PLAIN


@given(
    st.ip_addresses(v=4).filter(lambda ip: not ip.is_unspecified),
    st.integers(1, 65535),
    st.binary(min_size=32, max_size=32).map(peer_id_of),
    st.binary(min_size=32, max_size=32).map(Digest),
)
def test_the_line_of_an_ipv4_node_that_signed_its_run_has_at_most_80_characters(
    ip: object, port: int, peer: PeerId, run: Digest
) -> None:
    made = invited(f"/ip4/{ip}/tcp/{port}", owner=peer, peer=peer, run=run)
    assert len(f"dipaco-node join {made.code}") <= 80
    assert Invitation.parse(made.code) == made


@pytest.mark.parametrize("made", [PLAIN, *OTHERS])
def test_code_and_value_give_each_other(made: Invitation) -> None:
    assert Invitation.parse(made.code) == made
    assert made.peer == PEER


@pytest.mark.parametrize("made", [PLAIN, *OTHERS])
def test_one_wrong_character_anywhere_is_told(made: Invitation) -> None:
    code = made.code
    for place, right in enumerate(code):
        wrong = ALPHABET[(ALPHABET.index(right) + 1 + place % 57) % 58]
        with pytest.raises(ValueError, match=f"^{WRONG}$"):
            Invitation.parse(code[:place] + wrong + code[place + 1 :])


@pytest.mark.parametrize("length", range(1, len(GOLDEN)))
def test_a_code_that_is_cut_is_told(length: int) -> None:
    with pytest.raises(ValueError, match=f"^{WRONG}$"):
        Invitation.parse(GOLDEN[:length])


def test_a_character_that_no_code_has_is_told_with_its_place() -> None:
    with pytest.raises(ValueError, match=r"character 5 is '0', which no code has"):
        Invitation.parse(GOLDEN[:4] + "0" + GOLDEN[5:])
    with pytest.raises(ValueError, match=r"character 1 is '\\x1b'"):
        Invitation.parse("\x1b" + GOLDEN)
    with pytest.raises(ValueError, match="empty"):
        Invitation.parse("")


BODY = PLAIN._body()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\x20" + BODY[1:], "of version 2, this program knows 1: update it"),
        (BODY[:-1], "ends too early"),
        (BODY + b"\0", "goes on after its end"),
        (b"\x15" + b"\0\x01\x02\x03\x04\0\x50" * 5 + BODY[7:], "1 to 4 addresses"),
        (b"\x12" + b"\0\x01\x02\x03\x04\0\x50" * 2 + BODY[7:], "there twice"),
        (b"\x11\x09" + BODY[1:], "of an unknown kind, 9"),
        (b"\x11\0" + BODY[1:], "not the code of its own content"),  # the form without a kind is
        (b"\x18" + BODY[1:] + fingerprint_bytes(PEER), "not the code of its own content"),
        (b"\x10" + bytes(6) + BODY[7:], "is a wildcard"),
        (b"\x11\x02\x03a..\0\x50" + BODY[7:], "no DNS name"),
        (b"\x11\x02\x01\xff\0\x50" + BODY[7:], "can't decode"),
    ],
)
def test_a_code_of_an_impossible_content_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Invitation.parse(checked(body))


def test_a_code_has_a_bound() -> None:
    with pytest.raises(ValueError, match="longer than 700"):
        Invitation.parse("z" * (MAX_CHARACTERS + 1))
    names = [".".join([letter * 60] * 3) for letter in "abcd"]
    with pytest.raises(ValueError, match="more than 700"):
        invited(*(f"/dns/{name}/tcp/1" for name in names))


def test_it_is_for_the_run_of_its_owner_alone() -> None:
    assert PLAIN.is_for(RUN, PEER)
    assert not PLAIN.is_for(RUN, OWNER)  # anybody can make a run with the same first 4 bytes
    assert not PLAIN.is_for(sha256(b"another"), PEER)
    assert OTHERS[0].is_for(RUN, OWNER) and not OTHERS[0].is_for(RUN, PEER)


def test_addresses_of_two_peers_or_through_a_relay_are_no_invitation() -> None:
    first, second = (Address.parse("/ip4/10.0.0.1/tcp/1").with_peer(each) for each in (PEER, OWNER))
    with pytest.raises(ValueError, match="of one peer"):
        Invitation((first, second), RUN[:4], fingerprint_bytes(PEER))
    circuit = Address.parse(f"/ip4/10.0.0.1/tcp/1/p2p/{OWNER}/p2p-circuit/p2p/{PEER}")
    with pytest.raises(ValueError, match="no place for a relay"):
        Invitation((circuit,), RUN[:4], fingerprint_bytes(PEER))
    with pytest.raises(ValueError, match="names no peer"):
        Invitation((first.without_peer,), RUN[:4], fingerprint_bytes(PEER))
