"""The console for tables."""

from typing import Final

from rich.console import Console

FILE_WIDTH: Final = 120  # columns, if stdout is no terminal


def table_console() -> Console:
    """Return a console on stdout, with a fixed width if that is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=FILE_WIDTH)
