"""A node's key on disk: made at the first start, so that the PeerID stays the same.

The file holds libp2p's private key format (libp2p specs, peer-ids): a protobuf of the key type
and 64 bytes, the Ed25519 seed and the public key. The public half shows that a file is damaged: a
seed alone is valid with any bits.
"""

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.node.storage.files import PRIVATE, replacing, translated
from dipaco.protocol.errors import ConfigError

_HEADER = bytes.fromhex("08011240")  # type Ed25519; 64 bytes of key
_SEED_BYTES = 32


def load_or_create_identity(path: Path) -> Ed25519PrivateKey:
    """Return the key in `path`; without a file a new one, which is saved; raises ConfigError."""
    key = load_or_new_identity(path)
    save_identity(path, key)
    return key


def save_identity(path: Path, key: Ed25519PrivateKey) -> None:
    """Write a node's key unless there is a file."""
    if not path.exists():
        with replacing(path, mode=PRIVATE) as file:
            file.write(key_file(key))


def load_or_new_identity(path: Path) -> Ed25519PrivateKey:
    """Return the key in `path`; without a file a new one, for `save_identity`.

    Only its owner may read the file (0600). A file that others can read is refused: with the key
    they can act as this node. Raises ConfigError.
    """
    if not path.exists():
        return Ed25519PrivateKey.generate()
    if path.is_dir():
        raise ConfigError(f"{path} is a folder where a key file belongs: move it away")
    with translated(path, "read"):
        mode = path.stat().st_mode & 0o777
        if os.name == "posix" and mode & 0o077:
            raise ConfigError(f"{path} has mode {mode:04o}: make it 0600, it holds a private key")
        data = path.read_bytes()
    if _is_other_key(data):
        raise ConfigError(
            f"{path} holds a key of another kind, this program has Ed25519 keys in libp2p's "
            "format: move it away, then start as a new node"
        )
    key = Ed25519PrivateKey.from_private_bytes(data[4:36].ljust(_SEED_BYTES, b"\0"))
    if data != key_file(key):
        raise ConfigError(
            f"{path} is no identity ({len(data)} bytes, damaged): restore it, or remove it to "
            "start as a new node"
        )
    return key


def _is_other_key(data: bytes) -> bool:
    """Return whether a file is a key as OpenSSL or OpenSSH write it, or of libp2p's other types."""
    of_libp2p = data[:1] == _HEADER[:1] and data[2:3] == _HEADER[2:3]
    return data.startswith(b"-----BEGIN ") or (of_libp2p and data[1:2] != _HEADER[1:2])


def key_file(key: Ed25519PrivateKey) -> bytes:
    """Return the content of the file that holds `key`."""
    return _HEADER + key.private_bytes_raw() + key.public_key().public_bytes_raw()
