"""The tables of a comparison, for a terminal and as Markdown, each with the caption."""

from collections.abc import Callable, Sequence
from statistics import fmean

from rich.console import Console

from dipaco.cli.views.layout import Column, fitted_table, table_console
from dipaco.node.compare.results import Comparison, RerouteRow, Row, by_size
from dipaco.protocol.numbers import count


def main_table(comparison: Comparison) -> list[list[str]]:
    """Return head and rows: cost, perplexity per seed, mean, range, ratio to dense."""
    seeds = [start.seed for start in comparison.starts]
    head = ["method", "compute", "parameters", "a path's", "tokens"]
    head += [*(f"seed {seed}" for seed in seeds), "mean", "range", "/ dense, equal steps"]
    start = fmean(start.point.perplexity for start in comparison.starts)
    first = [f"{each.point.perplexity:.1f}" for each in comparison.starts]
    seed_row = ["seed model", "", "", "", _short(comparison.starts[0].point.tokens)]
    body = [[*seed_row, *first, f"{start:.1f}", "", ""]]
    body += [_line(row, seeds) for row in comparison.rows]
    return [head, *body]


def _line(row: Row, seeds: Sequence[int]) -> list[str]:
    found = row.perplexities
    return [
        row.title,
        f"{row.compute:.0f}x",
        _short(row.parameters),
        _short(row.path_parameters),
        _short(row.tokens),
        *(f"{found[seed]:.1f}" if seed in found else "-" for seed in seeds),
        *_mean_and_range(row, seeds),
        _ratio(row),
    ]


def _mean_and_range(row: Row | RerouteRow, seeds: Sequence[int]) -> tuple[str, str]:
    """Return two cells. A mean over some of the seeds only is marked as such."""
    count = len(row.perplexities)
    between = f"{row.lowest:.1f} to {row.highest:.1f}" if count > 1 else "-"
    return f"{row.mean:.1f}{_of(row, seeds)}", between


def _of(row: Row | RerouteRow, seeds: Sequence[int]) -> str:
    """Return the mark of a row over some of the seeds only."""
    count = len(row.perplexities)
    return f" ({count} of {len(seeds)})" if count < len(seeds) else ""


def _ratio(row: Row | RerouteRow) -> str:
    """Return mean and range of the ratios within each seed; marked if some seeds have none."""
    if not row.ratios:
        return "-"
    found = sorted(row.ratios.values())
    between = f" ({found[0]:.3f} to {found[-1]:.3f})" if len(found) > 1 else ""
    of = f" ({len(found)} of {len(row.perplexities)})" if len(found) < len(row.perplexities) else ""
    return f"{fmean(found):.3f}{between}{of}"


def reroute_table(comparison: Comparison) -> list[list[str]]:
    """Return head and rows: perplexity with the path chosen once, and every so many tokens."""
    seeds = [start.seed for start in comparison.starts]
    head = ["method", "path chosen", *(f"seed {seed}" for seed in seeds), "mean", "range", "/ once"]
    body = []
    for row in comparison.reroute_rows:
        cells = [row.title, f"every {count(row.window, 'token')}" if row.window else "once"]
        found = row.perplexities
        cells += [f"{found[seed]:.1f}" if seed in found else "-" for seed in seeds]
        body.append([*cells, *_mean_and_range(row, seeds), _ratio(row)])
    return [head, *body]


def shard_table(comparison: Comparison) -> list[list[str]]:
    """Return head and rows: perplexity per shard, mean over the seeds, the largest shard first."""
    ranks = range(comparison.paths)
    head = ["method", *(f"shard {rank + 1}" for rank in ranks)]
    seeds = [start.seed for start in comparison.starts]
    body = [
        [row.title + _of(row, seeds), *(f"{loss:.1f}" for loss in row.shards)]
        for row in comparison.rows
    ]
    routers = {f"seed {start.seed}": start.shards for start in comparison.starts}
    titles = {row.method: row.title for row in comparison.rows}
    for each in comparison.results:
        if each.shards:
            routers[f"seed {each.seed}, {titles[each.method]}"] = each.shards
    for name, shards in routers.items():
        sizes = {shard.shard: shard for shard in shards}
        ordered = [sizes[number] for number in by_size(shards)]
        cells = (f"{shard.documents:,} ({_short(shard.tokens)})" for shard in ordered)
        body.append([f"{name}: documents (tokens)", *cells])
    return [head, *body]


TABLES: Sequence[tuple[str, Callable[[Comparison], list[list[str]]]]] = (
    ("routed validation perplexity", main_table),
    ("perplexity per shard, mean over the seeds, largest shard first", shard_table),
    ("routed validation perplexity, the path chosen again within a document", reroute_table),
)


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print the tables; on stdout by default."""
    console = console or table_console()
    for title, make in TABLES:
        head, *body = make(comparison)
        if not body:
            continue
        columns = [
            Column(name, words=not place or name == "path chosen", drop=_importance(name, place))
            for place, name in enumerate(head)
        ]
        table = fitted_table(title, columns, body, console.width, caption=comparison.caption)
        console.print(table)


def _importance(name: str, place: int) -> int:
    """Return which column is left out first where the terminal is narrow, 0 for never."""
    if not place or name in ("mean", "path chosen"):
        return 0
    if name.startswith(("seed ", "shard ")):
        return 5
    return {"range": 6, "a path's": 4, "parameters": 3, "tokens": 2}.get(name, 1)


def markdown(comparison: Comparison) -> str:
    """Return the tables as Markdown."""
    parts = []
    for title, make in TABLES:
        head, *body = make(comparison)
        if not body:
            continue
        rule = ["---", *("---:" for _ in head[1:])]
        lines = ["| " + " | ".join(cells) + " |" for cells in (head, rule, *body)]
        parts.append("\n".join([f"### {title.capitalize()}", "", *lines, "", comparison.caption]))
    return "\n\n".join(parts) + "\n"


def _short(count: int) -> str:
    """Return 1.31M for 1,312,256."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)
