"""The keys of a terminal, one at a time and without echo; its old mode comes back at the end."""

import os
import re
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MAX_READ: Final = 256  # bytes: a person who leans on a key is not read to the end
SEQUENCE: Final = re.compile(rb"\x1b(\[[0-?]*[ -/]*[@-~]|O.|.)?", re.DOTALL)
"""What arrow and function keys, the mouse and pasting send: several bytes after an escape."""


@contextmanager
def single_keys(terminal: int) -> Iterator[None]:
    """Have each key come at once, unseen, during the block; signals by keys stay.

    terminal   a file descriptor.
    """
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)


def keys_in(data: bytes) -> str:
    """Return the letters that were typed, in lower case; keys that send sequences count nothing."""
    return SEQUENCE.sub(b"", data).decode("ascii", "ignore").lower()


def read_keys(terminal: int) -> str | None:
    """Return the keys that wait to be read; None: there will be no more."""
    try:
        data = os.read(terminal, MAX_READ)
    except OSError:  # the terminal was closed
        return None
    return keys_in(data) if data else None
