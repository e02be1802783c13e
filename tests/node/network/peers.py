"""Keys and PeerIDs that never change, in ascending order of the PeerIDs."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.protocol.wire.digest import sha256
from dipaco.protocol.wire.identity import PeerId, peer_id

KEYS: tuple[Ed25519PrivateKey, ...] = tuple(
    sorted(
        (Ed25519PrivateKey.from_private_bytes(sha256(b"peer %d" % n)) for n in range(64)),
        key=peer_id,
    )
)
PEERS: tuple[PeerId, ...] = tuple(map(peer_id, KEYS))
KEY_OF: dict[PeerId, Ed25519PrivateKey] = dict(zip(PEERS, KEYS, strict=True))
