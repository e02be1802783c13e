"""The console that tables go to."""

from typing import Final

from rich.console import Console

FILE_WIDTH: Final = 120  # columns, where stdout is no terminal


def table_console() -> Console:
    """Return stdout, of a fixed width where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=FILE_WIDTH)
