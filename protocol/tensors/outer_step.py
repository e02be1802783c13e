"""The outer step of one module: element-wise float32, so that all nodes get the same bytes.

Source: docs/method.md section 2, lines 13 to 17 (DiPaCo, 2403.10616, Algorithm 1). It uses only
NumPy's element-wise functions, one operation at a time, contributions in path order: a fused
multiply-add, a matrix product or a sum in another order would give other bits.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dipaco.protocol.run.training import Nesterov
from dipaco.protocol.tensors.block_float import Bits, pack, unpack

Float32 = NDArray[np.float32]


def outer_step(
    state: Float32,
    momentum: Float32 | None,
    weights: Sequence[int],
    deltas: Iterable[Float32],
    outer: Nesterov,
) -> tuple[Float32, Float32]:
    """Return the next version's state and momentum, where updates are not quantised."""
    before = np.zeros_like(state) if momentum is None else momentum
    update, after = outer_update(before, weights, deltas, outer)
    return state - update, after


def outer_update(
    momentum: Float32, weights: Sequence[int], deltas: Iterable[Float32], outer: Nesterov
) -> tuple[Float32, Float32]:
    """Return U, the update that is subtracted from a module's state, and the momentum after it.

    momentum   (elements,), zeros before the first step.
    weights    n_p of every contributing path, ascending by path; not used where the manifest
               weighs all paths alike.
    deltas     their pseudo-gradients (elements,), the state minus the state after the inner steps,
               in the same order; read one at a time, so that only one is in memory.
    """
    shares = weights if outer.weights == "tokens" else [1] * len(weights)
    gradient = combine(shares, deltas, np.zeros_like(momentum))
    if outer.rescale == "sqrt":  # restores the norm that averaging takes away
        gradient = np.float32(math.sqrt(len(weights))) * gradient
    decay, rate = np.float32(outer.momentum), np.float32(outer.lr)
    after = decay * momentum + gradient
    return rate * (gradient + decay * after), after


def quantise(update: Float32, residual: Float32, bits: Bits) -> tuple[bytes, Float32]:
    """Return the packed form of `update` + `residual`, and the rest, which is the next residual.

    So no part of an update is lost; it is applied later (docs/method.md 7.2). `residual` is zeros
    before the first step.
    """
    wanted = update + residual
    data = pack(wanted, bits)
    return data, wanted - unpack(data, bits, wanted.size)


def advance(state: Float32, data: bytes, bits: Bits) -> Float32:
    """Return the next version of `state` by a packed update: the same bits on every node.

    Raises RemoteProtocolError for bytes that `quantise` never makes.
    """
    return state - unpack(data, bits, state.size)


def combine(weights: Sequence[int], deltas: Iterable[Float32], zeros: Float32) -> Float32:
    """Return the weighted mean of the deltas.

    Each weight is divided by the sum over the paths through this module, so the shares sum to 1 in
    every module. The sum of the deltas begins at +0, so that no element of it is ever -0.
    """
    total = sum(weights)
    mean = zeros
    for weight, delta in zip(weights, deltas, strict=True):
        mean = mean + np.float32(weight / total) * delta
    return mean
