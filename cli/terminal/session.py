"""The terminal view: draws what the daemon tells, and heeds keys, until it is closed.

It is a client of the local API and nothing else: closing it changes nothing for the daemon. However
it ends (a key, a signal, an error), the terminal is as before; a suspended view comes back.
"""

import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live

from dipaco.cli.terminal.feed import ORDERS, Feed
from dipaco.cli.terminal.keyboard import read_keys, single_keys
from dipaco.cli.terminal.signals import ENDING, SUSPEND, Signals, end_by, suspend
from dipaco.cli.views.seen import Seen
from dipaco.cli.views.terminal import Room, terminal_lines
from dipaco.node.api.client import ask_status

CLOSED = 0  # no signal: a key closed the view


def show_terminal(home: Path) -> None:
    """Show the view of the daemon of `home` until a person closes it; raises NoDaemon at first."""
    View(home, Console(highlight=False)).run()


class View:
    """The loop of one view."""

    def __init__(self, home: Path, console: Console) -> None:
        self._seen = Seen(status=ask_status(home))
        self._console, self._keyboard = console, sys.stdin.fileno()
        self._signals = Signals()
        self._feed = Feed(home, self._signals.wake)

    def run(self) -> None:
        """Draw until a key or a signal ends it."""
        with self._signals.heeded():
            while (end := self._drawn()) == SUSPEND:
                suspend()
        if end != CLOSED:
            end_by(end)

    def _drawn(self) -> int:
        """Draw until a key closes the view, or a signal is to be obeyed, which is returned."""
        with single_keys(self._keyboard), self._screen() as live:
            while True:
                live.update(Group(*terminal_lines(self._seen, self._room())), refresh=True)
                ready, _, _ = select.select([self._keyboard, self._signals.waker], [], [])
                for number in self._signals.taken():
                    if number == SUSPEND or number in ENDING:
                        return number
                self._seen = self._feed.taken_up(self._seen)
                if self._keyboard in ready and self._is_closed():
                    return CLOSED

    @contextmanager
    def _screen(self) -> Iterator[Live]:
        with Live(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as live:
            yield live

    def _room(self) -> Room:
        width, height = self._console.size
        return Room(width, height, ascii=not self._console.encoding.startswith("utf"))

    def _is_closed(self) -> bool:
        """Do what the keys ask for; return whether one closes the view."""
        keys = read_keys(self._keyboard)
        if keys is None:
            return True
        for key in keys:
            if key == "q":
                return True
            if key == "l":
                self._seen = self._seen.turned()
            elif key in ORDERS:
                self._feed.order(key)
        return False
