"""The tables of a comparison, for a terminal and as Markdown, each with the caption."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from rich.console import Console

from dipaco.cli.views.layout import Column, fitted_table, table_console
from dipaco.node.compare.summary import Comparison, RerouteRow, Row, by_size
from dipaco.protocol.numbers import count

REFERENCES: Mapping[str, str] = {
    "dense": "/ dense, equal steps",
    "dipaco-random": "/ random shards",
    "dipaco": "/ DiPaCo",
}
"""Heads of the columns of ratios, by method of `summary.REFERENCES`."""
NOTE = (
    "Ratios are of perplexities, with 95 % intervals of a paired bootstrap over documents and "
    "runs; = cannot be told apart from it: the interval holds 1."
)
EDGE = "*"  # behind a rate that is the least or the largest of those tried


def main_table(comparison: Comparison) -> list[list[str]]:
    """Return head and rows: cost, rates, perplexity, bits per byte, ratios with intervals."""
    trained = {row.method for row in comparison.rows}
    references = [name for name in REFERENCES if name in trained]
    head = ["method", "compute", "parameters", "a path's", "tokens", "rates", "runs"]
    head += [f"perplexity (of {comparison.vocabulary:,})", "range", "bits per byte"]
    head += [REFERENCES[name] for name in references]
    start = fmean(start.point.perplexity for start in comparison.starts)
    tokens = _short(comparison.starts[0].point.tokens)
    seed_row = ["seed model", "", "", "", tokens, "", str(len(comparison.starts)), f"{start:.1f}"]
    body = [[*seed_row, *([""] * (len(head) - len(seed_row)))]]
    body += [_line(row, references) for row in comparison.rows]
    return [head, *body]


def _line(row: Row, references: Sequence[str]) -> list[str]:
    between = f"{row.lowest:.1f} to {row.highest:.1f}" if len(row.runs) > 1 else "-"
    return [
        row.title,
        f"{row.compute:.0f}x",
        _short(row.parameters),
        _short(row.path_parameters),
        _short(row.tokens),
        _rates(row.lr, row.outer_lr) + EDGE * row.at_edge,
        str(len(row.runs)),
        f"{row.perplexity:.1f}",
        between,
        f"{row.bits_per_byte:.3f}",
        *(_ratio(row, name) for name in references),
    ]


def _rates(lr: float, outer_lr: float | None) -> str:
    return f"{lr:g}" if outer_lr is None else f"{lr:g}, {outer_lr:g}"


def _ratio(row: Row, reference: str) -> str:
    """Return mean and interval of a ratio; = where it holds 1."""
    found = row.ratios.get(reference)
    if found is None:
        return "1" if row.method == reference else "-"
    equal = "" if found.told_apart else " ="
    some = f" ({found.runs} of {len(row.runs)})" if found.runs < len(row.runs) else ""
    return f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f}){equal}{some}"


def rate_table(comparison: Comparison) -> list[list[str]]:
    """Return head and rows: perplexity at each pair of rates, on the half that chooses."""
    head = ["method", "rates", "perplexity", "chosen"]
    body = [
        [
            row.title,
            _rates(each.lr, each.outer_lr),
            f"{each.perplexity:.1f}",
            "yes" if (each.lr, each.outer_lr) == (row.lr, row.outer_lr) else "",
        ]
        for row in comparison.rows
        if len(row.tried) > 1
        for each in row.tried
    ]
    return [head, *body]


def label_table(comparison: Comparison) -> list[list[str]]:
    """Return head and rows: bits per byte per label, the label with the most bytes first."""
    head = ["domain", "documents", "bytes", *(row.title for row in comparison.rows)]
    body = [
        [
            each.label,
            f"{each.documents:,}",
            _short(each.bytes),
            *(f"{row.labels[each.label]:.3f}" for row in comparison.rows),
        ]
        for each in comparison.labels
    ]
    return [head, *body]


def order_table(comparison: Comparison) -> list[list[str]]:
    """Return head and rows: the deviation of the perplexity over orders of batches alone."""
    head = ["method", "runs", "deviation by the order of batches"]
    body = [
        [row.title, str(len(row.runs)), f"{100 * row.order_spread:.2f} %"]
        for row in comparison.rows
        if row.order_spread is not None
    ]
    return [head, *body]


def _once_ratio(row: RerouteRow) -> str:
    """Return mean and range of the ratios within each seed; marked if some seeds have none."""
    found = sorted(row.ratios.values())
    between = f" ({found[0]:.3f} to {found[-1]:.3f})" if len(found) > 1 else ""
    return f"{fmean(found):.3f}{between}"


def _mean_and_range(row: RerouteRow, seeds: Sequence[int]) -> tuple[str, str]:
    """Return two cells. A mean over some of the seeds only is marked as such."""
    count = len(row.perplexities)
    some = f" ({count} of {len(seeds)})" if count < len(seeds) else ""
    between = f"{row.lowest:.1f} to {row.highest:.1f}" if count > 1 else "-"
    return f"{row.mean:.1f}{some}", between


def reroute_table(comparison: Comparison) -> list[list[str]]:
    """Return head and rows: perplexity with the path chosen once, and every so many tokens."""
    seeds = [start.seed for start in comparison.starts]
    head = ["method", "path chosen", *(f"seed {seed}" for seed in seeds), "mean", "range", "/ once"]
    body = []
    for row in comparison.reroute_rows:
        cells = [row.title, f"every {count(row.window, 'token')}" if row.window else "once"]
        found = row.perplexities
        cells += [f"{found[seed]:.1f}" if seed in found else "-" for seed in seeds]
        body.append([*cells, *_mean_and_range(row, seeds), _once_ratio(row)])
    return [head, *body]


def shard_table(comparison: Comparison) -> list[list[str]]:
    """Return head and rows: perplexity per shard, mean over the seeds, the largest shard first."""
    ranks = range(comparison.paths)
    head = ["method", *(f"shard {rank + 1}" for rank in ranks)]
    body = [
        [row.title, *("-" if loss is None else f"{loss:.1f}" for loss in row.shards)]
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


TABLES: Sequence[tuple[str, Callable[[Comparison], list[list[str]]], str]] = (
    ("routed validation perplexity", main_table, NOTE),
    (
        "rates tried in the first seed, by the other half of the held-out documents",
        rate_table,
        f"{EDGE} in the first table: at an edge of the rates tried.",
    ),
    ("bits per byte by domain, mean over the runs", label_table, ""),
    ("spread by the order of batches", order_table, "Within one seed, pooled over seeds."),
    ("perplexity per shard, mean over the runs, largest shard first", shard_table, ""),
    ("routed validation perplexity, the path chosen again within a document", reroute_table, ""),
)


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print the tables; on stdout by default."""
    console = console or table_console()
    for title, make, note in TABLES:
        head, *body = make(comparison)
        if not body:
            continue
        columns = [
            Column(name, words=not place or name == "path chosen", drop=_importance(name, place))
            for place, name in enumerate(head)
        ]
        table = fitted_table(
            title, columns, body, console.width, caption=_caption(note, comparison)
        )
        console.print(table)


def _caption(note: str, comparison: Comparison) -> str:
    return f"{note} {comparison.caption}".strip()


def _importance(name: str, place: int) -> int:
    """Return which column is left out first where the terminal is narrow, 0 for never."""
    if not place or name in ("mean", "path chosen") or name.startswith("perplexity"):
        return 0
    if name.startswith(("seed ", "shard ")):
        return 7
    order = ["range", "a path's", "parameters", "tokens", "runs", "compute", "rates"]
    return 9 - order.index(name) if name in order else 1


def markdown(comparison: Comparison) -> str:
    """Return the tables as Markdown."""
    parts = []
    for title, make, note in TABLES:
        head, *body = make(comparison)
        if not body:
            continue
        rule = ["---", *("---:" for _ in head[1:])]
        lines = ["| " + " | ".join(cells) + " |" for cells in (head, rule, *body)]
        parts.append(
            "\n".join([f"### {title.capitalize()}", "", *lines, "", _caption(note, comparison)])
        )
    return "\n\n".join(parts) + "\n"


def _short(count: int) -> str:
    """Return 1.31M for 1,312,256."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)
