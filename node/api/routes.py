"""The routes of the local API: a request's target and method, and what answers it."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
import trio
from msgspec.structs import replace

from dipaco.node.api.answers import Answers
from dipaco.node.api.connection import Connection, Refused, Request, as_json
from dipaco.node.api.handler import Handler
from dipaco.node.api.stream import stream
from dipaco.node.api.values import (
    CONFIG,
    EVENTS,
    FETCH,
    FINISH,
    LEDGER,
    LOG,
    LOSSES,
    PAGE,
    PAUSE,
    RECORDS,
    RESUME,
    STATUS,
    STOP,
    STREAM,
    TASKS,
    WHY,
    EventQuery,
    Fetched,
    FetchEvent,
    FetchFailed,
    Fetching,
    FetchRequest,
    LogQuery,
    LossQuery,
    Nothing,
    Ordered,
    PauseRequest,
    RecordQuery,
    Stopping,
    StopRequest,
    StreamQuery,
    TaskQuery,
    WhyRequest,
)
from dipaco.node.page.files import FILES, HEADERS
from dipaco.node.status.events import LogPage
from dipaco.protocol.errors import ConfigError, Unavailable
from dipaco.protocol.wire.faults import without_pattern

PROGRESS_SECONDS = 0.5  # between two progress lines of a fetch
STALL_SECONDS = 600.0  # of a fetch without another byte: holders that were away have come back
FETCH_SECONDS = 3 * 24 * 3600.0  # of one fetch: the largest blob, 31 GB, at 1 Mbit/s
MAX_FIELDS = 8  # of a query; the longest has 4
MAX_DIGITS = 15  # of the number of an event

BEGUN: Final = Fetching(received=0, total=0)

B = TypeVar("B", bound=msgspec.Struct)
Route = Callable[[Answers, Request, Connection], Awaitable[None]]


async def _status(answers: Answers, request: Request, connection: Connection) -> None:
    _asked(request, Nothing)
    body = await answers.made(lambda: as_json(answers.handler.status()))
    await connection.send_answer(HTTPStatus.OK, body)


async def _ledger(answers: Answers, request: Request, connection: Connection) -> None:
    _asked(request, Nothing)
    body = await answers.made(lambda: as_json(answers.handler.ledger()))
    await connection.send_answer(HTTPStatus.OK, body)


async def _losses(answers: Answers, request: Request, connection: Connection) -> None:
    asked = _asked(request, LossQuery)
    body = await answers.made(lambda: as_json(answers.handler.losses(asked.run, asked.most)))
    await connection.send_answer(HTTPStatus.OK, body)


async def _records(answers: Answers, request: Request, connection: Connection) -> None:
    asked = _asked(request, RecordQuery)
    find = partial(answers.handler.records, asked.run, asked.first, asked.most)
    await connection.send_answer(HTTPStatus.OK, await answers.made(lambda: as_json(find())))


async def _page(answers: Answers, request: Request, connection: Connection) -> None:
    _asked(request, Nothing)
    if answers.page is None:
        raise Unavailable("this node serves no page: set ui.listen to a free port of 127.0.0.1")
    await connection.answer(HTTPStatus.OK, answers.page)


async def _config(answers: Answers, request: Request, connection: Connection) -> None:
    _asked(request, Nothing)
    await connection.answer(HTTPStatus.OK, answers.handler.settings())


async def _stop(answers: Answers, request: Request, connection: Connection) -> None:
    asked = _told(request, StopRequest)
    try:  # the answer first: `now` ends the process
        await connection.answer(HTTPStatus.ACCEPTED, Stopping())
    finally:
        answers.handler.stop(now=asked.now, restart=asked.restart)


async def _events(answers: Answers, request: Request, connection: Connection) -> None:
    asked = _asked(request, EventQuery)
    read = partial(answers.handler.events, asked.after, asked.since, asked.most)
    page = await answers.read(read)
    await connection.send_answer(HTTPStatus.OK, await answers.made(lambda: as_json(page)))


async def _tasks(answers: Answers, request: Request, connection: Connection) -> None:
    page = await answers.read(partial(answers.handler.tasks, _asked(request, TaskQuery).most))
    await connection.send_answer(HTTPStatus.OK, await answers.made(lambda: as_json(page)))


async def _log(answers: Answers, request: Request, connection: Connection) -> None:
    asked = _asked(request, LogQuery)
    lines = answers.handler.log_lines.after(0, asked.level, asked.most)
    page = LogPage(lines=tuple(lines))
    await connection.send_answer(HTTPStatus.OK, await answers.made(lambda: as_json(page)))


async def _pause(answers: Answers, request: Request, connection: Connection) -> None:
    until = _told(request, PauseRequest).until
    await _order(connection, lambda: answers.handler.pause(until))


async def _resume(answers: Answers, request: Request, connection: Connection) -> None:
    _told(request, Nothing)
    await _order(connection, answers.handler.resume)


async def _finish(answers: Answers, request: Request, connection: Connection) -> None:
    _told(request, Nothing)
    await _order(connection, answers.handler.finish)


async def _order(connection: Connection, give: Callable[[], Ordered]) -> None:
    try:
        ordered = give()
    except ConfigError as senseless:
        raise Refused(HTTPStatus.BAD_REQUEST, str(senseless)) from None
    await connection.answer(HTTPStatus.OK, ordered)


async def _why(answers: Answers, request: Request, connection: Connection) -> None:
    found = await answers.read(partial(answers.handler.why, _asked(request, WhyRequest).at))
    await connection.answer(HTTPStatus.OK, found)


async def _stream(answers: Answers, request: Request, connection: Connection) -> None:
    asked = _asked(request, StreamQuery)
    last = request.headers.get("last-event-id", "")
    if last.isascii() and last.isdigit() and len(last) <= MAX_DIGITS:
        asked = replace(asked, after=int(last))
    await stream(answers, asked, connection)


async def _fetch(answers: Answers, request: Request, connection: Connection) -> None:
    """Fetch the blob and send its progress; the fetch ends if the client leaves."""
    fetch = _Fetch(answers.handler, _told(request, FetchRequest))
    await connection.begin_lines()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch.run)
        over = False
        while not over:
            with trio.move_on_after(PROGRESS_SECONDS):
                await fetch.ended.wait()
            over = fetch.ended.is_set()  # it may end while the line is sent: then one more follows
            await connection.line(fetch.latest, last=over)


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


async def _file(answers: Answers, request: Request, connection: Connection) -> None:
    found = FILES[request.path]
    await connection.send_file(found.kind, found.body, HEADERS)


ROUTES: Final[dict[str, dict[str, Route]]] = {  # target: method: route
    STATUS: {"GET": _status},
    LEDGER: {"GET": _ledger},
    EVENTS: {"GET": _events},
    TASKS: {"GET": _tasks},
    LOG: {"GET": _log},
    STREAM: {"GET": _stream},
    CONFIG: {"GET": _config},
    LOSSES: {"GET": _losses},
    RECORDS: {"GET": _records},
    PAGE: {"GET": _page},
    STOP: {"POST": _stop},
    FETCH: {"POST": _fetch},
    PAUSE: {"POST": _pause},
    RESUME: {"POST": _resume},
    FINISH: {"POST": _finish},
    WHY: {"GET": _why},
    **{target: {"GET": _file, "HEAD": _file} for target in FILES},
}


def route_of(request: Request) -> Route:
    """Return what answers a request; raises Refused if nothing does."""
    methods = ROUTES.get(request.path)
    if methods is None:
        raise Refused(HTTPStatus.NOT_FOUND, f"this API has no {request.path[:80]}")
    if request.method not in methods:
        allowed = ", ".join(methods)
        text = f"{request.path} takes {allowed}"
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, text, [("Allow", allowed)])
    return methods[request.method]


def _told(request: Request, kind: type[B]) -> B:
    """Return what a request's body says; an empty one means all defaults. Raises Refused."""
    _asked(request, Nothing)
    try:
        return msgspec.json.decode(request.body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        words = without_pattern(str(error))
        raise Refused(HTTPStatus.BAD_REQUEST, f"not a request: {words}") from None


def _asked(request: Request, kind: type[B]) -> B:
    """Return what a request's query says; raises Refused."""
    try:
        pairs = parse_qsl(
            request.query,
            keep_blank_values=True,
            strict_parsing=bool(request.query),
            errors="strict",
            max_num_fields=MAX_FIELDS,
        )
        return msgspec.convert(dict(pairs), kind, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        words = without_pattern(str(error))
        raise Refused(HTTPStatus.BAD_REQUEST, f"not a query: {words}") from None
