"""The bounds below which integers in float64 and in int64 are exact. Source: docs/method.md, 4.8.

The checks of manifests and those of received specs both use them, so this module imports neither.
"""

from typing import Final

BASIS_POINTS: Final = 10_000
EXACT_FLOAT64: Final = 1 << 53  # integers below it add up exactly in float64, in any order
EXACT_INT64: Final = 1 << 63

BAG_SIGN: Final = "bag-sign-v1"  # the featurizer that projects by random signs
IDF_SVD: Final = "idf-svd-v1"  # the one that projects by a basis, which is fitted to the sample
MAX_COLUMNS: Final = 64  # of that basis: its 4,096 terms then take 0.5 MB of a spec


def max_score(dimension: int, norm_bits: int, scale_bits: int) -> int:
    """Return the largest sum of absolute terms in a score: D (S X)^2 + 2 S D X (S X)."""
    return 3 * dimension << 2 * (norm_bits + scale_bits)
