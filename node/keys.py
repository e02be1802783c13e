"""Key files of nodes and owners: an Ed25519 private key in libp2p's own encoding.

36 bytes, protobuf `PrivateKey {Type: Ed25519, Data: seed}` (libp2p specs, peer-ids), mode 0600,
never overwritten. Imports no libp2p, so that commands without a network start fast.
"""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.node.storage.files import PRIVATE, read_file, write_file
from dipaco.protocol.errors import ConfigError

KEY_BYTES = 36
_PREFIX = bytes.fromhex("08011220")  # field 1: type 1, Ed25519; field 2: 32 bytes


def read_key(path: Path) -> Ed25519PrivateKey:
    """Read a key file; raises ConfigError if it cannot be read or is none."""
    data = read_file(path, limit=1 << 16)
    if len(data) != KEY_BYTES or not data.startswith(_PREFIX):
        raise ConfigError(f"{path} is not an Ed25519 key file ({KEY_BYTES} bytes)")
    return Ed25519PrivateKey.from_private_bytes(data[len(_PREFIX) :])


def save_key(path: Path, key: Ed25519PrivateKey) -> None:
    """Write a key file, mode 0600; raises ConfigError rather than overwrite one."""
    if path.exists():
        raise ConfigError(f"{path} exists; a key is never overwritten")
    write_file(path, _PREFIX + key.private_bytes_raw(), mode=PRIVATE)


def own_key(path: Path) -> Ed25519PrivateKey:
    """Read the key at `path`, made at the first start."""
    if not path.exists():
        save_key(path, Ed25519PrivateKey.generate())
    return read_key(path)
