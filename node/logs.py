"""Log lines on stderr or in a file, as text or as one JSON object a line.

The daemon's own lines (`say`) and Python's logging share one format. Other libraries log from
warnings on: libp2p alone would write hundreds of lines a minute. A write never waits: a reader that
stops (Ctrl-S, a paused pager, a stuck collector) costs lines, and never the node.
"""

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from dipaco.node.config import LogSection
from dipaco.node.log_file import LogFile
from dipaco.protocol.wire.text import escaped

OURS = "dipaco"
STDERR = 2
MOST_LINES = 4096  # that wait for their reader
TRACEBACK_END = 8192  # characters of a traceback's beginning, and of its end; more are cut out
FLUSH_SECONDS = 1.0  # for lines that wait when the process ends


def to_stderr(data: memoryview) -> int:
    """Write what can be written now of `data` to stderr, and return the number of bytes."""
    return os.write(STDERR, data)


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds))


class TextFormatter(logging.Formatter):
    """`time level message`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with a traceback below it if there is one."""
        message = record.getMessage()
        line = f"{_stamp(record.created)} {record.levelname.lower():<7} {escaped(message)}"
        if record.exc_info:
            line = f"{line}\n{_traceback(self.formatException(record.exc_info))}"
        return line


def _traceback(text: str) -> str:
    """Return a traceback with no line like a log line: an exception may quote what a peer sent."""
    if len(text) > 2 * TRACEBACK_END:
        text = f"{text[:TRACEBACK_END]}\n(cut)\n{text[-TRACEBACK_END:]}"
    return "\n".join(f"  {escaped(line)}" for line in text.split("\n"))


class JsonFormatter(logging.Formatter):
    """One object: time (Unix, seconds), level, logger, message, and error if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object as one line."""
        entry = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class LineWriter:
    """Writes lines from a thread of its own, and drops lines while it is stuck.

    The line after dropped ones tells their number. Whoever makes one closes it.
    """

    def __init__(self, sink: Callable[[memoryview], int], told: Callable[[int], str]) -> None:
        """Write with `sink`, which returns the number of bytes that it took.

        told   returns the line about so many dropped ones.
        """
        self._sink, self._told = sink, told
        self._lines: queue.Queue[str | None] = queue.Queue(MOST_LINES)
        self._lock = threading.Lock()
        self._dropped = 0
        threading.Thread(target=self._write_all, daemon=True).start()

    def write(self, line: str) -> None:
        """Take a line to write, or drop it; never waits."""
        with self._lock:
            try:
                if self._dropped:
                    self._lines.put_nowait(self._told(self._dropped))
                    self._dropped = 0
                self._lines.put_nowait(line)
            except queue.Full:
                self._dropped += 1

    def flush(self) -> None:
        """Wait until all lines are written, at most `FLUSH_SECONDS`."""
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(
                lambda: not self._lines.unfinished_tasks, FLUSH_SECONDS
            )

    def close(self) -> None:
        """Write what can be written in `FLUSH_SECONDS`, and end the thread."""
        self.flush()
        with suppress(queue.Full):  # it is stuck: the end of the process ends it
            self._lines.put_nowait(None)

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            data = memoryview(f"{line}\n".encode(errors="backslashreplace"))
            try:
                while data:
                    data = data[self._sink(data) :]
            except OSError:  # the reader left, the terminal was closed, the disk is full
                with self._lock:
                    self._dropped += 1
            self._lines.task_done()


class LineHandler(logging.Handler):
    """Gives the lines of Python's logging to a `LineWriter`."""

    def __init__(self, lines: LineWriter) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's line."""
        self._lines.write(self.format(record))


@contextmanager
def logging_to(
    config: LogSection,
    file: Path | None = None,
    *,
    stderr: Callable[[memoryview], int] = to_stderr,
) -> Iterator[Callable[[str], None]]:
    """Send logging to `file`, or to stderr if it is None, as `config` says, for the block.

    stderr   takes bytes as `os.write` does, and returns how many.

    Gives `say`, which prints a line that the operator must read at every log level; it goes to
    stderr, too, where the person is who started the program.

    Raises ConfigError for a file that cannot be written.
    """
    formatter = JsonFormatter() if config.format == "json" else TextFormatter()

    def told(count: int) -> str:
        text = f"{count} log lines are lost: their reader had stopped, or left"
        return formatter.format(
            logging.LogRecord(__name__, logging.WARNING, "", 0, text, None, None)
        )

    def say(line: str) -> None:
        if config.format == "json":
            entry = {"time": round(time.time(), 3), "level": "info", "message": line}
            line = json.dumps(entry)
        for each in writers:
            each.write(line)

    with ExitStack() as opened:
        writers = [LineWriter(stderr, told)]
        if file is not None:
            kept = opened.enter_context(
                closing(LogFile(file, most=config.max_size, keep=config.keep))
            )
            writers.append(LineWriter(kept.write, told))
        for each in writers:
            opened.callback(each.close)
        handler = LineHandler(writers[-1])
        handler.setFormatter(formatter)
        _configure(handler, config.level)
        yield say


def _configure(handler: logging.Handler, level: str) -> None:
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    set_level(level)
    logging.captureWarnings(capture=True)  # they would be written, and waited for, past the handler


def set_level(level: str) -> None:
    """Write lines of this program from `level` on."""
    logging.getLogger(OURS).setLevel(level.upper())
