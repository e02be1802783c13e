"""Text and tables that are no wider than the terminal. Widths are in cells: CJK letters have two.

Lines are broken between words, tables lose their least important columns; a number is never cut.
What is no terminal (a pipe, a file) gets everything, at whatever width. Text of peers is made
printable here, on its way out.
"""

import os
import re
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from dipaco.protocol.wire.text import escaped

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

UNBOUNDED: Final = 10_000  # columns, if stdout is no terminal: rich must have a number
LEAST_WIDTH: Final = 20  # columns: nothing is legible in fewer


def cells_of(text: str) -> int:
    """Return the columns that a terminal shows `text` in."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # here, since `status` and `--help` answer at once

    return cell_len(text)


def terminal_width() -> int | None:
    """Return the columns of the terminal that stdout is; None: it is none."""
    return max(LEAST_WIDTH, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None


def is_drawable() -> bool:
    """Return whether stdin and stdout are a terminal on which a picture can be drawn."""
    whole = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    return whole and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def show_text(text: str, *, hang: int = 2) -> None:
    """Print lines on stdout, those that are too wide broken: see `fitted`."""
    click.echo(fitted(text, terminal_width(), hang=hang))


def fitted(text: str, width: int | None, *, hang: int = 2) -> str:
    """Return `text` escaped, and no line wider than `width`; None: any width.

    hang   columns by which the further lines of a broken one are moved in, at most a quarter of
           `width`.
    """
    lines = map(escaped, text.split("\n"))
    if width is None:
        return "\n".join(lines)
    margin = " " * min(hang, width // 4)
    return "\n".join("\n".join(_broken(line, width, margin)) for line in lines)


def _broken(line: str, width: int, margin: str) -> Iterator[str]:
    """Yield the parts of a line, all but the first after `margin`."""
    if cells_of(line) <= width:
        yield line
        return
    now = ""
    for gap, word in re.findall(r"( *)([^ ]+)", line):
        if cells_of(now + gap + word) <= width:
            now += gap + word
            continue
        if now.strip():
            yield now
        *full, last = _pieces(word, width - len(margin))
        yield from (margin + piece for piece in full)
        now = margin + last
    yield now


def _pieces(word: str, width: int) -> list[str]:
    """Return a word in pieces that fit; an address or a path is broken after a slash."""
    pieces = [""]
    for part in re.findall(r"[^/]*/|[^/]+", word):
        if cells_of(pieces[-1] + part) <= width:
            pieces[-1] += part
            continue
        pieces.append("")
        for letter in part:
            if cells_of(pieces[-1] + letter) > width:
                pieces.append("")
            pieces[-1] += letter
    return [piece for piece in pieces if piece]


# ------------------------------------------------------------------------------ tables


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    head: str
    words: bool = False
    """Its cells are text: on the left, and broken between words. Others are numbers."""
    drop: int = 0
    """The column with the largest number goes first if there is no room; 0: it stays."""


def table_console() -> "Console":
    """Return a console on stdout, of unbounded width if that is no terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=UNBOUNDED, highlight=False)


def fitted_table(
    title: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    width: int,
    *,
    ends: Collection[int] = (),
    caption: str = "",
    boxed: bool = True,
) -> "Table":
    """Return a table that fits `width`; it names the columns that it leaves out.

    ends   numbers of the rows under which a line is drawn.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [[escaped(cell) for cell in row] for row in rows]
    kept = _kept(columns, cells, width, boxed=boxed)
    left_out = [each.head for place, each in enumerate(columns) if place not in kept]
    notes = [caption, f"no room for: {', '.join(left_out)}" if left_out else ""]
    table = Table(
        title=Text(escaped(title)),
        title_justify="left",
        caption=Text("\n".join(filter(None, notes))) if any(notes) else None,
        caption_justify="left",
        box=box.HEAVY_HEAD if boxed else None,
        padding=(0, 1) if boxed else (0, 2, 0, 0),
        pad_edge=boxed,
    )
    for place in kept:
        column = columns[place]
        least = _least(column, [row[place] for row in cells])
        table.add_column(
            Text(column.head),
            justify="left" if column.words else "right",
            no_wrap=not column.words,
            min_width=least,
            overflow="fold",
        )
    for number, row in enumerate(cells):
        table.add_row(*(Text(row[place]) for place in kept), end_section=number in ends)
    return table


def table_text(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None, *, margin: str = ""
) -> str:
    """Return a table without lines as text, `margin` before each line."""
    from io import StringIO

    from rich.console import Console

    room = (width or UNBOUNDED) - len(margin)
    console = Console(file=StringIO(), width=room, color_system=None)
    with console.capture() as captured:
        console.print(fitted_table("", columns, rows, room, boxed=False))
    lines = captured.get().splitlines()
    return "\n".join(f"{margin}{line}".rstrip() for line in lines if line.strip())


def _kept(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int, *, boxed: bool
) -> list[int]:
    """Return the places of the columns that fit."""
    least = [_least(each, [row[p] for row in cells]) for p, each in enumerate(columns)]
    kept = list(range(len(columns)))
    between, edge = (3, 1) if boxed else (2, 0)
    while sum(least[place] + between for place in kept) + edge > width:
        last = max(kept, key=lambda place: (columns[place].drop, place))
        if not columns[last].drop:
            break
        kept.remove(last)
    return kept


def _least(column: Column, cells: Sequence[str]) -> int:
    """Return the cells that a column needs: that of a number its whole width, of text a word."""
    texts = [column.head, *cells]
    words = texts if not column.words else [word for text in texts for word in text.split() or [""]]
    return max(map(cells_of, words))
