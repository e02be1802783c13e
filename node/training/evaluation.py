"""Held-out loss of one path: every document alone, scored from the prefix's end on.

Source: docs/method.md 2.5(a). Routing has happened already: the documents are those that the
router sends to this path. The result is close across hardware, not equal.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dipaco.node.training.cross_entropy import token_losses
from dipaco.node.training.model import PathModel
from dipaco.protocol.lease import Evaluation

BATCH = 32  # documents at once


def evaluate(
    model: PathModel,
    documents: Sequence[NDArray[np.integer]],
    *,
    prefix: int,
    max_batch: int,
    on_batch: Callable[[int], None],
) -> Evaluation:
    """Score the tokens from `prefix` to the end of each document.

    documents   token ids, (n,) each, n at most the context; those of at most `prefix` tokens have
                nothing to score and are left out.
    on_batch    gets the number of documents done.
    """
    size = min(BATCH, max_batch or BATCH)
    scored = [document for document in documents if len(document) > prefix]
    by_length = sorted(scored, key=len)  # stable: like lengths together, little padding
    nll, tokens = 0.0, 0
    for first in range(0, len(by_length), size):
        batch = by_length[first : first + size]
        nll += _batch_nll(model, batch, prefix)
        tokens += sum(len(document) - prefix for document in batch)
        on_batch(first + len(batch))
    return Evaluation(documents=len(scored), tokens=tokens, nll=nll)


def _batch_nll(model: PathModel, batch: list[NDArray[np.integer]], prefix: int) -> float:
    """Sum the losses of one batch, padded on the right: no token looks to its right."""
    longest = max(len(document) for document in batch)
    padded = np.zeros((len(batch), longest), dtype=np.int64)
    counts = np.zeros((len(batch), longest), dtype=bool)
    for row, document in enumerate(batch):
        padded[row, : len(document)] = document
        counts[row, prefix : len(document)] = True
    rows = torch.from_numpy(padded).to(model.device)
    scored = torch.from_numpy(counts).to(model.device)[:, 1:]
    with torch.inference_mode():
        features = model(rows[:, :-1])[scored]
        return (
            token_losses(features, model.head, rows[:, 1:][scored]).sum(dtype=torch.float64).item()
        )
