"""Calls between peers on kept streams: one stream per pair, requests by id, deadlines at callers.

The peer with the smaller PeerID opens the stream as soon as the two are connected, even if the
other one dialled, so a node without an inbound port is called like any other. Each stream has one
reader and one writer task. A caller waits on an event under its own deadline, never on the stream
(a cancelled read or write would ruin it); answers that come too late are dropped by their id.

The requests' meaning is not known here: services register handlers by request type.
"""

import contextlib
import functools
import logging
import operator
from collections import Counter
from collections.abc import Awaitable, Callable
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import trio

from dipaco.node.network.call_budget import CallBudget
from dipaco.node.network.framing import frame, receive_frame
from dipaco.node.network.outbox import FREE, IN_ALL, Outbox, Stock
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.transport import PeerCallback, Stream, Transport
from dipaco.protocol.errors import (
    LocalProtocolError,
    Refusal,
    RemoteProtocolError,
    Unavailable,
)
from dipaco.protocol.wire.canonical import PROTOCOL_VERSION, Wire, decode, encode
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.wire.messages import Failure, Reply, Request
from dipaco.protocol.wire.text import one_line
from dipaco.protocol.work.streams import CONTROL_CALLS, SYNC_CALLS, frame_bytes

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

CONTROL = f"/dipaco/control/{PROTOCOL_VERSION}"
CONTROL_LIMIT = frame_bytes(CONTROL_CALLS)
IN_FLIGHT = 16  # our unanswered requests to one peer; more wait
SERVED = 32  # requests of one peer that we handle at once; an honest one keeps to IN_FLIGHT
LINE = 2  # longest frames that wait for a peer to read: one is sent while the next is made
SLICE = 64 << 10  # bytes handed to a stream at once, so that a slow peer is told from a stuck one
STALL = 30.0  # s in which a peer takes no slice
REOPEN = 0.2  # s between two attempts to open a stream
OPEN_TIMEOUT = 15.0  # s from the connection to its stream; libp2p's own limit is 10

Q = TypeVar("Q", bound=Wire)
R = TypeVar("R", bound=Wire)
R2 = TypeVar("R2", bound=Wire)
_Frame = cast(type[Request | Reply | Failure], Request | Reply | Failure)


class _Call:
    """A request that waits for its answer."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: Reply | Failure | None = None


class _Line:
    """One kept stream and the calls that go over it."""

    def __init__(self, stream: Stream, outbox: Outbox) -> None:
        self.stream = stream
        self.outbox = outbox
        self.calls: dict[int, _Call] = {}
        self.next_id = 0
        self.slots = trio.Semaphore(IN_FLIGHT)
        self.ended = trio.Event()

    async def send(self, data: bytes, room: int = 0) -> None:
        try:
            await self.outbox.send(data, room)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Unavailable(f"{short_peer(self.stream.peer)} went away") from None

    def end(self) -> None:
        self.outbox.close()
        self.ended.set()
        for call in self.calls.values():
            call.done.set()


class Rpc:
    """The calls of one protocol; several may share a transport, each with its own streams.

    limit  bytes of the largest frame, in both directions.
    """

    def __init__(
        self,
        transport: Transport,
        reputation: Reputation,
        *,
        protocol: str = CONTROL,
        limit: int = CONTROL_LIMIT,
    ) -> None:
        self._transport = transport
        self._guard = transport.guard
        self._reputation = reputation
        self._protocol = protocol
        self._limit = limit
        self._handlers: dict[str, tuple[type[Wire], Callable[[PeerId, Any], Awaitable[Wire]]]] = {}
        self._lines: dict[PeerId, _Line] = {}
        self._arrivals: dict[PeerId, trio.Event] = {}
        self._serving: Counter[PeerId] = Counter()
        self._served: set[PeerId] = set()
        self._callbacks: list[PeerCallback] = []
        self._nursery: trio.Nursery | None = None
        self._stock = Stock(IN_ALL, self._end)
        self._budget: CallBudget | None = None
        self._started = trio.Event()
        transport.serve(protocol, self._accept)

    def handle(self, kind: type[Q], handler: Callable[[PeerId, Q], Awaitable[Wire]]) -> None:
        """Answer requests of type `kind` by `await handler(peer, request)`.

        The handler's Refusal and Unavailable are raised again at the caller; its
        RemoteProtocolError costs the peer a strike; anything else is a bug, which the guard reports
        and the caller gets no answer for.
        """
        self._handlers[kind.__name__] = (kind, handler)

    def ready(self) -> frozenset[PeerId]:
        """Return the peers that can be called now."""
        return frozenset(self._lines)

    def watch(self, callback: PeerCallback) -> None:
        """Call `callback` when a peer becomes callable (True) and when it no longer is (False)."""
        self._callbacks.append(callback)

    @overload
    async def call(self, peer: PeerId, request: Wire, kind: type[R], /, *, timeout: float) -> R: ...

    @overload
    async def call(
        self, peer: PeerId, request: Wire, kind: type[R], other: type[R2], /, *, timeout: float
    ) -> R | R2: ...

    async def call(self, peer: PeerId, request: Wire, *kinds: Any, timeout: float) -> Any:
        """Ask `peer` and return its answer, a value of one of `kinds`; at most `timeout` seconds.

        Raises Refusal and Unavailable as the peer's handler did, Unavailable when the peer is not
        connected, leaves, or does not answer in time, RemoteProtocolError when the answer is
        malformed (the peer then gets a strike). A call to oneself needs no network.
        """
        name = type(request).__name__
        body: bytes | None = None
        with trio.move_on_after(timeout):
            if peer == self._transport.me:
                body = await self._answer_own(request)
            else:
                body = await self._ask(peer, name, encode(request))
        if body is None:
            raise Unavailable(f"{short_peer(peer)} did not answer {name} within {timeout:g} s")
        try:
            wanted = functools.reduce(operator.or_, kinds)
            doing = f"reading the answer to {name}"
            answer = self._guard.call(doing, peer, decode, body, wanted, limit=self._limit)
        except RemoteProtocolError as error:
            await self._reputation.blame(peer, str(error))
            raise
        if answer is None:
            raise Unavailable(f"the answer of {short_peer(peer)} to {name} cannot be read here")
        return answer

    async def run(self, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as self._nursery:
            try:
                self._transport.watch(self._on_peer)
                for peer in self._transport.peers():
                    self._on_peer(peer, True)
                self._started.set()
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None  # late callbacks start nothing

    # ---------------------------------------------------------------- the caller's side

    async def _ask(self, peer: PeerId, name: str, body: bytes) -> bytes:
        line = await self._line(peer)
        async with line.slots:
            number, line.next_id = line.next_id, line.next_id + 1
            call = line.calls[number] = _Call()
            try:
                await line.send(self._pack(Request(id=number, kind=name, body=body)))
                await call.done.wait()
            finally:
                del line.calls[number]
        match call.answer:
            case None:
                raise Unavailable(f"{short_peer(peer)} went away before it answered {name}")
            case Failure(fault="refusal", reason=reason):
                raise Refusal(reason)
            case Failure(reason=reason):
                raise Unavailable(reason)
            case Reply(body=answer):
                return answer

    async def _line(self, peer: PeerId) -> _Line:
        """Return the stream to `peer`, waiting for it if they are connected."""
        while (line := self._lines.get(peer)) is None:
            if peer not in self._transport.peers():
                raise Unavailable(f"not connected to {short_peer(peer)}")
            await self._arrivals.setdefault(peer, trio.Event()).wait()
        return line

    async def _answer_own(self, request: Wire) -> bytes:
        name = type(request).__name__
        if name not in self._handlers:
            raise Unavailable(f"{name!r} is not served here")
        return encode(await self._handlers[name][1](self._transport.me, request))

    def _pack(self, value: Wire) -> bytes:
        data = encode(value)
        if len(data) > self._limit:
            raise LocalProtocolError(f"a {type(value).__name__} of {len(data)} bytes is too long")
        return frame(data)

    # ---------------------------------------------------------------- one task per connected peer

    def _on_peer(self, peer: PeerId, connected: bool) -> None:
        if connected and peer not in self._served and self._nursery is not None:
            self._served.add(peer)
            self._nursery.start_soon(
                self._guard.run, "keeping a stream", peer, self._keep_stream, peer
            )
        if not connected:
            self._announce_arrival(peer)  # callers that wait for the stream wake and give up

    async def _keep_stream(self, peer: PeerId) -> None:
        """Keep a stream to a peer while it is connected; hang up if none can be opened."""
        try:
            while peer in self._transport.peers():
                if (line := self._lines.get(peer)) is not None:
                    await line.ended.wait()
                    await trio.sleep(REOPEN)
                    continue
                with trio.move_on_after(OPEN_TIMEOUT) as opening:
                    if self._transport.me < peer:
                        await self._open(peer)
                    else:
                        await self._arrivals.setdefault(peer, trio.Event()).wait()
                if opening.cancelled_caught:
                    await self._transport.hang_up(peer, f"no {self._protocol} stream was opened")
        finally:
            self._served.discard(peer)

    async def _open(self, peer: PeerId) -> None:
        while peer in self._transport.peers():
            try:
                stream = await self._transport.open(peer, self._protocol)
            except Unavailable as error:
                log.debug("peer=%s %s: %s", short_peer(peer), self._protocol, error)
                await trio.sleep(REOPEN)
                continue
            if self._nursery is None:  # stopping
                await stream.reset()
                return
            doing = f"serving {self._protocol}"
            self._nursery.start_soon(self._guard.run, doing, peer, self._converse, stream)
            await self._arrivals.setdefault(peer, trio.Event()).wait()
            return

    async def _accept(self, stream: Stream) -> None:
        await self._started.wait()
        if self._transport.me < stream.peer:
            await self._reputation.blame(stream.peer, "opened a stream that only we may open")
            return
        await self._converse(stream)

    async def _converse(self, stream: Stream) -> None:
        """Serve one stream until it ends; a newer stream of the same peer replaces it."""
        peer = stream.peer
        group = "" if self._reputation.known(peer) else self._reputation.prefix(peer) or peer
        outbox = Outbox(self._stock, peer, group, LINE * self._limit)
        line, previous = _Line(stream, outbox), self._lines.get(peer)
        self._lines[peer] = line
        self._announce_arrival(peer)
        if previous is None:
            self._tell(peer, True)
        else:
            await previous.stream.reset()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, line, nursery.cancel_scope)
                await self._read(line)
                nursery.cancel_scope.cancel()
        finally:
            line.end()
            if self._lines.get(peer) is line:
                del self._lines[peer]
                self._tell(peer, False)
            await stream.reset()

    def _announce_arrival(self, peer: PeerId) -> None:
        if (event := self._arrivals.pop(peer, None)) is not None:
            event.set()

    def _tell(self, peer: PeerId, ready: bool) -> None:
        for callback in self._callbacks:
            self._guard.call("noting a callable peer", peer, callback, peer, ready)

    # ---------------------------------------------------------------- the stream's two tasks

    async def _write(self, line: _Line, conversation: trio.CancelScope) -> None:
        try:
            while True:
                data = await line.outbox.next()
                for start in range(0, len(data), SLICE):
                    # While nothing but pings waits, `Liveness` decides.
                    with trio.move_on_after(STALL if line.outbox.held else inf) as stall:
                        await line.stream.send(data[start : start + SLICE])
                    if stall.cancelled_caught:  # the stream is ruined, and reading it goes nowhere
                        self._end(line.stream.peer, f"took no byte of an answer for {STALL:g} s")
                        return
                line.outbox.sent()
        except Unavailable:
            conversation.cancel()

    async def _read(self, line: _Line) -> None:
        peer = line.stream.peer
        try:
            while True:
                data = await receive_frame(line.stream, self._limit)
                message = decode(data, _Frame, limit=self._limit)
                if isinstance(message, Request):
                    self._on_request(line, message)
                elif (call := line.calls.get(message.id)) is not None:
                    call.answer = message
                    call.done.set()
                    continue  # nobody waits for what we asked for
                await trio.sleep(self._cost(peer, size=len(data)))
        except Unavailable as error:
            log.debug("peer=%s %s ended: %s", short_peer(peer), self._protocol, error)
        except RemoteProtocolError as error:
            await self._reputation.blame(peer, str(error))

    def _on_request(self, line: _Line, request: Request) -> None:
        peer = line.stream.peer
        if request.kind not in self._handlers:
            self._decline(line, request, f"{request.kind!r} is not served here")
        elif self._serving[peer] >= SERVED:
            self._decline(line, request, "busy with your earlier requests")
        else:
            kind, handler = self._handlers[request.kind]
            value = decode(request.body, kind, limit=self._limit)
            if self._nursery is None:
                raise Unavailable("this node is stopping")
            self._serving[peer] += 1
            doing = f"answering {request.kind}"
            answer = (self._answer, line, request.id, handler, value)
            self._nursery.start_soon(self._guard.run, doing, peer, *answer)

    def _decline(self, line: _Line, request: Request, reason: str) -> None:
        failure = Failure(id=request.id, fault="unavailable", reason=one_line(reason))
        try:
            line.outbox.send_nowait(self._pack(failure))
        except trio.WouldBlock:
            raise RemoteProtocolError("sends requests without reading the answers") from None

    async def _answer(
        self,
        line: _Line,
        number: int,
        handler: Callable[[PeerId, Any], Awaitable[Wire]],
        value: Wire,
    ) -> None:
        peer, room = line.stream.peer, _longest_answer(type(value))
        answer: Reply | Failure
        await line.outbox.take(room)
        try:
            answer = Reply(id=number, body=encode(await handler(peer, value)))
        except (Refusal, Unavailable) as error:
            answer = Failure(
                id=number,
                fault="refusal" if isinstance(error, Refusal) else "unavailable",
                reason=one_line(str(error)),
            )
        except RemoteProtocolError as error:
            line.outbox.give_back(room)
            await self._reputation.blame(peer, str(error))
            return
        finally:
            self._serving[peer] -= 1
            if not self._serving[peer]:
                del self._serving[peer]
        data = self._pack(answer)
        line.outbox.give_back(max(0, room - len(data)))
        self._cost(peer, size=len(data), calls=0)
        with contextlib.suppress(Unavailable):  # the peer left meanwhile: no caller waits
            await line.send(data, min(room, len(data)))

    def _cost(self, peer: PeerId, *, size: int, calls: int = 1) -> float:
        """Count what a peer asks for; returns the seconds until it is read again."""
        now = trio.current_time()
        if self._budget is None:
            reputation = self._reputation
            self._budget = CallBudget(reputation.known, reputation.prefix, now=now)
        return self._budget.spend(peer, size=size, calls=calls, now=now)

    def _end(self, peer: PeerId, why: str) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._transport.hang_up, peer, why)


@functools.cache
def _longest_answer(kind: type[Wire]) -> int:
    """Return the bytes of the longest answer to a request, 0 for one that needs no room."""
    answers = (CONTROL_CALLS | SYNC_CALLS).get(kind, ())
    longest = max((frame_bytes({answer: ()}) for answer in answers), default=0)
    return longest if longest > FREE else 0
