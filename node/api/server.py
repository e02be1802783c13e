"""The daemon's end of the local API: HTTP/1.1 on the home's unix socket, and on a port if wanted.

Owns the listeners. A client that leaves, sends a malformed or half a request, or does not read its
answer loses its own connection alone. A bug in an answer is told to the client and logged, and ends
that connection alone as well. The mode of the socket decides which users may connect to it; over
TCP a client needs a token (`access`). The two have seats of their own: no stranger on the port
keeps the owner from the socket.
"""

import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import trio

from dipaco.node.api.access import Access
from dipaco.node.api.answers import Answers
from dipaco.node.api.clients import MAX_CLIENTS, Client, Clients, process_of
from dipaco.node.api.connection import (
    BRIEF_SECONDS,
    IDLE_SECONDS,
    Connection,
    Refused,
    Request,
)
from dipaco.node.api.handler import Handler
from dipaco.node.api.port import Port
from dipaco.node.api.routes import Route, route_of
from dipaco.node.api.values import STATUS, STOP, PageView
from dipaco.node.storage.files import Home
from dipaco.protocol.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from pathlib import Path

    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

UNKNOWN_SECONDS = 10.0  # for the first request over TCP: it shows the token
GONE: Final = (trio.BrokenResourceError, trio.TooSlowError)  # the client left, or does not read


@dataclass(frozen=True)
class Ends:
    """Where the API listens."""

    socket: "Path"
    url: str = ""
    """Empty: on the socket alone."""


@dataclass(frozen=True)
class Door:
    """What all connections of one listener share."""

    answers: Answers
    clients: Clients
    access: Access | None
    """None: the socket's mode decides."""
    route: Callable[[Request], Route] = route_of
    """Returns what answers a request; raises Refused if nothing does."""


async def serve_api(
    home: Home,
    handler: Handler,
    port: Port | None = None,
    *,
    most: int = MAX_CLIENTS,
    task_status: "TaskStatus[Ends]" = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer on the socket of `home`, and on a port if there is one, until cancelled.

    The caller holds the home (`Home.held`). Starts (`nursery.start`) with where it listens.

    most   connections of each of the two.

    Raises ConfigError when the socket cannot be made. A port that cannot be had is logged, and
    the socket alone is served: the node's work does not depend on it.
    """
    path = home.socket
    listener = _listen(path)
    answers = Answers(handler)
    try:
        web = await listen_at(port, "local API", "ui.listen") if port else []
        async with trio.open_nursery() as nursery:
            private = Door(answers, Clients(most), None)
            nursery.start_soon(trio.serve_listeners, partial(serve_client, private), [listener])
            if port and web:
                public = Door(answers, Clients(most), Access(port.token))
                nursery.start_soon(trio.serve_listeners, partial(serve_client, public), web)
                url = url_of(web)
                answers.page = PageView(address=url, url=f"{url}/#{quote(port.token)}")
            task_status.started(Ends(path, url_of(web)))
    finally:
        path.unlink(missing_ok=True)


def _listen(path: "Path") -> trio.SocketListener:
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


async def listen_at(port: Port, what: str, key: str) -> Sequence[trio.SocketListener]:
    """Return the listeners of a port; one that cannot be had is logged, and there are none.

    what, key   are served there, and name it in the configuration.
    """
    try:
        return await trio.open_tcp_listeners(port.port, host=port.host, backlog=MAX_CLIENTS)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        where = f"{port.host}:{port.port}"
        log.warning("no %s at %s: %s; choose another %s", what, where, reason, key)
        return []


def url_of(listeners: Sequence[trio.SocketListener]) -> str:
    """Return the address of the first listener; empty: there is none."""
    if not listeners:
        return ""
    host, port, *_ = listeners[0].socket.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve_client(door: Door, stream: trio.SocketStream) -> None:
    """Serve one connection to its end, and close it."""
    try:
        async with stream:
            await serve_stream(door, stream, process_of(stream))
    except* GONE as gone:
        log.debug("a client of the local API left: %r", gone.exceptions[0])


async def serve_stream(door: Door, stream: trio.abc.Stream, name: str = "") -> None:
    """Serve one connection to its end; it stays open. `name` is the client's process, if known."""
    connection = Connection(stream)
    with trio.CancelScope() as scope:
        try:
            client = door.clients.take(name, trio.current_time(), scope.cancel)
        except Unavailable as full:
            await connection.refuse(Refused(HTTPStatus.SERVICE_UNAVAILABLE, f"{full}: try again"))
            return
        try:
            await converse(door, client, connection)
        finally:
            door.clients.leave(client)


async def converse(door: Door, client: Client, connection: Connection) -> None:
    """Answer one request after the other; a malformed request, or a bug, ends the connection."""
    client.known = door.access is None
    try:
        while (request := await _next_request(client, connection)) is not None:
            if door.access:
                client.known = door.access.check(request) or client.known
            await _answer(door, request, connection, brief=client.brief)
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
    seconds = IDLE_SECONDS if client.known else UNKNOWN_SECONDS
    client.waiting = trio.current_time()
    try:
        return await connection.next_request(BRIEF_SECONDS if client.brief else seconds)
    finally:
        client.waiting = None


def _is_gone(error: Exception) -> bool:
    """Return whether `error` only says that the client left; a nursery wraps it into a group."""
    if isinstance(error, ExceptionGroup):
        return error.split(GONE)[1] is None
    return isinstance(error, GONE)


async def _answer(door: Door, request: Request, connection: Connection, *, brief: bool) -> None:
    try:
        if brief and request.path not in (STATUS, STOP):
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "all connections are taken: try again")
        await door.route(request)(door.answers, request, connection)
    except Refused as refused:
        await connection.refuse(refused)
    except Unavailable as error:
        await connection.refuse(Refused(HTTPStatus.SERVICE_UNAVAILABLE, str(error)))
