"""Results of a comparison that nobody trained: round numbers, so that sums can be done by hand."""

from collections.abc import Sequence
from math import log

from dipaco.node.compare.results import (
    Comparison,
    Loss,
    MethodResult,
    Point,
    Rerouted,
    Shard,
    Start,
    summarise,
)

TITLES = {"dense": "dense at equal steps", "dipaco": "DiPaCo", "flat-moe": "flat MoE"}
RUN = "ab" * 32


def loss(shard: int, perplexity: float, tokens: int = 100) -> Loss:
    return Loss(shard=shard, documents=4, tokens=tokens, nll=log(perplexity) * tokens)


def point(step: int, *losses: Loss) -> Point:
    return Point(steps=10 * step, tokens=1_000_000 * step, losses=losses)


def start(seed: int, *, tokens: Sequence[int] = (300, 500), perplexity: float = 900.0) -> Start:
    """Return the start of a seed whose shards have these training tokens."""
    shards = tuple(Shard(shard=i, documents=n // 10, tokens=n) for i, n in enumerate(tokens))
    first = point(1, *(loss(shard.shard, perplexity) for shard in shards))
    return Start(run=RUN, seed=seed, spec=RUN, states={}, shards=shards, point=first)


def result(method: str, seed: int, *perplexities: float) -> MethodResult:
    """Return a method that came through these perplexities, in two shards that are alike."""
    points = [point(1, loss(0, 900.0), loss(1, 900.0))]
    points += [point(2 + i, loss(0, p), loss(1, p)) for i, p in enumerate(perplexities)]
    return MethodResult(
        run=RUN,
        method=method,
        seed=seed,
        compute=1.0 if method == "dense" else 4.0,
        parameters=2_110_000,
        path_parameters=1_320_000,
        seconds=12.5,
        points=tuple(points),
        states={"stem": RUN},
    )


def rerouted(method: str, seed: int, **windows: float) -> Rerouted:
    """Return re-routing by window: `rerouted("dipaco", 0, w64=190.0)`."""
    found: dict[int, tuple[Loss, ...]] = {
        int(name[1:]): (loss(0, p), loss(1, p)) for name, p in windows.items()
    }
    return Rerouted(run=RUN, method=method, seed=seed, windows=found)


def comparison() -> Comparison:
    """Return two seeds of dense and DiPaCo, one of which was re-routed; of flat MoE only one."""
    return summarise(
        "made-up",
        TITLES,
        [start(0), start(1)],
        [
            result("dense", 0, 600.0, 400.0),
            result("dense", 1, 500.0, 200.0),
            result("dipaco", 0, 500.0, 200.0),
            result("dipaco", 1, 400.0, 120.0),
            result("flat-moe", 1, 300.0, 110.0),
        ],
        [rerouted("dipaco", 0, w64=220.0, w128=200.0)],
    )
