"""Held-out loss of all paths together, where a document may change its path every W tokens.

Chunk c of a document is its tokens [F + cW, F + (c + 1)W). Chunk 0 goes to the path of the prefix,
as without re-routing; chunk c > 0 is routed by the F tokens before it. The path of a chunk reads
all the text before it. Tokens before the run's first scored position are routed and not scored.
Source: docs/method.md 2.5(b).

A path reads a document at most once: up to the document's last chunk on this path, and it scores
all chunks that are routed to it. So every path's model is loaded once, one at a time, and nothing
is kept between them.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dipaco.node.training.evaluation import Ids, Passage, score
from dipaco.node.training.model import PathModel
from dipaco.protocol.routing.assign import Router
from dipaco.protocol.routing.spec import ROUND_ROBIN
from dipaco.protocol.work.kinds import Evaluation

ROUTED_AT_ONCE = 4096  # chunks

HeldOut = Mapping[int, Sequence[Ids]]
"""By path, the held-out documents whose prefix is routed to it: ids, (n,) each."""


def evaluate_rerouted(
    held_out: HeldOut,
    router: Router,
    model_of: Callable[[int], PathModel],
    *,
    first_scored: int,
    window: int | None,
    max_batch: int,
    on_batch: Callable[[int, int], None],
) -> dict[int, Evaluation]:
    """Score every document, each chunk by the path it is routed to.

    held_out    documents of at most the context; those without a token to score are left out.
    model_of    returns a path's model, loaded; the model returned before is then invalid.
    first_scored  position of the first token that is scored, at or beyond the prefix.
    window      W, tokens; None: routed once, as in `evaluate`.
    on_batch    gets the passages done and all passages; a document is one per path that scores it.

    Returns for each path that has documents or scored a token: the documents whose prefix is routed
    to it, the tokens that it scored, and their loss.
    """
    passages = route_chunks(held_out, router, first_scored=first_scored, window=window)
    total, done = sum(map(len, passages.values())), 0
    found = {}
    for path in sorted(passages):
        before = done

        def report(count: int, before: int = before) -> None:
            on_batch(before + count, total)

        nll = 0.0
        if passages[path]:
            nll = sum(score(model_of(path), passages[path], max_batch=max_batch, on_batch=report))
        done += len(passages[path])
        found[path] = Evaluation(
            documents=sum(len(each) > first_scored for each in held_out.get(path, ())),
            tokens=sum(end - first for each in passages[path] for first, end in each.spans),
            nll=nll,
        )
    return found


def route_chunks(
    held_out: HeldOut, router: Router, *, first_scored: int, window: int | None
) -> dict[int, list[Passage]]:
    """Return by path the passages to score, in the order of `held_out`."""
    prefix = router.spec.prefix
    if router.spec.kind == ROUND_ROBIN:  # it does not read the text: a document keeps its path
        window = None
    work: dict[int, list[Passage]] = {path: [] for path in held_out}
    for first_path, documents in held_out.items():
        scored = [each for each in documents if len(each) > first_scored]
        for document, paths in zip(
            scored, _chunk_paths(scored, first_path, router, window=window), strict=True
        ):
            step = window or len(document)
            spans: dict[int, list[tuple[int, int]]] = {}
            for chunk, path in enumerate(paths):
                begin = prefix + chunk * step
                first, end = max(begin, first_scored), min(begin + step, len(document))
                if first < end:
                    spans.setdefault(path, []).append((first, end))
            for path, own in spans.items():
                work.setdefault(path, []).append(Passage(document[: own[-1][1]], tuple(own)))
    return work


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
