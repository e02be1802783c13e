"""Every seed of the router and every split of the documents, derived from the pinned source.

No seed depends on a run's name or other free text: otherwise an author could try names until a
shard has the documents that the author wants. Source: docs/method.md, 2.4 and 4.2.
"""

import enum
from collections.abc import Iterable
from functools import lru_cache

from dipaco.protocol.routing.params import RouterParams
from dipaco.protocol.run.exactness import BASIS_POINTS
from dipaco.protocol.wire.digest import Digest, TaggedU64, tagged, u32, u64


class Split(enum.StrEnum):
    """The use of a document of the source."""

    TRAINING = "training"
    VALIDATION = "validation"
    ROUTER = "router"


def source_digest(kind: str, revision: str, files: Iterable[tuple[str, int, bytes]]) -> Digest:
    """Return the identity of a pinned source; `files` are (name, size in bytes, SHA-256)."""
    parts: list[bytes] = [kind.encode(), revision.encode()]
    for name, size, sha256 in files:
        parts += [name.encode(), u64(size), sha256]
    return tagged("dipaco/1/source", *parts)


def router_root(source: Digest, tokenizer: Digest, params: RouterParams, beacon: bytes) -> Digest:
    """Return the root of all seeds; `beacon` is empty or a public value fixed later."""
    return tagged("dipaco/1/router-root", source, tokenizer, params.pack(), beacon)


def featurizer_seed(root: Digest) -> Digest:
    """Return the seed of the sign rows."""
    return tagged("dipaco/1/featurizer-seed", root)


def kmeans_seed(root: Digest, epoch: int, restart: int) -> Digest:
    """Return the seed of one restart of k-means."""
    return tagged("dipaco/1/kmeans-seed", root, u32(epoch), u32(restart))


def split_residue(source: Digest, document: int) -> int:
    """Return the document's residue, 0 to 9,999, which decides its split."""
    word = _split_hash(source)(document)[:8]
    return int.from_bytes(word, "little") % BASIS_POINTS


@lru_cache(maxsize=16)
def _split_hash(source: Digest) -> TaggedU64:
    return TaggedU64("dipaco/1/split", source)


def split_of(source: Digest, document: int, *, validation_bp: int, router_bp: int) -> Split:
    """Return the split of a document, counted from 0 over every row of the source.

    The hash depends on the source alone, so all runs on it share their validation documents.
    """
    residue = split_residue(source, document)
    if residue < validation_bp:
        return Split.VALIDATION
    if residue < validation_bp + router_bp:
        return Split.ROUTER
    return Split.TRAINING
