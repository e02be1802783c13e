"""The encoding of AdamW's moments between rounds: 8 bits each, exact, and their bounds.

A module's moments are two arrays of its elements, m (a mean of gradients) and v (of their squares,
never negative). Both are cut into groups of 128 consecutive elements, the last may be shorter. The
blob of n elements in G = ceil(n / 128) groups has 2G + 2n bytes:

    G bytes  the exponent of m, per group        G bytes  the exponent of v, per group
    n bytes  m, per element                      n bytes  v, per element

An exponent byte k says e = k - 127; that of v is never below -115. A magnitude is a whole number of
units, at most 4 significant bits of it: code c stands for s * 2^shift with shift = max(c // 8, 1)
- 1 and s = c - 8 * shift. m is a sign bit and 7 bits of code, in units of 2^(e - 18); v is 8 bits
of code, in units of 2^(e - 34). So every byte string of that length is an array of finite float32.

m is rounded towards zero and v up, so that rounding makes no step longer. Encoding decoded moments
gives the same bytes. All numbers are powers of two and integers below 2^53: exact, hence the same
on every machine. Source: docs/method.md 2.3 and 6(e).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.run.batches import first_step
from dipaco.protocol.run.training import Adam, Training

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Bytes = NDArray[np.uint8]
T = TypeVar("T", bound=np.generic)

GROUP: Final = 128  # elements that share an exponent
BIAS: Final = 127  # of an exponent byte
LOWEST: Final = -BIAS
LOWEST_SECOND: Final = -115  # 2^(-115 - 34) is the smallest float32
FIRST_BITS: Final = 18  # the largest m of a group has its first bit there
SECOND_BITS: Final = 34
SIGNIFICANT: Final = 4  # bits of a magnitude
SIGN: Final = 0x80
BLOCK: Final = 1 << 13  # groups per block: some ten MB of memory, whatever the module's size
SLACK: Final = 1.001  # of the check, since another libm may round powers another way

SHIFTS = np.maximum(np.arange(256) // 8, 1) - 1
UNITS: Final[Float64] = np.ldexp((np.arange(256) - 8 * SHIFTS).astype(np.float64), SHIFTS)
"""The number of units that each code stands for."""


@dataclass(frozen=True)
class Moments:
    """AdamW's moments of one module."""

    first: Float32
    """m, (elements,)."""
    second: Float32
    """v, (elements,), not negative."""

    @classmethod
    def zeros(cls, elements: int) -> "Moments":
        """Return the moments that AdamW begins with."""
        return cls(np.zeros(elements, np.float32), np.zeros(elements, np.float32))


def moments_bytes(elements: int) -> int:
    """Return the only valid length of the moments of so many elements, in bytes."""
    return 2 * _groups(elements) + 2 * elements


def encode_moments(moments: Moments, adam: Adam, steps: int) -> bytes:
    """Return the bytes of moments after `steps` steps of AdamW, first round to last.

    m is reduced to the bound that the rounded v allows (`largest_ratio`). Raises ValueError for
    moments that AdamW cannot produce: not finite, or a v that is negative or too large.
    """
    _check_finite(moments)
    elements = len(moments.first)
    exponents = np.zeros((2, _groups(elements)), np.uint8)
    codes = np.zeros((2, elements), np.uint8)
    ratio = largest_ratio(adam, steps)
    for groups, part in _blocks(elements):
        second_exponents, second = _encode_second(_grouped(moments.second[part]))
        limit = _limit(ratio, second_exponents, second)
        first_exponents, first = _encode_first(_grouped(moments.first[part]), limit)
        exponents[:, groups] = first_exponents, second_exponents
        for row, found in zip(codes, (first, second), strict=True):
            row[part] = found.reshape(-1)[: len(row[part])]
    return exponents.tobytes() + codes.tobytes()


def decode_moments(data: bytes, elements: int) -> Moments:
    """Return the moments in `data`; raises RemoteProtocolError for any other length."""
    if len(data) != moments_bytes(elements):
        raise RemoteProtocolError(
            f"the moments have {len(data)} bytes, {moments_bytes(elements)} are due"
        )
    raw, groups = np.frombuffer(data, np.uint8), _groups(elements)
    exponents, codes = raw[: 2 * groups].reshape(2, -1), raw[2 * groups :].reshape(2, -1)
    moments = Moments.zeros(elements)
    for group, part in _blocks(elements):
        size = len(codes[0, part])
        first = _decode_first(exponents[0, group], _grouped(codes[0, part]))
        second = _decode_second(exponents[1, group], _grouped(codes[1, part]))
        moments.first[part] = first.reshape(-1)[:size]
        moments.second[part] = second.reshape(-1)[:size]
    return moments


def check_moments(moments: Moments, training: Training, round_: int) -> None:
    """Raise RemoteProtocolError for moments that honest AdamW cannot have after round `round_`.

    |m| <= c sqrt(v), so that the next round's steps keep the bound of method 6(e). v is at most the
    square of the clipped gradient's norm: with a larger v the next round would hardly move.
    """
    adam = training.inner
    ratio = largest_ratio(adam, first_step(training, round_ + 1))
    # Rounding up to 4 significant bits makes at most 9/8 of v.
    largest = moments.second.max(initial=0.0)
    if largest > SLACK * 1.125 * adam.clip**2:
        raise RemoteProtocolError(
            f"the second moment is {largest:.3g}, larger than the square of a clipped gradient"
        )
    excess = np.abs(moments.first) - SLACK * _reach(ratio, moments.second.astype(np.float64))
    worst = int(np.argmax(excess))
    if excess[worst] > 0:
        raise RemoteProtocolError(
            f"element {worst} of the first moment is {moments.first[worst]:.3g}, too large for "
            f"its second moment {moments.second[worst]:.3g}"
        )


def largest_ratio(adam: Adam, steps: int) -> float:
    """Return the most that |m| / sqrt(v) can be after `steps` steps from zero.

    By Cauchy-Schwarz on the two moving averages, c = (1 - b1) sqrt((1 + q + ... + q^(steps - 1))
    / (1 - b2)) with q = b1^2 / b2, which grows to the c of `delta.largest_update`. A step from
    moments within c leads to moments within the next c, and with bias correction every update is
    at most that of `largest_update`. Infinite if q >= 1.
    """
    if adam.beta1**2 >= adam.beta2:
        return math.inf
    q = adam.beta1**2 / adam.beta2
    return (1.0 - adam.beta1) * math.sqrt((1.0 - q**steps) / (1.0 - q) / (1.0 - adam.beta2))


def _groups(elements: int) -> int:
    return -(-elements // GROUP)


def _blocks(elements: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of groups and of their elements."""
    for first in range(0, _groups(elements), BLOCK):
        last = first + BLOCK
        yield slice(first, last), slice(first * GROUP, min(last * GROUP, elements))


def _grouped(values: NDArray[T]) -> NDArray[T]:
    """Cut (n,) into (groups, 128), the last filled up with zeros."""
    padded = np.zeros((_groups(len(values)), GROUP), values.dtype)
    padded.reshape(-1)[: len(values)] = values
    return padded


def _check_finite(moments: Moments) -> None:
    if not (np.isfinite(moments.first).all() and np.isfinite(moments.second).all()):
        raise ValueError("the moments hold NaN or infinity")
    if moments.second.min(initial=0.0) < 0 or moments.second.max(initial=0.0) > 2.0**127:
        raise ValueError("the second moment is negative, or too large for its encoding")


def _encode_second(values: Float32) -> tuple[Bytes, Bytes]:
    """Round (G, 128) up; returns exponent bytes (G,) and codes (G, 128)."""
    fraction, exponent = np.frexp(values.max(axis=1).astype(np.float64))
    exponent = exponent + (fraction > 15 / 16)  # rounds up to the next power of two
    exponent = np.where(fraction > 0, np.maximum(exponent, LOWEST_SECOND), LOWEST_SECOND)
    units = np.ceil(values * _power(SECOND_BITS - exponent))
    shift = _shift(units)
    codes = 8 * shift + np.ceil(np.ldexp(units, -shift))
    return (exponent + BIAS).astype(np.uint8), codes.astype(np.uint8)


def _encode_first(values: Float32, limit: Float64) -> tuple[Bytes, Bytes]:
    """Round (G, 128) towards zero, not above `limit`; as `_encode_second`."""
    sizes = np.minimum(np.abs(values), limit)
    fraction, exponent = np.frexp(sizes.max(axis=1))
    exponent = np.where(fraction > 0, np.maximum(exponent, LOWEST), LOWEST)
    units = np.floor(sizes * _power(FIRST_BITS - exponent))
    shift = _shift(units)
    codes = (8 * shift + np.floor(np.ldexp(units, -shift))).astype(np.uint8)
    codes[(values < 0) & (codes > 0)] |= SIGN
    return (exponent + BIAS).astype(np.uint8), codes


def _shift(units: Float64) -> NDArray[np.int32]:
    """Return the number of bits that whole numbers have beyond the 4 that are kept."""
    length: NDArray[np.int32] = np.frexp(units)[1]
    return np.maximum(length - SIGNIFICANT, 0)


def _decode_second(exponents: Bytes, codes: Bytes) -> Float64:
    exponent = np.maximum(exponents.astype(np.int32) - BIAS, LOWEST_SECOND)
    return UNITS[codes] * _power(exponent - SECOND_BITS)


def _decode_first(exponents: Bytes, codes: Bytes) -> Float64:
    exponent = exponents.astype(np.int32) - BIAS
    sizes: Float64 = UNITS[codes & np.uint8(SIGN - 1)] * _power(exponent - FIRST_BITS)
    np.negative(sizes, out=sizes, where=codes >= SIGN)
    return sizes


def _power(exponents: NDArray[np.int32]) -> Float64:
    """Return 2^exponents as a column, (G, 1)."""
    powers: Float64 = np.ldexp(1.0, exponents)
    return powers.reshape(-1, 1)


def _limit(ratio: float, exponents: Bytes, codes: Bytes) -> Float64:
    return _reach(ratio, _decode_second(exponents, codes))


def _reach(ratio: float, second: Float64) -> Float64:
    """Return the most that |m| can be, element by element; 0 where v is zero."""
    root = np.sqrt(second)
    reach: Float64 = np.where(root > 0, np.inf if math.isinf(ratio) else ratio * root, 0.0)
    return reach
