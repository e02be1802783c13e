"""Muon (Jordan 2024) for the matrices of the blocks, with AdamW for all other tensors.

Matrices of one shape are stacked, since one batched product is faster than many small ones. As in
`adamw.py` no torch optimizer is constructed. Source: docs/method.md 2.1.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from dipaco.node.config import MomentBits
from dipaco.node.training.adamw import AdamW
from dipaco.node.training.adamw8 import AdamW8bit
from dipaco.protocol.run import topology
from dipaco.protocol.run.muon import COEFFICIENTS, ITERATIONS, LEAST_NORM, update_scale
from dipaco.protocol.run.training import Muon as Settings

STACKED = 1 << 22  # elements of a stack at most: 16 MB of float32, as are its temporary arrays


def is_hidden(name: str, parameter: Tensor) -> bool:
    """Return whether Muon steps a parameter of the model."""
    return topology.Tensor(name, tuple(parameter.shape)).hidden


class Muon:
    """The inner optimizer, with the interface of `AdamW`."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        settings: Settings,
        *,
        products: torch.dtype,
        moment_bits: MomentBits = 32,
        steps: int = 0,
    ) -> None:
        """Begin with moments of zero; a caller with other moments copies them in.

        products   the dtype of the matrix products' inputs.
        steps      the steps that those moments have seen, for AdamW's bias correction.
        """
        hidden = {n: p for n, p in parameters.items() if is_hidden(n, p)}
        rest = {n: p for n, p in parameters.items() if n not in hidden}
        self._all = list(parameters.values())
        self._settings = settings
        eight = moment_bits == 8
        self.adamw = AdamW8bit(rest, settings) if eight else AdamW(rest, settings, steps=steps)
        self.stacks = [
            Stack(part, settings, products=products, moment_bits=moment_bits)
            for part in _stacked(hidden)
        ]

    @property
    def momentum(self) -> dict[str, Tensor]:
        """Per matrix its momentum, in the matrix's shape."""
        return {name: m for stack in self.stacks for name, m in stack.momentum.items()}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Clip the gradients' common norm, take one step, and clear the gradients.

        lr   of Muon; that of AdamW follows the same course.
        """
        torch.nn.utils.clip_grad_norm_(self._all, self._settings.clip)
        for stack in self.stacks:
            stack.update(lr)
        self.adamw.update(lr * self._settings.adamw_lr / self._settings.lr)


class Stack:
    """Matrices of one shape, or of that shape transposed, that are stepped together."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        settings: Settings,
        *,
        products: torch.dtype,
        moment_bits: MomentBits = 32,
    ) -> None:
        self._parameters = dict(parameters)
        self._settings, self._products = settings, products
        first = next(iter(self._parameters.values()))
        self._scale = update_scale(tuple(first.shape))
        zeros = torch.zeros((len(self._parameters), *_wide(first).shape), device=first.device)
        self._momentum = InEightBits(zeros) if moment_bits == 8 else Exactly(zeros)

    @property
    def momentum(self) -> dict[str, Tensor]:
        """Per matrix its momentum, in the matrix's shape."""
        each = zip(self._parameters.items(), self._momentum.read(), strict=True)
        return {name: _wide(m, like=p) for (name, p), m in each}

    def update(self, lr: float) -> None:
        """Take one step at rate `lr` without clipping, and clear the gradients."""
        s = self._settings
        for p, update in zip(self._parameters.values(), self._direction(), strict=True):
            _wide(p).mul_(1.0 - lr * s.weight_decay).add_(update, alpha=-lr * self._scale)
            p.grad = None

    def _direction(self) -> Tensor:
        """Return the orthogonalised momenta, (matrices, m, n), once the gradients are in them."""
        share = self._settings.momentum
        given = [p.grad for p in self._parameters.values()]
        gradients = torch.stack([_wide(each) for each in given if each is not None])
        momentum = self._momentum.read().lerp_(gradients, 1.0 - share)
        self._momentum.write(momentum)
        ahead = gradients.lerp_(momentum, share) if self._settings.nesterov else momentum
        norms = torch.linalg.vector_norm(ahead, dim=(1, 2), keepdim=True).clamp(min=LEAST_NORM)
        return orthogonalised((ahead / norms).to(self._products))


class Exactly:
    """A momentum in float32, (matrices, m, n)."""

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def read(self) -> Tensor:
        """Return the momentum itself: what changes it is kept."""
        return self._values

    def write(self, values: Tensor) -> None:
        """Nothing is left to do."""


class InEightBits:
    """A momentum in a byte a value and a scale a row; linear codes suffice (2509.23106)."""

    def __init__(self, values: Tensor) -> None:
        self.write(values)

    def read(self) -> Tensor:
        """Return the momentum in float32, a copy."""
        return self._codes.float().mul_(self._scales)

    def write(self, values: Tensor) -> None:
        """Round the momentum to the nearest codes, -127 to 127."""
        largest = values.abs().amax(dim=-1, keepdim=True)
        self._scales = torch.where(largest > 0, largest / 127, 1.0)
        self._codes = (values / self._scales).round_().to(torch.int8)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return wide matrices (k, m, n) of norm 1 or less with all singular values moved towards 1."""
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = torch.bmm(matrices, matrices.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        matrices = torch.baddbmm(matrices, polynomial, matrices, beta=a)
    return matrices


def _wide(matrix: Tensor, *, like: Tensor | None = None) -> Tensor:
    """Return a matrix, transposed if it (or `like`) is higher than wide.

    So X X^T is the smaller of the two products of X with itself.
    """
    rows, columns = (matrix if like is None else like).shape
    return matrix if rows <= columns else matrix.mT


def _stacked(parameters: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield the matrices of each shape in stacks of at most `STACKED` elements, or of one."""
    by_shape: dict[Sequence[int], dict[str, Tensor]] = {}
    for name, p in parameters.items():
        by_shape.setdefault(tuple(sorted(p.shape)), {})[name] = p
    for shape, same in by_shape.items():
        names, most = list(same), max(1, STACKED // (shape[0] * shape[1]))
        for first in range(0, len(names), most):
            yield {name: same[name] for name in names[first : first + most]}
