"""AdamW (1711.05101) with bias correction, in plain tensor operations.

Not torch.optim's: constructing any of its optimizers imports the compiler stack, which was
measured to cost every worker process 3 to 6 seconds and 100 MB before its first step.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from dipaco.protocol.manifest import Adam


class AdamW:
    """The inner optimizer; weight decay is decoupled and on matrices only (docs/method.md 2.1)."""

    def __init__(self, parameters: Mapping[str, Tensor], settings: Adam, *, steps: int = 0) -> None:
        """Begin with moments of zero; whoever has others copies them in.

        steps   what bias correction takes for done: how many steps those moments have seen.
        """
        self._parameters = parameters
        self._settings = settings
        self._steps = steps
        self.first = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in parameters.items()}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Clip the gradients' common norm, take one step at rate `lr`, and clear the gradients."""
        s = self._settings
        torch.nn.utils.clip_grad_norm_(list(self._parameters.values()), s.clip)
        self._steps += 1
        rate = lr / (1.0 - s.beta1**self._steps)
        root = math.sqrt(1.0 - s.beta2**self._steps)
        for name, p in self._parameters.items():
            assert p.grad is not None
            m, v = self.first[name], self.second[name]
            m.lerp_(p.grad, 1.0 - s.beta1)
            v.mul_(s.beta2).addcmul_(p.grad, p.grad, value=1.0 - s.beta2)
            if p.dim() > 1:
                p.mul_(1.0 - lr * s.weight_decay)
            p.addcdiv_(m, v.sqrt().div_(root).add_(s.eps), value=-rate)
            p.grad = None
