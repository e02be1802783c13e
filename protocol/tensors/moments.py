"""The encoding of an inner optimizer's moments between rounds: 8 bits each, exact, and bounds.

AdamW has two arrays of the elements that it steps, m (a mean of gradients) and v (of their squares,
never negative); Muon has one of the elements that it steps, its momentum. Each is cut into groups
of 128 consecutive elements, the last may be shorter. n elements make G = ceil(n / 128) groups. The
blob of n elements of AdamW, then p of Muon in H groups, has 2G + 2n + H + p bytes:

    G bytes  the exponent of m, per group        G bytes  the exponent of v, per group
    n bytes  m, per element                      n bytes  v, per element
    H bytes  the exponent of the momentum        p bytes  the momentum, per element

An exponent byte k says e = k - 127; that of v is never below -115. A magnitude is a whole number of
units, at most 4 significant bits of it: code c stands for s * 2^shift with shift = max(c // 8, 1)
- 1 and s = c - 8 * shift. m and the momentum are a sign bit and 7 bits of code, in units of
2^(e - 18); v is 8 bits of code, in units of 2^(e - 34). So every byte string of that length is an
array of finite float32.

All are rounded up or down at random, with the chances that keep their mean: a v that is always
rounded up could not fall by less than a code between two rounds, and would never fall again where
beta2^tau is near 1. The random bits follow from the step and the element alone. Encoding decoded
moments gives the same bytes. All numbers are powers of two and integers below 2^53: exact, hence
the same on every machine. Source: docs/method.md 2.3 and 6(e).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.run.batches import first_step
from dipaco.protocol.run.training import Inner, Training

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]
T = TypeVar("T", bound=np.generic)

GROUP: Final = 128  # elements that share an exponent
BIAS: Final = 127  # of an exponent byte
LOWEST: Final = -BIAS
LOWEST_SECOND: Final = -115  # 2^(-115 - 34) is the smallest float32
FIRST_BITS: Final = 18  # the largest m of a group has its first bit there
SECOND_BITS: Final = 34
LEADING: Final = 49  # the lowest of a double's bits that 4 significant bits keep
LARGEST: Final = 2.0**127
GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64's step between two counters
SIGN: Final = 0x80
BLOCK: Final = 1 << 10  # groups per block: its arrays of 1 MB fit a processor's cache
SLACK: Final = 1.001  # of the check, since another libm may round powers another way

SHIFTS = np.maximum(np.arange(256) // 8, 1) - 1
UNITS: Final[Float64] = np.ldexp((np.arange(256) - 8 * SHIFTS).astype(np.float64), SHIFTS)
"""The number of units that each code stands for."""


@dataclass(frozen=True)
class Moments:
    """The moments of one module."""

    first: Float32
    """AdamW's m, (elements that AdamW steps,)."""
    second: Float32
    """AdamW's v, of the same elements, not negative."""
    momentum: Float32 = field(default_factory=lambda: np.zeros(0, np.float32))
    """Muon's momentum, (elements that Muon steps,)."""

    @classmethod
    def zeros(cls, elements: int, by_muon: int = 0) -> "Moments":
        """Return the moments that training begins with; the arguments are those of `decode`."""
        rest = elements - by_muon
        return cls(*(np.zeros(size, np.float32) for size in (rest, rest, by_muon)))


def moments_bytes(elements: int, by_muon: int = 0) -> int:
    """Return the only valid length of the moments of a module, in bytes.

    elements, by_muon   of the module, and how many of them Muon steps.
    """
    return _adamw_bytes(elements - by_muon) + _groups(by_muon) + by_muon


def _adamw_bytes(elements: int) -> int:
    return 2 * _groups(elements) + 2 * elements


def encode_moments(moments: Moments, inner: Inner, steps: int) -> bytes:
    """Return the bytes of moments after `steps` inner steps, first round to last.

    `steps` also chooses the random bits, so that no element is rounded the same way every round.
    Raises ValueError for moments that training cannot produce: not finite, or a v that is negative
    or too large.
    """
    _check_finite(moments)
    return _encode_adamw(moments, inner, steps) + _encode_momentum(moments.momentum, inner, steps)


def _encode_adamw(moments: Moments, inner: Inner, steps: int) -> bytes:
    """Return the bytes of AdamW's: m is reduced to what the rounded v allows (`largest_ratio`)."""
    elements = len(moments.first)
    exponents = np.zeros((2, _groups(elements)), np.uint8)
    codes = np.zeros((2, elements), np.uint8)
    ratio = largest_ratio(inner, steps)
    for groups, part in _blocks(elements):
        firsts = _grouped(moments.first[part]).astype(np.float64)
        seconds = _grouped(moments.second[part]).astype(np.float64)
        draws = _draws(steps, part.start, len(seconds))
        second_exponents, second = _encode(seconds, np.inf, draws[:2], SECOND_BITS, LOWEST_SECOND)
        reach = _reach(ratio, _decode_second(second_exponents, second))
        first_exponents, first = _encode_signed(firsts, reach, draws[2:])
        exponents[:, groups] = first_exponents, second_exponents
        for row, found in zip(codes, (first, second), strict=True):
            row[part] = found.reshape(-1)[: len(row[part])]
    return exponents.tobytes() + codes.tobytes()


def _encode_momentum(momentum: Float32, inner: Inner, steps: int) -> bytes:
    """Return the bytes of Muon's momentum, whose norm stays within `inner.clip`.

    An honest momentum is a mean of clipped gradients. Where rounding at random would take it above
    the clip, all its elements are rounded towards zero.
    """
    data = _rounded_momentum(momentum, steps, toward_zero=False)
    if _norm(_decode_momentum(data, len(momentum))) > inner.clip:
        data = _rounded_momentum(momentum, steps, toward_zero=True)
    return data


def _rounded_momentum(momentum: Float32, steps: int, *, toward_zero: bool) -> bytes:
    elements = len(momentum)
    exponents, codes = np.zeros(_groups(elements), np.uint8), np.zeros(elements, np.uint8)
    for groups, part in _blocks(elements):
        values = _grouped(momentum[part]).astype(np.float64)
        limit = np.abs(values) if toward_zero else np.inf
        draws = _draws(steps, part.start, len(values))
        exponents[groups], found = _encode_signed(values, limit, draws[2:])
        codes[part] = found.reshape(-1)[: len(codes[part])]
    return exponents.tobytes() + codes.tobytes()


def decode_moments(data: bytes, elements: int, by_muon: int = 0) -> Moments:
    """Return the moments in `data`; raises RemoteProtocolError for any other length.

    elements, by_muon   of the module, and how many of them Muon steps.
    """
    due = moments_bytes(elements, by_muon)
    if len(data) != due:
        raise RemoteProtocolError(f"the moments have {len(data)} bytes, {due} are due")
    rest = elements - by_muon
    raw, groups = np.frombuffer(data, np.uint8, _adamw_bytes(rest)), _groups(rest)
    exponents, codes = raw[: 2 * groups].reshape(2, -1), raw[2 * groups :].reshape(2, -1)
    momentum = _decode_momentum(data[_adamw_bytes(rest) :], by_muon)
    moments = Moments(np.zeros(rest, np.float32), np.zeros(rest, np.float32), momentum)
    for group, part in _blocks(rest):
        size = len(codes[0, part])
        first = _decode_signed(exponents[0, group], _grouped(codes[0, part]))
        second = _decode_second(exponents[1, group], _grouped(codes[1, part]))
        moments.first[part] = first.reshape(-1)[:size]
        moments.second[part] = second.reshape(-1)[:size]
    return moments


def _decode_momentum(data: bytes, elements: int) -> Float32:
    raw, groups = np.frombuffer(data, np.uint8), _groups(elements)
    exponents, codes = raw[:groups], raw[groups:]
    momentum = np.zeros(elements, np.float32)
    for group, part in _blocks(elements):
        found = _decode_signed(exponents[group], _grouped(codes[part]))
        momentum[part] = found.reshape(-1)[: len(codes[part])]
    return momentum


def check_moments(moments: Moments, training: Training, round_: int) -> None:
    """Raise RemoteProtocolError for moments that honest training cannot have after round `round_`.

    |m| <= c sqrt(v), so that the next round's steps keep the bound of method 6(e). v is at most the
    square of the clipped gradient's norm, and the norm of Muon's momentum at most the clip: with
    larger ones the next round would hardly move, or not where its gradients point.
    """
    inner = training.inner
    ratio = largest_ratio(inner, first_step(training, round_ + 1))
    # Rounding up to 4 significant bits makes at most 9/8 of v.
    largest = moments.second.max(initial=0.0)
    if largest > SLACK * 1.125 * inner.clip**2:
        raise RemoteProtocolError(
            f"the second moment is {largest:.3g}, larger than the square of a clipped gradient"
        )
    excess = np.abs(moments.first) - SLACK * _reach(ratio, moments.second.astype(np.float64))
    worst = int(np.argmax(excess)) if len(excess) else 0
    if len(excess) and excess[worst] > 0:
        raise RemoteProtocolError(
            f"element {worst} of the first moment is {moments.first[worst]:.3g}, too large for "
            f"its second moment {moments.second[worst]:.3g}"
        )
    if (norm := _norm(moments.momentum)) > SLACK * inner.clip:
        raise RemoteProtocolError(
            f"the momentum has a norm of {norm:.3g}, more than a clipped gradient"
        )


def largest_ratio(adam: Inner, steps: int) -> float:
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
    arrays = (moments.first, moments.second, moments.momentum)
    if not all(np.isfinite(each).all() for each in arrays):
        raise ValueError("the moments hold NaN or infinity")
    if moments.second.min(initial=0.0) < 0:
        raise ValueError("the second moment is negative")
    if max(np.abs(each).max(initial=0.0) for each in arrays) > LARGEST:
        raise ValueError("a moment is too large for its encoding")


def _draws(steps: int, start: int, groups: int) -> Words:
    """Return random numbers below 2^16 for the elements from `start` on, (4, groups, 128).

    Each is a quarter of a word of SplitMix64 (Steele, Lea and Flood 2014), whose counter is the
    element and whose seed is the step.
    """
    counter = np.arange(start + 1, start + 1 + groups * GROUP, dtype=np.uint64)
    words = _mix(counter * GOLDEN + _mix(np.array([steps], np.uint64))).reshape(groups, GROUP)
    return np.stack([(words >> np.uint64(16 * k)) & np.uint64(0xFFFF) for k in range(4)])


def _mix(words: Words) -> Words:
    """Return each word as SplitMix64 mixes it."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _encode(
    sizes: Float64, limit: Float64 | float, draws: Words, bits: int, lowest: int
) -> tuple[Bytes, Bytes]:
    """Round magnitudes (G, 128) to codes, none above `limit`; returns exponents (G,) and codes.

    They are rounded to 4 significant bits, and then to units of 2^(exponent - bits), which
    changes small ones alone.
    """
    kept = _significant(np.minimum(sizes, limit), limit, draws[0])
    fraction, exponent = np.frexp(kept.max(axis=1))
    exponent = np.where(fraction > 0, np.maximum(exponent, lowest), lowest)
    power = _power(bits - exponent)
    units = kept * power
    small = np.floor(units + (draws[1] + 0.5) * 2.0**-16)
    small = np.where(small <= limit * power, small, np.floor(units))
    # A double of 2^k (1 + j / 8) has the leading bits 8 (1023 + k) + j, and the code 8 (k - 2) + j.
    large = (units.view(np.int64) >> LEADING) - 8 * (1023 + 2)
    codes = np.where(large >= 8, large, small)
    return (exponent + BIAS).astype(np.uint8), codes.astype(np.uint8)


def _encode_signed(values: Float64, limit: Float64 | float, draws: Words) -> tuple[Bytes, Bytes]:
    """Round values (G, 128) to a sign and 7 bits of code, none beyond `limit`."""
    exponents, codes = _encode(np.abs(values), limit, draws, FIRST_BITS, LOWEST)
    codes[(values < 0) & (codes > 0)] |= SIGN
    return exponents, codes


def _significant(sizes: Float64, limit: Float64 | float, draws: Words) -> Float64:
    """Round to 4 significant bits, up with the chance of the fraction, but never above `limit`.

    The bits of a positive double grow with it, so a draw is added below those that are kept.
    """
    raw = sizes.view(np.uint64)
    below = (draws << np.uint64(LEADING - 16)) + np.uint64(1 << (LEADING - 17))
    kept = ~np.uint64((1 << LEADING) - 1)
    rounded: Float64 = ((raw + below) & kept).view(np.float64)
    return np.where(rounded <= limit, rounded, (raw & kept).view(np.float64))


def _decode_second(exponents: Bytes, codes: Bytes) -> Float64:
    exponent = np.maximum(exponents.astype(np.int32) - BIAS, LOWEST_SECOND)
    return UNITS[codes] * _power(exponent - SECOND_BITS)


def _decode_signed(exponents: Bytes, codes: Bytes) -> Float64:
    exponent = exponents.astype(np.int32) - BIAS
    sizes: Float64 = UNITS[codes & np.uint8(SIGN - 1)] * _power(exponent - FIRST_BITS)
    np.negative(sizes, out=sizes, where=codes >= SIGN)
    return sizes


def _power(exponents: NDArray[np.int32]) -> Float64:
    """Return 2^exponents as a column, (G, 1)."""
    powers: Float64 = np.ldexp(1.0, exponents)
    return powers.reshape(-1, 1)


def _reach(ratio: float, second: Float64) -> Float64:
    """Return the most that |m| can be, element by element; 0 where v is zero."""
    root = np.sqrt(second)
    reach: Float64 = np.where(root > 0, np.inf if math.isinf(ratio) else ratio * root, 0.0)
    return reach


def _norm(values: Float32) -> float:
    squares = (np.square(values[part], dtype=np.float64).sum() for _, part in _blocks(len(values)))
    return math.sqrt(math.fsum(squares))
