"""One blob over one stream: the holder's side and the receiver's.

The receiver names the blob. The holder answers with the blob's outline: its length and the SHA-256
of every chunk. The receiver asks for chunks by number, a few ahead, and checks each. So a wrong
byte is noticed within its chunk, and checked chunks outlive the connection. The choice of the
holder is made elsewhere (`exchange`).
"""

import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar, cast

import trio

from dipaco.node.network.framing import frame, receive_exactly, receive_frame
from dipaco.node.network.seats import Limits, Seat, Seats
from dipaco.node.network.transport import Stream
from dipaco.node.network.turns import Turns
from dipaco.protocol.errors import RemoteProtocolError, Unavailable
from dipaco.protocol.wire.canonical import PROTOCOL_VERSION, decode, encode
from dipaco.protocol.wire.digest import Digest, sha256, short
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.wire.messages import Absent, AskChunk, AskOutline, Outline

BLOB = f"/dipaco/blob/{PROTOCOL_VERSION}"
ASK_LIMIT = 256  # bytes of a question
OUTLINE_LIMIT = (1 << 20) + 256  # bytes; 30,000 chunk digests of 34 bytes
SMALL_BLOB = 16 << 20  # bytes up to which chunks are small: more holders, finer progress
SMALL_CHUNK = 256 * 1024  # bytes; smaller reads cost speed
LARGE_CHUNK = 1 << 20
UPLOADS = 2  # chunks sent at once, to all peers: more would starve pings on an uplink
PIECE = 16 * 1024  # bytes of a chunk that are sent at once: a slow uplink takes some every second
TURN_PATIENCE = 2.0  # s without a piece that the peer took, after which its turn is over
TURN_SECONDS = 8.0  # of one turn at most: 1 MiB at 1 Mbit/s
UPLOAD_STALL = 30.0  # s without a piece that the peer took, after which it is given up
UPLOAD_SECONDS = 120.0  # of one chunk at most; an honest peer gave up after `CHUNK_TIMEOUT`
STALLED = Limits(in_all=64, per_prefix=16, per_peer=4, kept=16)  # chunks, of 1 MiB each at most
IDLE = 60.0  # s without a question
CHUNK_TIMEOUT = 60.0  # s for the next chunk, the wait for a turn of the holder included
HASHING = 2  # outlines made at once: each reads a blob of up to 4 GiB
OUTLINE_BYTES = 32 << 20  # of the outlines that are kept, the latest used; one has 1 MB at most
BASE_BYTES, DIGEST_BYTES = 500, 80  # of an outline in memory, and of each digest in it, about
LOOK_SECONDS = 0.5  # between two looks whether a turn is over

T = TypeVar("T")
_Answer = cast(type[Outline | Absent], Outline | Absent)


class InThread(Protocol):
    """Runs blocking work off the event loop; a test on virtual time runs it in place."""

    async def __call__(self, work: Callable[[], T], /) -> T:
        """Return what `work` returns."""


class Readable(Protocol):
    """The part of a blob store that a holder reads."""

    def has(self, digest: Digest, length: int | None = None) -> bool:
        """Return whether the whole blob is here, and not damaged if its `length` is known."""

    def size(self, digest: Digest) -> int:
        """Return its bytes; raises Unavailable when it is not here."""

    def read_range(self, digest: Digest, offset: int, length: int) -> bytes:
        """Return at most `length` bytes from `offset` on; raises Unavailable."""

    def chunk_digests(self, digest: Digest, chunk: int) -> tuple[Digest, ...]:
        """Return the SHA-256 of every `chunk` bytes, the blob checked; raises Unavailable."""


def chunk_bytes(length: int) -> int:
    """Return the bytes of a chunk: it depends on the length alone, so all outlines agree."""
    return SMALL_CHUNK if length <= SMALL_BLOB else LARGE_CHUNK


def chunk_count(length: int) -> int:
    """Return how many chunks a blob of `length` bytes has."""
    return -(-length // chunk_bytes(length))


@dataclass(frozen=True)
class Asker:
    """A peer that asks for chunks, as it is counted."""

    peer: PeerId
    prefix: str
    known: bool
    """Whether this node knows it: it then waits behind nobody else's turns."""

    @property
    def group(self) -> str:
        """The group whose peers take turns together."""
        return self.peer if self.known or not self.prefix else self.prefix


class _Sending:
    """One chunk on its way: it has a turn while the peer takes it, and none while it does not."""

    def __init__(self, asker: Asker, turns: Turns, stalled: Seats) -> None:
        self._asker, self._turns, self._stalled = asker, turns, stalled
        self._seat: Seat | None = None
        self._has_turn = False
        self._began = self._moved = 0.0
        self.refused = ""
        """Why it ended before its end; empty: it did not."""

    async def send(self, stream: Stream, read: Callable[[], Awaitable[bytes]]) -> int:
        """Read and send a chunk; returns its bytes. Raises Unavailable.

        read   is called with the first turn: a chunk that waits for one takes no memory.
        """
        sent = 0
        failure: Unavailable | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, nursery.cancel_scope)
                try:
                    await self._take_turn()
                    data = await read()
                    await self._send_pieces(stream, data)
                    sent = len(data)
                except Unavailable as error:  # bare here, a group outside
                    failure = error
                nursery.cancel_scope.cancel()
        finally:
            self._end_turn()
            self._leave_seat()
        if self.refused or failure:
            raise failure or Unavailable(self.refused)
        return sent

    async def _send_pieces(self, stream: Stream, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            if not self._has_turn:
                await self._take_turn()
            await stream.send(data[start : start + PIECE])
            self._moved = trio.current_time()

    async def _take_turn(self) -> None:
        """Wait for a turn."""
        self._moved = math.inf  # it waits for us, not for the peer
        await self._turns.take(self._asker.group)
        self._has_turn = True
        self._leave_seat()
        self._began = self._moved = trio.current_time()

    async def _watch(self, sending: trio.CancelScope) -> None:
        """End the turn of a peer that takes nothing, and then its chunk."""
        end = trio.current_time() + UPLOAD_SECONDS
        while not self.refused:
            await trio.sleep(LOOK_SECONDS)
            now = trio.current_time()
            over = now - self._moved >= TURN_PATIENCE or now - self._began >= TURN_SECONDS
            if self._has_turn and over:
                self._wait_without_turn()
            if now - self._moved >= UPLOAD_STALL or now >= end:
                took = UPLOAD_SECONDS if now >= end else UPLOAD_STALL
                self.refused = f"{short_peer(self._asker.peer)} took no chunk in {took:g} s"
        sending.cancel()

    def _wait_without_turn(self) -> None:
        """Give the turn to another: the chunk stays in memory, as one of a bounded number."""
        asker = self._asker
        try:
            self._seat = self._stalled.take(asker.peer, asker.prefix, known=asker.known)
        except Unavailable as full:
            self.refused = str(full)
        self._end_turn()

    def _end_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self._turns.leave(self._asker.group)

    def _leave_seat(self) -> None:
        if self._seat is not None:
            self._stalled.leave(self._seat)
            self._seat = None


class Uploads:
    """The holder's side: all streams of all peers share `UPLOADS` turns, chunk by chunk."""

    def __init__(
        self,
        blobs: Readable,
        in_thread: InThread,
        asker: Callable[[PeerId], Asker],
        sent: Callable[[PeerId, int], None],
        *,
        quiet: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take the store to serve.

        asker   returns how a peer is counted.
        sent    is told the bytes of every chunk that was sent, and its receiver.
        quiet   returns whether nothing is sent now.
        """
        self._sent, self._quiet = sent, quiet
        self._blobs = blobs
        self._in_thread = in_thread
        self._asker = asker
        self._turns, self._stalled = Turns(UPLOADS, per_group=1), Seats("stalled chunks", STALLED)
        self._hashing = Turns(HASHING, per_group=1)
        self._outlines: dict[Digest, Outline] = {}
        self._outline_bytes = 0
        self._in_work: dict[Digest, trio.Event] = {}
        """Outlines being made."""

    async def serve(self, stream: Stream) -> None:
        """Serve one stream to its end; raises RemoteProtocolError and Unavailable."""
        ask = decode(await self._question(stream), AskOutline, limit=ASK_LIMIT)
        known = not self._quiet()
        outline = await self._outline(ask.blob, self._asker(stream.peer)) if known else None
        await stream.send(frame(encode(Absent() if outline is None else outline)))
        if outline is not None:
            await self._serve_chunks(stream, ask.blob, outline)

    async def _question(self, stream: Stream) -> bytes:
        with trio.move_on_after(IDLE):
            return await receive_frame(stream, ASK_LIMIT)
        raise Unavailable(f"{short_peer(stream.peer)} asked nothing for {IDLE:g} s")

    async def _serve_chunks(self, stream: Stream, blob: Digest, outline: Outline) -> None:
        while True:
            ask = decode(await self._question(stream), AskChunk, limit=ASK_LIMIT)
            if self._quiet():
                raise Unavailable("this node sends no blobs now")
            if ask.index >= len(outline.digests):
                raise RemoteProtocolError(f"asks for chunk {ask.index} of {len(outline.digests)}")
            await self._send_chunk(stream, blob, ask.index * outline.chunk, outline.chunk)

    async def _send_chunk(self, stream: Stream, blob: Digest, offset: int, most: int) -> None:
        """Read and send a chunk: it is in memory only from its first turn on."""
        sending = _Sending(self._asker(stream.peer), self._turns, self._stalled)

        async def read() -> bytes:
            return await self._in_thread(lambda: self._blobs.read_range(blob, offset, most))

        self._sent(stream.peer, await sending.send(stream, read))

    async def _outline(self, blob: Digest, asker: Asker) -> Outline | None:
        """Return the blob's outline, or None when it is not here; all askers share one hashing."""
        while (outline := self._outlines.pop(blob, None)) is None:
            if not self._blobs.has(blob):
                return None
            if (made := self._in_work.get(blob)) is not None:
                await made.wait()  # its asker may have left before the outline was made
                continue
            made = self._in_work[blob] = trio.Event()
            try:
                async with self._hashing.turn(asker.group):
                    self._keep(blob, await self._compute_outline(blob))
            except Unavailable:  # removed meanwhile
                return None
            finally:
                del self._in_work[blob]
                made.set()
        self._outlines[blob] = outline  # the latest used
        return outline if self._blobs.has(blob) else None

    def _keep(self, blob: Digest, outline: Outline) -> None:
        self._outlines[blob] = outline
        self._outline_bytes += _bytes_of(outline)
        while self._outline_bytes > OUTLINE_BYTES:
            self._outline_bytes -= _bytes_of(self._outlines.pop(next(iter(self._outlines))))

    async def _compute_outline(self, blob: Digest) -> Outline:
        length = self._blobs.size(blob)
        chunk = chunk_bytes(length)
        digests = await self._in_thread(partial(self._blobs.chunk_digests, blob, chunk))
        if len(digests) != chunk_count(length):
            raise Unavailable(f"blob {short(blob)} changed while it was hashed")
        return Outline(length=length, chunk=chunk, digests=digests)


def _bytes_of(outline: Outline) -> int:
    return BASE_BYTES + DIGEST_BYTES * len(outline.digests)


class Download:
    """The receiver's side of one stream: the outline, then the chunks that are asked for."""

    def __init__(self, stream: Stream, blob: Digest) -> None:
        self._stream = stream
        self._blob = blob
        self._asked: deque[int] = deque()
        self.outline = Outline(length=0, chunk=1, digests=())

    async def begin(self) -> Outline:
        """Return the outline; raises Unavailable (no such blob) and RemoteProtocolError."""
        await self._stream.send(frame(encode(AskOutline(blob=self._blob))))
        data: bytes | None = None
        with trio.move_on_after(CHUNK_TIMEOUT):
            data = await receive_frame(self._stream, OUTLINE_LIMIT)
        if data is None:
            raise self._silent()
        answer = decode(data, _Answer, limit=OUTLINE_LIMIT)
        if isinstance(answer, Absent):
            raise Unavailable(f"{short_peer(self._stream.peer)} has no blob {short(self._blob)}")
        length = answer.length
        if answer.chunk != chunk_bytes(length) or len(answer.digests) != chunk_count(length):
            raise RemoteProtocolError(f"the outline of blob {short(self._blob)} is impossible")
        self.outline = answer
        return answer

    async def ask(self, index: int) -> None:
        """Ask for chunk `index`; raises Unavailable."""
        await self._stream.send(frame(encode(AskChunk(index=index))))
        self._asked.append(index)

    async def receive(self) -> tuple[int, bytes]:
        """Return the number and the bytes of the chunk asked for first; raises as `begin` does."""
        index = self._asked.popleft()
        data: bytes | None = None
        with trio.move_on_after(CHUNK_TIMEOUT):
            offset = index * self.outline.chunk
            wanted = min(self.outline.chunk, self.outline.length - offset)
            data = await receive_exactly(self._stream, wanted)
        if data is None:
            raise self._silent()
        if sha256(data) != self.outline.digests[index]:
            raise RemoteProtocolError(f"chunk {index} of blob {short(self._blob)} is wrong")
        return index, data

    def _silent(self) -> Unavailable:
        return Unavailable(f"{short_peer(self._stream.peer)} sent nothing for {CHUNK_TIMEOUT:g} s")
