"""Features: a prefix of tokens becomes a vector of small integers, exactly.

Counts of the tokens, square-rooted, projected, centred, scaled to 2^nu. `bag-sign-v1` projects by
random signs, `idf-svd-v1` (`basis`) by a basis that was fitted to the sample. Every step is integer
arithmetic, so that all nodes get the same bits. Source: docs/method.md, 4.4.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from dipaco.protocol.routing.integers import (
    Int32,
    Int64,
    isqrt,
    isqrt_array,
    rdiv_array,
    rdiv_float64,
)
from dipaco.protocol.wire.digest import tagged, u32

Int16 = npt.NDArray[np.int16]
UInt8 = npt.NDArray[np.uint8]
Narrow = TypeVar("Narrow", Int16, Int32)
Featurizer = Callable[[npt.NDArray[np.integer]], Int32]
"""Prefixes, (n, F), to their projections y, (n, D)."""

BLOCK = 256  # prefixes per block: their arrays stay in a processor's cache
_MEMO_ROWS = 1 << 16  # sign rows kept in memory, about 8 MiB


@lru_cache(maxsize=_MEMO_ROWS)
def sign_bits(feat_seed: bytes, token: int) -> bytes:
    """Return the 256 sign bits of a token: 32 bytes, lowest bit first, set for +1."""
    return tagged("dipaco/1/sign", feat_seed, u32(token))


def sign_rows(feat_seed: bytes, tokens: npt.NDArray[np.integer], dimension: int) -> Int16:
    """Return the signs, -1 or +1, of k token ids: (k, D)."""
    packed = b"".join(sign_bits(feat_seed, token) for token in tokens.tolist())
    rows = np.frombuffer(packed, dtype=np.uint8).reshape(len(tokens), 32)
    bits = np.unpackbits(rows[:, : dimension // 8], axis=1, bitorder="little")
    return 2 * bits.astype(np.int16) - 1


def raw_features(prefixes: npt.NDArray[np.integer], feat_seed: bytes, dimension: int) -> Int32:
    """Return the projections y, (n, D), of n prefixes of F token ids; |y| <= 16 F.

    y_d = sum over distinct tokens v of isqrt(256 m_v) s(v, d), m_v how often v occurs.
    """
    out = np.empty((len(prefixes), dimension), dtype=np.int32)
    for start in range(0, len(prefixes), BLOCK):
        block = prefixes[start : start + BLOCK]
        out[start : start + BLOCK] = _project(block, feat_seed, dimension)
    return out


def _project(prefixes: npt.NDArray[np.integer], feat_seed: bytes, dimension: int) -> Int16:
    """Return y of one block. 16 F is at most 2^14, so every partial sum fits in 16 bits."""
    ordered = np.sort(prefixes, axis=1)
    weights = first_weights(ordered)
    tokens, index = np.unique(ordered, return_inverse=True)
    signs = sign_rows(feat_seed, tokens, dimension)
    return weighted_sum(signs, index.reshape(ordered.shape), weights)


def weighted_sum(rows: Narrow, index: npt.NDArray[np.integer], weights: Narrow) -> Narrow:
    """Return per document, (n, D), the sum of the rows of its tokens, each times its weight.

    rows (k, D); index, weights (n, F). All sums fit in the type of the rows.
    """
    out = np.zeros((len(index), rows.shape[1]), dtype=rows.dtype)
    for column in range(index.shape[1]):
        part = rows[index[:, column]]
        part *= weights[:, column, None]
        out += part
    return out


def first_weights(ordered: npt.NDArray[np.integer]) -> Int16:
    """Return per row of sorted tokens the weight of each token where it occurs first, else 0."""
    first = np.ones(ordered.shape, dtype=bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    starts = np.flatnonzero(first)  # every row begins a run, so no run crosses rows
    counts = np.diff(np.append(starts, first.size))
    table = np.array([isqrt(256 * m) for m in range(ordered.shape[1] + 1)], dtype=np.int16)
    weights = np.zeros(ordered.shape, dtype=np.int16)
    weights.flat[starts] = table[counts]
    return weights


def mean_of(y: Int32) -> Int32:
    """Return the rounded mean of the rows of y, (D,); zeros if there are no rows."""
    if len(y) == 0:
        return np.zeros(y.shape[1], dtype=np.int32)
    total: Int64 = y.sum(axis=0, dtype=np.int64)
    return rdiv_array(total, len(y)).astype(np.int32)


def normalise(y: Int32, mean: Int32, norm_bits: int) -> Int32:
    """Return x: y, (n, D), centred and scaled to the length 2^nu, zeros where y is the mean."""
    u = y.astype(np.int64) - mean
    length = isqrt_array(np.einsum("nd,nd->n", u, u))
    length[length == 0] = 1  # then u is zero, and so is x
    return rdiv_float64(u << norm_bits, length[:, None]).astype(np.int32)


def normalise_in_place(y: Int32, mean: Int32, norm_bits: int) -> None:
    """Turn y into x block by block, so that a large sample is not in memory twice."""
    for start in range(0, len(y), BLOCK):
        block = slice(start, start + BLOCK)
        y[block] = normalise(y[block], mean, norm_bits)
