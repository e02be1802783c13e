"""The guard: it runs everything that touches a peer's value, so that no value ends this node.

Errors on the list are handled where they always were: every `DipacoError` but `LocalProtocolError`.
Any other exception is a bug of ours, which a peer's value may have met. It is logged once with its
traceback, costs that peer its connection, and goes no further. The peer gets no strike: it may be
honest, and its next connection costs it more than the bug costs us.
"""

import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from dipaco.node.network.paced import Paced
from dipaco.protocol.errors import DipacoError, LocalProtocolError
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.wire.text import printable

log = logging.getLogger(__name__)

MAX_QUOTED = 200  # characters of an exception's own text in the first line of its record
HUNG_UP = "a bug of this node met what it sent"
"""The reason in the log for the end of the peer's connection."""

P = ParamSpec("P")
T = TypeVar("T")


def parted(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Return the bugs in `error` and the rest of it; each is a group if `error` is one."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(_is_bug)
    return (error, None) if _is_bug(error) else (None, error)


def _is_bug(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return False  # its parts are judged one by one
    listed = isinstance(error, DipacoError) and not isinstance(error, LocalProtocolError)
    return isinstance(error, Exception) and not listed


class Guard:
    """Runs functions and tasks on behalf of peers.

    end   begins to hang up on a peer, for the reason given; it may be called from any callback.

    An error of a nursery's task is raised without its group if it is the only one. `doing`
    completes the sentence "a bug of this node, while ..."; `peer` gave the value, None: no
    single peer did.
    """

    def __init__(self, end: Callable[[PeerId, str], None] = lambda peer, why: None) -> None:
        self._end = end
        self._paced = Paced(log, now=time.monotonic)

    def call(
        self,
        doing: str,
        peer: PeerId | None,
        function: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T | None:
        """Return what `function` returns, None after a bug; errors on the list are raised."""
        with self._reporting(doing, peer):
            return function(*args, **kwargs)
        return None

    async def attempt(
        self,
        doing: str,
        peer: PeerId | None,
        task: Callable[P, Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T | None:
        """Return what `task` returns, None after a bug; errors on the list are raised."""
        with self._reporting(doing, peer):
            return await task(*args, **kwargs)
        return None

    async def run(
        self,
        doing: str,
        peer: PeerId | None,
        task: Callable[P, Awaitable[object]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Run a task to its end, whatever it raises; errors on the list are logged at debug."""
        try:
            await self.attempt(doing, peer, task, *args, **kwargs)
        except* DipacoError as group:
            problem = printable(str(next(leaves(group))))
            log.debug("%s ended while %s: %s", _name(peer), doing, problem)

    @contextmanager
    def _reporting(self, doing: str, peer: PeerId | None) -> Iterator[None]:
        try:
            yield
        except (Exception, BaseExceptionGroup) as error:  # a group may hold Cancelled, too
            bugs, rest = parted(error)
            if bugs is not None:
                self._report(doing, peer, bugs)
            if rest is error and not isinstance(error, BaseExceptionGroup):
                raise
            if rest is not None:
                raise _only(rest) from rest.__cause__

    def _report(self, doing: str, peer: PeerId | None, bugs: BaseException) -> None:
        first = next(leaves(bugs))
        kind = type(first).__name__
        frames = traceback.extract_tb(first.__traceback__)
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        self._paced.say(
            f"{doing} {kind} {place}",
            f"a bug of this node, while {doing} ({_name(peer)}): {kind}: "
            f"{printable(str(first), MAX_QUOTED)}; the node goes on: please report it with the "
            "traceback",
            level=logging.ERROR,
            error=bugs,
        )
        if peer is not None:
            self._end(peer, HUNG_UP)


def _only(error: BaseException) -> BaseException:
    """Return the one error in a nursery's group; the group, if there are several."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors in a group and in the groups within it; an error that is none is its own."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from leaves(part)
    else:
        yield error


def _name(peer: PeerId | None) -> str:
    return "no single peer" if peer is None else f"peer={short_peer(peer)}"
