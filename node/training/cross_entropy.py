"""Cross-entropy of an output head, computed block by block without all logits in memory.

The logits of a batch are by far the largest array of a training step: V values per token for a
vocabulary of V, where the model has a few d. Here they never exist all at once: every block of rows
gives its loss and both gradients while it is in the cache. On one CPU core (d 96, V 4,096,
1,024 tokens) a whole training step takes 0.75 of its time with torch's cross_entropy, and at V
32,000 a home GPU saves gigabytes.
"""

from typing import Any

import torch
from torch import Tensor

BLOCK_VALUES = {"cpu": 1 << 19, "cuda": 1 << 26}  # logits at once: 2 MiB, near L2; 256 MiB


class HeadLoss(torch.autograd.Function):
    """The sum over N tokens of -log softmax(features @ weight.T)[target], in nats."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """Map features (N, d), weight (V, d) and targets (N,) to a scalar.

        dtype   of the inputs of the matrix products; softmax and sums are always float32.
        """
        d_features, d_weight = torch.empty_like(features), torch.zeros_like(weight)
        total = torch.zeros((), dtype=torch.float64, device=features.device)
        rows, head = block_rows(weight), weight.to(dtype)
        for first in range(0, len(features), rows):
            block = features[first : first + rows].to(dtype)
            target = targets[first : first + rows, None]
            probabilities, losses = softmax_and_losses((block @ head.T).float(), target)
            total += losses.sum(dtype=torch.float64)
            probabilities.scatter_add_(1, target, torch.full_like(losses, -1.0))
            probabilities = probabilities.to(dtype)
            d_features[first : first + rows] = probabilities @ head
            if dtype == torch.float32:
                d_weight.addmm_(probabilities.T, block)
            else:
                d_weight += probabilities.T @ block
        ctx.save_for_backward(d_features, d_weight)
        return total.to(features.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Scale the gradients that `forward` has computed already."""
        d_features, d_weight = ctx.saved_tensors
        return d_features.mul_(gradient), d_weight.mul_(gradient), None, None


def head_loss(
    features: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return the sum over all tokens of their negative log-likelihood in nats, differentiable.

    features   (N, d), weight (V, d), both float32; targets (N,) ids below V.
    dtype      of the inputs of the matrix products.
    """
    loss: Tensor = HeadLoss.apply(features, weight, targets, dtype)  # type: ignore[no-untyped-call]
    return loss


def token_losses(features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-likelihood of every target, (N,), in nats; not differentiable."""
    rows = block_rows(weight)
    parts = [
        softmax_and_losses(block @ weight.T, target[:, None])[1][:, 0]
        for block, target in zip(
            torch.split(features, rows), torch.split(targets, rows), strict=True
        )
    ]
    return torch.cat(parts)


def softmax_and_losses(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Turn logits (R, V) into probabilities, in place; returns them and -log p[target], (R, 1)."""
    largest = logits.amax(1, keepdim=True)
    wanted = logits.gather(1, target)
    exponentials = logits.sub_(largest).exp_()
    sums = exponentials.sum(1, keepdim=True)
    return exponentials.div_(sums), sums.log() + largest - wanted


def block_rows(weight: Tensor) -> int:
    """Return the number of tokens whose logits are computed at once."""
    return max(1, BLOCK_VALUES.get(weight.device.type, 1 << 19) // len(weight))
