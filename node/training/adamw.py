"""AdamW (1711.05101) with bias correction, in plain tensor operations.

Not torch.optim's: constructing any of its optimizers imports the compiler stack, which was
measured to cost every worker process 3 to 6 seconds and 100 MB before its first step.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from dipaco.protocol.manifest import Adam


class AdamW:
    """The inner optimizer; weight decay is decoupled and on matrices only (docs/method.md 2.1)."""

    def __init__(self, parameters: Iterable[Tensor], settings: Adam) -> None:
        """Begin with moments of zero."""
        self._parameters = list(parameters)
        self._settings = settings
        self._steps = 0
        self._first = [torch.zeros_like(p) for p in self._parameters]
        self._second = [torch.zeros_like(p) for p in self._parameters]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Clip the gradients' common norm, take one step at rate `lr`, and clear the gradients."""
        s = self._settings
        torch.nn.utils.clip_grad_norm_(self._parameters, s.clip)
        self._steps += 1
        rate = lr / (1.0 - s.beta1**self._steps)
        root = math.sqrt(1.0 - s.beta2**self._steps)
        for p, m, v in zip(self._parameters, self._first, self._second, strict=True):
            assert p.grad is not None
            m.lerp_(p.grad, 1.0 - s.beta1)
            v.mul_(s.beta2).addcmul_(p.grad, p.grad, value=1.0 - s.beta2)
            if p.dim() > 1:
                p.mul_(1.0 - lr * s.weight_decay)
            p.addcdiv_(m, v.sqrt().div_(root).add_(s.eps), value=-rate)
            p.grad = None
