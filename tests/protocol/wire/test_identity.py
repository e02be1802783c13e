"""Rules of this file: libp2p itself says what a PeerID is; keys come from known seeds."""

import base58
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from dipaco.protocol.wire.identity import (
    PeerId,
    PeerIdField,
    peer_id,
    peer_id_of,
    public_key_of,
    short_peer,
)


@given(st.binary(min_size=32, max_size=32))
def test_key_and_peer_id_give_each_other_as_in_libp2p(seed: bytes) -> None:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    mine = peer_id(key)
    assert mine == ID.from_pubkey(create_new_key_pair(seed).public_key).to_base58()
    assert public_key_of(mine) == key.public_key().public_bytes_raw()
    assert msgspec.convert(mine, PeerIdField) == mine


def test_the_first_test_vector_of_ed25519() -> None:
    """RFC 8032, section 7.1, test 1."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    assert public_key_of(peer_id(key)) == public
    assert peer_id_of(public) == "12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5pV"


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_has_no_peer_id(length: int) -> None:
    with pytest.raises(ValueError, match=f"32 bytes, not {length}"):
        peer_id_of(bytes(length))


def raw(prefix: str, length: int = 32) -> str:
    return base58.b58encode(bytes.fromhex(prefix) + bytes(length)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12D3KooW",
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",  # of an RSA key: a hash, not the key
        raw("002408021220"),  # secp256k1
        raw("002408011220", 31),
        raw("002408011220", 33),
        raw("002308011220"),
    ],
)
def test_what_names_no_ed25519_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not the PeerID of an Ed25519 key"):
        public_key_of(PeerId(text))


@pytest.mark.parametrize("character", ["0", "O", "I", "l", "\n", "é", " "])
def test_characters_outside_of_base58_are_no_peer_id(character: str) -> None:
    text = peer_id_of(bytes(32))[:-1] + character
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text, PeerIdField)
    with pytest.raises(ValueError, match="not the PeerID of an Ed25519 key"):
        public_key_of(PeerId(text))


def test_the_short_form_keeps_the_end_where_peer_ids_differ() -> None:
    one, other = peer_id_of(bytes(32)), peer_id_of(bytes(31) + b"\1")
    assert short_peer(one) != short_peer(other)
    assert len(short_peer(one)) == 15
