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
    """Score the tokens from `prefix` to the end of each document, and add up.

    documents, prefix, max_batch, on_batch   as in `document_nlls`; documents that have nothing to
                                             score are left out.
    """
    scored = [document for document in documents if len(document) > prefix]
    nlls = document_nlls(model, scored, prefix=prefix, max_batch=max_batch, on_batch=on_batch)
    tokens = sum(len(document) - prefix for document in scored)
    return Evaluation(documents=len(scored), tokens=tokens, nll=sum(nlls))


def document_nlls(
    model: PathModel,
    documents: Sequence[NDArray[np.integer]],
    *,
    prefix: int,
    max_batch: int,
    on_batch: Callable[[int], None],
) -> list[float]:
    """Return each document's negative log-likelihood from `prefix` to its end, nats, summed.

    documents   token ids, (n,) each, prefix < n <= context.
    max_batch   documents at once; 0: as many as are usual.
    on_batch    gets the number of documents done.
    """
    size = min(BATCH, max_batch or BATCH)
    order = sorted(range(len(documents)), key=lambda i: len(documents[i]))  # little padding
    nlls = [0.0] * len(documents)
    for first in range(0, len(order), size):
        places = order[first : first + size]
        found = _batch_nlls(model, [documents[i] for i in places], prefix)
        for place, nll in zip(places, found, strict=True):
            nlls[place] = nll
        on_batch(first + len(places))
    return nlls


def _batch_nlls(model: PathModel, batch: list[NDArray[np.integer]], prefix: int) -> list[float]:
    """Sum the losses of each document, padded on the right: no token looks to its right."""
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
        losses = token_losses(features, model.head, rows[:, 1:][scored])
        parts = torch.split(losses, [len(document) - prefix for document in batch])
        sums: list[float] = torch.stack([p.sum(dtype=torch.float64) for p in parts]).tolist()
    return sums
