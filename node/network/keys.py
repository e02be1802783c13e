"""Key files of owners, and of nodes made ahead of their first start (format: network/identity.py).

Imports no libp2p, so that commands without a network start fast.
"""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.node.network.identity import key_file, load_or_new_identity
from dipaco.node.storage.files import PRIVATE, Home, write_file
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.wire.identity import PeerId, peer_id


def read_key(path: Path) -> Ed25519PrivateKey:
    """Read a key file; raises ConfigError if it is missing, damaged or readable by others."""
    if not path.exists():
        raise ConfigError(f"cannot read {path}: no such key file; `dipaco-node key new` makes one")
    return load_or_new_identity(path)


def own_peer(home: Path) -> PeerId | None:
    """Return the PeerID of the node of `home`; None if it has no key yet. Nothing is made."""
    path = Home(home).identity
    return peer_id(read_key(path)) if path.exists() else None


def save_key(path: Path, key: Ed25519PrivateKey) -> None:
    """Write a key file, mode 0600; raises ConfigError rather than overwrite one."""
    if path.exists():
        raise ConfigError(f"{path} exists; a key is never overwritten")
    write_file(path, key_file(key), mode=PRIVATE)
