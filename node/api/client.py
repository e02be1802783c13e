"""The client of the local API: HTTP/1.1 over the home's unix socket.

It is synchronous and imports neither trio, torch, libp2p nor numpy, so that `dipaco-node status`
takes less than 0.2 s. Every call opens a connection of its own.
"""

import http.client
import shlex
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

import msgspec

from dipaco.node.api.values import (
    CONFIG,
    EVENTS,
    FETCH,
    FINISH,
    LEDGER,
    LOG,
    MAX_REPLY,
    PAGE,
    PAUSE,
    RESUME,
    STATUS,
    STOP,
    STREAM,
    TASKS,
    WHY,
    ConfigView,
    EventQuery,
    Fault,
    Fetched,
    FetchEvent,
    FetchFailed,
    Fetching,
    FetchRequest,
    LedgerView,
    LogQuery,
    NoDaemon,
    Ordered,
    PageView,
    PauseRequest,
    Stopping,
    StopRequest,
    StreamQuery,
    TaskQuery,
    Why,
)
from dipaco.node.status.document import Status
from dipaco.node.status.events import Event, EventPage, LogLine, LogPage, TaskPage
from dipaco.node.storage.files import Home
from dipaco.protocol.errors import (
    ConfigError,
    DipacoError,
    RemoteProtocolError,
    Unavailable,
)

A = TypeVar("A")

# Made at import, in one thread: the first decoder of a type completes what msgspec knows of its
# structs. While one thread does that, a second one that decodes the type crashes the process.
_STATUS: Final = msgspec.json.Decoder(Status)
_LEDGER: Final = msgspec.json.Decoder(LedgerView)
_EVENTS: Final = msgspec.json.Decoder(EventPage)
_TASKS: Final = msgspec.json.Decoder(TaskPage)
_LOG: Final = msgspec.json.Decoder(LogPage)
_TOPICS: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    "status": _STATUS,
    "event": msgspec.json.Decoder(Event),
    "log": msgspec.json.Decoder(LogLine),
}
"""By the name of a server-sent event."""
_CONFIG: Final = msgspec.json.Decoder(ConfigView)
_STOPPING: Final = msgspec.json.Decoder(Stopping)
_ORDERED: Final = msgspec.json.Decoder(Ordered)
_PAGE: Final = msgspec.json.Decoder(PageView)
_WHY: Final = msgspec.json.Decoder(Why)
_FAULT: Final = msgspec.json.Decoder(Fault)
_FETCH_EVENT: Final[msgspec.json.Decoder[FetchEvent]] = msgspec.json.Decoder(FetchEvent)


def ask_status(home: Path, *, timeout: float = 5.0) -> Status:
    """Ask the daemon of `home` for its status; raises NoDaemon (`timeout` in seconds)."""
    return _ask(home, "GET", STATUS, _STATUS, timeout=timeout)


def ask_config(home: Path, *, timeout: float = 5.0) -> ConfigView:
    """Ask the daemon of `home` for the settings that it runs with; raises NoDaemon."""
    return _ask(home, "GET", CONFIG, _CONFIG, timeout=timeout)


def ask_page(home: Path, *, timeout: float = 5.0) -> PageView:
    """Ask the daemon of `home` where its page is; raises NoDaemon, Unavailable if it has none."""
    return _ask(home, "GET", PAGE, _PAGE, timeout=timeout)


def ask_ledger(home: Path, *, timeout: float = 30.0) -> LedgerView:
    """Ask the daemon of `home` for the summary of its run's ledger; raises NoDaemon."""
    return _ask(home, "GET", LEDGER, _LEDGER, timeout=timeout)


def ask_events(home: Path, query: EventQuery, *, timeout: float = 10.0) -> EventPage:
    """Ask the daemon of `home` for events of its journal; raises NoDaemon."""
    return _ask(home, "GET", _target(EVENTS, query), _EVENTS, timeout=timeout)


def ask_tasks(home: Path, most: int, *, timeout: float = 10.0) -> TaskPage:
    """Ask the daemon of `home` for its latest `most` tasks; raises NoDaemon."""
    return _ask(home, "GET", _target(TASKS, TaskQuery(most=most)), _TASKS, timeout=timeout)


def ask_log(home: Path, query: LogQuery, *, timeout: float = 5.0) -> LogPage:
    """Ask the daemon of `home` for the latest lines of its log; raises NoDaemon."""
    return _ask(home, "GET", _target(LOG, query), _LOG, timeout=timeout)


def watch(
    home: Path, query: StreamQuery, *, timeout: float = 45.0
) -> Iterator[Status | Event | LogLine]:
    """Yield what the daemon of `home` tells, until it ends; raises NoDaemon then.

    timeout   seconds without a sign of life; a daemon gives four a minute.
    """
    name = ""
    with _answer(home, "GET", _target(STREAM, query), None, timeout=timeout) as answer:
        while line := answer.readline(MAX_REPLY + 1):
            key, _, value = line.rstrip(b"\n").partition(b": ")
            if key == b"event":
                name = value.decode()
            elif key == b"data" and name in _TOPICS:
                yield _decoded(value, _TOPICS[name])
    raise NoDaemon("the daemon ended")


def _target(path: str, query: msgspec.Struct) -> str:
    fields = msgspec.structs.asdict(query)
    return f"{path}?{urlencode({k: v for k, v in fields.items() if v is not None})}"


def ask_stop(home: Path, *, now: bool = False, restart: bool = False, timeout: float = 5.0) -> None:
    """Ask the daemon of `home` to stop; raises NoDaemon."""
    _ask(home, "POST", STOP, _STOPPING, StopRequest(now=now, restart=restart), timeout=timeout)


def ask_pause(home: Path, *, until: float | None = None, timeout: float = 5.0) -> Ordered:
    """Ask the daemon of `home` to pause; `until` in Unix time. Raises NoDaemon."""
    return _ask(home, "POST", PAUSE, _ORDERED, PauseRequest(until=until), timeout=timeout)


def ask_resume(home: Path, *, timeout: float = 5.0) -> Ordered:
    """Ask the daemon of `home` to work again; raises NoDaemon."""
    return _ask(home, "POST", RESUME, _ORDERED, timeout=timeout)


def ask_finish(home: Path, *, timeout: float = 5.0) -> Ordered:
    """Ask the daemon of `home` to pause after the lease that it holds; raises NoDaemon."""
    return _ask(home, "POST", FINISH, _ORDERED, timeout=timeout)


def ask_why(home: Path, *, at: float | None = None, timeout: float = 5.0) -> Why:
    """Ask the daemon of `home` for the reasons at a Unix time [now]; raises NoDaemon."""
    query = "" if at is None else f"?at={at:.3f}"
    return _ask(home, "GET", WHY + query, _WHY, timeout=timeout)


def ask_fetch(
    home: Path, request: FetchRequest, on_progress: Callable[[Fetching], None], *, timeout: float
) -> Fetched:
    """Ask the daemon of `home` to fetch a blob; it is in the home's store when this returns.

    timeout   seconds without a line; a daemon that fetches sends two a second.
    Raises NoDaemon, and Unavailable with the daemon's reason when no connected peer has the blob.
    """
    with _answer(home, "POST", FETCH, request, timeout=timeout) as answer:
        while True:
            line = answer.readline(MAX_REPLY + 1)
            if not line:
                raise NoDaemon("the daemon ended before its answer was complete")
            event = _decoded(line, _FETCH_EVENT)
            match event:
                case Fetching() as progress:
                    on_progress(progress)
                case Fetched() as fetched:
                    return fetched
                case FetchFailed(error=error):
                    raise Unavailable(error)


def _ask(
    home: Path,
    method: str,
    target: str,
    decoder: msgspec.json.Decoder[A],
    body: msgspec.Struct | None = None,
    *,
    timeout: float,
) -> A:
    with _answer(home, method, target, body, timeout=timeout) as answer:
        return _decoded(_whole(answer), decoder)


@contextmanager
def _answer(
    home: Path, method: str, target: str, body: msgspec.Struct | None, *, timeout: float
) -> Iterator[http.client.HTTPResponse]:
    """Send one request; the block reads its answer.

    Raises NoDaemon when no process listens, when it is another user's, when nothing arrives for
    `timeout` seconds, or when the daemon ends during its answer; Unavailable with the daemon's
    reason when it cannot do it; ConfigError when the home is no folder; RemoteProtocolError for an
    answer that is not HTTP.
    """
    path = Home(home).socket
    try:
        with closing(_Connection(path, timeout)) as connection:
            with suppress(BrokenPipeError):  # refused before it was read: the answer has the reason
                data = None if body is None else msgspec.json.encode(body)
                connection.request(method, target, data)
            answer = connection.getresponse()
            if answer.status >= 400:
                fault = ConfigError if answer.status == HTTPStatus.BAD_REQUEST else Unavailable
                raise fault(_decoded(_whole(answer), _FAULT).error)
            yield answer
    except TimeoutError:
        raise NoDaemon(f"the daemon at {path} does not answer within {timeout:g} s") from None
    except (http.client.RemoteDisconnected, http.client.IncompleteRead):
        raise NoDaemon("the daemon ended before its answer was complete") from None
    except http.client.HTTPException as error:
        raise RemoteProtocolError(f"the daemon answers in another version: {error!r}") from None
    except OSError as error:
        raise _nobody(home, error) from None


def _nobody(home: Path, error: OSError) -> DipacoError:
    """Return the reason why no daemon of `home` can be asked, and what to do."""
    reason = (error.strerror or str(error)).lower()
    if isinstance(error, PermissionError):
        return NoDaemon(f"the daemon of {home} answers its own user alone: you are another one")
    if isinstance(error, NotADirectoryError):
        return ConfigError(f"home: {home} is in a file, not in a folder: name another --home")
    start = f"dipaco-node start --home {shlex.quote(str(home))}"
    return NoDaemon(f"no daemon runs in {home} ({reason}): {start} starts one")


class _Connection(http.client.HTTPConnection):
    """An HTTP connection over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of to a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _whole(answer: http.client.HTTPResponse) -> bytes:
    if answer.length is None or answer.length > MAX_REPLY:
        raise RemoteProtocolError(f"the daemon's answer is longer than {MAX_REPLY} bytes")
    return answer.read()


def _decoded(data: bytes, decoder: msgspec.json.Decoder[A]) -> A:
    try:
        return decoder.decode(data)
    except msgspec.DecodeError as error:
        raise RemoteProtocolError(f"the daemon answers in another version: {error}") from None
