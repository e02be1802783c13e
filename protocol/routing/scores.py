"""Scores of points against centroids, exact, by float64 matrix products where these are exact.

score_ij = |c_j|^2 - 2 S x_i.c_j + bias_j; the lowest score wins, the lowest path on ties. A float64
product of integers is exact in any order, blocking and thread count while sums of absolute terms
stay below 2^53 (`RouterParams` holds that); a self-check in plain integers guards against machines
where it is not. Source: docs/method.md, 4.5 and 4.8.
"""

from collections.abc import Callable, Iterator
from operator import mul

import numpy as np
import numpy.typing as npt

from dipaco.protocol.errors import LocalProtocolError
from dipaco.protocol.routing.integers import Int32, Int64

Whole = Int32 | Int64 | npt.NDArray[np.float64]
"""Integers; in float64 where they were converted before, for the products."""

Product = Callable[[Whole, Whole], Int64]
"""(n, D) and (k, D) to their inner products, (n, k)."""

_BLOCK = 2048  # rows per block: 16 MiB of scores at most
_CHECKED_ROWS = 64


def float64_product(x: Whole, c: Whole) -> Int64:
    """Multiply in float64 (BLAS)."""
    product = x.astype(np.float64, copy=False) @ c.astype(np.float64, copy=False).T
    return product.astype(np.int64)


def int64_product(x: Whole, c: Whole) -> Int64:
    """Multiply in int64: slower, and exact wherever integers are."""
    return x.astype(np.int64) @ c.astype(np.int64).T


def python_products(x: Whole, c: Whole) -> list[int]:
    """Multiply row by row, (n, D) and (n, D), in Python's integers; returns n inner products."""
    pairs = zip(x.astype(np.int64).tolist(), c.astype(np.int64).tolist(), strict=True)
    return [sum(map(mul, row, other)) for row, other in pairs]


def checked_product(x: Whole, c: Whole, candidates: tuple[Product, ...]) -> Product:
    """Return the first candidate that agrees with integers on 64 fixed rows of x, i n div 64.

    int64 gives the products of these rows with all of c, (P, D), and Python's integers that of the
    i-th row with centroid i mod P: in Python all of them took as long as several updates. Raises
    LocalProtocolError if no candidate agrees: this machine's arithmetic is wrong.
    """
    rows = x[sorted({i * len(x) // _CHECKED_ROWS for i in range(_CHECKED_ROWS)})]
    expected = int64_product(c, rows)
    columns = np.arange(len(rows)) % len(c)
    plain = python_products(c[columns], rows)
    for product in candidates:
        found = product(c, rows)
        if found[columns, np.arange(len(rows))].tolist() == plain and (found == expected).all():
            return product
    raise LocalProtocolError("matrix products on this machine disagree with plain integers")


PRODUCTS: tuple[Product, ...] = (float64_product, int64_product)
"""Fastest first."""


def blocks(rows: int) -> Iterator[slice]:
    """Cut so many rows into blocks, so that a sample is never in memory twice."""
    return (slice(start, start + _BLOCK) for start in range(0, rows, _BLOCK))


def lowest(
    x: Whole, centroids: Int32, bias: Int64, *, scale: int, top: int, product: Product
) -> tuple[Int64, Int64]:
    """Return the `top` best paths of each row and the best score: (n, top), (n,).

    x (n, D), centroids (P, D), bias (P,). Paths come best first, equal scores by lowest path.

    The least of `score 2^b + path`, P at most 2^b, has both in one pass over long rows. A score is
    below 2^53 and P at most 2^10, so that this sum fits in 64 bits.
    """
    bits = (len(centroids) - 1).bit_length()
    wide = centroids.astype(np.int64)
    offsets = np.einsum("pd,pd->p", wide, wide) + bias
    offset_keys = (offsets << bits) + np.arange(len(centroids))
    best = np.empty((top, len(x)), dtype=np.int64)
    for block in blocks(len(x)):
        keys = product(-2 * scale * wide, x[block])
        keys <<= bits
        keys += offset_keys[:, None]
        best[:, block] = keys.min(axis=0) if top == 1 else np.sort(keys, axis=0)[:top]
    return (best & ((1 << bits) - 1)).T, best[0] >> bits


def squared_norms(x: Int32) -> Int64:
    """Return |x_i|^2 of each row, (n,), without a wide copy of x."""
    norms = np.empty(len(x), dtype=np.int64)
    for block in blocks(len(x)):
        wide = x[block].astype(np.int64)
        norms[block] = np.einsum("nd,nd->n", wide, wide)
    return norms
