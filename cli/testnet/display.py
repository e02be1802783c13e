"""Displays of a local network's progress on stderr: tables on a terminal, else plain lines."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dipaco.cli.testnet.snapshot import Snapshot, remaining, round_of, share_done
from dipaco.cli.views.layout import Column, fitted_table
from dipaco.cli.views.pace import LinePacing
from dipaco.cli.views.text import clock, label
from dipaco.node.status.document import PathStatus, Status
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.wire.text import escaped

REFRESH = 4  # times a second


class View(Protocol):
    """Shows snapshots of a network."""

    def show(self, snapshot: Snapshot) -> None:
        """Show the newest snapshot."""
        ...

    def say(self, line: str) -> None:
        """Print a line that stays."""
        ...


@contextmanager
def view(manifest: Manifest, console: Console) -> Iterator[View]:
    """Give the view that suits `console`."""
    if not console.is_terminal:
        yield PlainView(manifest, console)
        return
    with Live(console=console, refresh_per_second=REFRESH) as live:
        yield LiveView(manifest, live)


class Headline:
    """One line on the whole network. The time left is estimated from the end of the seed phase."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.seeded_at: float | None = None

    def text(self, snapshot: Snapshot) -> str:
        """Return the line: round, speed, loss and time."""
        if self.seeded_at is None and snapshot.ledger.versions:
            self.seeded_at = snapshot.elapsed
        rounds = self.manifest.training.rounds
        now = round_of(snapshot)
        left = remaining(snapshot, self.manifest, self.seeded_at)
        parts = [
            f"{clock(snapshot.elapsed)}",
            "done" if now > rounds else f"round {now} of {rounds}" if now else "before round 1",
            f"{share_done(snapshot, self.manifest):.0%}",
            f"{snapshot.tokens_per_second:,.0f} tokens/s",
            f"loss {snapshot.loss:.3f}" if snapshot.loss is not None else "loss -",
            f"{clock(left)} left" if left is not None else "",
        ]
        return "  ".join(part for part in parts if part)


class PlainView:
    """Prints a line at the end of a round, and when a node's verdict or reason to pause changes."""

    def __init__(self, manifest: Manifest, console: Console) -> None:
        self._headline, self._console = Headline(manifest), console
        self._pacing = LinePacing(began=0.0)
        self._news: dict[str, str] = {}

    def say(self, line: str) -> None:
        """Print the line."""
        self._console.print(Text(escaped(line)), soft_wrap=True)

    def show(self, snapshot: Snapshot) -> None:
        """Print the changes."""
        for name, status in snapshot.statuses.items():
            news = _news(status)
            if news != self._news.get(name, ""):
                self.say(f"{clock(snapshot.elapsed)}  {name}: {news or status.reason.text}")
            self._news[name] = news
        headline = self._headline.text(snapshot)
        finished = snapshot.ledger.finished
        if self._pacing.is_due(round_of(snapshot), snapshot.elapsed) or finished:
            for line in (headline, *(f"      {held}" for held in _held(snapshot))):
                self.say(line)


def _news(status: Status) -> str:
    """Return the verdict, and the reason if the node does no work; a change is worth a line."""
    verdict = status.run.verdict if status.run else "unverified"
    known = "" if verdict == "unverified" else f"router {verdict}"
    if status.state in ("refused", "paused"):
        return f"{known} {status.state}: {status.reason.text}".strip()
    return known


def _held(snapshot: Snapshot) -> Iterator[str]:
    """Yield a line for every path that a node trains, with its steps."""
    for name, status in snapshot.statuses.items():
        task = status.task
        if task is not None and task.kind in ("seed", "train"):
            done = f" {task.done}/{task.total}" if task.total else ""
            yield f"{name} {task.kind} path {task.path}{done}"


class LiveView:
    """A display that redraws itself."""

    def __init__(self, manifest: Manifest, live: Live) -> None:
        self._headline, self._live = Headline(manifest), live

    def say(self, line: str) -> None:
        """Print the line above the display."""
        self._live.console.print(Text(escaped(line)))

    def show(self, snapshot: Snapshot) -> None:
        """Draw the newest state."""
        headline = Text(self._headline.text(snapshot), style="bold")
        width = self._live.console.width
        grid = _grid(snapshot, self._headline.manifest, width)
        self._live.update(Group(headline, grid, _nodes(snapshot, width)))


def _grid(snapshot: Snapshot, manifest: Manifest, width: int) -> Table:
    """Return the paths as a table: a row for each expert of level 1, or several if it is narrow."""
    columns = manifest.paths // manifest.grid.levels[0].experts
    table = Table(show_header=False, title="paths", title_justify="left")
    first = next(iter(snapshot.statuses.values()), None)
    cells = [_path(path, snapshot) for path in (first.swarm if first else ())]
    widest = max((cell_len(line) for cell in cells for line in cell.split("\n")), default=1)
    columns = max(1, min(columns, (width - 1) // (widest + 3)))
    for row in range(0, len(cells), columns):
        table.add_row(*map(Text, cells[row : row + columns]))
    return table


def _path(path: PathStatus, snapshot: Snapshot) -> str:
    held = next((n for n, s in snapshot.statuses.items() if s.peer == path.holder), None)
    holder = escaped(held) if held else (short_peer(PeerId(path.holder)) if path.holder else "-")
    task = snapshot.statuses[held].task if held else None
    step = f" {task.done}/{task.total}" if task and task.kind == "train" and task.total else ""
    loss = f"{path.loss:.3f}" if path.loss is not None else "-"
    return f"{label(path.experts)} round {path.round} {path.state}{step}\n{holder}  loss {loss}"


NODE_COLUMNS: Final = (
    Column("node", words=True),
    Column("router", words=True, drop=2),
    Column("state", words=True),
    Column("why", words=True, drop=1),
    Column("tokens/s", drop=3),
    Column("RSS MB", drop=4),
)


def _nodes(snapshot: Snapshot, width: int) -> Table:
    rows = [(name, *_node(status)) for name, status in snapshot.statuses.items()]
    return fitted_table("nodes", NODE_COLUMNS, rows, width)


def _node(status: Status) -> tuple[str, ...]:
    speed = f"{status.task.tokens_per_second:,.0f}" if status.task else "-"
    return (
        status.run.verdict if status.run else "-",
        status.state,
        status.reason.text,
        speed,
        f"{status.memory.daemon / 1e6:.0f}+{status.memory.worker / 1e6:.0f}",
    )
