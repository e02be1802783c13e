"""Held-out loss of one path: every document alone, scored from one position on.

Source: docs/method.md 2.5(a); re-routing (b) is in `models/rerouted.py`. The documents are those
that the router sends to this path. Results are close across hardware, but not equal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dipaco.node.data.text_bytes import IdBytes, text_bytes
from dipaco.node.training.cross_entropy import token_losses
from dipaco.node.training.micro_batches import do_what_fits, halve
from dipaco.node.training.model import PathModel
from dipaco.protocol.work.kinds import Evaluation

BATCH = 32  # documents at once

Ids = NDArray[np.integer]


@dataclass(frozen=True)
class Passage:
    """A text from its beginning, and the spans of its tokens to score."""

    tokens: Ids
    """(n,), n at most the context."""
    spans: tuple[tuple[int, int], ...]
    """Positions [first, end) of the tokens to score; position 0 is never one."""
    label: str = ""
    """Of its document, where documents are labelled."""


def evaluate(
    model: PathModel,
    documents: Sequence[Ids],
    *,
    first: int,
    id_bytes: IdBytes,
    max_batch: int,
    on_batch: Callable[[int], None],
) -> Evaluation:
    """Return the loss of the tokens from position `first` to the end of each document, summed.

    documents   token ids, (n,) each, n at most the context; documents of at most `first` tokens
                have no token to score and are left out.
    id_bytes    by token id, the bytes of text that it stands for.
    max_batch   documents at once; 0: `BATCH`.
    on_batch    gets the number of documents done.
    """
    passages = [whole(each, first) for each in documents if len(each) > first]
    nlls = score(model, passages, max_batch=max_batch, on_batch=on_batch)
    return evaluation_of(passages, id_bytes, documents=len(passages), nll=sum(nlls))


def evaluation_of(
    passages: Sequence[Passage], id_bytes: IdBytes, *, documents: int, nll: float
) -> Evaluation:
    """Return the evaluation of passages whose scored tokens have this loss, in nats."""
    return Evaluation(
        documents=documents,
        tokens=sum(end - first for each in passages for first, end in each.spans),
        bytes=sum(
            text_bytes(id_bytes, each.tokens[first:end])
            for each in passages
            for first, end in each.spans
        ),
        nll=nll,
    )


def whole(document: Ids, first: int) -> Passage:
    """Return a document, (n,), n above `first`, with all tokens from that position on to score."""
    return Passage(document, ((first, len(document)),))


def score(
    model: PathModel,
    passages: Sequence[Passage],
    *,
    max_batch: int,
    on_batch: Callable[[int], None],
) -> list[float]:
    """Return the negative log-likelihood of each passage's scored tokens, nats, summed.

    on_batch    gets the number of passages done.
    """
    size = min(BATCH, max_batch or BATCH)
    order = sorted(range(len(passages)), key=lambda i: len(passages[i].tokens))  # little padding
    nlls, done = [0.0] * len(passages), 0
    while done < len(order):

        def batch_nlls(size: int, done: int = done) -> list[float]:
            return _batch_nlls(model, [passages[i] for i in order[done : done + size]])

        found, size = do_what_fits(batch_nlls, size, device=model.device, shrink=halve)
        for place, nll in zip(order[done : done + size], found, strict=True):
            nlls[place] = nll
        done = min(done + size, len(order))
        on_batch(done)
    return nlls


def _batch_nlls(model: PathModel, batch: list[Passage]) -> list[float]:
    """Return each passage's summed loss. Padding is on the right, where no token attends to it."""
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
        losses = token_losses(features, model.head, rows[:, 1:][scored])
        parts = torch.split(losses, counts.sum(axis=1).tolist())
        sums: list[float] = torch.stack([p.sum(dtype=torch.float64) for p in parts]).tolist()
    return sums
