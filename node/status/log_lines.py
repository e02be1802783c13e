"""The latest lines of the daemon's log, for the clients of the local API."""

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from dipaco.node.status.events import Level, LogLine
from dipaco.protocol.wire.text import escaped

MAX_LINES = 1000
MAX_LINE = 2000  # characters, so that all have some 2 MB at most

LEVELS: Final[dict[Level, int]] = {
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}


class LogLines(logging.Handler):
    """Keeps the lines that Python's logging is given; any thread may log."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[LogLine] = deque(maxlen=MAX_LINES)
        self.number = 0
        """Of the last line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line; its traceback stays in the log itself."""
        text, error = record.getMessage(), record.exc_info
        if error and error[0]:
            text = f"{text} ({error[0].__name__}: {error[1]})"
        self.number += 1
        level: Level = next((name for name in LEVELS if record.levelno >= LEVELS[name]), "debug")
        line = LogLine(
            number=self.number, time=record.created, level=level, text=escaped(text)[:MAX_LINE]
        )
        self._lines.append(line)

    def after(self, number: int, level: Level, most: int = MAX_LINES) -> list[LogLine]:
        """Return the last `most` lines whose numbers are larger, of a level or above."""
        self.acquire()
        try:
            lines = list(self._lines)
        finally:
            self.release()
        least = LEVELS[level]
        return [e for e in lines if e.number > number and LEVELS[e.level] >= least][-most:]


@contextmanager
def listening(lines: LogLines) -> Iterator[None]:
    """Keep the log's lines during the block."""
    root = logging.getLogger()
    root.addHandler(lines)
    try:
        yield
    finally:
        root.removeHandler(lines)
