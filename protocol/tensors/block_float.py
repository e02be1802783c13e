"""Flat float32 arrays as small integers times powers of two: 4 or 8 bits an element.

128 consecutive elements share an exponent k; an element is q * 2^k with |q| <= 7 or 127, rounded
to the nearest, ties to even. Layout: every group's k as an int8, then every element's q; a q of 4
bits is stored as q + 8, the low half of a byte first. k follows from the group's largest element,
so an array has one packed form, and other bytes are refused. Multiplying by a power of two is
exact, so all nodes unpack the same values.

Source: docs/method.md 7.3.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dipaco.protocol.errors import RemoteProtocolError

Float32 = NDArray[np.float32]
Bits = Literal[4, 8]

GROUP = 128  # elements that share an exponent
SMALLEST = 2.0**-100  # a group below it is packed as zeros, so that no step is subnormal
SLICE = 1 << 19  # elements per slice, a multiple of GROUP: they fit a processor's cache


def packed_bytes(bits: Bits, elements: int) -> int:
    """Return the only valid length of so many packed elements, in bytes."""
    return _groups(elements) + -(-elements * bits // 8)


def pack(values: Float32, bits: Bits) -> bytes:
    """Return the packed form of flat `values`; raises ValueError if it would not be finite."""
    exponents, codes = [], []
    for start in range(0, values.size, SLICE):
        grouped = _in_groups(values[start : start + SLICE])
        k = _exponents(np.abs(grouped).max(axis=1), bits)
        exponents.append(k)
        codes.append(np.rint(grouped * _power(-k)).astype(np.int8).reshape(-1))
    if not exponents:
        return b""
    q = np.concatenate(codes)[: values.size]
    return np.concatenate(exponents).tobytes() + (_nibbles(q) if bits == 4 else q.tobytes())


def unpack(data: bytes, bits: Bits, elements: int) -> Float32:
    """Return the values in `data`, (elements,), all finite.

    Raises RemoteProtocolError for another length, and for bytes that `pack` never makes.
    """
    _check_length(data, bits, elements)
    values = np.empty(elements, dtype=np.float32)
    for start, k, q in _slices(data, bits, elements):
        _check(k, q, bits, start)
        part = values[start : start + SLICE]
        part[:] = (q * _power(k)).reshape(-1)[: part.size]
    return values


def steps(data: bytes, bits: Bits, elements: int) -> Float32:
    """Return the step of every element, (elements,): 2^k of its group, 0 for a group of zeros.

    Packing moved an element by at most half its step. `data` must have been unpacked before, which
    checks it.
    """
    values = np.empty(elements, dtype=np.float32)
    for start, k, q in _slices(data, bits, elements):
        part = values[start : start + SLICE]
        step = np.where(q.any(axis=1, keepdims=True), _power(k), np.float32(0))
        part[:] = np.repeat(step, GROUP)[: part.size]
    return values


def _groups(elements: int) -> int:
    return -(-elements // GROUP)


def _in_groups(values: Float32) -> Float32:
    """Return the values as (groups, GROUP), the last group filled up with zeros."""
    missing = -values.size % GROUP
    if missing:
        values = np.concatenate([values, np.zeros(missing, dtype=np.float32)])
    return values.reshape(-1, GROUP)


def _exponents(largest: Float32, bits: Bits) -> NDArray[np.int8]:
    """Return the least k of each group with `largest` <= (2^(bits-1) - 1) * 2^k; 0 for zeros."""
    fraction, exponent = np.frexp(largest)
    fits = fraction <= (2 ** (bits - 1) - 1) / 2 ** (bits - 1)
    k = exponent - np.where(fits, bits - 1, bits - 2)
    if not np.isfinite(largest).all() or (k > _most(bits)).any():
        raise ValueError("the values hold NaN, or are too large for their encoding")
    # A k of 0 makes every q of such a group 0: its elements are below half a step of 1.
    return np.where(largest < SMALLEST, 0, k).astype(np.int8)


def _least(bits: Bits) -> int:
    return -98 - bits  # the k of a group whose largest element is `SMALLEST`


def _most(bits: Bits) -> int:
    return 129 - bits  # with one more, even the least q of a largest element exceeds float32


def _power(k: NDArray[np.int8]) -> Float32:
    """Return 2^k, shape (groups, 1): exact, since every k is in float32's normal range."""
    return np.ldexp(np.float32(1), k.astype(np.int32))[:, None]


def _nibbles(q: NDArray[np.int8]) -> bytes:
    codes = (q + np.int8(8)).view(np.uint8)
    if codes.size % 2:
        codes = np.append(codes, np.uint8(8))
    packed: NDArray[np.uint8] = codes[0::2] | (codes[1::2] << np.uint8(4))
    return packed.tobytes()


def _slices(
    data: bytes, bits: Bits, elements: int
) -> Iterator[tuple[int, NDArray[np.int8], NDArray[np.int8]]]:
    """Yield the first element's index, k (groups,) and q (groups, GROUP) of each slice."""
    groups = _groups(elements)
    exponents = np.frombuffer(data, dtype=np.int8, count=groups)
    for start in range(0, elements, SLICE):
        size = min(SLICE, elements - start)
        first, length = groups + start * bits // 8, -(-size * bits // 8)
        coded = np.frombuffer(data, dtype=np.uint8, offset=first, count=length)
        q = np.zeros(GROUP * _groups(size), dtype=np.int8)
        if bits == 8:
            q[:size] = coded.view(np.int8)
        else:
            q[0 : 2 * length : 2] = (coded & np.uint8(15)).view(np.int8) - np.int8(8)
            q[1 : 2 * length : 2] = (coded >> np.uint8(4)).view(np.int8) - np.int8(8)
        k = exponents[start // GROUP : start // GROUP + _groups(size)]
        yield start, k, q.reshape(-1, GROUP)


def _check_length(data: bytes, bits: Bits, elements: int) -> None:
    due = packed_bytes(bits, elements)
    if len(data) != due:
        raise RemoteProtocolError(f"{len(data)} bytes where {due} are due")
    if bits == 4 and elements % 2 and data[-1] >> 4 != 8:
        raise RemoteProtocolError("the half byte past the last element is not that of 0")


def _check(k: NDArray[np.int8], q: NDArray[np.int8], bits: Bits, start: int) -> None:
    """Raise RemoteProtocolError for a group that `pack` does not make."""
    largest = np.maximum(q.max(axis=1).astype(np.int16), -q.min(axis=1).astype(np.int16))
    scaled = (largest >= 2 ** (bits - 2)) & (largest < 2 ** (bits - 1))
    right = scaled & (k >= _least(bits)) & (k <= _most(bits))
    wrong = ~(right | ((largest == 0) & (k == 0)))
    if wrong.any():
        group = start // GROUP + int(np.argmax(wrong))
        raise RemoteProtocolError(f"group {group} is not in its one packed form")
