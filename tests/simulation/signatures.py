"""A cheap stand-in for Ed25519, put in at one seam: a universe opens thousands of envelopes.

Keys, PeerIDs and every check around a signature stay those of the real code; only the curve is
replaced, by a keyed hash that nobody in a universe forges. tests/simulation/test_signatures.py
holds it against the real one.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import cast
from unittest.mock import patch

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.protocol.wire import identity, signed
from tests.values import key

cached_peer_id = lru_cache(maxsize=4096)(identity.peer_id_of)


def _signature(public_key: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(data, key=public_key, digest_size=64).digest()


class CheapPublicKey:
    """A public key that checks cheap signatures."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    @classmethod
    def from_public_bytes(cls, data: bytes) -> "CheapPublicKey":
        return cls(data)

    def public_bytes_raw(self) -> bytes:
        return self._raw

    def verify(self, signature: bytes, data: bytes) -> None:
        """Raise InvalidSignature if the signature is not that of this key and this data."""
        if signature != _signature(self._raw, data):
            raise InvalidSignature


class CheapKey:
    """A private key that makes cheap signatures."""

    def __init__(self, public: bytes) -> None:
        self._public = CheapPublicKey(public)

    def public_key(self) -> CheapPublicKey:
        return self._public

    def sign(self, data: bytes) -> bytes:
        return _signature(self._public.public_bytes_raw(), data)


@lru_cache(maxsize=4096)
def _public(name: str) -> bytes:
    return key(name).public_key().public_bytes_raw()


def signing_key(name: str) -> Ed25519PrivateKey:
    """Return the key of the node called `name`, of the kind that is in use."""
    if vars(signed)["Ed25519PublicKey"] is not CheapPublicKey:
        return key(name)
    return cast(Ed25519PrivateKey, CheapKey(_public(name)))


@contextmanager
def cheap() -> Iterator[None]:
    """Have all envelopes signed and checked cheaply."""
    with (
        patch.object(signed, "Ed25519PublicKey", CheapPublicKey),
        patch.object(signed, "peer_id_of", cached_peer_id),
    ):
        yield
