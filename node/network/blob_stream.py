"""One blob over one stream: the holder's side and the receiver's.

The receiver names the blob. The holder answers with the blob's outline: its length and the SHA-256
of every chunk. The receiver asks for chunks by number, a few ahead, and checks each. So a wrong
byte is noticed within its chunk, and checked chunks outlive the connection. The choice of the
holder is made elsewhere (`exchange`).
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar, cast

import trio

from dipaco.node.network.framing import frame, receive_exactly, receive_frame
from dipaco.node.network.transport import Stream
from dipaco.protocol.errors import RemoteProtocolError, Unavailable
from dipaco.protocol.wire.canonical import PROTOCOL_VERSION, decode, encode
from dipaco.protocol.wire.digest import Digest, sha256, short
from dipaco.protocol.wire.identity import short_peer
from dipaco.protocol.wire.messages import Absent, AskChunk, AskOutline, Outline

BLOB = f"/dipaco/blob/{PROTOCOL_VERSION}"
ASK_LIMIT = 256  # bytes of a question
OUTLINE_LIMIT = (1 << 20) + 256  # bytes; 30,000 chunk digests of 34 bytes
SMALL_BLOB = 16 << 20  # bytes up to which chunks are small: more holders, finer progress
SMALL_CHUNK = 256 * 1024  # bytes; smaller reads cost speed
LARGE_CHUNK = 1 << 20
AHEAD = 2  # chunks asked for and not yet received: hides one round trip
UPLOADS = 2  # chunks sent at once, to all peers: more would starve pings on an uplink
UPLOAD_STALL = 30.0  # s to send a chunk; a peer below 35 kB/s would block an upload slot
IDLE = 60.0  # s without a question
CHUNK_TIMEOUT = 60.0  # s for the next chunk, the wait for an upload slot of the holder included
OUTLINES = 64  # kept, the latest used; the largest has 1 MB

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


def chunk_bytes(length: int) -> int:
    """Return the bytes of a chunk: it depends on the length alone, so all outlines agree."""
    return SMALL_CHUNK if length <= SMALL_BLOB else LARGE_CHUNK


def chunk_count(length: int) -> int:
    """Return how many chunks a blob of `length` bytes has."""
    return -(-length // chunk_bytes(length))


class Uploads:
    """The holder's side: all streams of all peers share `UPLOADS` slots, chunk by chunk."""

    def __init__(self, blobs: Readable, in_thread: InThread) -> None:
        self._blobs = blobs
        self._in_thread = in_thread
        self._slots = trio.Semaphore(UPLOADS)
        self._outlines: dict[Digest, Outline] = {}
        self._in_work: dict[Digest, trio.Event] = {}
        """Outlines being made."""
        self.sent = 0
        """Bytes of chunks sent."""

    async def serve(self, stream: Stream) -> None:
        """Serve one stream to its end; raises RemoteProtocolError and Unavailable."""
        ask = decode(await self._question(stream), AskOutline, limit=ASK_LIMIT)
        outline = await self._outline(ask.blob)
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
            if ask.index >= len(outline.digests):
                raise RemoteProtocolError(f"asks for chunk {ask.index} of {len(outline.digests)}")
            async with self._slots:
                await self._send_chunk(stream, blob, ask.index * outline.chunk, outline.chunk)

    async def _send_chunk(self, stream: Stream, blob: Digest, offset: int, most: int) -> None:
        data = await self._in_thread(lambda: self._blobs.read_range(blob, offset, most))
        with trio.move_on_after(UPLOAD_STALL) as stall:
            await stream.send(data)
        if stall.cancelled_caught:
            raise Unavailable(f"{short_peer(stream.peer)} took no chunk in {UPLOAD_STALL:g} s")
        self.sent += len(data)

    async def _outline(self, blob: Digest) -> Outline | None:
        """Return the blob's outline, or None when it is not here; all askers share one hashing."""
        while (outline := self._outlines.pop(blob, None)) is None:
            if not self._blobs.has(blob):
                return None
            if (made := self._in_work.get(blob)) is not None:
                await made.wait()  # its asker may have left before the outline was made
                continue
            made = self._in_work[blob] = trio.Event()
            try:
                self._outlines[blob] = await self._compute_outline(blob)
            except Unavailable:  # removed meanwhile
                return None
            finally:
                del self._in_work[blob]
                made.set()
        self._outlines[blob] = outline
        if len(self._outlines) > OUTLINES:
            del self._outlines[next(iter(self._outlines))]
        return outline if self._blobs.has(blob) else None

    async def _compute_outline(self, blob: Digest) -> Outline:
        length = self._blobs.size(blob)
        chunk = chunk_bytes(length)

        def digest_at(offset: int) -> Digest:
            return sha256(self._blobs.read_range(blob, offset, chunk))

        digests = [
            await self._in_thread(partial(digest_at, offset)) for offset in range(0, length, chunk)
        ]
        return Outline(length=length, chunk=chunk, digests=tuple(digests))


class Download:
    """The receiver's side of one stream: the outline, then its chunks in order, each checked."""

    def __init__(self, stream: Stream, blob: Digest) -> None:
        self._stream = stream
        self._blob = blob
        self._asked = 0
        self._next = 0
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

    def start_at(self, index: int) -> None:
        """Begin at chunk `index`: the ones before it are here already."""
        self._asked = self._next = index

    async def next_chunk(self) -> bytes | None:
        """Return the next chunk, or None after the last; raises as `begin` does."""
        count = len(self.outline.digests)
        if self._next == count:
            return None
        while self._asked < min(count, self._next + AHEAD):
            await self._stream.send(frame(encode(AskChunk(index=self._asked))))
            self._asked += 1
        offset = self._next * self.outline.chunk
        data: bytes | None = None
        with trio.move_on_after(CHUNK_TIMEOUT):
            wanted = min(self.outline.chunk, self.outline.length - offset)
            data = await receive_exactly(self._stream, wanted)
        if data is None:
            raise self._silent()
        if sha256(data) != self.outline.digests[self._next]:
            raise RemoteProtocolError(f"chunk {self._next} of blob {short(self._blob)} is wrong")
        self._next += 1
        return data

    def _silent(self) -> Unavailable:
        return Unavailable(f"{short_peer(self._stream.peer)} sent nothing for {CHUNK_TIMEOUT:g} s")
