"""The exit code of every error. The codes are stable, for scripts."""

import errno
import signal
from collections.abc import Callable
from enum import IntEnum
from types import FrameType

from dipaco.node.api.values import NoDaemon
from dipaco.node.storage.files import DiskFull, HomeTaken
from dipaco.protocol.errors import (
    ConfigError,
    DipacoError,
    LocalProtocolError,
    NoDevice,
    Refusal,
    RemoteProtocolError,
    Unavailable,
    Unverifiable,
)


class Exit(IntEnum):
    """The exit code of the process; 128 + n if signal n ended it."""

    OK = 0
    ERROR = 1
    """A bug or a crash, or the work failed."""
    USAGE = 2
    """Bad usage or configuration."""
    AWAY = 3
    """A peer or a source is away for now; of `start` only for a stay that ends by itself."""
    REFUSED = 4
    """A manifest, signature or router is wrong."""
    UNVERIFIABLE = 5
    """The router cannot be verified, and `verify = "require"`."""
    NO_DEVICE = 6
    """No usable device, or the path does not fit."""
    FULL = 7
    """The disk is full."""
    HOME_TAKEN = 8
    """Another daemon holds this home."""
    NO_DAEMON = 9
    """No daemon answers (client verbs)."""
    UPDATE = 10
    """The run does not accept this version: update."""
    RESTART = 75
    """A restart was asked for: a service is started again."""
    INTERRUPTED = 130
    """By Ctrl-C."""


class OutputLost(Unavailable):
    """What a command prints cannot be written: a full disk, or a reader that left."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write the output: {(error.strerror or str(error)).lower()}")
        self.full = error.errno in FULL_DISK
        self.reader_left = error.errno == errno.EPIPE


FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOST = (*FULL_DISK, errno.EPIPE, errno.EIO, errno.EBADF)
"""Errors of the operating system that writing to stdout or stderr meets."""
CODES: tuple[tuple[type[DipacoError], Exit], ...] = (  # the first that matches counts
    (HomeTaken, Exit.HOME_TAKEN),
    (ConfigError, Exit.USAGE),
    (Unverifiable, Exit.UNVERIFIABLE),
    (Refusal, Exit.REFUSED),
    (RemoteProtocolError, Exit.REFUSED),
    (NoDevice, Exit.NO_DEVICE),
    (NoDaemon, Exit.NO_DAEMON),
    (DiskFull, Exit.FULL),
    (Unavailable, Exit.AWAY),
)


def expected(error: BaseException) -> DipacoError | None:
    """Return the error to print; None if `error` is, or contains, a bug.

    A nursery raises groups: a group of this program's errors alone is replaced by its first.
    """
    if isinstance(error, BaseExceptionGroup):
        leaves = [expected(part) for part in error.exceptions]
        return leaves[0] if all(leaf is not None for leaf in leaves) else None
    if isinstance(error, OSError) and error.filename is None and error.errno in LOST:
        return OutputLost(error)  # files, sockets and pipes of ours are translated where they are
    if isinstance(error, DipacoError) and not isinstance(error, LocalProtocolError):
        return error
    if isinstance(error, FileNotFoundError) and error.filename is None:
        return ConfigError("the working folder was removed: change to another one")
    return None


def code_of(error: DipacoError) -> Exit:
    """Return the exit code of an error that `expected` returned."""
    if isinstance(error, OutputLost):
        return Exit.FULL if error.full else Exit.ERROR
    return next((code for kind, code in CODES if isinstance(error, kind)), Exit.ERROR)


def interrupted(error: BaseException) -> bool:
    """Return whether Ctrl-C caused `error`: libraries wrap it, or raise another error from it."""
    seen: set[int] = set()  # an error of a group may have that group as its context
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if isinstance(each, KeyboardInterrupt):
            return True
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        waiting.append(each.__cause__ or each.__context__)
        waiting += each.exceptions if isinstance(each, BaseExceptionGroup) else ()
    return False


def on_interrupt(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    """Set what Ctrl-C does, unless this process was started to ignore it."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)
