"""A client that speaks the wire protocol below our own `Rpc`, and misbehaves where it is told to.

A `Stranger` is an identity with a transport. Left alone it is a polite peer: it answers pings and
tells of what it holds. An attack changes one thing: an answer, the bytes of a frame, a field of a
signed value. It works over either transport: in memory, and over real sockets (`wire.py`).
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import cbor2
import msgspec
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.node.network.blob_stream import BLOB, chunk_bytes
from dipaco.node.network.framing import frame, receive_frame
from dipaco.node.network.gossip import SYNC, TOPIC
from dipaco.node.network.rpc import CONTROL
from dipaco.node.network.transport import Handler, Stream
from dipaco.protocol.errors import DipacoError, Unavailable
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.canonical import PROTOCOL_VERSION, Wire, decode, encode
from dipaco.protocol.wire.digest import Digest, sha256
from dipaco.protocol.wire.identity import PeerId, peer_id
from dipaco.protocol.wire.messages import (
    Absent,
    AskChunk,
    AskHave,
    AskOutline,
    Failure,
    Have,
    Inventory,
    Item,
    LedgerPart,
    Listing,
    Outline,
    Pong,
    ReadLedger,
    ReadValue,
    Reply,
    Request,
    Value,
)
from dipaco.protocol.wire.signed import Signed
from dipaco.protocol.work.ledger import LedgerRecord, SpecAdopted

LARGEST = 8 << 20  # bytes of a frame that this side reads: above every honest one
PATIENCE = 10.0  # s for a stream, or an answer
_Message = cast(type[Request | Reply | Failure], Request | Reply | Failure)

W = TypeVar("W", bound=Wire)


@dataclass(frozen=True)
class Target:
    """An honest node."""

    name: str
    peer: PeerId
    addresses: tuple[Address, ...]


class Door(Protocol):
    """The part of a `Transport` that an attacker needs."""

    @property
    def me(self) -> PeerId: ...

    async def dial(self, peer: PeerId, addresses: Sequence[Address]) -> None: ...

    async def open(self, peer: PeerId, protocol: str) -> Stream: ...

    def serve(self, protocol: str, handler: Handler) -> None: ...

    def peers(self) -> frozenset[PeerId]: ...

    async def hang_up(self, peer: PeerId) -> None: ...

    async def publish(self, topic: str, data: bytes) -> None: ...


Answer = Callable[[Request], Awaitable[bytes | None]]
"""Returns the frame's body to answer with; None: it answers nothing."""


class Line:
    """A stream of calls, with nothing between the attacker and its bytes."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._next = 0
        self._waiting: dict[int, trio.Event] = {}
        self._answers: dict[int, Reply | Failure] = {}
        self.ended = trio.Event()

    async def send(self, data: bytes) -> None:
        """Send bytes as they are; raises Unavailable."""
        await self.stream.send(data)

    async def say(self, body: bytes) -> None:
        """Send a frame."""
        await self.stream.send(frame(body))

    async def call(self, kind: str, body: bytes) -> Reply | Failure:
        """Send a request of any kind and body, and return the answer; raises Unavailable."""
        number, self._next = self._next, self._next + 1
        answered = self._waiting[number] = trio.Event()
        await self.say(encode(Request(id=number, kind=kind, body=body)))
        with trio.move_on_after(PATIENCE):
            await answered.wait()
        if number not in self._answers:
            raise Unavailable(f"no answer to {kind}")
        return self._answers.pop(number)

    async def ask(self, request: Wire, kind: type[W]) -> W:
        """Return the answer, a `kind`; raises Unavailable for another."""
        answer = await self.call(type(request).__name__, encode(request))
        if isinstance(answer, Failure):
            raise Unavailable(answer.reason)
        return decode(answer.body, kind, limit=LARGEST)

    def take(self, answer: Reply | Failure) -> None:
        """Give an answer to whoever waits for it."""
        if (waiting := self._waiting.pop(answer.id, None)) is not None:
            self._answers[answer.id] = answer
            waiting.set()

    def end(self) -> None:
        """Wake all that wait."""
        self.ended.set()
        for waiting in self._waiting.values():
            waiting.set()


class Stranger:
    """An identity that nobody knows.

    nursery   its tasks live there.
    """

    def __init__(self, key: Ed25519PrivateKey, door: Door, nursery: trio.Nursery) -> None:
        self.key, self.door, self.me = key, door, peer_id(key)
        self._nursery = nursery
        self._lines: dict[tuple[PeerId, str], Line] = {}
        self._arrived: dict[tuple[PeerId, str], trio.Event] = {}
        self.got_in = False
        """Whether a node has ever let it in."""
        self.values: dict[Item, bytes] = {}
        """What it tells of, and hands out."""
        self.ledgers: dict[Digest, list[bytes]] = {}
        self.listing: tuple[Signed, ...] = ()
        """The records that it lists as a directory."""
        self.blobs: dict[Digest, bytes] = {}
        self.answers: dict[str, Answer] = {}
        """By kind of request: what it answers instead of the polite thing."""
        self.serve_blob: Callable[[Stream], Awaitable[None]] = self._hand_out
        door.serve(CONTROL, self._accept(CONTROL))
        door.serve(SYNC, self._accept(SYNC))
        door.serve(BLOB, self._in_own_task)

    # ---------------------------------------------------------------- connections

    async def dial(self, target: Target) -> None:
        """Connect; raises Unavailable."""
        await self.door.dial(target.peer, target.addresses)
        self.got_in = True

    async def meet(self, target: Target) -> Line:
        """Connect, and return the control line; raises Unavailable."""
        await self.dial(target)
        await self.line(target, SYNC)
        return await self.line(target)

    async def line(self, target: Target, protocol: str = CONTROL) -> Line:
        """Return the stream of calls that stands between the two; raises Unavailable."""
        found = self._lines.get((target.peer, protocol))
        if found is not None and not found.ended.is_set():
            return found
        if self.me < target.peer:
            return self.converse(await self.door.open(target.peer, protocol), protocol)
        arrived = self._arrived.setdefault((target.peer, protocol), trio.Event())
        with trio.move_on_after(PATIENCE):
            await arrived.wait()
        found = self._lines.get((target.peer, protocol))
        if found is None or found.ended.is_set():
            raise Unavailable(f"{target.name} opened no {protocol}")
        return found

    def converse(self, stream: Stream, protocol: str = CONTROL) -> Line:
        """Answer what comes over a stream, and return it as a line."""
        line = self._lines[stream.peer, protocol] = Line(stream)
        self._nursery.start_soon(self._read, line)
        if (arrived := self._arrived.pop((stream.peer, protocol), None)) is not None:
            arrived.set()
        return line

    def _accept(self, protocol: str) -> Handler:
        async def accept(stream: Stream) -> None:
            await self.converse(stream, protocol).ended.wait()

        return accept

    async def _read(self, line: Line) -> None:
        with suppress(DipacoError, trio.BrokenResourceError):
            while True:
                message = decode(await receive_frame(line.stream, LARGEST), _Message, limit=LARGEST)
                if isinstance(message, Request):
                    self._nursery.start_soon(self._answer, line, message)
                else:
                    line.take(message)
        line.end()

    async def _in_own_task(self, stream: Stream) -> None:
        """Serve in a task of this file: a task of the transport counts as an honest one."""
        done = trio.Event()

        async def serve() -> None:
            with suppress(DipacoError):
                await self.serve_blob(stream)
            done.set()

        self._nursery.start_soon(serve)
        await done.wait()

    async def reset_lines(self, target: Target) -> None:
        """Reset the streams and forget them."""
        for protocol in (CONTROL, SYNC):
            if (line := self._lines.pop((target.peer, protocol), None)) is not None:
                await line.stream.reset()

    # ---------------------------------------------------------------- answers

    async def _answer(self, line: Line, request: Request) -> None:
        other = self.answers.get(request.kind)
        with suppress(DipacoError):
            if other is not None:
                body = await other(request)
            else:
                body = self.polite(request)
            if body is not None:
                await line.say(body)

    def polite(self, request: Request) -> bytes:
        """Return what an honest newcomer would answer."""
        answer = self._polite(request)
        if answer is None:
            return encode(Failure(id=request.id, fault="unavailable", reason="not served here"))
        return reply(request, answer)

    def _polite(self, request: Request) -> Wire | None:
        match request.kind:
            case "Ping":
                return Pong()
            case "AskInventory":
                return Inventory(same=False, items=tuple(self.values))
            case "ReadValue":
                item = decode(request.body, ReadValue, limit=LARGEST).item
                return Value(data=self.values.get(item))
            case "ReadLedger":
                ask = decode(request.body, ReadLedger, limit=LARGEST)
                part = self.ledgers.get(ask.run, [])[ask.first : ask.first + 256]
                return LedgerPart(records=tuple(part))
            case "ListPeers":
                return Listing(records=self.listing)
            case "AskHave":
                return Have(held=decode(request.body, AskHave, limit=LARGEST).blob in self.blobs)
        return None

    async def _hand_out(self, stream: Stream) -> None:
        ask = decode(await receive_frame(stream, LARGEST), AskOutline, limit=LARGEST)
        data = self.blobs.get(ask.blob)
        if data is None:
            await stream.send(frame(encode(Absent())))
            return
        size = chunk_bytes(len(data))
        await stream.send(frame(encode(outline_of(data))))
        while True:
            index = decode(await receive_frame(stream, LARGEST), AskChunk, limit=LARGEST).index
            await stream.send(data[index * size : (index + 1) * size])

    # ---------------------------------------------------------------- values

    def hold(self, kind: str, run: Digest, data: bytes) -> Item:
        """Tell of a value from now on, and hand it out."""
        item = Item(kind=kind, run=run, digest=sha256(data), seq=0)
        self.values[item] = data
        return item

    def hold_ledger(self, run: Digest, records: list[bytes]) -> Item:
        """Tell of a ledger from now on, and hand it out."""
        head = decode(records[-1], Signed, limit=LARGEST).body_digest
        item = Item(kind="ledger", run=run, digest=head, seq=len(records))
        self.ledgers[run] = records
        self.values[item] = b""
        return item

    async def announce(self, body: bytes) -> None:
        """Publish bytes on the topic of announcements; raises Unavailable."""
        await self.door.publish(TOPIC, body)

    async def spec(self, target: Target, run: Digest) -> Digest:
        """Return the spec that a run's ledger adopted, as anybody may ask; raises Unavailable."""
        part = await (await self.line(target, SYNC)).ask(ReadLedger(run=run, first=0), LedgerPart)
        for data in part.records:
            signed = decode(data, Signed, limit=LARGEST)
            entry = decode(signed.body, LedgerRecord, limit=LARGEST).entry
            if isinstance(entry, SpecAdopted):
                return entry.spec
        raise Unavailable("no spec is adopted yet")


# -------------------------------------------------------------------- bytes


def reply(request: Request, answer: Wire | bytes) -> bytes:
    """Return the frame's body that answers a request with a value, or with any bytes."""
    return encode(
        Reply(id=request.id, body=answer if isinstance(answer, bytes) else encode(answer))
    )


def plain(value: Wire, **changes: object) -> dict[str, Any]:
    """Return a value as CBOR sees it, with fields changed that no check looks at."""
    fields: dict[str, Any] = msgspec.to_builtins(value, builtin_types=(bytes,))
    return fields | changes


def cbor(value: object) -> bytes:
    """Return the deterministic encoding of anything."""
    return cbor2.dumps(value, canonical=True)


def envelope(body: bytes, key: Ed25519PrivateKey, kind: str) -> bytes:
    """Return bytes signed as the body of a `kind`, whatever they are."""
    domain = f"dipaco/{PROTOCOL_VERSION}/signed/{kind}".encode("ascii") + b"\0"
    return encode(
        Signed(
            body=body,
            public_key=key.public_key().public_bytes_raw(),
            signature=key.sign(domain + body),
        )
    )


def outline_of(data: bytes, *, length: int | None = None) -> Outline:
    """Return a blob's outline; `length` makes it a false one."""
    claimed = len(data) if length is None else length
    size = chunk_bytes(claimed)
    count = -(-claimed // size)
    parts = [data[i * size : (i + 1) * size] for i in range(count)]
    return Outline(length=claimed, chunk=size, digests=tuple(map(sha256, parts)))
