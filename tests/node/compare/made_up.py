"""Results of a comparison that nobody trained: round numbers, so that sums can be done by hand."""

from collections.abc import Sequence
from math import log

from dipaco.node.compare.results import (
    HeldOutDocument,
    Loss,
    Point,
    Rerouted,
    Shard,
    Start,
    TrialResult,
    sum_over,
)
from dipaco.node.compare.summary import Comparison, summarise
from dipaco.node.compare.trials import Trial

RUN = "ab" * 32
DOCUMENTS = tuple(
    HeldOutDocument(index=i, tokens=50, bytes=150, half="choice" if i % 2 else "score")
    for i in range(8)
)
SHARD_OF = (0, 0, 0, 0, 1, 1, 1, 1)
OUTER = 0.7


def loss(shard: int, perplexity: float, tokens: int = 100) -> Loss:
    return Loss(shard=shard, documents=4, tokens=tokens, nll=log(perplexity) * tokens)


def point(step: int, *losses: Loss) -> Point:
    return Point(steps=10 * step, tokens=1_000_000 * step, losses=losses)


def nlls(shown: float, other: float) -> tuple[float, ...]:
    """Return losses by which the half that is shown and the other have these perplexities."""
    return tuple(each.tokens * log(shown if each.half == "score" else other) for each in DOCUMENTS)


def start(seed: int, *, tokens: Sequence[int] = (300, 500), perplexity: float = 900.0) -> Start:
    """Return the start of a seed whose shards have these training tokens."""
    shards = tuple(Shard(shard=i, documents=n // 10, tokens=n) for i, n in enumerate(tokens))
    return Start(
        run=RUN,
        seed=seed,
        vocabulary=4096,
        spec=RUN,
        states={},
        shards=shards,
        documents=DOCUMENTS,
        nlls=nlls(perplexity, perplexity),
        point=point(1, *(loss(shard.shard, perplexity) for shard in shards)),
    )


def trial(method: str, *, lr: float = 1e-3, outer_lr: float | None = OUTER) -> Trial:
    return Trial(method, lr, None if method.startswith("dense") else outer_lr)


def result(
    method: str,
    seed: int,
    *perplexities: float,
    lr: float = 1e-3,
    outer_lr: float = OUTER,
    repeat: int = 0,
    choice: float | None = None,
) -> TrialResult:
    """Return a trial that came through these perplexities, in two shards that are alike.

    choice   the last perplexity on the half that chooses, by default that of the other half.
    """
    points = [point(1, loss(0, 900.0), loss(1, 900.0))]
    points += [point(2 + i, loss(0, p), loss(1, p)) for i, p in enumerate(perplexities)]
    found = nlls(perplexities[-1], perplexities[-1] if choice is None else choice)
    own = trial(method, lr=lr, outer_lr=outer_lr)
    return TrialResult(
        run=RUN,
        method=method,
        lr=lr,
        outer_lr=own.outer_lr,
        seed=seed,
        repeat=repeat,
        compute=1.0 if method == "dense" else 4.0,
        parameters=2_110_000,
        path_parameters=1_320_000,
        seconds=12.5,
        points=tuple(points),
        nlls=found,
        choice_nll=sum_over("choice", DOCUMENTS, found),
        states={"stem": RUN},
    )


def rerouted(method: str, seed: int, **windows: float) -> Rerouted:
    """Return re-routing by window: `rerouted("dipaco", 0, w64=190.0)`."""
    found: dict[int, tuple[Loss, ...]] = {
        int(name[1:]): (loss(0, p), loss(1, p)) for name, p in windows.items()
    }
    return Rerouted(run=RUN, trial=trial(method).key, seed=seed, windows=found)


def comparison() -> Comparison:
    """Return two seeds of dense and DiPaCo, one of which was re-routed; of flat MoE only one."""
    return summarise(
        "made-up",
        [start(0), start(1)],
        [
            result("dense", 0, 600.0, 400.0),
            result("dense", 1, 500.0, 200.0),
            result("dipaco", 0, 500.0, 200.0),
            result("dipaco", 1, 400.0, 120.0),
            result("flat-moe", 0, 300.0, 110.0),
        ],
        [rerouted("dipaco", 0, w64=220.0, w128=200.0)],
        {0: "news", 2: "news", 4: "code"},
    )
