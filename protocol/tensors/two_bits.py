"""Flat float32 arrays in 2 bits an element: the odd multiples -3, -1, 1, 3 of a power of two.

128 consecutive elements share an exponent k; an element is q * 2^k, and neighbouring values are a
step of s = 2^(k+1) apart. s is the least power of two that is at least 7/8 of the group's mean
|v|, but never above its largest |v|: close to the spacing of least square error for four values of
normal elements, 1.25 of the mean (Max, Quantizing for Minimum Distortion, 1960). q has the sign of
v (that of 0 is positive), and |q| = 3 where |v| >= s. So packing raises |v| by at most s / 2.

Layout: every group's k as an int8, then (q + 3) / 2 of every element in 2 bits, the lowest first.
k is -128 for a group of zeros, and all its bits are 0. Different bytes unpack to different arrays.
k follows from exact integers and q from comparisons, so all nodes pack and unpack the same.

Source: docs/method.md 7.3.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.tensors.block_float import GROUP, SMALLEST, Float32

ZEROS: Final = -128  # the k of a group of zeros
LEAST: Final = -108  # of a group whose one element is 2^-100: s is above 7/8 * 2^-100 / 128
MOST: Final = 126  # s is at most 2^127, the largest power of two in float32
SHIFTS: Final = np.array([0, 2, 4, 6], np.uint8)  # of a byte's four codes
SLICE: Final = 1 << 19  # elements per slice, a multiple of GROUP: they fit a processor's cache


def packed_bytes(elements: int) -> int:
    """Return the only valid length of so many packed elements, in bytes."""
    return -(-elements // GROUP) + -(-elements // 4)


def pack(values: Float32) -> bytes:
    """Return the packed form of flat `values`; raises ValueError for NaN and infinity."""
    if not np.isfinite(values).all():
        raise ValueError("the values hold NaN or infinity")
    exponents, codes = bytearray(), bytearray()
    for start in range(0, values.size, SLICE):
        part = values[start : start + SLICE]
        grouped = np.zeros((-(-part.size // GROUP), GROUP), np.float32)
        grouped.reshape(-1)[: part.size] = part
        k = _exponents(np.abs(grouped), part.size)
        exponents += k.tobytes()
        codes += _bits(_codes(grouped, k).reshape(-1)[: part.size])
    return bytes(exponents + codes)


def unpack(data: bytes, elements: int) -> Float32:
    """Return the values in `data`, (elements,), all finite.

    Raises RemoteProtocolError for another length, and for bytes that `pack` never makes.
    """
    if len(data) != packed_bytes(elements):
        raise RemoteProtocolError(f"{len(data)} bytes where {packed_bytes(elements)} are due")
    if elements % 4 and data[-1] >> 2 * (elements % 4):
        raise RemoteProtocolError("the bits past the last element are not 0")
    k = _k_of(data, elements)
    values = np.empty(elements, np.float32)
    for start in range(0, elements, SLICE):
        part = values[start : start + SLICE]
        codes = _codes_of(data, elements, start, part.size)
        here = k[start // GROUP : start // GROUP + len(codes)]
        _check(here, codes, start, part.size)
        # A group of zeros has the factor 0, and every other one a normal power of two.
        power = np.where(here == ZEROS, np.float32(0), _power(here))
        q = 2 * codes.astype(np.float32) - 3
        part[:] = (q * power[:, None]).reshape(-1)[: part.size] + np.float32(0)  # no -0
    return values


def steps(data: bytes, elements: int) -> Float32:
    """Return the step s of every element, (elements,), 0 for a group of zeros.

    Packing raised |v| by at most half of it. `data` must have been unpacked before.
    """
    k = _k_of(data, elements)
    step = np.where(k == ZEROS, np.float32(0), 2 * _power(np.maximum(k, LEAST)))
    return np.repeat(step, GROUP)[:elements]


def _exponents(sizes: Float32, elements: int) -> NDArray[np.int8]:
    """Return k of each group of |v|, (groups, GROUP); only `elements` of them are no filling."""
    largest = sizes.max(axis=1)
    _, top = np.frexp(largest)  # largest < 2^top
    # In units of 2^(top - 24) every |v| is below 2^24: their integer parts have exact sums.
    units = np.floor(np.ldexp(sizes.astype(np.float64), 24 - top[:, None]))
    count = np.full(len(sizes), GROUP)
    count[-1] = elements - GROUP * (len(sizes) - 1)
    fraction, above = np.frexp(7 * units.sum(axis=1) / (8 * count))
    least = top - 24 + above - (fraction == 0.5)  # the least power of two not below
    k = np.minimum(least, top - 1) - 1
    return np.where(largest < SMALLEST, ZEROS, k).astype(np.int8)


def _codes(grouped: Float32, k: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Return (q + 3) / 2 of every element, 0 in groups of zeros."""
    step = 2 * _power(np.maximum(k, LEAST))[:, None]
    codes = (grouped > -step).astype(np.uint8) + (grouped >= 0) + (grouped >= step)
    codes[k == ZEROS] = 0
    return codes.astype(np.uint8)


def _bits(codes: NDArray[np.uint8]) -> bytes:
    padded = np.zeros(-(-codes.size // 4) * 4, np.uint8)
    padded[: codes.size] = codes
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(padded.reshape(-1, 4) << SHIFTS, axis=1)
    return packed.tobytes()


def _k_of(data: bytes, elements: int) -> NDArray[np.int8]:
    return np.frombuffer(data, np.int8, -(-elements // GROUP))


def _codes_of(data: bytes, elements: int, start: int, size: int) -> NDArray[np.uint8]:
    """Return the codes of `size` elements from `start` on, (groups, GROUP), filled up with 0."""
    first = -(-elements // GROUP) + start // 4
    coded = np.frombuffer(data, np.uint8, -(-size // 4), first)
    codes = np.zeros((-(-size // GROUP), GROUP), np.uint8)
    four = coded[:, None] >> SHIFTS & np.uint8(3)
    codes.reshape(-1)[:size] = four.reshape(-1)[:size]
    return codes


def _power(k: NDArray[np.int8]) -> Float32:
    return np.ldexp(np.float32(1), k.astype(np.int32))


def _check(k: NDArray[np.int8], codes: NDArray[np.uint8], start: int, elements: int) -> None:
    """Raise RemoteProtocolError for a group that `pack` does not make."""
    outer = codes == 3
    outer.reshape(-1)[:elements] |= codes.reshape(-1)[:elements] == 0  # the filling is 0, too
    right = (k >= LEAST) & (k <= MOST) & outer.any(axis=1)
    wrong = ~(right | ((k == ZEROS) & ~codes.any(axis=1)))
    if wrong.any():
        group = start // GROUP + int(np.argmax(wrong))
        raise RemoteProtocolError(f"group {group} is one that no array is packed to")
