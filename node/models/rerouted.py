"""Held-out loss of all paths together, where a document may change its path every W tokens.

Chunk c of a document is its tokens [F + cW, F + (c + 1)W). Chunk 0 goes to the path of the prefix,
as without re-routing; chunk c > 0 is routed by the F tokens before it. The path of a chunk reads
all the text before it. Tokens before the run's first scored position are routed and not scored.
Source: docs/method.md 2.5(b).

A path reads a document at most once: up to the document's last chunk on this path, and it scores
all chunks that are routed to it. So every path's model is loaded once, one at a time, and nothing
is kept between them.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dipaco.node.data.text_bytes import IdBytes
from dipaco.node.training.evaluation import Ids, Passage, evaluation_of, score
from dipaco.node.training.model import PathModel
from dipaco.protocol.routing.assign import Router
from dipaco.protocol.routing.spec import ROUND_ROBIN
from dipaco.protocol.work.kinds import Evaluation

ROUTED_AT_ONCE = 4096  # chunks

HeldOut = Mapping[int, Sequence[Ids]]
"""By path, the held-out documents whose prefix is routed to it: ids, (n,) each."""
Labels = Mapping[int, Sequence[str]]
"""By path, the label of each of these documents."""


@dataclass(frozen=True)
class RoutedScores:
    """The loss of the documents, summed in two ways."""

    paths: dict[int, Evaluation]
    """By path, for each that has documents or scored a token: the documents whose prefix is routed
    to it, the tokens that it scored, and their loss."""
    labels: dict[str, Evaluation]
    """By label, for each that has a document to score; empty without labels."""


def evaluate_rerouted(
    held_out: HeldOut,
    router: Router,
    model_of: Callable[[int], PathModel],
    *,
    first_scored: int,
    id_bytes: IdBytes,
    labels: Labels | None = None,
    window: int | None,
    max_batch: int,
    on_batch: Callable[[int, int], None],
) -> RoutedScores:
    """Score every document, each chunk by the path it is routed to.

    held_out    documents of at most the context; those without a token to score are left out.
    model_of    returns a path's model, loaded; the model returned before is then invalid.
    first_scored  position of the first token that is scored, at or beyond the prefix.
    id_bytes    by token id, the bytes of text that it stands for.
    window      W, tokens; None: routed once, as in `evaluate`.
    on_batch    gets the passages done and all passages; a document is one per path that scores it.
    """
    passages = route_chunks(
        held_out, router, first_scored=first_scored, window=window, labels=labels
    )
    total, done = sum(map(len, passages.values())), 0
    nlls: dict[int, list[float]] = {}
    for path in sorted(passages):
        before = done

        def report(count: int, before: int = before) -> None:
            on_batch(before + count, total)

        own = passages[path]
        nlls[path] = score(model_of(path), own, max_batch=max_batch, on_batch=report) if own else []
        done += len(own)
    return RoutedScores(
        paths={
            path: evaluation_of(
                passages[path],
                id_bytes,
                documents=sum(len(each) > first_scored for each in held_out.get(path, ())),
                nll=sum(own),
            )
            for path, own in nlls.items()
        },
        labels=_by_label(held_out, first_scored, labels, passages, nlls, id_bytes)
        if labels
        else {},
    )


def _by_label(
    held_out: HeldOut,
    first_scored: int,
    labels: Labels,
    passages: Mapping[int, Sequence[Passage]],
    nlls: Mapping[int, Sequence[float]],
    id_bytes: IdBytes,
) -> dict[str, Evaluation]:
    documents = Counter(
        label
        for path, own in labels.items()
        for label, document in zip(own, held_out[path], strict=True)
        if len(document) > first_scored
    )
    parts: dict[str, list[tuple[Passage, float]]] = {}
    for path, own_passages in passages.items():
        for passage, nll in zip(own_passages, nlls[path], strict=True):
            parts.setdefault(passage.label, []).append((passage, nll))
    return {
        label: evaluation_of(
            [passage for passage, _ in parts[label]],
            id_bytes,
            documents=documents[label],
            nll=sum(nll for _, nll in parts[label]),
        )
        for label in sorted(parts)
    }


def route_chunks(
    held_out: HeldOut,
    router: Router,
    *,
    first_scored: int,
    window: int | None,
    labels: Labels | None = None,
) -> dict[int, list[Passage]]:
    """Return by path the passages to score, in the order of `held_out`."""
    prefix = router.spec.prefix
    if router.spec.kind == ROUND_ROBIN:  # it does not read the text: a document keeps its path
        window = None
    work: dict[int, list[Passage]] = {path: [] for path in held_out}
    for first_path, documents in held_out.items():
        scored = [i for i, each in enumerate(documents) if len(each) > first_scored]
        texts = [documents[i] for i in scored]
        names = [labels[first_path][i] for i in scored] if labels else [""] * len(scored)
        routes = _chunk_paths(texts, first_path, router, window=window)
        for document, name, paths in zip(texts, names, routes, strict=True):
            spans = _spans(paths, prefix, first_scored, len(document), window=window)
            for path, own in spans.items():
                passage = Passage(document[: own[-1][1]], tuple(own), name)
                work.setdefault(path, []).append(passage)
    return work


def _spans(
    paths: Sequence[int], prefix: int, first_scored: int, length: int, *, window: int | None
) -> dict[int, list[tuple[int, int]]]:
    """Return by path the scored positions [first, end) of the chunks that are routed to it."""
    step = window or length
    spans: dict[int, list[tuple[int, int]]] = {}
    for chunk, path in enumerate(paths):
        begin = prefix + chunk * step
        first, end = max(begin, first_scored), min(begin + step, length)
        if first < end:
            spans.setdefault(path, []).append((first, end))
    return spans


def _chunk_paths(
    documents: Sequence[Ids], first_path: int, router: Router, *, window: int | None
) -> list[list[int]]:
    """Return for each document, longer than the prefix, the path of every chunk."""
    prefix = router.spec.prefix
    paths = [[first_path] for _ in documents]
    if window is None:
        return paths
    # The F tokens before chunk c > 0 of document i.
    starts = [
        (i, first - prefix)
        for i, document in enumerate(documents)
        for first in range(prefix + window, len(document), window)
    ]
    for begin in range(0, len(starts), ROUTED_AT_ONCE):
        part = starts[begin : begin + ROUTED_AT_ONCE]
        seen = np.stack([documents[i][start : start + prefix] for i, start in part])
        routed = router.route(seen, np.zeros(len(part), dtype=np.int64))[:, 0]
        for (i, _), path in zip(part, routed.tolist(), strict=True):
            paths[i].append(path)
    return paths
