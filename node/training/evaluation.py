"""Held-out loss of one path: every document alone, scored from the prefix's end on.

Source: docs/method.md 2.5(a); re-routing (b) is `rerouted.py`'s. Routing has happened already: the
documents are those that the router sends to this path. The result is close across hardware, not
equal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dipaco.node.training.cross_entropy import token_losses
from dipaco.node.training.micro_batches import do_what_fits, halve
from dipaco.node.training.model import PathModel
from dipaco.protocol.lease import Evaluation

BATCH = 32  # documents at once

Ids = NDArray[np.integer]


@dataclass(frozen=True)
class Passage:
    """A text from its beginning, and which of its tokens to score."""

    tokens: Ids
    """(n,), n at most the context."""
    spans: tuple[tuple[int, int], ...]
    """Positions [first, end) of the tokens that count; none is position 0."""


def evaluate(
    model: PathModel,
    documents: Sequence[Ids],
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
    passages = [Passage(each, ((prefix, len(each)),)) for each in documents if len(each) > prefix]
    nll = score(model, passages, max_batch=max_batch, on_batch=on_batch)
    tokens = sum(len(each.tokens) - prefix for each in passages)
    return Evaluation(documents=len(passages), tokens=tokens, nll=nll)


def score(
    model: PathModel,
    passages: Sequence[Passage],
    *,
    max_batch: int,
    on_batch: Callable[[int], None],
) -> float:
    """Return the summed negative log-likelihood, in nats, of all tokens that count.

    on_batch    gets the number of passages done.
    """
    size = min(BATCH, max_batch or BATCH)
    by_length = sorted(passages, key=lambda each: len(each.tokens))  # stable: little padding
    nll, done = 0.0, 0
    while done < len(by_length):

        def batch_nll(size: int, done: int = done) -> float:
            return _batch_nll(model, by_length[done : done + size])

        found, size = do_what_fits(batch_nll, size, device=model.device, shrink=halve)
        nll += found
        done = min(done + size, len(by_length))
        on_batch(done)
    return nll


def _batch_nll(model: PathModel, batch: list[Passage]) -> float:
    """Sum the losses of one batch, padded on the right: no token looks to its right."""
    longest = max(len(passage.tokens) for passage in batch)
    padded = np.zeros((len(batch), longest), dtype=np.int64)
    counts = np.zeros((len(batch), longest), dtype=bool)
    for row, passage in enumerate(batch):
        padded[row, : len(passage.tokens)] = passage.tokens
        for first, end in passage.spans:
            counts[row, first:end] = True
    rows = torch.from_numpy(padded).to(model.device)
    scored = torch.from_numpy(counts).to(model.device)[:, 1:]
    with torch.inference_mode():
        features = model(rows[:, :-1])[scored]
        return (
            token_losses(features, model.head, rows[:, 1:][scored]).sum(dtype=torch.float64).item()
        )
