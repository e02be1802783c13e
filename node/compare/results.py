"""The results of a comparison: one file for each method and seed, and the tables made from them.

A file is written whole at the end of a training, so a comparison that was interrupted continues
with the missing ones. Losses are sums in nats, with the number of tokens; all other figures are
computed from them here.
"""

from collections.abc import Iterable, Sequence
from math import exp
from pathlib import Path
from statistics import fmean
from typing import Literal, TypeAlias, TypeVar

import msgspec

from dipaco.node.storage.files import read_file, write_file
from dipaco.protocol.errors import ConfigError

MAX_FILE = 64 << 20  # bytes


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """Held-out loss on the documents that the router sends to one shard."""

    shard: int
    documents: int
    tokens: int
    """Scored positions: those from the manifest's first scored position on."""
    nll: float
    """Summed, in nats."""

    @property
    def perplexity(self) -> float:
        """The exponential of the mean; infinity where nothing was scored."""
        return perplexity([self])


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluation of the held-out loss."""

    steps: int
    """Inner steps of one path, those of the seed model included."""
    tokens: int
    """Tokens that all paths together trained on, those of the seed model included."""
    losses: tuple[Loss, ...]
    """Per shard, ascending."""

    @property
    def perplexity(self) -> float:
        """The routed perplexity: every held-out document once, token-weighted."""
        return perplexity(self.losses)


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of one shard in the router spec."""

    shard: int
    documents: int
    tokens: int


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """The common start of all methods of one seed: router, shards, seed model."""

    run: str
    """Run id of the manifest with this seed, hex."""
    seed: int
    spec: str
    """SHA-256 of the router spec, canonical, hex."""
    states: dict[str, str]
    """The seed model: module of path 0 to the SHA-256 of its state, hex."""
    shards: tuple[Shard, ...]
    point: Point


class MethodResult(msgspec.Struct, frozen=True, kw_only=True):
    """One method, trained from one seed's start to its end."""

    run: str
    """Run id of its start, hex."""
    method: str
    seed: int
    compute: float
    """Inner steps after the seed model, as a multiple of those of dense at equal steps."""
    parameters: int
    """Number of parameters of all modules together."""
    path_parameters: int
    """Number of parameters of one path's model."""
    seconds: float
    """Time of training and evaluation, on a machine that may have been busy."""
    points: tuple[Point, ...]
    """The seed model's first, then one after each round."""
    states: dict[str, str]
    """The last version: module to the SHA-256 of its state, hex."""
    spec: str = ""
    """SHA-256 of its own last router spec, canonical, hex; empty if it keeps the start's."""
    shards: tuple[Shard, ...] = ()
    """The shards of that router."""

    @property
    def perplexity(self) -> float:
        """The routed perplexity of the last version."""
        return self.points[-1].perplexity


class Rerouted(msgspec.Struct, frozen=True, kw_only=True):
    """The losses of a trained method whose path is chosen anew within each document."""

    run: str
    """Run id of its start, hex."""
    method: str
    seed: int
    windows: dict[int, tuple[Loss, ...]]
    """By W, the tokens between two choices: per path the loss on the tokens that it scored.
    `documents` counts those that begin with the path."""


def perplexity(losses: Iterable[Loss]) -> float:
    """Return exp of the token-weighted mean loss; infinity where nothing was scored."""
    found = list(losses)
    tokens = sum(loss.tokens for loss in found)
    return exp(min(sum(loss.nll for loss in found) / tokens, 700.0)) if tokens else float("inf")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One method over all seeds: a row of the table."""

    method: str
    title: str
    compute: float
    parameters: int
    path_parameters: int
    tokens: int
    """Tokens that all paths trained on, those of the seed model included."""
    perplexities: dict[int, float]
    """By seed."""
    mean: float
    lowest: float
    highest: float
    ratios: dict[int, float]
    """By seed: the ratio to dense at equal steps; empty if that was not trained."""
    shards: tuple[float, ...]
    """Perplexity per shard of the last router, mean over the seeds, the largest shard first."""


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


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The whole comparison: the content of `compare.json`."""

    schema: Literal[1] = 1
    name: str
    paths: int
    caption: str
    rows: tuple[Row, ...]
    reroute_rows: tuple[RerouteRow, ...]
    starts: tuple[Start, ...]
    results: tuple[MethodResult, ...]
    rerouted: tuple[Rerouted, ...]


def summarise(
    name: str,
    titles: dict[str, str],
    starts: Sequence[Start],
    results: Sequence[MethodResult],
    rerouted: Sequence[Rerouted] = (),
) -> Comparison:
    """Return the comparison of these results, with the methods in the order of `titles`."""
    by_seed = {start.seed: start for start in starts}
    dense = {each.seed: each for each in results if each.method == "dense"}
    rows: list[Row] = []
    reroute_rows: list[RerouteRow] = []
    for method, title in titles.items():
        found = sorted((r for r in results if r.method == method), key=lambda r: r.seed)
        if found:
            rows.append(_row(title, found, dense, by_seed))
            reroute_rows += _reroute_rows(title, found, rerouted)
    return Comparison(
        name=name,
        paths=len(starts[0].shards),
        caption=caption(rows),
        rows=tuple(rows),
        reroute_rows=tuple(reroute_rows),
        starts=tuple(starts),
        results=tuple(results),
        rerouted=tuple(rerouted),
    )


def caption(rows: Sequence[Row]) -> str:
    """Return the sentence that stands under every table and picture of a comparison."""
    compute = next((row for row in rows if row.method == "dense-compute"), None)
    found = f"reaches {compute.mean:.1f}" if compute else "was not trained here"
    count = len(compute.perplexities) if compute else 0
    if count < max((len(row.perplexities) for row in rows), default=0) and count:
        found += f" over {count} of the seeds"
    return f"Dense at equal compute {found}: DiPaCo buys wall clock and memory, not FLOPs."


def by_size(shards: Iterable[Shard]) -> list[int]:
    """Return the shards, the largest first: the numbers of two seeds are unrelated."""
    return [each.shard for each in sorted(shards, key=lambda s: (-s.tokens, s.shard))]


def _row(
    title: str,
    found: list[MethodResult],
    dense: dict[int, MethodResult],
    starts: dict[int, Start],
) -> Row:
    perplexities = {each.seed: each.perplexity for each in found}
    ranked = []
    for each in found:
        losses = {loss.shard: loss.perplexity for loss in each.points[-1].losses}
        shards = each.shards or starts[each.seed].shards
        ranked.append([losses[shard] for shard in by_size(shards)])
    return Row(
        method=found[0].method,
        title=title,
        compute=found[0].compute,
        parameters=found[0].parameters,
        path_parameters=found[0].path_parameters,
        tokens=found[0].points[-1].tokens,
        perplexities=perplexities,
        mean=fmean(perplexities.values()),
        lowest=min(perplexities.values()),
        highest=max(perplexities.values()),
        ratios={s: p / dense[s].perplexity for s, p in perplexities.items() if s in dense},
        shards=tuple(fmean(column) for column in zip(*ranked, strict=True)),
    )


def _reroute_rows(
    title: str, results: list[MethodResult], rerouted: Sequence[Rerouted]
) -> list[RerouteRow]:
    """Return a method's rows, routed once first; none if it was never re-routed."""
    method = results[0].method
    found = {each.seed: each for each in rerouted if each.method == method}
    once = {each.seed: each.perplexity for each in results if each.seed in found}
    windows = sorted({window for each in found.values() for window in each.windows}, reverse=True)
    rows = [_reroute_row(method, title, None, once, once)] if once else []
    for window in windows:
        perplexities = {
            seed: perplexity(each.windows[window])
            for seed, each in sorted(found.items())
            if window in each.windows
        }
        rows.append(_reroute_row(method, title, window, perplexities, once))
    return rows


def _reroute_row(
    method: str,
    title: str,
    window: int | None,
    perplexities: dict[int, float],
    once: dict[int, float],
) -> RerouteRow:
    return RerouteRow(
        method=method,
        title=title,
        window=window,
        perplexities=perplexities,
        mean=fmean(perplexities.values()),
        lowest=min(perplexities.values()),
        highest=max(perplexities.values()),
        ratios={seed: p / once[seed] for seed, p in perplexities.items()},
    )


Result: TypeAlias = Start | MethodResult | Rerouted | Comparison
S = TypeVar("S", bound=Result)


def write_result(path: Path, value: Result) -> None:
    """Write a value as JSON, whole or not at all."""
    write_file(path, msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")


def read_result(path: Path, kind: type[S]) -> S:
    """Read a value back; raises ConfigError for a file of another content."""
    try:
        return msgspec.json.decode(read_file(path, limit=MAX_FILE), type=kind)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: not a result of a comparison: {error}") from None
