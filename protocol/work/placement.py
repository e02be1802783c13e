"""Which keepers hold which blob: rendezvous hashing of its digest over them. Pure.

Every node computes the same order of keepers for a blob, and the first `copies` of them that are
alive hold it. When one is lost, the next in the order of each of its blobs takes over, and nothing
else moves; when it is back, it takes its place again.

Source: Thaler and Ravishankar, Using name-based mappings to increase hit rates (1998).
"""

from collections.abc import Collection, Iterable

from dipaco.protocol.wire.digest import Digest, sha256
from dipaco.protocol.wire.identity import PeerId


def rank(blob: Digest, peer: PeerId) -> bytes:
    """Return the place of `peer` for `blob` among all peers: the lowest comes first."""
    return sha256(blob + peer.encode())


def order(blob: Digest, keepers: Iterable[PeerId]) -> tuple[PeerId, ...]:
    """Return the keepers in the order in which they hold `blob`."""
    return tuple(sorted(keepers, key=lambda keeper: rank(blob, keeper)))


def holders(
    blob: Digest, keepers: Iterable[PeerId], copies: int, alive: Collection[PeerId]
) -> tuple[PeerId, ...]:
    """Return those that hold `blob`: the first `copies` of its order that are alive."""
    return tuple(each for each in order(blob, keepers) if each in alive)[:copies]


def share(
    me: PeerId,
    blobs: Iterable[Digest],
    keepers: Collection[PeerId],
    copies: int,
    alive: Collection[PeerId],
) -> set[Digest]:
    """Return those of `blobs` that keeper `me` holds; what it lacks of them it repairs."""
    there = {*alive, me}
    return {blob for blob in blobs if me in holders(blob, keepers, copies, there)}
