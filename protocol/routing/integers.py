"""Exact integer primitives of the router: rounding division, square root, drawing.

Owns no state but a `Draw`'s counter. No library's random generator is used: NumPy promises its
streams for the same build only. Source: docs/method.md, 4.1.
"""

import math

import numpy as np
import numpy.typing as npt

from dipaco.protocol.wire.digest import tagged, u64

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

_WORDS = 1 << 64  # values that one draw can take


def rdiv(a: int, b: int) -> int:
    """Return a/b rounded to the nearest integer, halves up; b > 0."""
    if b <= 0:
        raise ValueError(f"the divisor {b} is not positive")
    return (2 * a + b) // (2 * b)


def rdiv_array(a: Int64, b: Int64 | int) -> Int64:
    """Return `rdiv` of each element; the caller keeps 2|a| + b below 2^63, b > 0."""
    if np.any(np.less_equal(b, 0)):
        raise ValueError("a divisor is not positive")
    quotient: Int64 = np.floor_divide(2 * a + b, 2 * np.asarray(b, dtype=np.int64))
    return quotient


def rdiv_float64(a: Int64, b: Int64) -> npt.NDArray[np.float64]:
    """Return `rdiv` of each element, whole numbers in float64, several times as fast.

    Raises ValueError unless b > 0 and 2|a| + b stays below 2^52. Then the floor of the rounded
    quotient is that of the exact one: a quotient that is not whole lies at least 1/(2b) below the
    next whole number, and rounding moves it by less.
    """
    numerator, divisor = 2 * a + b, 2 * b
    if numerator.size:
        reach = max(int(numerator.max()), -int(numerator.min()))
        if int(divisor.min()) <= 0 or reach >= 1 << 52 or int(divisor.max()) >= 1 << 52:
            raise ValueError("rdiv_float64 takes 2|a| + b below 2^52, and b > 0")
    quotient: npt.NDArray[np.float64] = np.floor(np.true_divide(numerator, divisor))
    return quotient


def isqrt(value: int) -> int:
    """Return the exact floor of the square root."""
    return math.isqrt(value)


def isqrt_array(values: Int64) -> Int64:
    """Return `isqrt` of each element; raises ValueError outside 0 to 2^52.

    In that range a float64 square root is off by less than one; one step either way corrects it.
    """
    if values.size and (values.min() < 0 or values.max() >= 1 << 52):
        raise ValueError("isqrt_array takes integers from 0 to 2^52")
    root = np.sqrt(values.astype(np.float64)).astype(np.int64)
    root -= root * root > values
    root += (root + 1) * (root + 1) <= values
    return root


def bit_lengths(values: Int64) -> Int64:
    """Return `int.bit_length` of each element, from 0 to 2^53."""
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)


class Draw:
    """Unbiased integers from a seed: SHA-256 in counter mode, with rejection."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._counter = 0

    def word(self) -> int:
        """Return the next 64 bits."""
        digest = tagged("dipaco/1/draw", self._seed, u64(self._counter))
        self._counter += 1
        return int.from_bytes(digest[:8], "little")

    def below(self, m: int) -> int:
        """Return an integer in 0 to m - 1, all equally likely; 1 <= m <= 2^64."""
        if not 1 <= m <= _WORDS:
            raise ValueError(f"cannot draw below {m}")
        limit = _WORDS - _WORDS % m
        while (word := self.word()) >= limit:
            pass
        return word % m
