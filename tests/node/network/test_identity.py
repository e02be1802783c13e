"""The node's key on disk.

Rules of this file: real files; what is damaged is named and never replaced.
"""

from pathlib import Path

import pytest

from dipaco.node.network.identity import load_or_create_identity
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.wire.identity import peer_id


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    key = load_or_create_identity(path)
    assert peer_id(load_or_create_identity(path)) == peer_id(key)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["identity.key"]
    assert peer_id(load_or_create_identity(tmp_path / "other.key")) != peer_id(key)


@pytest.mark.parametrize("damage", ["empty", "short", "long", "seed", "public", "header"])
def test_a_damaged_file_is_refused_in_one_line_and_kept(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "identity.key"
    load_or_create_identity(path)
    data = bytearray(path.read_bytes())
    match damage:
        case "empty":
            data.clear()
        case "short":
            data.pop()
        case "long":
            data.append(0)
        case _:
            data[{"header": 0, "seed": 10, "public": 50}[damage]] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"identity\.key is no identity") as raised:
        load_or_create_identity(path)
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == data


OTHER_KINDS = {
    "openssh": b"-----BEGIN OPENSSH PRIVATE KEY-----\n",
    "pem": b"-----BEGIN PRIVATE KEY-----\n",
    "rsa-of-libp2p": bytes.fromhex("080012a709") + bytes(1191),
    "secp256k1-of-libp2p": bytes.fromhex("08021220") + bytes(32),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_a_key_of_another_kind_is_called_that_and_kept(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(OTHER_KINDS[kind])
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"identity\.key holds a key of another kind.*move it"):
        load_or_create_identity(path)
    assert path.read_bytes() == OTHER_KINDS[kind]


def test_a_folder_in_place_of_the_key_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "identity.key").mkdir()
    with pytest.raises(ConfigError, match=r"identity\.key is a folder where a key file belongs"):
        load_or_create_identity(tmp_path / "identity.key")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o606])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.key"
    load_or_create_identity(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="make it 0600"):
        load_or_create_identity(path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load_or_create_identity(tmp_path / "nowhere" / "identity.key")
