"""Sparse pseudo-gradients: of every 4,096 elements the 64 largest, each in 16 bits.

A chunk is 4,096 consecutive elements, the last may be shorter. Of a chunk of n elements the max(1,
n // 64) with the largest |v| are kept, of equal ones those of lower index. The kept values of all
chunks, in ascending order of their elements, are packed as 4 bits (`block_float`); so 128 of them
share an exponent, and an element takes 0.2515 bits. The others become 0; their maker keeps them
for its next round (docs/method.md 7.1).

Layout: the index within its chunk of every kept element in 12 bits, the lowest bits first; then the
packed values. Indices ascend within a chunk. All of it is comparisons and integers, so all nodes
pack and unpack the same.

Source: SparseLoCo, 2508.15706.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.tensors import block_float
from dipaco.protocol.tensors.block_float import Float32

CHUNK: Final = 4096  # elements, so that an index has 12 bits
SHARE: Final = 64  # one of so many is kept: 1.5 %
BITS: Final = 4  # of a value
CHUNKS: Final = 1 << 7  # per slice: its arrays of 2 MB fit a processor's cache

Indices = NDArray[np.int64]


def kept(elements: int) -> int:
    """Return how many of so many elements are kept."""
    whole, rest = divmod(elements, CHUNK)
    return whole * (CHUNK // SHARE) + (max(1, rest // SHARE) if rest else 0)


def packed_bytes(elements: int) -> int:
    """Return the only valid length of so many elements, in bytes."""
    count = kept(elements)
    return -(-count * 12 // 8) + block_float.packed_bytes(BITS, count)


def pack(values: Float32) -> bytes:
    """Return the packed form of flat `values`; raises ValueError if it would not be finite."""
    if not np.isfinite(values).all():
        raise ValueError("the values hold NaN or infinity")
    chosen = [
        _chosen(values[start : start + CHUNKS * CHUNK]) + start
        for start in range(0, values.size, CHUNKS * CHUNK)
    ]
    if not chosen:
        return b""
    indices = np.concatenate(chosen)
    return _twelve_bits(indices % CHUNK) + block_float.pack(values[indices], BITS)


def unpack(data: bytes, elements: int) -> Float32:
    """Return the values in `data`, (elements,), all finite, 0 where none was kept.

    Raises RemoteProtocolError for another length, and for bytes that `pack` never makes.
    """
    return _scattered(data, elements, block_float.unpack(*_parts(data, elements)))


def steps(data: bytes, elements: int) -> Float32:
    """Return the step of every element, (elements,), 0 where none was kept.

    Packing moved a kept element by at most half its step. `data` must have been unpacked before.
    """
    return _scattered(data, elements, block_float.steps(*_parts(data, elements)))


def _chosen(values: Float32) -> Indices:
    """Return the ascending indices of the elements to keep, chunk by chunk."""
    whole = values.size // CHUNK * CHUNK
    parts = [_largest(values[:whole].reshape(-1, CHUNK), CHUNK // SHARE)] if whole else []
    if whole < values.size:
        rest = values[whole:].reshape(1, -1)
        parts.append(_largest(rest, max(1, rest.size // SHARE)) + whole)
    return np.concatenate(parts)


def _largest(chunks: Float32, count: int) -> Indices:
    """Return the flat indices of the `count` largest |v| of every row, ascending."""
    sizes = np.abs(chunks)
    least = -np.partition(-sizes, count - 1, axis=1)[:, count - 1 : count]
    above, equal = sizes > least, sizes == least
    missing = count - above.sum(axis=1, keepdims=True)
    return np.flatnonzero(above | (equal & (np.cumsum(equal, axis=1) <= missing)))


def _twelve_bits(indices: Indices) -> bytes:
    bits = np.unpackbits(
        indices.astype("<u2").view(np.uint8).reshape(-1, 2), axis=1, bitorder="little"
    )
    return np.packbits(bits[:, :12].reshape(-1), bitorder="little").tobytes()


def _parts(data: bytes, elements: int) -> tuple[bytes, block_float.Bits, int]:
    """Return the packed values of `data`, with the other arguments that unpack them."""
    if len(data) != packed_bytes(elements):
        raise RemoteProtocolError(f"{len(data)} bytes where {packed_bytes(elements)} are due")
    count = kept(elements)
    return data[-(-count * 12 // 8) :], BITS, count


def _scattered(data: bytes, elements: int, found: Float32) -> Float32:
    values = np.zeros(elements, np.float32)
    values[_indices(data, elements)] = found
    return values


def _indices(data: bytes, elements: int) -> Indices:
    """Return the indices of the kept elements; raises RemoteProtocolError for impossible ones."""
    count = kept(elements)
    raw = np.frombuffer(data, np.uint8, -(-count * 12 // 8))
    bits = np.unpackbits(raw, bitorder="little")
    if bits[count * 12 :].any():
        raise RemoteProtocolError("the bits past the last index are not 0")
    padded = np.zeros((count, 16), np.uint8)
    padded[:, :12] = bits[: count * 12].reshape(count, 12)
    within = np.packbits(padded, axis=1, bitorder="little").reshape(-1).view("<u2")
    chunk = np.arange(count) // (CHUNK // SHARE)
    indices: Indices = chunk * CHUNK + within
    if (np.diff(indices) <= 0).any() or (count and indices[-1] >= elements):
        raise RemoteProtocolError("the indices do not ascend, or one is past the last element")
    return indices
