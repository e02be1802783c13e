"""Rules of this file: real files. The format itself is held in tests/node/network."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.node.network.identity import load_or_create_identity
from dipaco.node.network.keys import read_key, save_key
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.wire.identity import peer_id


def test_a_key_written_ahead_is_the_nodes_identity_at_its_first_start(tmp_path: Path) -> None:
    path, key = tmp_path / "identity.key", Ed25519PrivateKey.generate()
    save_key(path, key)
    assert path.stat().st_mode & 0o777 == 0o600
    assert peer_id(load_or_create_identity(path)) == peer_id(read_key(path)) == peer_id(key)


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    save_key(tmp_path / "owner.key", Ed25519PrivateKey.generate())
    with pytest.raises(ConfigError, match="never overwritten"):
        save_key(tmp_path / "owner.key", Ed25519PrivateKey.generate())


def test_a_key_that_is_not_there_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"owner\.key"):
        read_key(tmp_path / "owner.key")
    assert not (tmp_path / "owner.key").exists()


@pytest.mark.parametrize("data", [b"", b"\x08\x01\x12\x40", bytes(68), bytes(70_000)])
def test_what_is_no_key_file_is_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "owner.key"
    path.touch(mode=0o600)
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"owner\.key"):
        read_key(path)
