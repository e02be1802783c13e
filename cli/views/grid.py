"""The grid of paths in a terminal: as much of each path as there is room for."""

from collections.abc import Callable, Sequence

from rich.text import Text

from dipaco.cli.views.text import label
from dipaco.node.status.document import PathState, PathStatus
from dipaco.protocol.numbers import count

MARKS: dict[PathState, tuple[str, str]] = {
    "idle": (".", "dim"),
    "leased": (">", "cyan"),
    "submitted": ("+", "green"),
    "done": ("=", "green"),
}
"""The mark of a path's state, and its style."""
MINE = ("*", "bold green")  # leased to this node
GAP = 2  # columns between two paths

Cell = Callable[[PathStatus, str], Text]


def grid_lines(paths: Sequence[PathStatus], me: str, width: int, height: int) -> list[Text]:
    """Return the paths in at most `height` lines of `width` columns, in the fullest form that fits.

    me   PeerID of this node, whose paths are marked.
    """
    if height <= 0 or not paths:
        return []
    found: list[Text] = []
    for form, gap in ((_whole, GAP), (_short, GAP), (_mark, 0)):
        cells = [form(path, me) for path in paths]
        found = _rows(cells, gap, width)
        if len(found) <= height:
            return found
    shown = found[: height - 1]
    more = len(paths) - sum(len(line.plain) for line in shown)
    return [*shown, Text(f"and {count(more, 'path')} more", "dim")]


def legend() -> Text:
    """Return the meaning of the marks."""
    parts = [Text.assemble(MINE, " this node")]
    parts += [Text.assemble(mark, f" {state}") for state, mark in MARKS.items()]
    return Text("  ").join(parts)


def _rows(cells: Sequence[Text], gap: int, width: int) -> list[Text]:
    widest = max(cell.cell_len for cell in cells)
    across = max(1, (width + gap) // (widest + gap))
    rows = []
    for start in range(0, len(cells), across):
        row = Text()
        for cell in cells[start : start + across]:
            row.append_text(cell)
            row.append(" " * (widest + gap - cell.cell_len))
        row.rstrip()
        rows.append(row)
    return rows


def _whole(path: PathStatus, me: str) -> Text:
    holder = "this node" if path.holder == me else path.holder[-6:] or "-"
    loss = f"{path.loss:.3f}" if path.loss is not None else "-"
    return Text.assemble(
        _short(path, me), f" {path.round:>3} ", f"{holder:<9} ", (f"{loss:>6}", "bold")
    )


def _short(path: PathStatus, me: str) -> Text:
    return Text.assemble(label(path.experts), " ", _mark(path, me))


def _mark(path: PathStatus, me: str) -> Text:
    mine = path.holder == me and path.state == "leased"
    return Text(*(MINE if mine else MARKS[path.state]))
