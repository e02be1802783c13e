"""The bound on the deltas of a run whose inner optimizer is Muon (docs/method.md 6(e)).

The update of a matrix has no singular value above `LARGEST_SINGULAR`, before it is scaled. So no
element of it is larger, and its Frobenius norm is at most sqrt(min(m, n)) times as large. The first
bound alone would let one matrix move sqrt(m n / max(m, n)) times too far.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.run.muon import LARGEST_SINGULAR, update_scale
from dipaco.protocol.run.topology import Tensor
from dipaco.protocol.run.training import Muon, Training
from dipaco.protocol.tensors.delta import Float32, Reach, adamw_reach, check_elements


def check_muon_bound(
    delta: Float32,
    state: Float32,
    training: Training,
    layout: Sequence[Tensor],
    steps: range,
    *,
    rounded: Float32 | None = None,
) -> None:
    """Raise RemoteProtocolError if an element or a matrix moved further than honest steps can.

    delta, state, steps, rounded   those of `delta.check_bound`.
    layout                         of delta and state.
    """
    inner = training.inner
    assert isinstance(inner, Muon)
    general = adamw_reach(training, steps)
    adamw = replace(general, rates=general.rates * inner.adamw_lr / inner.lr)
    for tensor, part in _parts(layout):
        reach = adamw
        room = None if rounded is None else rounded[part]
        if tensor.hidden:
            per_rate = LARGEST_SINGULAR * update_scale(tensor.shape)
            reach = replace(general, by="Muon", per_rate=per_rate)
            _check_norm(tensor, delta[part], state[part], reach, room)
        check_elements(delta[part], state[part], reach, first=part.start, rounded=room)


def _check_norm(
    tensor: Tensor, delta: Float32, state: Float32, reach: Reach, rounded: Float32 | None
) -> None:
    """Hold the Frobenius norm of a matrix's delta against that of its updates."""
    whole = replace(reach, per_rate=reach.per_rate * math.sqrt(min(tensor.shape)))
    limit = whole.drift * _norm(state) + whole.stride + (0.0 if rounded is None else _norm(rounded))
    if (norm := _norm(delta)) > limit:
        raise RemoteProtocolError(
            f"the delta of {tensor.name} has a norm of {norm:.3g}, Muon can move it by {limit:.3g} "
            f"in {reach.steps} steps"
        )


def _parts(layout: Sequence[Tensor]) -> Iterator[tuple[Tensor, slice]]:
    """Yield each tensor and its part of the flat array."""
    end = 0
    for tensor in layout:
        start, end = end, end + tensor.size
        yield tensor, slice(start, end)


def _norm(values: Float32) -> float:
    return math.sqrt(np.sum(np.square(values, dtype=np.float64)))
