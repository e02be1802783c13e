"""What signals make a running daemon do.

A closed terminal sends HUP, and so does a person who wants a changed configuration to be read: the
file tells which it was. A service has no terminal.
"""

import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import trio

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

LEAVE = frozenset({signal.SIGTERM, signal.SIGINT})
HEEDED = LEAVE | {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
Reaction = Literal["leave", "leave now", "read again", "tell", "toggle", "nothing"]
SAID: dict[Reaction, str] = {
    "leave": "leaving",
    "leave now": "leaving at once",
    "read again": "reading the configuration again",
    "tell": "the status follows",
    "toggle": "pausing, or resuming",
    "nothing": "has no effect",
}
"""The words of the log."""


@dataclass(frozen=True, kw_only=True)
class Actions:
    """What a daemon does when it is told to; each returns at once."""

    leave: Callable[[], None]
    leaving: Callable[[], bool]
    """Whether it was told to leave before."""
    changed: Callable[[], bool]
    """Whether the configuration file was changed since it was read."""
    read_again: Callable[[], None]
    tell: Callable[[], None]
    """Write the status to the log."""
    toggle: Callable[[], None]
    """Pause, or resume if a pause holds."""


def reaction(number: int, *, leaving: bool, changed: bool, service: bool) -> Reaction:
    """Return what a signal asks for.

    leaving   whether the daemon was told to leave before.
    changed   whether the configuration file was changed since it was read.
    service   whether a service manager started the daemon.
    """
    if number == signal.SIGUSR1:
        return "tell"
    if number == signal.SIGUSR2:
        return "toggle"
    if number == signal.SIGHUP:
        if changed or service:
            return "read again"
        return "nothing" if leaving else "leave"  # a closed terminal may send it twice
    return "leave now" if leaving else "leave"


async def heed_signals(
    actions: Actions,
    *,
    service: bool,
    task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED,
) -> None:
    """React to signals until cancelled; under nohup HUP is ignored already, and stays so."""
    heeded = HEEDED
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        heeded -= {signal.SIGHUP}
    with trio.open_signal_receiver(*heeded) as signals:
        task_status.started()
        async for number in signals:
            todo = reaction(
                number, leaving=actions.leaving(), changed=actions.changed(), service=service
            )
            log.info("signal %s: %s", signal.Signals(number).name, SAID[todo])
            match todo:
                case "tell":
                    actions.tell()
                case "read again":
                    actions.read_again()
                case "toggle":
                    actions.toggle()
                case "leave":
                    actions.leave()
                case "leave now":
                    os._exit(128 + number)
                case "nothing":
                    pass
