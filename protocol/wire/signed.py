"""The signed envelope: a value's bytes, the signer's key, and the signature.

The bytes are kept verbatim, since signatures and digests are computed over them. The type of the
value is signed too (domain separation), so a receipt can never pass for a manifest. Signatures
are Ed25519 (RFC 8032).
"""

from typing import Annotated, Any, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.canonical import PROTOCOL_VERSION, Wire, decode, encode
from dipaco.protocol.wire.digest import Digest, sha256
from dipaco.protocol.wire.identity import PeerId, peer_id_of
from dipaco.protocol.wire.largest import largest

MAX_BODY = 1100 << 10  # bytes; the largest is the spec of 1,024 paths at dimension 256: 1.08 MB
_ENVELOPE = 256  # bytes of an envelope beside its body, rounded up
MAX_ENVELOPE = MAX_BODY + _ENVELOPE

W = TypeVar("W", bound=Wire)


class Signed(Wire, frozen=True, kw_only=True):
    """A value as its author signed it."""

    body: Annotated[bytes, msgspec.Meta(max_length=MAX_BODY)]
    """The canonical encoding of the value."""
    public_key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    """The author's Ed25519 key."""
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
    """Ed25519 over the domain of the value's type and the body."""

    @property
    def signer(self) -> PeerId:
        """The author, as a PeerID."""
        return peer_id_of(self.public_key)

    @property
    def body_digest(self) -> Digest:
        """SHA-256 of the body: the identity of the value, whoever signed it."""
        return sha256(self.body)


def _domain(kind: type[Wire]) -> bytes:
    return f"dipaco/{PROTOCOL_VERSION}/signed/{kind.__name__}".encode("ascii") + b"\0"


def sign(value: Wire, key: Ed25519PrivateKey) -> Signed:
    """Wrap `value`, signed by `key`."""
    body = encode(value)
    return Signed(
        body=body,
        public_key=key.public_key().public_bytes_raw(),
        signature=key.sign(_domain(type(value)) + body),
    )


def open_signed(signed: Signed, kind: type[W]) -> W:
    """Check the signature, then return the value inside; raises RemoteProtocolError."""
    if len(signed.body) > largest(kind).size:  # before it is hashed
        raise RemoteProtocolError(f"a {kind.__name__} of {len(signed.body)} bytes is too long")
    try:
        Ed25519PublicKey.from_public_bytes(signed.public_key).verify(
            signed.signature, _domain(kind) + signed.body
        )
    except (InvalidSignature, ValueError):
        raise RemoteProtocolError(f"the signature of this {kind.__name__} is wrong") from None
    return decode(signed.body, kind)


def signed_bytes(kind: Any) -> int:
    """Return the most bytes of a signed value of type `kind`."""
    return int(min(largest(kind).size, MAX_BODY)) + _ENVELOPE


def decode_signed(data: bytes, kind: type[W]) -> tuple[Signed, W]:
    """Read an envelope and the `kind` inside it; raises RemoteProtocolError."""
    signed = decode(data, Signed, limit=signed_bytes(kind))
    return signed, open_signed(signed, kind)
