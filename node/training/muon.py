"""Muon (Jordan 2024) for the matrices of the blocks, with AdamW for all other tensors.

Matrices of one shape are stacked, since one batched product is faster than many small ones. As in
`adamw.py` no torch optimizer is constructed. Source: docs/method.md 2.1.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from dipaco.node.training.adamw import AdamW
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
        self.adamw = AdamW(rest, settings, steps=steps)
        self.stacks = [Stack(part, settings, products) for part in _stacked(hidden)]
        self.momentum = {n: m for stack in self.stacks for n, m in stack.momentum.items()}
        """Per matrix its momentum, in the matrix's shape."""

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
        self, parameters: Mapping[str, Tensor], settings: Settings, products: torch.dtype
    ) -> None:
        self._parameters = list(parameters.values())
        self._settings, self._products = settings, products
        shape = _wide(self._parameters[0]).shape
        self._scale = update_scale(tuple(shape))
        device = self._parameters[0].device
        self._momentum = torch.zeros((len(self._parameters), *shape), device=device)
        self.momentum = {
            name: _wide(m, like=p)
            for (name, p), m in zip(parameters.items(), self._momentum, strict=True)
        }

    def update(self, lr: float) -> None:
        """Take one step at rate `lr`, and clear the gradients."""
        s = self._settings
        for p, update in zip(self._parameters, self._direction(), strict=True):
            _wide(p).mul_(1.0 - lr * s.weight_decay).add_(update, alpha=-lr * self._scale)
            p.grad = None

    def _direction(self) -> Tensor:
        """Return the orthogonalised momenta, (matrices, m, n), once the gradients are in them."""
        share = self._settings.momentum
        gradients = torch.stack([_wide(p.grad) for p in self._parameters if p.grad is not None])
        self._momentum.lerp_(gradients, 1.0 - share)
        ahead = (
            gradients.lerp_(self._momentum, share) if self._settings.nesterov else self._momentum
        )
        norms = torch.linalg.vector_norm(ahead, dim=(1, 2), keepdim=True).clamp(min=LEAST_NORM)
        return orthogonalised((ahead / norms).to(self._products))


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
