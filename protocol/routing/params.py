"""The numbers of a router, with the bounds under which its arithmetic is exact.

Owns every limit of the routing code. It does not depend on the manifest: `recipe` makes these
numbers from one. Symbols are those of docs/method.md, section 4.
"""

import struct
from dataclasses import dataclass
from math import isqrt
from typing import Final

from dipaco.protocol.run.exactness import (
    BAG_SIGN,
    BASIS_POINTS,
    EXACT_FLOAT64,
    EXACT_INT64,
    IDF_SVD,
    MAX_COLUMNS,
    max_score,
)
from dipaco.protocol.run.model_shape import MAX_PATHS

MAX_SAMPLE = 1 << 20  # documents; the features of a full sample then take 1 GiB
MAX_PREFIX = 1024  # tokens
MIN_PREFIX_BYTES, MAX_PREFIX_BYTES = 64, 1 << 14  # of text that these tokens are taken from
MAX_DIMENSION = 256  # one SHA-256 gives the signs of one token
MAX_NORM_BITS = 12
MAX_SCALE_BITS = 10
MAX_UPDATES = 1024
MAX_RESTARTS = 64
MAX_VOCABULARY = 1 << 20  # tokens; the largest in use have 2^18
MAX_DOCUMENT_BYTES = 1 << 24  # bytes of text that are tokenised
MAX_EPOCH = (1 << 32) - 1
MAX_OVERLAP = 8  # paths of one training document
MAX_CAPACITY = 1000  # numerator and denominator

MAX_TERMS: Final = 1 << 12  # tokens in a basis; of more, no more was seen to be gained
BASIS_DOCUMENTS: Final = 1 << 11  # that a basis is fitted on; 8,000 made it no better
LEAST_FREQUENCY: Final = 4  # documents that have a term; fewer say nothing of a topic
BASIS_BITS: Final = 14  # a column of a basis has about the length 2^14
COLUMN_SQUARES: Final = 17 << 24  # the most of its squared length: see docs/method.md, 4.8
PROJECTED_BITS: Final = 12  # that a projection by a basis is shifted to the right

_RANGES: Final = {
    "paths": (1, MAX_PATHS),
    "sample": (1, MAX_SAMPLE),
    "prefix": (1, MAX_PREFIX),
    "prefix_bytes": (MIN_PREFIX_BYTES, MAX_PREFIX_BYTES),
    "dimension": (8, MAX_DIMENSION),
    "norm_bits": (1, MAX_NORM_BITS),
    "scale_bits": (0, MAX_SCALE_BITS),
    "max_updates": (1, MAX_UPDATES),
    "restarts": (1, MAX_RESTARTS),
    "max_bytes": (1, MAX_DOCUMENT_BYTES),
    "min_tokens": (1, MAX_PREFIX_BYTES),
    "max_tokens": (1, MAX_DOCUMENT_BYTES),
    "validation_bp": (0, BASIS_POINTS),
    "router_bp": (0, BASIS_POINTS),
    "overlap": (1, MAX_OVERLAP),
    "epoch": (0, MAX_EPOCH),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterParams:
    """All numbers that the sampled k-means router depends on; raises ValueError out of bounds."""

    paths: int
    """P: number of paths, and so of clusters and shards."""
    sample: int
    """N: the most documents that the router is fitted on."""
    prefix: int
    """F: tokens of a document that its route depends on."""
    prefix_bytes: int
    """Bytes of UTF-8 that these tokens are taken from."""
    dimension: int
    """D: features, a multiple of 8."""
    norm_bits: int
    """nu: a feature lies in -X to X, X = 2^nu."""
    scale_bits: int
    """s: centroids are fixed point with s fractional bits, S = 2^s."""
    max_updates: int
    """T_max: updates of the centroids after which a restart ends, converged or not."""
    restarts: int
    """Independent runs of k-means; the one with the least inertia is kept."""
    max_bytes: int
    """Bytes of UTF-8 that a document is cut to before it is tokenised."""
    min_tokens: int
    """Tokens that a document needs in its first `prefix_bytes` bytes to take part."""
    max_tokens: int
    """Tokens of one document that are trained on, and counted."""
    validation_bp: int
    """Basis points of the documents that are held out for validation."""
    router_bp: int
    """Basis points of the documents that are held out for discriminative re-sharding."""
    overlap: int = 1
    """Paths that a training document goes to."""
    capacity: tuple[int, int] | None = None
    """(num, den): the largest shard has at most num/den of the mean; None: no such rule."""
    capacity_in_tokens: bool = False
    """Whether that rule measures a shard by its tokens, not by its documents."""
    epoch: int = 0
    """How often the router was replaced."""
    featurizer: str = BAG_SIGN
    """The rule that turns a prefix into features."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} {value} is not in {low} to {high}")
        if self.dimension % 8:
            raise ValueError(f"dimension {self.dimension} is not a multiple of 8")
        if self.featurizer not in (BAG_SIGN, IDF_SVD):
            raise ValueError(f"featurizer {self.featurizer} is not known")
        if self.featurizer == IDF_SVD and self.dimension > MAX_COLUMNS:
            raise ValueError(f"dimension {self.dimension} is above {MAX_COLUMNS} with {IDF_SVD}")
        if self.min_tokens < self.prefix:
            raise ValueError(f"min_tokens {self.min_tokens} is below the prefix of {self.prefix}")
        if self.max_tokens < self.min_tokens:
            raise ValueError(f"max_tokens {self.max_tokens} is below min_tokens {self.min_tokens}")
        if self.max_bytes < self.prefix_bytes:
            raise ValueError(f"max_bytes {self.max_bytes} is below prefix_bytes")
        if self.validation_bp + self.router_bp >= BASIS_POINTS:
            raise ValueError("validation_bp and router_bp leave no training documents")
        if self.overlap > self.paths:
            raise ValueError(f"overlap {self.overlap} is above the {self.paths} paths")
        self._check_capacity()
        self._check_exactness()

    def _check_capacity(self) -> None:
        if self.capacity is None:
            if self.capacity_in_tokens:
                raise ValueError("capacity_in_tokens without a capacity")
            return
        num, den = self.capacity
        if not 1 <= den <= num <= MAX_CAPACITY:
            raise ValueError(f"capacity {num}/{den} is not a ratio from 1 to {MAX_CAPACITY}")

    def _check_exactness(self) -> None:
        scale, bound, members = self.scale, self.bound, self.sample
        exact = (
            self.max_score < EXACT_FLOAT64
            and members * bound < EXACT_FLOAT64
            and 2 * scale * members * bound < EXACT_INT64
            and members * 4 * self.dimension * bound**2 < EXACT_INT64
        )
        if not exact:
            raise ValueError(
                f"norm_bits {self.norm_bits}, scale_bits {self.scale_bits}, dimension "
                f"{self.dimension} and sample {self.sample} together leave exact arithmetic"
            )

    @property
    def scale(self) -> int:
        """S: the factor of the centroids."""
        return 1 << self.scale_bits

    @property
    def bound(self) -> int:
        """X: no feature is larger."""
        return 1 << self.norm_bits

    @property
    def max_score(self) -> int:
        """The largest sum of absolute terms in a score."""
        return max_score(self.dimension, self.norm_bits, self.scale_bits)

    @property
    def max_bias(self) -> int:
        """The largest bias that still keeps score plus bias exact."""
        return EXACT_FLOAT64 - 1 - self.max_score

    def pack(self) -> bytes:
        """Return the 96 bytes in the router's root seed that hold the numbers of the fit."""
        return struct.pack(
            "<12Q",
            self.paths,
            self.sample,
            self.prefix,
            self.dimension,
            self.norm_bits,
            self.scale_bits,
            self.max_updates,
            self.restarts,
            self.prefix_bytes,
            self.min_tokens,
            self.validation_bp,
            self.router_bp,
        )


def max_idf(documents: int) -> int:
    """Return the largest weight of a term, by the size of the sample."""
    return (min(documents, BASIS_DOCUMENTS) + 1).bit_length() - LEAST_FREQUENCY.bit_length()


def max_projection(prefix: int, documents: int) -> int:
    """Return the largest |y| of `idf-svd-v1`: |M| |Q| / 2^12, rounded up, for prefixes of F tokens.

    |M|^2 is at most 256 F idf^2, and a column's squared length `COLUMN_SQUARES`.
    """
    squares = 256 * prefix * max_idf(documents) ** 2 * COLUMN_SQUARES
    return (isqrt(squares) >> PROJECTED_BITS) + 1
