"""The fitted part of the featurizer `idf-svd-v1`: weights of terms and a basis, in exact integers.

The terms are tokens that some, but not all, documents have. A term's weight falls with the number
of documents that have it (inverse document frequency). The basis spans about the directions in
which the weighted documents differ most: subspace iteration (Halko, Martinsson and Tropp,
0909.4061) on integers. Every product is exact in float64, so its value depends neither on
threads nor on the order of summation. Source: docs/method.md, 4.4.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from dipaco.protocol.routing.features import (
    BLOCK,
    Featurizer,
    Int16,
    UInt8,
    first_weights,
    sign_rows,
    weighted_sum,
)
from dipaco.protocol.routing.integers import Int32, Int64, bit_lengths, isqrt, rdiv_float64
from dipaco.protocol.routing.params import BASIS_BITS, LEAST_FREQUENCY, MAX_TERMS, PROJECTED_BITS
from dipaco.protocol.routing.scores import PRODUCTS, Product, checked_product
from dipaco.protocol.wire.digest import Digest, tagged, u32, u64

Float64 = npt.NDArray[np.float64]

START_BITS: Final = 8  # the iteration starts from columns of -2^8 and 2^8
ITERATIONS: Final = 3  # more did not separate domains better
KEPT_BITS: Final = 20  # of a column before it is made orthogonal to the others
LEAST_NORM: Final = 1 << 10  # a shorter rest of a column is mostly rounding, and becomes zero

_BLOCK = 128  # rows of the Gram matrix that are mirrored at once


@dataclass(frozen=True)
class Basis:
    """What the sample determines of the features."""

    terms: Int32
    """(K,), token ids, ascending; the other tokens do not count."""
    idf: UInt8
    """(K,), the weight of each term, at least 1."""
    columns: Int16
    """(K, D), each within -2^14 to 2^14."""


def fit_basis(
    prefixes: npt.NDArray[np.integer],
    *,
    vocabulary: int,
    feat_seed: bytes,
    dimension: int,
    products: tuple[Product, ...] = PRODUCTS,
) -> Basis:
    """Return the basis of n prefixes of F token ids below `vocabulary`."""
    ordered = np.sort(prefixes, axis=1)
    weights = first_weights(ordered)
    terms, idf = terms_of(ordered[weights > 0], len(ordered), vocabulary)
    start = sign_rows(feat_seed, terms, dimension).T.astype(np.float64) * (1 << START_BITS)
    if not len(terms):
        return Basis(terms, idf, start.T.astype(np.int16))
    gram = _gram(ordered, weights, terms, idf, vocabulary)
    product = checked_product(start, gram[:1], products)
    columns = start
    for _ in range(ITERATIONS):
        columns = orthogonalised(product(columns, gram))
    return Basis(terms, idf, np.ascontiguousarray(columns.T, dtype=np.int16))


def terms_of(
    present: npt.NDArray[np.integer], documents: int, vocabulary: int
) -> tuple[Int32, UInt8]:
    """Return the terms, ascending, and their weights, (K,) each.

    present    per document the id of each token that it has, once; all in one array.

    A term is in at least 4 documents and its weight is not zero. Above 4,096 terms those of the
    most documents are kept, of equal ones the lowest ids.
    """
    frequency = np.bincount(present, minlength=vocabulary)
    idf = (documents + 1).bit_length() - bit_lengths(frequency)
    terms = np.flatnonzero((frequency >= LEAST_FREQUENCY) & (idf > 0))
    if len(terms) > MAX_TERMS:
        frequent = np.argsort(-frequency[terms], kind="stable")[:MAX_TERMS]
        terms = np.sort(terms[frequent])
    return terms.astype(np.int32), idf[terms].astype(np.uint8)


def orthogonalised(z: Int64) -> Float64:
    """Return the rows of z, (D, K), cut to 20 bits, made nearly orthogonal and 2^14 long.

    Modified Gram-Schmidt in fixed point: row i loses `rdiv(c q, 2^14)`, c = `rdiv(q . z_i, 2^14)`,
    for each finished row q before it. All is exact in float64, where dividing by 2^14 rounds
    nothing.
    """
    excess = np.maximum(bit_lengths(np.abs(z).max(axis=1)) - KEPT_BITS, 0)
    rows = (z >> excess[:, None]).astype(np.float64)
    for j, row in enumerate(rows):
        length = isqrt(int(row @ row))
        if length < LEAST_NORM:
            row[:] = 0
            continue
        whole = row.astype(np.int64) << BASIS_BITS
        row[:] = rdiv_float64(whole, np.array(length, dtype=np.int64))
        scaled, rest = row / (1 << BASIS_BITS), rows[j + 1 :]
        coefficients = np.floor(rest @ scaled + 0.5)
        part = coefficients[:, None] * scaled
        part += 0.5
        rest -= np.floor(part, out=part)
    return rows


def _gram(
    ordered: npt.NDArray[np.integer], weights: Int16, terms: Int32, idf: UInt8, vocabulary: int
) -> Float64:
    """Return the transpose of M times M, (K, K), of the weighted documents M, (n, K).

    ordered    (n, F), prefixes, each in ascending order.
    weights    (n, F), the weight of each id's count where it occurs first, else 0.
    """
    place = np.zeros(vocabulary, dtype=np.int64)  # of ids that are no term: a weight of 0 follows
    place[terms] = np.arange(len(terms))
    factor = np.zeros(vocabulary, dtype=np.float64)
    factor[terms] = idf
    column, value = place[ordered], factor[ordered] * weights
    gram = np.zeros((len(terms), len(terms)))
    flat, first = gram.reshape(-1), column * len(terms)
    length = ordered.shape[1]
    for apart in range(length):  # pairs of ids so many places apart: none lies below the diagonal
        pair = first[:, : length - apart] + column[:, apart:]
        product = value[:, : length - apart] * value[:, apart:]
        np.add.at(flat, pair.ravel(), product.ravel())
    _mirror(gram)
    return gram


def _mirror(square: Float64) -> None:
    """Copy the part above the diagonal below it, in blocks: a copy of the whole may not fit."""
    for start in range(0, len(square), _BLOCK):
        stop = start + _BLOCK
        square[stop:, start:stop] = square[start:stop, stop:].T
        block = np.triu(square[start:stop, start:stop])
        square[start:stop, start:stop] = block + np.triu(block, 1).T


def basis_featurizer(basis: Basis, vocabulary: int) -> Featurizer:
    """Return the projection by a basis: y_d = floor(sum over v of w(m_v) idf_v Q_vd / 2^12).

    Every partial sum fits in 32 bits: docs/method.md, 4.8.
    """
    terms = len(basis.terms)
    place = np.full(vocabulary, terms, dtype=np.int32)  # the last row, of zeros
    place[basis.terms] = np.arange(terms)
    rows = np.zeros((terms + 1, basis.columns.shape[1]), dtype=np.int32)
    rows[:-1] = basis.columns.astype(np.int32) * basis.idf[:, None]

    def featurize(prefixes: npt.NDArray[np.integer]) -> Int32:
        out = np.empty((len(prefixes), rows.shape[1]), dtype=np.int32)
        for start in range(0, len(prefixes), BLOCK):
            ordered = np.sort(prefixes[start : start + BLOCK], axis=1)
            weights = first_weights(ordered).astype(np.int32)
            sums = weighted_sum(rows, place[ordered], weights)
            out[start : start + BLOCK] = sums >> PROJECTED_BITS
        return out

    return featurize


def idf_digest(basis: Basis, documents: int) -> Digest:
    """Return the stage digest of the terms and their weights, from so many documents."""
    terms = basis.terms.astype("<i4").tobytes()
    count = u32(len(basis.terms))
    return tagged("dipaco/1/idf", u64(documents), count, terms, basis.idf.tobytes())


def basis_digest(basis: Basis) -> Digest:
    """Return the stage digest of the columns."""
    terms, dimension = basis.columns.shape
    columns = basis.columns.astype("<i2").tobytes()
    return tagged("dipaco/1/basis", u32(terms), u32(dimension), columns)
