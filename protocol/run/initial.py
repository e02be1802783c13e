"""The initial model of a run, which anybody can derive from the manifest alone.

Every element is a multiple of a power of two, computed without rounding from the bits of
SHAKE-256 (FIPS 202), so all nodes hold the same bytes. A tensor's values depend on its name and
shape, not on its module: all paths begin as the same model. Norms begin at 1.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.run.topology import Tensor
from dipaco.protocol.wire.digest import tagged, u64

Float32 = NDArray[np.float32]

BITS = 24  # of each u: float32 holds every odd 2u + 1 - 2^24 exactly, symmetric around zero
EMBEDDING_EXPONENT = -5  # uniform in +-1/32: standard deviation 0.018, GPT-2's 0.02


def initial_module(manifest: Manifest, module: ModuleId) -> Float32:
    """Return the initial state of `module`, flat, shape (elements,)."""
    layout = manifest.topology.layouts[module]
    return np.concatenate([initial_tensor(manifest, tensor) for tensor in layout])


def initial_tensor(manifest: Manifest, tensor: Tensor) -> Float32:
    """Return the initial values of `tensor`, flat, shape (size,): uniform(-a, a), or 1 (norms).

    a is a power of two: 1/32 for embedding and output head, else the largest that is at most
    sqrt(3 / fan-in), i.e. a standard deviation of at most 1/sqrt(fan-in). A matrix whose product
    is added to the residual stream counts its fan-in 2 * blocks times, as GPT-2 does, so that the
    stream's variance does not grow with depth.
    """
    if len(tensor.shape) == 1:
        return np.ones(tensor.size, dtype=np.float32)
    seed = tagged("dipaco/1/initial", u64(manifest.seed), tensor.name.encode("ascii"))
    bits = np.frombuffer(hashlib.shake_256(seed).digest(4 * tensor.size), dtype="<u4")
    odd = (bits >> np.uint32(8)).astype(np.int32) * np.int32(2) + np.int32(1 - (1 << BITS))
    return odd.astype(np.float32) * np.float32(2.0 ** (_exponent(manifest, tensor) - BITS))


def _exponent(manifest: Manifest, tensor: Tensor) -> int:
    """Return log2 of a: see `initial_tensor`."""
    if tensor.name in ("model.embed_tokens.weight", "lm_head.weight"):
        return EMBEDDING_EXPONENT
    fan_in = tensor.shape[1]
    if tensor.name.endswith(("o_proj.weight", "down_proj.weight")):
        fan_in *= 2 * manifest.grid.blocks
    halvings = 0
    while 3 * 4**halvings < fan_in:
        halvings += 1
    return -halvings
