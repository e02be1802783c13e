"""One connection of the local API: it reads whole requests and sends answers, by h11.

An answer is one whole value or JSON lines. Owns the limits of a client: the bytes of a request, and
the seconds that the client may take to send one and to read an answer. The routes are in `server`.
"""

from collections.abc import Sequence
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
    target: str
    body: bytes


class Connection:
    """The server's end of one client's connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
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
        return Request(self._method, head.target.decode(), bytes(body))

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
        length = ("Content-Length", str(len(body)))
        events = [_head(status, "application/json", length, *headers), h11.EndOfMessage()]
        if self._method != "HEAD":
            events.insert(1, h11.Data(data=body))
        await self._send(*events)

    async def refuse(self, refused: Refused) -> None:
        """Send an error as a whole answer; nothing if another answer has begun already."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        await self.answer(refused.status, Fault(error=str(refused)), refused.headers)

    async def begin_lines(self) -> None:
        """Begin an answer of JSON lines."""
        await self._send(_head(HTTPStatus.OK, "application/x-ndjson"))

    async def line(self, value: object, *, last: bool = False) -> None:
        """Send one line of the answer."""
        data = h11.Data(data=msgspec.json.encode(value) + b"\n")
        await self._send(data, *[h11.EndOfMessage()] * last)

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
    headers = [("Content-Type", kind), ("Cache-Control", "no-store"), *more]
    return h11.Response(status_code=status, reason=status.phrase, headers=headers)
