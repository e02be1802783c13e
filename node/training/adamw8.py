"""AdamW with moments of one byte a value (2110.02861): 10 bytes a parameter instead of 16.

bitsandbytes does the arithmetic and the quantisation in blocks of 256, on CUDA, ROCm and the CPU.
Vectors and small matrices keep float32 moments: these take little memory, and quantisation harms
them most.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dipaco.node.training.adamw import AdamW
from dipaco.protocol.run.training import Inner

BLOCK = 256  # values that share a scale; fixed in bitsandbytes
LEAST = 4096  # values of a matrix that is quantised; bitsandbytes' own default


@dataclass(frozen=True)
class Quantised:
    """A moment's codes, in the shape of its parameter, and a scale for every block."""

    codes: Tensor
    scales: Tensor

    @classmethod
    def zeros(cls, like: Tensor) -> "Quantised":
        """Return a moment of zero."""
        blocks = -(-like.numel() // BLOCK)
        return cls(
            torch.zeros_like(like, dtype=torch.uint8), torch.zeros(blocks, device=like.device)
        )


class AdamW8bit:
    """The same interface as `AdamW`; the moments begin at zero."""

    def __init__(self, parameters: Mapping[str, Tensor], settings: Inner) -> None:
        # Imported by name: it is an extra, and a type checker fails where it is not installed.
        self._library: Any = importlib.import_module("bitsandbytes.functional")
        large = {n: p for n, p in parameters.items() if p.dim() > 1 and p.numel() >= LEAST}
        self._all = list(parameters.values())
        self._settings = settings
        self._exact = AdamW({n: p for n, p in parameters.items() if n not in large}, settings)
        self._large = [(p, Quantised.zeros(p), Quantised.zeros(p)) for p in large.values()]
        device = self._all[0].device
        self._signed, self._unsigned = (
            self._library.create_dynamic_map(signed=signed).to(device) for signed in (True, False)
        )
        self._steps = 0

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Clip the gradients' common norm, take one step at rate `lr`, and clear the gradients."""
        torch.nn.utils.clip_grad_norm_(self._all, self._settings.clip)
        self.update(lr)

    @torch.no_grad()
    def update(self, lr: float) -> None:
        """Take one step without clipping, and clear the gradients."""
        self._steps += 1
        for parameter, first, second in self._large:
            parameter.mul_(1.0 - lr * self._settings.weight_decay)
            self._update(parameter, first, second, lr)
            parameter.grad = None
        self._exact.update(lr)

    def _update(self, parameter: Tensor, first: Quantised, second: Quantised, lr: float) -> None:
        s = self._settings
        self._library.optimizer_update_8bit_blockwise(
            "adam",
            parameter.grad,
            parameter,
            first.codes,
            second.codes,
            beta1=s.beta1,
            beta2=s.beta2,
            beta3=0.0,  # beta3 and alpha belong to another optimizer
            alpha=0.0,
            eps=s.eps,
            step=self._steps,
            lr=lr,
            qmap1=self._signed,
            qmap2=self._unsigned,
            absmax1=first.scales,
            absmax2=second.scales,
        )
