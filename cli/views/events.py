"""Events and lines of the log as lines of text."""

import time

from dipaco.node.status.events import Event, LogLine
from dipaco.protocol.wire.text import escaped


def event_text(event: Event) -> str:
    """Return an event as `time kind code: text`."""
    run = f" ({event.run[:8]})" if event.run else ""
    why = f": {event.task.reason}" if event.task and event.task.reason else ""
    return escaped(f"{moment(event.time)} {event.kind:<5} {event.code}{run}: {event.text}{why}")


def line_text(line: LogLine) -> str:
    """Return a line of the log as the daemon writes it to stderr."""
    return escaped(f"{moment(line.time)} {line.level:<7} {line.text}")


def moment(seconds: float) -> str:
    """Return a Unix time as local date and time."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds))
