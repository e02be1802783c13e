"""The daemon's end of the local API (`api.py` has the values and the client)."""

import os
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

from dipaco.node.control.api import (
    MAX_REQUEST,
    Fault,
    Fetched,
    Fetching,
    FetchRequest,
    Handler,
    LedgerRequest,
    LedgerView,
    Progressing,
    Request,
    StatusRequest,
    Stopping,
    StopRequest,
)
from dipaco.node.control.status import Status
from dipaco.node.storage.files import Home
from dipaco.protocol.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from trio_typing import TaskStatus

IDLE_SECONDS = 60.0  # a client that asks nothing for so long is let go
MAX_CLIENTS = 16  # connections at once; more wait in the listen queue
TELL_SECONDS = 0.5  # between two words on how far a fetch is


async def serve_api(
    home: Home, handler: Handler, *, task_status: "TaskStatus[Path]" = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer on the socket of `home` until cancelled, then remove it.

    The caller holds the home (`Home.held`). Starts (`nursery.start`) with the socket's path.
    Raises ConfigError when the socket cannot be made.
    """
    path = home.socket
    listener = _listen(path)
    limiter = trio.CapacityLimiter(MAX_CLIENTS)
    try:
        task_status.started(path)
        await trio.serve_listeners(partial(_converse, handler, limiter), [listener])
    finally:
        path.unlink(missing_ok=True)


def _listen(path: Path) -> trio.SocketListener:
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # the socket is 0600 from its first moment
    try:
        path.unlink(missing_ok=True)  # of a daemon that was killed: the home is ours alone
        raw.bind(str(path))
        raw.listen(MAX_CLIENTS)
    except OSError as error:
        raw.close()
        raise ConfigError(f"home: cannot make {path}: {error.strerror or error}") from error
    finally:
        os.umask(mask)
    return trio.SocketListener(trio.socket.from_stdlib_socket(raw))


async def _converse(
    handler: Handler, limiter: trio.CapacityLimiter, stream: trio.SocketStream
) -> None:
    async with limiter, stream:
        pending = bytearray()
        try:
            while (line := await _next_line(stream, pending)) is not None:
                await stream.send_all(await _answer(handler, line, stream) + b"\n")
        except trio.BrokenResourceError:
            return  # the client went away
        except _TooLong:
            await stream.send_all(_fault(f"a request has at most {MAX_REQUEST} bytes") + b"\n")


class _TooLong(Exception):
    pass


async def _next_line(stream: trio.SocketStream, pending: bytearray) -> bytes | None:
    """Return the next line without its end, None when the client is done or idle."""
    with trio.move_on_after(IDLE_SECONDS):
        while (end := pending.find(b"\n")) < 0:
            if len(pending) > MAX_REQUEST:
                raise _TooLong
            part = await stream.receive_some(MAX_REQUEST)
            if not part:
                return None
            pending += part
        line = bytes(pending[:end])
        del pending[: end + 1]
        return line
    return None


async def _answer(handler: Handler, line: bytes, stream: trio.SocketStream) -> bytes:
    try:
        request: Request = msgspec.json.decode(line, type=Request)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _fault(f"not a request: {error}")
    try:
        return msgspec.json.encode({"ok": await _result(handler, request, stream)})
    except Unavailable as error:
        return _fault(str(error))


async def _result(
    handler: Handler, request: Request, stream: trio.SocketStream
) -> Status | LedgerView | Stopping | Fetched:
    match request:
        case StatusRequest():
            return handler.status()
        case LedgerRequest():
            return handler.ledger()
        case StopRequest(now=now):
            handler.stop(now=now)
            return Stopping(stopping=True)
        case FetchRequest():
            return await _fetch(handler, request, stream)


async def _fetch(handler: Handler, request: FetchRequest, stream: trio.SocketStream) -> Fetched:
    """Have the blob fetched and say how far it is; a client that goes away ends it."""
    latest = Fetching(received=0, total=0)
    failure: Unavailable | trio.BrokenResourceError | None = None
    size = 0

    def on_progress(received: int, total: int) -> None:
        nonlocal latest
        latest = Fetching(received=received, total=total)

    async def tell() -> None:
        nonlocal failure
        try:
            while True:
                await trio.sleep(TELL_SECONDS)
                await stream.send_all(msgspec.json.encode(Progressing(latest)) + b"\n")
        except trio.BrokenResourceError as gone:
            failure = gone
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell)
        try:
            size = await handler.fetch(request.run, request.blob, on_progress)
        except Unavailable as error:  # bare here, a group outside
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return Fetched(bytes=size)


def _fault(words: str) -> bytes:
    return msgspec.json.encode(Fault(words))
