"""Log lines on stderr, as text or as one JSON object a line.

The daemon's own lines (`say`) and Python's logging share one format. Other libraries log from
warnings on: libp2p alone would write hundreds of lines a minute.
"""

import json
import logging
import sys
import time
from collections.abc import Callable

from dipaco.node.config import LogSection
from dipaco.protocol.wire.text import escaped

OURS = "dipaco"


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds))


class TextFormatter(logging.Formatter):
    """`time level message`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with a traceback below it if there is one."""
        message = record.getMessage()
        line = f"{_stamp(record.created)} {record.levelname.lower():<7} {escaped(message)}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


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


def configure_logging(config: LogSection) -> None:
    """Send logging to stderr at the level and in the format of `config`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if config.format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(OURS).setLevel(config.level.upper())


def sayer(config: LogSection) -> Callable[[str], None]:
    """Return `say`, which prints a line that the operator must read at every log level."""

    def say(line: str) -> None:
        if config.format == "json":
            entry = {"time": round(time.time(), 3), "level": "info", "message": line}
            line = json.dumps(entry)
        print(line, file=sys.stderr, flush=True)

    return say
