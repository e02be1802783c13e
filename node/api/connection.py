"""One connection of the local API: it reads whole requests and sends answers, by h11.

An answer is one whole value, JSON lines or server-sent events. Owns the limits of a client: the
bytes of a request, and the seconds that the client may take to send one and to read an answer. The
routes are in `routes`.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

import h11
import msgspec
import trio

from dipaco.node.api.values import MAX_BODY, MAX_HEAD, MAX_REPLY, Fault

IDLE_SECONDS = 60.0  # for a whole request to arrive; a connection without one is closed
BRIEF_SECONDS = 2.0  # the same, where all seats but the kept ones are taken
SEND_SECONDS = 10.0  # for a client to read one part of an answer; a local one needs milliseconds


class Refused(Exception):
    """A request is answered by an error: its status, one line, and headers."""

    def __init__(
        self, status: HTTPStatus, text: str, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(text)
        self.status, self.headers = status, headers


@dataclass(frozen=True)
class Request:
    """A whole request."""

    method: str
    path: str
    query: str
    """What stands behind the question mark."""
    headers: Mapping[str, str]
    """By name in lower case; the values of one name are joined by commas."""
    body: bytes


class Connection:
    """The server's end of one client's connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._method = ""

    async def next_request(self, seconds: float = IDLE_SECONDS) -> Request | None:
        """Return the next request; None when the client is done, or sends none in `seconds`.

        Raises Refused for a malformed request, or one that is too long. No request can follow it.
        """
        try:
            with trio.move_on_after(seconds):
                return await self._whole_request()
        except h11.RemoteProtocolError as error:
            raise Refused(HTTPStatus(error.error_status_hint), f"not a request: {error}") from None
        return None

    async def _whole_request(self) -> Request | None:
        self._method = ""
        head = await self._next_event()
        if not isinstance(head, h11.Request):
            return None
        self._method = head.method.decode()
        body = bytearray()
        while isinstance(part := await self._next_event(), h11.Data):
            body += part.data
            if len(body) > MAX_BODY:
                text = f"a request's body has at most {MAX_BODY} bytes"
                raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
        path, _, query = head.target.decode().partition("?")
        return Request(self._method, path, query, _joined(head.headers), bytes(body))

    async def _next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self._http.receive_data(await self._stream.receive_some(MAX_HEAD))
        return event

    async def answer(
        self, status: HTTPStatus, value: object, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Send a whole answer: `value` as JSON."""
        await self.send_answer(status, as_json(value), headers)

    async def send_answer(
        self, status: HTTPStatus, body: bytes, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Send a whole answer: `body` is JSON."""
        await self.send_file("application/json", body, headers, status)

    async def send_file(
        self,
        kind: str,
        body: bytes,
        headers: Sequence[tuple[str, str]] = (),
        status: HTTPStatus = HTTPStatus.OK,
    ) -> None:
        """Send a whole answer of a media type."""
        length = ("Content-Length", str(len(body)))
        events = [_head(status, kind, length, *headers), h11.EndOfMessage()]
        if self._method != "HEAD":
            events.insert(1, h11.Data(data=body))
        await self._send(*events)

    async def refuse(self, refused: Refused) -> None:
        """Send an error as a whole answer; nothing if another answer has begun already."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        fault = Fault(code=refused.status, error=str(refused))
        await self.answer(refused.status, fault, refused.headers)

    async def begin_lines(self) -> None:
        """Begin an answer of JSON lines."""
        await self._send(_head(HTTPStatus.OK, "application/x-ndjson"))

    async def line(self, value: object, *, last: bool = False) -> None:
        """Send one line of the answer."""
        data = h11.Data(data=msgspec.json.encode(value) + b"\n")
        await self._send(data, *[h11.EndOfMessage()] * last)

    async def begin_events(self) -> None:
        """Begin an answer of server-sent events."""
        await self._send(_head(HTTPStatus.OK, "text/event-stream"))

    async def events(self, data: bytes) -> None:
        """Send server-sent events, as `event_of` returns them."""
        await self._send(h11.Data(data=data))

    async def left(self) -> None:
        """Return once the client has hung up, or sends more than it has a reason to."""
        unread = MAX_HEAD
        with suppress(trio.BrokenResourceError):
            while unread > 0 and (data := await self._stream.receive_some(MAX_HEAD)):
                unread -= len(data)

    async def _send(self, *events: h11.Event) -> None:
        data = b"".join(self._http.send(event) or b"" for event in events)
        with trio.fail_after(SEND_SECONDS):
            await self._stream.send_all(data)

    def again(self) -> bool:
        """Prepare for the connection's next request; returns False if there cannot be one."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True


def as_json(value: object) -> bytes:
    """Return an answer's body; raises Refused for one that no client of ours would read."""
    body = msgspec.json.encode(value)
    if len(body) > MAX_REPLY:
        text = f"the answer has {len(body)} bytes, more than {MAX_REPLY}"
        raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, text)
    return body


def _head(status: HTTPStatus, kind: str, *more: tuple[str, str]) -> h11.Event:
    sure = ("X-Content-Type-Options", "nosniff")  # a browser takes it for nothing else
    headers = [("Content-Type", kind), ("Cache-Control", "no-store"), sure, *more]
    return h11.Response(status_code=status, reason=status.phrase, headers=headers)


def event_of(name: str, data: bytes, number: int | None = None) -> bytes:
    """Return one server-sent event.

    data     JSON, which has no line break.
    number   by which a client that comes back says how far it was.
    """
    mark = b"" if number is None else b"id: %d\n" % number
    return b"%sevent: %s\ndata: %s\n\n" % (mark, name.encode(), data)


def _joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found
