"""`Invitation`: a short code that a person types to join one run, and its one encoding.

The code is base58btc of

    head      1 byte: version, 4 bits; whether a signer follows, 1 bit; places, 3 bits
    places    0 stands for one of IPv4, which has no kind: 4 bytes of address, 2 of port.
              1 to 4: each a kind, 1 byte; the host; the port, 2 bytes, big-endian
    peer      32 bytes, the Ed25519 key of the node at these places
    run       4 bytes, the beginning of the run id
    signer    10 bytes, the fingerprint of the run's owner; left out if the owner is the peer
    checksum  3 bytes of H("dipaco/1/invitation", all before)

so that the commonest one, with an IPv4 address and a run that its scheduler signed, has 46 bytes
and 63 characters, and `dipaco-node join CODE` has 80.

The code is safe to shorten like this: the node there proves that it has the whole key, since the
handshake does. The run's owner is pinned by the whole key as well, or by 80 bits of its digest: to
find another key with the same ones takes 2^80 tries. The beginning of the run id only tells apart
the runs of that one owner, so nobody else gains by a second run with the same beginning. The
checksum is against slips of the hand alone, and misses one in 16 million.
"""

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import base58

from dipaco.protocol.wire.address import IP_VERSIONS, NAME_KINDS, Address
from dipaco.protocol.wire.digest import Digest, tagged
from dipaco.protocol.wire.identity import (
    FINGERPRINT_BYTES,
    PUBLIC_KEY_BYTES,
    PeerId,
    fingerprint_bytes,
    peer_id_of,
    public_key_of,
)

VERSION: Final = 1
RUN_BYTES: Final = 4
CHECKSUM_BYTES: Final = 3
MAX_PLACES: Final = 4  # a node has few addresses; a code is typed or photographed
MAX_CHARACTERS: Final = 700  # a longer code fits no QR code that a telephone reads
TAG: Final = "dipaco/1/invitation"
CODE_PATTERN: Final = r"^[1-9A-HJ-NP-Za-km-z]*\Z"
_KINDS: Final = (*IP_VERSIONS, *NAME_KINDS)
_SIGNER_FOLLOWS: Final = 0b1000
_PLACES: Final = 0b0111
WRONG: Final = (
    "a character of the code is wrong or missing, its checksum says: copy all of it again"
)


@dataclass(frozen=True)
class Invitation:
    """A node to dial first, and the run to train; raises ValueError for an impossible one."""

    addresses: tuple[Address, ...]
    """Of one peer, 1 to `MAX_PLACES`, none through a relay."""
    run: bytes
    """The first `RUN_BYTES` of the run id."""
    signer: bytes
    """The fingerprint of the run's owner, `FINGERPRINT_BYTES`."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.addresses) <= MAX_PLACES:
            raise ValueError(f"an invitation has 1 to {MAX_PLACES} addresses")
        if len(set(self.addresses)) != len(self.addresses):
            raise ValueError("an address of the invitation is there twice")
        for address in self.addresses:
            if fault := address.seed_fault():
                raise ValueError(f"{address}: {fault}")
            if address.relay is not None:
                raise ValueError(f"{address}: an invitation has no place for a relay")
        if len({address.peer for address in self.addresses}) != 1:
            raise ValueError("the addresses of an invitation are of one peer")
        if len(self.run) != RUN_BYTES or len(self.signer) != FINGERPRINT_BYTES:
            raise ValueError("the run or the signer has another length")
        if len(self.code) > MAX_CHARACTERS:
            raise ValueError(f"the code has more than {MAX_CHARACTERS} characters")

    @property
    def peer(self) -> PeerId:
        """The peer at all addresses."""
        peer = self.addresses[0].peer
        assert peer is not None
        return peer

    @property
    def code(self) -> str:
        """The only code of this invitation: `parse` gives the invitation back."""
        body = self._body()
        return base58.b58encode(body + _checksum(body)).decode("ascii")

    def is_for(self, run: Digest, owner: PeerId) -> bool:
        """Return whether this invites to a run of an owner."""
        return run.startswith(self.run) and fingerprint_bytes(owner) == self.signer

    def _body(self) -> bytes:
        first = self.addresses[0]
        if len(self.addresses) == 1 and first.kind == "ip4":
            form, places = 0, _host(first) + first.port.to_bytes(2, "big")
        else:
            form = len(self.addresses)
            places = b"".join(
                bytes([_KINDS.index(each.kind)]) + _host(each) + each.port.to_bytes(2, "big")
                for each in self.addresses
            )
        signer = b"" if self.signer == fingerprint_bytes(self.peer) else self.signer
        head = VERSION << 4 | (_SIGNER_FOLLOWS if signer else 0) | form
        return bytes([head]) + places + public_key_of(self.peer) + self.run + signer

    @classmethod
    def parse(cls, code: str) -> "Invitation":
        """Read a code; raises ValueError with what is wrong with it."""
        return _parsed(code)


@lru_cache(maxsize=8)  # the daemon asks for the same one again and again
def _parsed(code: str) -> Invitation:
    data = _bytes_of(code)
    body, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if not body or _checksum(body) != checksum:
        raise ValueError(WRONG)
    if body[0] >> 4 != VERSION:
        raise ValueError(
            f"the code is of version {body[0] >> 4}, this program knows {VERSION}: update it"
        )
    found = _Reader(body[1:]).invitation(body[0])
    if found.code != code:
        raise ValueError("it is not the code of its own content")
    return found


def _bytes_of(code: str) -> bytes:
    if not code:
        raise ValueError("the code is empty")
    if len(code) > MAX_CHARACTERS:
        raise ValueError(f"the code is longer than {MAX_CHARACTERS} characters")
    if not re.fullmatch(CODE_PATTERN, code):
        place, wrong = next(
            (place, c) for place, c in enumerate(code, 1) if not re.fullmatch(CODE_PATTERN, c)
        )
        raise ValueError(f"character {place} is {wrong!a}, which no code has: copy it again")
    return base58.b58decode(code)


@dataclass
class _Reader:
    """Reads the parts of a code whose checksum is right, which anybody can make."""

    left: bytes

    def take(self, size: int) -> bytes:
        if len(self.left) < size:
            raise ValueError("the code ends too early")
        taken, self.left = self.left[:size], self.left[size:]
        return taken

    def invitation(self, head: int) -> Invitation:
        number = head & _PLACES
        places = [self.place() for _ in range(number)] if number else [self.place("ip4")]
        peer = peer_id_of(self.take(PUBLIC_KEY_BYTES))
        run = self.take(RUN_BYTES)
        own = not head & _SIGNER_FOLLOWS
        signer = fingerprint_bytes(peer) if own else self.take(FINGERPRINT_BYTES)
        if self.left:
            raise ValueError("the code goes on after its end")
        return Invitation(tuple(place.with_peer(peer) for place in places), run, signer)

    def place(self, kind: str = "") -> Address:
        if not kind:
            number = self.take(1)[0]
            if number >= len(_KINDS):
                raise ValueError(f"the code has an address of an unknown kind, {number}")
            kind = _KINDS[number]
        if kind in NAME_KINDS:
            host = self.take(self.take(1)[0]).decode("ascii")
        else:
            host = str(ipaddress.ip_address(self.take(4 if kind == "ip4" else 16)))
        return Address(kind, host, int.from_bytes(self.take(2), "big"))


def _host(address: Address) -> bytes:
    if not address.is_name:
        return ipaddress.ip_address(address.host).packed
    name = address.host.encode("ascii")
    return bytes([len(name)]) + name


def _checksum(body: bytes) -> bytes:
    return tagged(TAG, body)[:CHECKSUM_BYTES]
