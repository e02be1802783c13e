"""The picture of a comparison: routed validation perplexity against steps and against tokens.

matplotlib belongs to the extra `compare`; everything else works without it.
"""

from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from textwrap import fill
from typing import TYPE_CHECKING, Final

from dipaco.node.compare.results import TrialResult
from dipaco.node.compare.summary import Comparison, runs_of
from dipaco.node.storage.files import replacing
from dipaco.protocol.numbers import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MISSING: Final = "no plot: matplotlib is not installed; pip install 'dipaco-node[compare]'"
DPI = 110
STYLES: Final = {  # colours that differ in grey and for the colour-blind (Okabe and Ito)
    "dense": ("#000000", "o"),
    "dense-compute": ("#7f7f7f", "s"),
    "diloco": ("#e69f00", "^"),
    "flat-moe": ("#009e73", "v"),
    "dipaco": ("#0072b2", "D"),
    "dipaco-ps": ("#d55e00", "P"),
    "dipaco-random": ("#cc79a7", ">"),
    "dipaco-reshard": ("#882255", "X"),
}


def matplotlib_is_here() -> bool:
    """Return whether a plot can be drawn."""
    return find_spec("matplotlib") is not None


def draw(comparison: Comparison, path: Path) -> None:
    """Write the picture as PNG."""
    with replacing(path) as file:
        figure_of(comparison).savefig(file, format="png", dpi=DPI, metadata={"Software": None})


def figure_of(comparison: Comparison) -> "Figure":
    """Return the picture: per method the mean over its runs as a line, their range as a band."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(11, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for row in comparison.rows:
        found = runs_of(row.method, comparison.results, comparison.starts)
        few = len(found) < max(len(each.runs) for each in comparison.rows)
        of = f", {count(len(found), 'run')}" if few else ""
        for axes, along in ((left, "steps"), (right, "tokens")):
            _curve(axes, f"{row.title} ({row.perplexity:.0f}{of})", found, along)
    left.set_ylabel("routed validation perplexity")
    left.set_xlabel("steps per path")
    right.set_xlabel("tokens trained on, all paths together (millions)")
    for axes in (left, right):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(True, which="both", alpha=0.25)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    runs = max((len(row.runs) for row in comparison.rows), default=0)
    shown = f"Mean of {runs} runs; bands are their range." if runs > 1 else "One run."
    figure.supxlabel(fill(f"{comparison.caption} {shown}", 150), fontsize="small")
    return figure


def _curve(axes: "Axes", label: str, found: list[TrialResult], along: str) -> None:
    points = list(zip(*(each.points for each in found), strict=True))  # by round, over seeds
    places = [getattr(each[0], along) / (1e6 if along == "tokens" else 1) for each in points]
    losses = [[point.perplexity for point in each] for each in points]
    colour, marker = STYLES.get(found[0].method, ("#444444", "."))
    means = [fmean(each) for each in losses]
    axes.plot(places, means, color=colour, marker=marker, markersize=4, label=label)
    axes.fill_between(
        places, [min(e) for e in losses], [max(e) for e in losses], color=colour, alpha=0.15, lw=0
    )
