"""The daemon's end of the local API: HTTP/1.1 on the home's unix socket.

Owns the socket and the table of routes; the daemon answers through `Handler`. A client that leaves,
sends a malformed or half a request, or does not read its answer loses its own connection alone. A
bug in an answer is told to the client and logged, and ends that connection alone as well.
Tokens, Host and Origin are not checked: the mode of the socket decides which users may connect.
"""

import logging
import math
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import msgspec
import trio

from dipaco.node.api.clients import MAX_CLIENTS, Client, Clients, process_of
from dipaco.node.api.connection import (
    BRIEF_SECONDS,
    IDLE_SECONDS,
    Connection,
    Refused,
    Request,
    as_json,
)
from dipaco.node.api.values import (
    FETCH,
    FINISH,
    LEDGER,
    PAUSE,
    RESUME,
    STATUS,
    STOP,
    WHY,
    Fetched,
    FetchEvent,
    FetchFailed,
    Fetching,
    FetchRequest,
    FinishRequest,
    LedgerView,
    Ordered,
    PauseRequest,
    ResumeRequest,
    Stopping,
    StopRequest,
    Why,
    WhyRequest,
)
from dipaco.node.status.document import Status
from dipaco.node.storage.files import Home
from dipaco.protocol.errors import ConfigError, Unavailable
from dipaco.protocol.wire.faults import without_pattern

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.5  # between two progress lines of a fetch
STALL_SECONDS = 600.0  # of a fetch without another byte: holders that were away have come back
FETCH_SECONDS = 3 * 24 * 3600.0  # of one fetch: the largest blob, 31 GB, at 1 Mbit/s

BEGUN: Final = Fetching(received=0, total=0)
GONE: Final = (trio.BrokenResourceError, trio.TooSlowError)  # the client left, or does not read

B = TypeVar("B", StopRequest, FetchRequest, PauseRequest, ResumeRequest, FinishRequest, WhyRequest)


class Handler(Protocol):
    """The daemon, as the server calls it; methods that are not async are quick and read no disk."""

    def status(self) -> Status:
        """Return the node's status."""
        ...

    def ledger(self) -> LedgerView:
        """Return the summary of the run's ledger."""
        ...

    def stop(self, *, now: bool) -> None:
        """Begin to stop, as after a TERM signal (`now`: as after a second one)."""
        ...

    def pause(self, until: float | None) -> Ordered:
        """Stop working until a Unix time, or until `resume`; raises ConfigError for the past."""
        ...

    def resume(self) -> Ordered:
        """Work again."""
        ...

    def finish(self) -> Ordered:
        """Pause when the lease that is held has ended."""
        ...

    async def why(self, at: float | None) -> Why:
        """Return the reasons that held at a Unix time; None: now."""
        ...

    async def fetch(self, run: str, blob: str, on_progress: Callable[[int, int], None]) -> int:
        """Fetch a blob of a run into the store and return its bytes; raises Unavailable.

        on_progress   gets the bytes received so far, and the blob's length.
        """
        ...


async def serve_api(
    home: Home, handler: Handler, *, task_status: "TaskStatus[Path]" = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer on the socket of `home` until cancelled, then remove it.

    The caller holds the home (`Home.held`). Starts (`nursery.start`) with the socket's path.
    Raises ConfigError when the socket cannot be made.
    """
    path = home.socket
    listener = _listen(path)
    try:
        task_status.started(path)
        await trio.serve_listeners(partial(_serve_client, handler, Clients()), [listener])
    finally:
        path.unlink(missing_ok=True)


def _listen(path: Path) -> trio.SocketListener:
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # so that the socket is never wider than 0600
    try:
        path.unlink(missing_ok=True)  # left by a daemon that was killed: this one holds the home
        raw.bind(str(path))
        raw.listen(MAX_CLIENTS)
    except OSError as error:
        raw.close()
        raise ConfigError(f"home: cannot make {path}: {error.strerror or error}") from error
    finally:
        os.umask(mask)
    return trio.SocketListener(trio.socket.from_stdlib_socket(raw))


async def _serve_client(handler: Handler, clients: Clients, stream: trio.SocketStream) -> None:
    connection = Connection(stream)
    try:
        async with stream:
            with trio.CancelScope() as scope:
                await _seat(handler, clients, process_of(stream), connection, scope)
    except* GONE as gone:
        log.debug("a client of the local API left: %r", gone.exceptions[0])


async def _seat(
    handler: Handler, clients: Clients, name: str, connection: Connection, scope: trio.CancelScope
) -> None:
    try:
        client = clients.take(name, trio.current_time(), scope.cancel)
    except Unavailable as full:
        await connection.refuse(Refused(HTTPStatus.SERVICE_UNAVAILABLE, f"{full}: try again"))
        return
    try:
        await converse(handler, clients, client, connection)
    finally:
        clients.leave(client)


async def converse(
    handler: Handler, clients: Clients, client: Client, connection: Connection
) -> None:
    """Answer one request after the other; a malformed request, or a bug, ends the connection."""
    try:
        while (request := await _next_request(client, connection)) is not None:
            await _answer(handler, clients, request, connection, brief=client.brief)
            if client.brief or not connection.again():
                return
    except Refused as refused:
        await connection.refuse(refused)
    except Exception as error:  # a node that serves its peers does not end for a local client
        if _is_gone(error):
            raise
        log.error("a bug in an answer of the local API: please report it", exc_info=error)
        text = f"a bug in the daemon ({type(error).__name__}): its log has the traceback"
        await connection.refuse(Refused(HTTPStatus.INTERNAL_SERVER_ERROR, text))


async def _next_request(client: Client, connection: Connection) -> Request | None:
    client.waiting = trio.current_time()
    try:
        return await connection.next_request(BRIEF_SECONDS if client.brief else IDLE_SECONDS)
    finally:
        client.waiting = None


def _is_gone(error: Exception) -> bool:
    """Return whether `error` only says that the client left; a nursery wraps it into a group."""
    if isinstance(error, ExceptionGroup):
        return error.split(GONE)[1] is None
    return isinstance(error, GONE)


async def _answer(
    handler: Handler, clients: Clients, request: Request, connection: Connection, *, brief: bool
) -> None:
    try:
        if brief and request.target not in (STATUS, STOP):
            text = f"{MAX_CLIENTS} connections are served at once: try again"
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, text)
        route = _route(request)
        await route(handler, clients, request.body, connection)
    except Refused as refused:
        await connection.refuse(refused)
    except Unavailable as error:
        await connection.refuse(Refused(HTTPStatus.SERVICE_UNAVAILABLE, str(error)))


async def _status(handler: Handler, clients: Clients, _body: bytes, connection: Connection) -> None:
    await connection.send_answer(
        HTTPStatus.OK, await clients.made(lambda: as_json(handler.status()))
    )


async def _ledger(handler: Handler, clients: Clients, _body: bytes, connection: Connection) -> None:
    await connection.send_answer(
        HTTPStatus.OK, await clients.made(lambda: as_json(handler.ledger()))
    )


async def _stop(handler: Handler, _clients: Clients, body: bytes, client: Connection) -> None:
    request = _read(body, StopRequest)
    try:  # the answer first: `now` ends the process
        await client.answer(HTTPStatus.ACCEPTED, Stopping())
    finally:
        handler.stop(now=request.now)


async def _pause(handler: Handler, _clients: Clients, body: bytes, client: Connection) -> None:
    request = _read(body, PauseRequest)
    try:
        ordered = handler.pause(request.until)
    except ConfigError as past:
        raise Refused(HTTPStatus.BAD_REQUEST, str(past)) from None
    await client.answer(HTTPStatus.OK, ordered)


async def _resume(handler: Handler, _clients: Clients, body: bytes, client: Connection) -> None:
    _read(body, ResumeRequest)
    await client.answer(HTTPStatus.OK, handler.resume())


async def _finish(handler: Handler, _clients: Clients, body: bytes, client: Connection) -> None:
    _read(body, FinishRequest)
    await client.answer(HTTPStatus.OK, handler.finish())


async def _why(handler: Handler, _clients: Clients, body: bytes, client: Connection) -> None:
    await client.answer(HTTPStatus.OK, await handler.why(_read(body, WhyRequest).at))


async def _fetch(handler: Handler, _clients: Clients, body: bytes, client: Connection) -> None:
    """Fetch the blob and send its progress; the fetch ends if the client leaves."""
    fetch = _Fetch(handler, _read(body, FetchRequest))
    await client.begin_lines()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch.run)
        over = False
        while not over:
            with trio.move_on_after(PROGRESS_SECONDS):
                await fetch.ended.wait()
            over = fetch.ended.is_set()  # it may end while the line is sent: then one more follows
            await client.line(fetch.latest, last=over)


@dataclass
class _Fetch:
    """A running fetch and its latest event."""

    handler: Handler
    request: FetchRequest
    latest: FetchEvent = BEGUN
    ended: trio.Event = field(default_factory=trio.Event)
    _received: int = 0
    _end: float = math.inf
    _patience: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def run(self) -> None:
        """Fetch the blob; `latest` ends as `Fetched` or `FetchFailed`."""
        self._end = trio.current_time() + FETCH_SECONDS
        with trio.move_on_after(STALL_SECONDS) as self._patience:
            try:
                size = await self.handler.fetch(self.request.run, self.request.blob, self._note)
                self.latest = Fetched(bytes=size)
            except (Unavailable, ConfigError) as error:
                self.latest = FetchFailed(error=str(error))
        if self._patience.cancelled_caught:
            self.latest = FetchFailed(error=self._given_up())
        self.ended.set()

    def _note(self, received: int, total: int) -> None:
        if received > self._received:
            self._received = received
            self._patience.deadline = min(self._end, trio.current_time() + STALL_SECONDS)
        self.latest = Fetching(received=received, total=total)

    def _given_up(self) -> str:
        if trio.current_time() >= self._end:
            return f"the fetch took longer than {FETCH_SECONDS / 3600:g} hours: ask again"
        return f"no byte of the blob came for {STALL_SECONDS:g} s: ask again later"


Route = Callable[[Handler, Clients, bytes, Connection], Awaitable[None]]
ROUTES: Final[dict[str, dict[str, Route]]] = {  # target: method: route
    STATUS: {"GET": _status},
    LEDGER: {"GET": _ledger},
    STOP: {"POST": _stop},
    FETCH: {"POST": _fetch},
    PAUSE: {"POST": _pause},
    RESUME: {"POST": _resume},
    FINISH: {"POST": _finish},
    WHY: {"POST": _why},
}


def _route(request: Request) -> Route:
    methods = ROUTES.get(request.target)
    if methods is None:
        raise Refused(HTTPStatus.NOT_FOUND, f"this API has no {request.target[:80]}")
    if request.method not in methods:
        allowed = ", ".join(methods)
        text = f"{request.target} takes {allowed}"
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, text, [("Allow", allowed)])
    return methods[request.method]


def _read(body: bytes, kind: type[B]) -> B:
    """Return the request in a body; an empty body means all defaults. Raises Refused."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        words = without_pattern(str(error))
        raise Refused(HTTPStatus.BAD_REQUEST, f"not a request: {words}") from None
