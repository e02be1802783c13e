"""The tables of a comparison, made from the results of its trials.

Every figure is of the half of the held-out documents that nothing was chosen by.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import exp, inf, log
from statistics import fmean, stdev
from typing import Final, Literal

import msgspec
import numpy as np

from dipaco.node.compare.intervals import Float64, Ratio, ratio
from dipaco.node.compare.results import (
    Rerouted,
    Shard,
    Start,
    TrialResult,
    chosen,
    perplexity,
)
from dipaco.node.compare.variants import method_named, place_of
from dipaco.protocol.work.losses import bits_per_byte

REFERENCES: Final = ("dense", "dipaco-random", "dipaco")
"""The methods that all others are compared with: the baseline, the null of routing, the method."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The last version of a method at its chosen rates, in one seed and order of batches."""

    seed: int
    repeat: int
    perplexity: float
    bits_per_byte: float


class TriedRate(msgspec.Struct, frozen=True, kw_only=True):
    """One pair of rates, and what it came to on the half of the documents that chooses."""

    lr: float
    outer_lr: float | None
    perplexity: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One method at its chosen rates: a row of the table."""

    method: str
    title: str
    compute: float
    parameters: int
    path_parameters: int
    tokens: int
    """Tokens that all paths trained on, those of the seed model included."""
    lr: float
    outer_lr: float | None
    tried: tuple[TriedRate, ...]
    """All rates that were tried, ascending."""
    runs: tuple[Run, ...]
    perplexity: float
    """The geometric mean over the runs."""
    lowest: float
    highest: float
    bits_per_byte: float
    """The mean over the runs."""
    order_spread: float | None
    """The standard deviation of the perplexity over orders of batches alone, as a share of it; None
    without repeats."""
    ratios: dict[str, Ratio]
    """By method of `REFERENCES`: the ratio of perplexities in common runs."""
    shards: tuple[float | None, ...]
    """Perplexity per shard of the last router, mean over the runs, the largest shard first.

    Runs whose shard has no held-out document are left out; null: none of them has one."""
    labels: dict[str, float]
    """Bits per byte of the documents with a label, the mean over the runs."""

    @property
    def at_edge(self) -> bool:
        """Whether a better rate may lie outside of those that were tried."""
        inner = sorted({each.lr for each in self.tried if each.outer_lr == self.outer_lr})
        outer = sorted({e.outer_lr or 0.0 for e in self.tried if e.lr == self.lr})
        places = ((inner, self.lr), (outer, self.outer_lr or 0.0))
        return any(len(all_) > 1 and each in (all_[0], all_[-1]) for all_, each in places)


class RerouteRow(msgspec.Struct, frozen=True, kw_only=True):
    """One method, routed once per document or every so many tokens, over all seeds."""

    method: str
    title: str
    window: int | None
    """Tokens between two choices; None: routed once."""
    perplexities: dict[int, float]
    """By seed."""
    mean: float
    lowest: float
    highest: float
    ratios: dict[int, float]
    """By seed: the ratio to routing once."""


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """The documents with one label."""

    label: str
    documents: int
    bytes: int


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The whole comparison: the content of `compare.json`."""

    schema: Literal[2] = 2
    name: str
    paths: int
    vocabulary: int
    """Of the tokenizer, which a perplexity is a figure of."""
    caption: str
    rows: tuple[Row, ...]
    labels: tuple[Label, ...]
    """Of the documents that are shown, that with the most bytes first; empty without labels."""
    reroute_rows: tuple[RerouteRow, ...]
    starts: tuple[Start, ...]
    results: tuple[TrialResult, ...]
    rerouted: tuple[Rerouted, ...]


def summarise(
    name: str,
    starts: Sequence[Start],
    results: Sequence[TrialResult],
    rerouted: Sequence[Rerouted] = (),
    labels: Mapping[int, str] | None = None,
) -> Comparison:
    """Return the comparison of these results, one row for each method.

    starts   in the order of the seeds; rates are chosen in the first one, without a repeat.
    labels   by index of a held-out document.
    """
    shown = Shown(starts[0], labels or {})
    by_seed = {start.seed: start for start in starts}
    runs = {method: runs_of(method, results, starts) for method in methods_in(results)}
    runs = {method: found for method, found in runs.items() if found}
    tried = {method: [r for r in results if _is_tried(r, method, starts)] for method in runs}
    rows = [
        _row(found, tried[method], shown, by_seed, {m: runs[m] for m in REFERENCES if m in runs})
        for method, found in runs.items()
    ]
    return Comparison(
        name=name,
        paths=len(starts[0].shards),
        vocabulary=starts[0].vocabulary,
        caption=caption(rows),
        rows=tuple(rows),
        labels=shown.label_sizes(),
        reroute_rows=tuple(
            row for found in runs.values() for row in _reroute_rows(found, rerouted)
        ),
        starts=tuple(starts),
        results=tuple(results),
        rerouted=tuple(rerouted),
    )


def methods_in(results: Iterable[TrialResult]) -> list[str]:
    """Return the methods of some results, in the order of the table."""
    return sorted({each.method for each in results}, key=place_of)


def runs_of(
    method: str, results: Iterable[TrialResult], starts: Sequence[Start]
) -> list[TrialResult]:
    """Return a method's results at its chosen rates; none before the first seed has one."""
    own = [each for each in results if each.method == method]
    tried = [each for each in own if _is_tried(each, method, starts)]
    if not tried:
        return []
    best = chosen(tried)
    found = [e for e in own if (e.lr, e.outer_lr) == (best.lr, best.outer_lr)]
    return sorted(found, key=lambda each: (each.seed, each.repeat))


def _is_tried(result: TrialResult, method: str, starts: Sequence[Start]) -> bool:
    return (result.method, result.seed, result.repeat) == (method, starts[0].seed, 0)


def caption(rows: Sequence[Row]) -> str:
    """Return the sentence that stands under every table and picture of a comparison."""
    compute = next((row for row in rows if row.method == "dense-compute"), None)
    found = f"reaches {compute.perplexity:.1f}" if compute else "was not trained here"
    return f"Dense at equal compute {found}: DiPaCo buys wall clock and memory, not FLOPs."


def by_size(shards: Iterable[Shard]) -> list[int]:
    """Return the shards, the largest first: the numbers of two seeds are unrelated."""
    return [each.shard for each in sorted(shards, key=lambda s: (-s.tokens, s.shard))]


class Shown:
    """The half of the held-out documents that the tables show."""

    def __init__(self, start: Start, labels: Mapping[int, str]) -> None:
        documents = start.documents
        self._places = np.array([i for i, e in enumerate(documents) if e.half == "score"], np.intp)
        kept = [documents[place] for place in self._places]
        self.tokens: Float64 = np.array([each.tokens for each in kept], np.float64)
        self._bytes: Float64 = np.array([each.bytes for each in kept], np.float64)
        choice = [each.tokens for each in documents if each.half == "choice"]
        self.choice_tokens = sum(choice)
        self._labels = np.array([labels.get(each.index, "") for each in kept], dtype=object)

    def losses(self, result: TrialResult) -> Float64:
        """Return the loss of each document, in nats."""
        return np.array(result.nlls, np.float64)[self._places]

    def run(self, result: TrialResult) -> Run:
        """Return the figures of one result."""
        nll = float(self.losses(result).sum())
        return Run(
            seed=result.seed,
            repeat=result.repeat,
            perplexity=exp(nll / float(self.tokens.sum())),
            bits_per_byte=_bits(nll, int(self._bytes.sum())),
        )

    def label_sizes(self) -> tuple[Label, ...]:
        """Return the labels, that with the most bytes first; none if no document has one."""
        found = [
            Label(label=label, documents=int(own.sum()), bytes=int(self._bytes[own].sum()))
            for label in sorted(set(self._labels.tolist()) - {""})
            for own in [self._labels == label]
        ]
        return tuple(sorted(found, key=lambda each: -each.bytes))

    def by_label(self, results: Sequence[TrialResult]) -> dict[str, float]:
        """Return the bits per byte of each label, the mean over the results."""
        losses = np.mean([self.losses(each) for each in results], axis=0)
        found = {}
        for each in self.label_sizes():
            own = self._labels == each.label
            found[each.label] = _bits(float(losses[own].sum()), int(self._bytes[own].sum()))
        return found


def _bits(nll: float, text_bytes: int) -> float:
    found = bits_per_byte(nll, text_bytes)
    return inf if found is None else found


def mean_if_scored(perplexities: Iterable[float]) -> float | None:
    """Return the mean of those that were scored; None if none was: inf stands for no token."""
    scored = [each for each in perplexities if each < inf]
    return fmean(scored) if scored else None


def _row(
    found: Sequence[TrialResult],
    tried: Sequence[TrialResult],
    shown: Shown,
    starts: Mapping[int, Start],
    references: Mapping[str, Sequence[TrialResult]],
) -> Row:
    first, runs = found[0], [shown.run(each) for each in found]
    perplexities = [run.perplexity for run in runs]
    ranked = []
    for each in found:
        losses = {loss.shard: loss.perplexity for loss in each.points[-1].losses}
        ranked.append([losses[shard] for shard in by_size(each.shards or starts[each.seed].shards)])
    return Row(
        method=first.method,
        title=method_named(first.method).title,
        compute=first.compute,
        parameters=first.parameters,
        path_parameters=first.path_parameters,
        tokens=first.points[-1].tokens,
        lr=first.lr,
        outer_lr=first.outer_lr,
        tried=tuple(
            TriedRate(
                lr=each.lr,
                outer_lr=each.outer_lr,
                perplexity=exp(each.choice_nll / shown.choice_tokens),
            )
            for each in sorted(tried, key=lambda each: (each.lr, each.outer_lr or 0.0))
        ),
        runs=tuple(runs),
        perplexity=exp(fmean(map(log, perplexities))),
        lowest=min(perplexities),
        highest=max(perplexities),
        bits_per_byte=fmean(run.bits_per_byte for run in runs),
        order_spread=_order_spread(runs),
        ratios={
            name: found_ratio
            for name, theirs in references.items()
            if name != first.method and (found_ratio := _ratio(found, theirs, shown)) is not None
        },
        shards=tuple(mean_if_scored(column) for column in zip(*ranked, strict=True)),
        labels=shown.by_label(found),
    )


def _ratio(
    ours: Sequence[TrialResult], theirs: Sequence[TrialResult], shown: Shown
) -> Ratio | None:
    """Return the ratio to another method over the runs that both have; None without one."""
    others = {(each.seed, each.repeat): each for each in theirs}
    common = [each for each in ours if (each.seed, each.repeat) in others]
    if not common:
        return None
    return ratio(
        np.array([shown.losses(each) for each in common]),
        np.array([shown.losses(others[each.seed, each.repeat]) for each in common]),
        shown.tokens,
    )


def _order_spread(runs: Sequence[Run]) -> float | None:
    """Return the deviation over repeats, pooled over the seeds that have some."""
    by_seed: dict[int, list[float]] = {}
    for run in runs:
        by_seed.setdefault(run.seed, []).append(log(run.perplexity))
    spreads = [stdev(logs) ** 2 for logs in by_seed.values() if len(logs) > 1]
    return fmean(spreads) ** 0.5 if spreads else None


def _reroute_rows(found: Sequence[TrialResult], rerouted: Sequence[Rerouted]) -> list[RerouteRow]:
    """Return a method's rows, routed once first; none if it was never re-routed."""
    again = {(each.trial, each.seed): each for each in rerouted}
    own = {e.seed: again[e.trial.key, e.seed] for e in found if (e.trial.key, e.seed) in again}
    once = {e.seed: e.perplexity for e in found if not e.repeat and e.seed in own}
    windows = sorted({window for each in own.values() for window in each.windows}, reverse=True)
    rows = [_reroute_row(found[0].method, None, once, once)] if once else []
    for window in windows:
        perplexities = {
            seed: perplexity(each.windows[window])
            for seed, each in sorted(own.items())
            if window in each.windows
        }
        rows.append(_reroute_row(found[0].method, window, perplexities, once))
    return rows


def _reroute_row(
    method: str, window: int | None, perplexities: dict[int, float], once: dict[int, float]
) -> RerouteRow:
    return RerouteRow(
        method=method,
        title=method_named(method).title,
        window=window,
        perplexities=perplexities,
        mean=fmean(perplexities.values()),
        lowest=min(perplexities.values()),
        highest=max(perplexities.values()),
        ratios={seed: p / once[seed] for seed, p in perplexities.items()},
    )
