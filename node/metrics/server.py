"""`GET /metrics` on a port of loopback: what Prometheus reads, and nothing else.

The port needs no token, since it tells no secret and takes no order. Host and Origin are checked as
those of the local API, so that no web page reads it through a person's browser.
"""

from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import trio

from dipaco.node.api.access import Access
from dipaco.node.api.answers import Answers
from dipaco.node.api.clients import Clients
from dipaco.node.api.connection import Connection, Refused, Request
from dipaco.node.api.handler import Handler
from dipaco.node.api.port import Port
from dipaco.node.api.routes import Route
from dipaco.node.api.server import Door, listen_at, serve_client, url_of
from dipaco.node.metrics.exposition import CONTENT_TYPE, exposition

if TYPE_CHECKING:
    from trio_typing import TaskStatus

TARGET: Final = "/metrics"
SEATS: Final = 16  # connections at once: a Prometheus keeps one, a browser six


async def serve_metrics(
    listen: str, handler: Handler, *, task_status: "TaskStatus[str]" = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer at `listen`, HOST:PORT of loopback, until cancelled; starts with its URL.

    A port that cannot be had is logged, and there are no metrics: no work depends on them.
    """
    host, _, port = listen.rpartition(":")
    listeners = await listen_at(Port(host.strip("[]"), int(port), ""), "metrics", "metrics.listen")
    door = Door(Answers(handler), Clients(SEATS), Access(None), route_of)
    task_status.started(f"{url_of(listeners)}{TARGET}" if listeners else "")
    if listeners:
        await trio.serve_listeners(partial(serve_client, door), listeners)


def route_of(request: Request) -> Route:
    """Return what answers a request; raises Refused if nothing does."""
    if request.path != TARGET:
        raise Refused(HTTPStatus.NOT_FOUND, f"there is nothing but {TARGET}")
    if request.method not in ("GET", "HEAD"):
        headers = [("Allow", "GET, HEAD")]
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{TARGET} takes GET", headers)
    return _metrics


async def _metrics(answers: Answers, request: Request, connection: Connection) -> None:
    body = await answers.made(lambda: exposition(answers.handler.status()))
    await connection.send_file(CONTENT_TYPE, body)
