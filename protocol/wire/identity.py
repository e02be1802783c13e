"""Identities: Ed25519 keys, and libp2p PeerIDs, which are such keys as text.

A PeerID of an Ed25519 key is base58btc of the identity multihash of its protobuf encoding
(libp2p specs, peer-ids), so the PeerID follows from the key, and the key from the PeerID.
"""

import base64
from functools import lru_cache
from typing import Annotated, NewType

import base58
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.protocol.wire.digest import tagged

PUBLIC_KEY_BYTES = 32
FINGERPRINT_BYTES = 10  # 80 bits: nobody makes a second key with the same ones
FINGERPRINT_GROUP = 4  # letters that are read out together
_MULTIHASH_PREFIX = bytes.fromhex("002408011220")  # identity, 36 bytes; Ed25519; 32 bytes of key

PeerId = NewType("PeerId", str)
"""`12D3KooW...`: the name of a node, and of an owner of runs."""

PeerIdField = Annotated[
    PeerId,
    msgspec.Meta(
        min_length=52,
        max_length=52,
        pattern=r"^12D3KooW[1-9A-HJ-NP-Za-km-z]+\Z",
        description="a PeerID (12D3KooW..., 52 characters)",
    ),
]


@lru_cache(maxsize=4096)  # the replay of a ledger asks for the same key record by record
def peer_id_of(public_key: bytes) -> PeerId:
    """Return the PeerID of a 32-byte Ed25519 public key."""
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"an Ed25519 public key has 32 bytes, not {len(public_key)}")
    return PeerId(base58.b58encode(_MULTIHASH_PREFIX + public_key).decode("ascii"))


def public_key_of(peer: PeerId) -> bytes:
    """Return the 32-byte Ed25519 public key that `peer` names; raises ValueError."""
    try:
        raw = base58.b58decode(peer)
    except ValueError:  # base58's own message names a character, not the PeerID
        raw = b""
    if len(raw) != len(_MULTIHASH_PREFIX) + PUBLIC_KEY_BYTES or raw[:6] != _MULTIHASH_PREFIX:
        raise ValueError(f"{peer!r} is not the PeerID of an Ed25519 key")
    return raw[6:]


def peer_id(key: Ed25519PrivateKey) -> PeerId:
    """Return the PeerID of the node or owner that holds `key`."""
    return peer_id_of(key.public_key().public_bytes_raw())


def short_peer(peer: PeerId) -> str:
    """Return the short form for logs and people; it keeps the end, where PeerIDs differ."""
    return f"{peer[:8]}...{peer[-4:]}"


def fingerprint_bytes(peer: PeerId) -> bytes:
    """Return the first 80 bits of `H("dipaco/1/fingerprint", PeerID)`."""
    return tagged("dipaco/1/fingerprint", peer.encode("ascii"))[:FINGERPRINT_BYTES]


def fingerprint(peer: PeerId) -> str:
    """Return a form of a PeerID to read out: 16 letters and digits in groups of four.

    They are base32 of `fingerprint_bytes`.
    """
    text = base64.b32encode(fingerprint_bytes(peer)).decode("ascii").lower()
    starts = range(0, len(text), FINGERPRINT_GROUP)
    return "-".join(text[start : start + FINGERPRINT_GROUP] for start in starts)
