"""Rules of this file: real files; libp2p itself reads and writes the same format."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.identity_utils import load_identity, save_identity
from libp2p.peer.id import ID

from dipaco.node.keys import own_key, read_key, save_key
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.identity import peer_id


def test_libp2p_reads_our_key_file_as_the_same_peer(tmp_path: Path) -> None:
    key = own_key(tmp_path / "identity.key")
    theirs = load_identity(tmp_path / "identity.key")
    assert str(ID.from_pubkey(theirs.public_key)) == peer_id(key)


def test_a_key_file_of_libp2p_is_read_as_the_same_peer(tmp_path: Path) -> None:
    pair = create_new_key_pair()
    save_identity(pair, tmp_path / "identity.key")
    assert peer_id(own_key(tmp_path / "identity.key")) == str(ID.from_pubkey(pair.public_key))


def test_a_key_is_private_and_stays_the_same(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    first = own_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert peer_id(own_key(path)) == peer_id(first)


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    own_key(tmp_path / "identity.key")
    with pytest.raises(ConfigError, match="never overwritten"):
        save_key(tmp_path / "identity.key", Ed25519PrivateKey.generate())


@pytest.mark.parametrize("data", [b"", b"\x08\x01\x12\x20", bytes(36), bytes(70_000)])
def test_what_is_no_key_file_is_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"identity\.key"):
        read_key(path)
