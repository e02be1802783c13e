"""Signals as news for a loop that draws: nothing is interrupted, and the terminal is restored."""

import os
import signal
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
SUSPEND: Final = signal.SIGTSTP
HEEDED: Final = (*ENDING, SUSPEND, signal.SIGWINCH)


class Signals:
    """Notes the signals that came; a second one that ends the process does so at once."""

    def __init__(self) -> None:
        self.waker, self._woken = os.pipe()
        """The end to wait at; it is readable when there is news."""
        os.set_blocking(self.waker, False)
        os.set_blocking(self._woken, False)
        self._came: deque[int] = deque()

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Note signals during the block, in the main thread."""
        before = {number: signal.signal(number, self._note) for number in HEEDED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._came.append(number)
        if number in ENDING:
            signal.signal(number, signal.SIG_DFL)
        self.wake()

    def wake(self) -> None:
        """Make `waker` readable; any thread may."""
        with suppress(BlockingIOError):  # it is readable already
            os.write(self._woken, b".")

    def taken(self) -> list[int]:
        """Return the signals that came since the last call, and empty the pipe."""
        with suppress(BlockingIOError):
            while os.read(self.waker, 4096):
                pass
        return [self._came.popleft() for _ in range(len(self._came))]


def end_by(number: int) -> None:
    """End this process by a signal, as it would have without the view."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def suspend() -> None:
    """Stop this process until it is continued."""
    before = signal.signal(SUSPEND, signal.SIG_DFL)
    os.kill(os.getpid(), SUSPEND)
    signal.signal(SUSPEND, before)
