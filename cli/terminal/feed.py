"""The terminal view's line to the daemon: a thread that follows it, and one that gives an order.

Whatever they learn is a function that makes a new `Seen` of the last one. The view takes these in
its own thread; a byte in a pipe wakes it. A daemon that goes away is told, and asked for again.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, NoReturn, TypeVar

from dipaco.cli.views.order import ordered_text
from dipaco.cli.views.seen import Seen, losses_of
from dipaco.node.api.client import (
    ask_finish,
    ask_ledger,
    ask_log,
    ask_pause,
    ask_resume,
    watch,
)
from dipaco.node.api.values import LogQuery, Ordered, StreamQuery
from dipaco.node.status.document import Status
from dipaco.node.status.events import LogLine
from dipaco.protocol.errors import DipacoError

RETRY_SECONDS: Final = 1.0  # between two looks for a daemon that went away
LEDGER_SECONDS: Final = 15.0  # between two looks into the ledger: that of a large run has megabytes
LOG_LINES: Final = 100  # of before the view was opened
ORDERS: Final[dict[str, Callable[[Path], Ordered]]] = {
    "p": ask_pause,
    "r": ask_resume,
    "f": ask_finish,
}
"""The keys that give an order."""

A = TypeVar("A")


class Feed:
    """Follows the daemon of a home, until the process ends."""

    def __init__(self, home: Path, wake: Callable[[], None]) -> None:
        """Follow it from now on; `wake` is called from other threads when there is news."""
        self._home, self._wake = home, wake
        self._news: SimpleQueue[Callable[[Seen], Seen]] = SimpleQueue()
        self._ordering = threading.Lock()
        threading.Thread(target=self._follow, daemon=True).start()

    def taken_up(self, seen: Seen) -> Seen:
        """Return `seen` with all news."""
        while True:
            try:
                seen = self._news.get_nowait()(seen)
            except Empty:
                return seen

    def order(self, key: str) -> None:
        """Give the order of a key, unless another one is under way."""
        if self._ordering.acquire(blocking=False):
            threading.Thread(target=self._order, args=(ORDERS[key],), daemon=True).start()

    def _order(self, ask: Callable[[Path], Ordered]) -> None:
        try:
            note = ordered_text(ask(self._home), time.time())
        except DipacoError as error:
            note = str(error)
        finally:
            self._ordering.release()
        self._tell(Seen.noted, note)

    def _tell(self, take: Callable[[Seen, A], Seen], value: A) -> None:
        self._news.put(lambda seen: take(seen, value))
        self._wake()

    def _follow(self) -> NoReturn:
        while True:
            try:
                self._read()
            except DipacoError as error:  # it ended, hangs, or is another version
                self._tell(Seen.without_daemon, str(error))
            time.sleep(RETRY_SECONDS)

    def _read(self) -> None:
        """Tell what the daemon says until it ends; raises NoDaemon then."""
        lines = ask_log(self._home, LogQuery(most=LOG_LINES)).lines
        self._tell(Seen.with_whole_log, lines)
        looked = -LEDGER_SECONDS
        query = StreamQuery(topics="status,log", line=lines[-1].number if lines else 0)
        for told in watch(self._home, query):
            if isinstance(told, Status):
                self._tell(Seen.with_status, told)
            elif isinstance(told, LogLine):
                self._tell(Seen.with_line, told)
            if time.monotonic() - looked >= LEDGER_SECONDS:
                looked = time.monotonic()
                self._tell(Seen.with_losses, losses_of(ask_ledger(self._home)))
