"""Pseudo-gradients on the wire: encodings of flat float32 arrays, and the bounds of honest ones.

    f32          little-endian float32, as it is
    bf16         its upper 16 bits, rounded to the nearest, ties to even; little-endian
    int8, int4   integers times a power of two per 128 elements (`block_float`)
    int2         four values per 128 elements (`two_bits`)
    topk         one of 64 elements, the others are 0 (`top_k`)

The bytes are a function of the array alone, so a lease can be repeated. To add an encoding, add a
name in the manifest, and a length and a pair of functions here.
Sources: docs/method.md 6(e) and 7.1.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.run.batches import learning_rate
from dipaco.protocol.run.training import Training
from dipaco.protocol.tensors import top_k, two_bits
from dipaco.protocol.tensors.block_float import Bits, pack, packed_bytes, steps, unpack

Float32 = NDArray[np.float32]
Encoding = Literal["f32", "bf16", "int8", "int4", "int2", "topk"]

BYTES_PER_ELEMENT: dict[Encoding, int] = {"f32": 4, "bf16": 2}
BITS: dict[Encoding, Bits] = {"int8": 8, "int4": 4}
LARGEST = float(np.finfo(np.float32).max)
BOUND_SLACK = 1.05  # for rounding: that of the arithmetic, and that to bf16


def encoded_bytes(encoding: Encoding, elements: int) -> int:
    """Return the only valid length of a delta of so many elements, in bytes."""
    if encoding in BITS:
        return packed_bytes(BITS[encoding], elements)
    if encoding == "int2":
        return two_bits.packed_bytes(elements)
    if encoding == "topk":
        return top_k.packed_bytes(elements)
    return BYTES_PER_ELEMENT[encoding] * elements


def encode_delta(delta: Float32, encoding: Encoding) -> bytes:
    """Return the bytes of a flat `delta`; raises ValueError if they would not be finite."""
    if encoding in BITS:
        return pack(delta, BITS[encoding])
    if encoding == "int2":
        return two_bits.pack(delta)
    if encoding == "topk":
        return top_k.pack(delta)
    stored = np.ascontiguousarray(delta, dtype="<f4") if encoding == "f32" else _to_bf16(delta)
    if not np.isfinite(_from_bytes(stored.tobytes(), encoding)).all():
        raise ValueError("the delta holds NaN, or values too large for its encoding")
    return stored.tobytes()


def decode_delta(data: bytes, encoding: Encoding, elements: int) -> Float32:
    """Return the flat float32 delta in `data`, (elements,).

    Raises RemoteProtocolError for any other length, for NaN or infinity, and for bytes that
    `encode_delta` never makes.
    """
    if encoding in BITS:
        return unpack(data, BITS[encoding], elements)
    if encoding == "int2":
        return two_bits.unpack(data, elements)
    if encoding == "topk":
        return top_k.unpack(data, elements)
    expected = encoded_bytes(encoding, elements)
    if len(data) != expected:
        raise RemoteProtocolError(f"the delta has {len(data)} bytes, {expected} are due")
    delta = _from_bytes(data, encoding)
    if not np.isfinite(delta).all():
        raise RemoteProtocolError("the delta holds NaN or infinity")
    return delta


def rounding(data: bytes, encoding: Encoding, elements: int) -> Float32 | None:
    """Return the most by which encoding enlarged each element of the delta in `data`, (elements,).

    It is half a step of the element's group; None for f32 and bf16, where it is a small share of
    the element itself, which `BOUND_SLACK` covers. `data` must have been decoded before.
    """
    if encoding == "int2":
        return np.float32(0.5) * two_bits.steps(data, elements)
    if encoding == "topk":
        return np.float32(0.5) * top_k.steps(data, elements)
    if encoding not in BITS:
        return None
    return np.float32(0.5) * steps(data, BITS[encoding], elements)


def check_bound(
    delta: Float32,
    state: Float32,
    training: Training,
    steps: range,
    *,
    rounded: Float32 | None = None,
) -> None:
    """Raise RemoteProtocolError if an element moved further than honest AdamW can move it.

    delta, state   (elements,) each: the change, and the state that it starts from.
    steps          that were taken, counted from the first of the seed phase: they set the learning
                   rates. Without a step every element must be 0.
    rounded        (elements,): the result of `rounding`.
    Source: docs/method.md 6(e), without its bound on norms.
    """
    check_elements(delta, state, adamw_reach(training, steps), rounded=rounded)


@dataclass(frozen=True, kw_only=True)
class Reach:
    """The most that steps of one optimizer can move an element."""

    by: str
    """The optimizer."""
    steps: int
    rates: float
    """The sum of the steps' learning rates."""
    per_rate: float
    """The most by which one step moves it, in learning rates and without decay."""
    decay: float
    """The weight decay."""

    @property
    def drift(self) -> float:
        """The share of its size at the start that decay moves."""
        return BOUND_SLACK * self.rates * self.decay

    @property
    def stride(self) -> float:
        """The rest, which does not depend on its size at the start."""
        grown = self.rates * self.per_rate * (1.0 + self.decay * self.rates)
        return min(BOUND_SLACK * grown, LARGEST)


def adamw_reach(training: Training, steps: range) -> Reach:
    """Return the most that such AdamW steps can move an element."""
    adam = training.inner
    return Reach(
        by="AdamW",
        steps=len(steps),
        rates=math.fsum(learning_rate(training, step) for step in steps),
        # The gradient is clipped, and its mean is divided by eps at least.
        per_rate=min(largest_update(adam.beta1, adam.beta2), adam.clip / adam.eps),
        decay=adam.weight_decay,
    )


def check_elements(
    delta: Float32, state: Float32, reach: Reach, *, first: int = 0, rounded: Float32 | None = None
) -> None:
    """Raise RemoteProtocolError if an element moved further than `reach`.

    delta, state, rounded   those of `check_bound`, or a part of them from element `first` on.
    """
    with np.errstate(over="ignore"):  # an infinite limit is above every delta
        limit = np.abs(state) * np.float32(reach.drift) + np.float32(reach.stride)
    if rounded is not None:
        limit += rounded
    excess = np.abs(delta) - limit
    worst = int(np.argmax(excess))
    if excess[worst] > 0:
        raise RemoteProtocolError(
            f"element {first + worst} of the delta is {delta[worst]:.3g}, "
            f"{reach.by} can move it by {limit[worst]:.3g} in {reach.steps} steps"
        )


def largest_update(beta1: float, beta2: float) -> float:
    """Return the most by which one AdamW step moves an element, in learning rates.

    c = (1 - b1) / sqrt((1 - b2)(1 - b1^2 / b2)), by Cauchy-Schwarz on the two moving averages;
    bias correction only makes it smaller. Infinite if b1^2 >= b2, where there is no such bound.
    """
    if beta1 * beta1 >= beta2:
        return math.inf
    return (1.0 - beta1) / math.sqrt((1.0 - beta2) * (1.0 - beta1 * beta1 / beta2))


def _to_bf16(values: Float32) -> NDArray[np.uint16]:
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    rounding = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    rounded = (bits + rounding) >> np.uint32(16)
    special = (bits & np.uint32(0x7F800000)) == np.uint32(0x7F800000)  # NaN must not wrap to 0
    return np.where(special, (bits >> np.uint32(16)) | np.uint32(1), rounded).astype("<u2")


def _from_bytes(data: bytes, encoding: Encoding) -> Float32:
    if encoding == "f32":
        return np.frombuffer(data, dtype="<f4").astype(np.float32)
    bits = np.frombuffer(data, dtype="<u2").astype(np.uint32) << np.uint32(16)
    return bits.view(np.float32)
