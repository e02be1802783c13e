"""A yamux connection that holds a peer to the protocol, in place of the reading loop of libp2p.

libp2p 0.8.1 forgives a peer that sends more than its window, counts no streams, and answers each
ping. Here a frame that breaks a rule ends the connection, before its body is read. Reading and
writing of streams stay as libp2p has them; see `shims` for its writes.
"""

import logging
import struct
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import libp2p.stream_muxer.muxer_multistream as muxer_multistream
import libp2p.stream_muxer.yamux.yamux as yamux
import trio
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from dipaco.node.network.allowance import Allowance
from dipaco.node.network.shims import translated
from dipaco.protocol.errors import RemoteProtocolError, Unavailable
from dipaco.protocol.wire.identity import PeerId, short_peer

log = logging.getLogger(__name__)

LONGEST_FRAME = 1 << 20  # bytes of a body; go-yamux sends 64 KiB, this node `shims.FRAME`
BODY_SECONDS = 60.0  # in which the body of a frame has arrived, as in libp2p
MOST_STREAMS = 128  # that a peer holds open on a connection, those included that we have closed
LARGEST_WINDOW = (1 << 32) - 1  # bytes; the field of an update has 32 bits
FRAMES = 20_000.0  # frames without a body per second; bulk at 400 MB/s needs 6,400 window updates
BURST = 40_000.0
DEAR = 50.0  # frames that one costs that is answered or begins a stream: 400 of them per second
UNREAD = 1 << 20  # bytes of a connection that nobody has read, from which on it is looked at
UNREAD_IN_ALL = 128 << 20  # bytes over all connections: the fullest one ends

_CONTROL = frozenset({yamux.TYPE_PING, yamux.TYPE_GO_AWAY})
_KINDS = _CONTROL | {yamux.TYPE_DATA, yamux.TYPE_WINDOW_UPDATE}
_live: "weakref.WeakSet[BoundedYamux]" = weakref.WeakSet()


@dataclass(frozen=True)
class Frame:
    """The header of a frame."""

    version: int
    kind: int
    flags: int
    stream: int
    length: int
    """Of the body of DATA; of another kind it is a value."""

    @property
    def body(self) -> int:
        """The number of bytes that follow."""
        return self.length if self.kind == yamux.TYPE_DATA else 0

    @property
    def begins(self) -> bool:
        """Whether it opens a stream."""
        return self.kind not in _CONTROL and bool(self.flags & yamux.FLAG_SYN)

    @property
    def cost(self) -> float:
        """What it takes of the allowance for frames without a body."""
        if self.kind == yamux.TYPE_PING or self.begins:
            return DEAR
        return 0.0 if self.body else 1.0


class BoundedYamux(Yamux):
    """One side of a connection; made by libp2p for each."""

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)  # type: ignore[arg-type]
        self._newest = 0
        """The largest number of a stream that the peer has opened."""
        self._frames = Allowance(FRAMES, BURST, now=trio.current_time())
        self.window: Callable[[], int | None] = lambda: None
        """Gives the bytes that the peer may have under way in a stream; None: as libp2p has it."""
        _live.add(self)

    @property
    def unread(self) -> int:
        """Bytes that wait for our readers."""
        return sum(map(len, self.stream_buffers.values()))

    async def handle_incoming(self) -> None:
        """Take frames until the connection ends; whatever is wrong with one ends it."""
        who = short_peer(PeerId(str(self.peer_id)))
        try:
            with translated("connection"):
                while not self.event_shutting_down.is_set():
                    header = await self._exactly(yamux.HEADER_SIZE)
                    frame = Frame(*struct.unpack(yamux.YAMUX_HEADER_FORMAT, header))
                    if breach := self._breach(frame):
                        raise RemoteProtocolError(breach)
                    with trio.fail_after(BODY_SECONDS):
                        body = await self._exactly(frame.body)
                    await self._take(frame, body)
        except (Unavailable, RemoteProtocolError) as error:
            log.debug("peer=%s %s", who, error)
        await self._cleanup_on_error()

    async def _exactly(self, count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            part = await self.secured_conn.read(count - len(found))
            if not part:
                raise Unavailable("the peer closed it")
            found += part
        return bytes(found)

    def _is_theirs(self, number: int) -> bool:
        return bool(number % 2) != self.is_initiator_value

    def _breach(self, frame: Frame) -> str:
        """Return the rule that a header breaks, or an empty text."""
        if frame.version != 0 or frame.kind not in _KINDS:
            return f"sent a frame of version {frame.version} and kind {frame.kind}"
        if frame.body > LONGEST_FRAME:
            return f"sent a frame of {frame.body} bytes; {LONGEST_FRAME} are allowed"
        if not self._frames.take(frame.cost, now=trio.current_time()):
            return "sent too many frames that carry nothing"
        if frame.kind in _CONTROL:
            return ""
        if frame.begins:
            if not self._is_theirs(frame.stream) or frame.stream <= self._newest:  # 0 is even
                return f"opened stream {frame.stream}, which it may not"
        elif not 0 < frame.stream <= self._newest_of(frame.stream):
            return f"sent a frame for stream {frame.stream}, which nobody has opened"
        return self._window_breach(frame)

    def _newest_of(self, number: int) -> int:
        """Return the largest number of a stream of the side that `number` belongs to."""
        return self._newest if self._is_theirs(number) else self.next_stream_id - 2

    def _window_breach(self, frame: Frame) -> str:
        stream = self.streams.get(frame.stream)
        window = yamux.DEFAULT_WINDOW_SIZE if stream is None else stream.recv_window
        if stream is None and not frame.begins:
            return ""  # in flight when the stream was reset; its body is dropped
        if frame.body > window:
            return f"sent {frame.body} bytes into a window of {window}"
        sent = yamux.DEFAULT_WINDOW_SIZE if stream is None else stream.send_window
        if frame.kind == yamux.TYPE_WINDOW_UPDATE and sent + frame.length > LARGEST_WINDOW:
            return "opened a window beyond 32 bits"
        return ""

    async def _take(self, frame: Frame, body: bytes) -> None:
        if frame.kind == yamux.TYPE_GO_AWAY:
            raise Unavailable("the peer says that it goes away")
        if frame.kind == yamux.TYPE_PING:
            await self._take_ping(frame)
            return
        begun = await self._begin(frame.stream) if frame.begins else None
        stream = self.streams.get(frame.stream)
        if stream is not None:
            self._apply(stream, frame, body)
        if begun is not None:
            await self.new_stream_send_channel.send(begun)
        if body and self.unread > UNREAD:
            await _relieve()

    async def _take_ping(self, frame: Frame) -> None:
        if frame.flags & yamux.FLAG_SYN:
            await self._answer(yamux.TYPE_PING, yamux.FLAG_ACK, 0, frame.length)
        elif frame.flags & yamux.FLAG_ACK and not self._ping_event.is_set():
            measured = trio.current_time() - self._ping_sent_time
            self._rtt = (self._rtt + measured) / 2 if self._rtt else measured
            self._ping_event.set()

    async def _begin(self, number: int) -> YamuxStream | None:
        """Open a stream of the peer's, or refuse it with a reset."""
        self._newest = number
        if sum(map(self._is_theirs, self.streams)) >= MOST_STREAMS:
            await self._answer(yamux.TYPE_WINDOW_UPDATE, yamux.FLAG_RST, number, 0)
            return None
        stream = YamuxStream(number, self, False)
        self.streams[number] = stream
        self.stream_buffers[number] = bytearray()
        self.stream_events[number] = trio.Event()
        await self._answer(yamux.TYPE_WINDOW_UPDATE, yamux.FLAG_ACK, number, 0)
        return stream

    async def _answer(self, kind: int, flags: int, stream: int, value: int) -> None:
        header = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, kind, flags, stream, value)
        await self._write_frame(header)

    def _apply(self, stream: YamuxStream, frame: Frame, body: bytes) -> None:
        """Change a stream as a frame says; no await, so that no lock is needed."""
        number = frame.stream
        if frame.kind == yamux.TYPE_WINDOW_UPDATE:
            stream.send_window += frame.length
        elif not (stream.recv_closed or stream.closed):
            self.stream_buffers[number] += body
            stream.recv_window -= len(body)
        if frame.flags & yamux.FLAG_FIN:
            stream.recv_closed = True
            stream.closed = stream.closed or stream.send_closed
        if frame.flags & yamux.FLAG_RST:
            stream.closed = stream.reset_received = True
        self.stream_events[number].set()
        if stream.closed:
            self._finalize_stream_locked(stream, fully_closed=True)

    def _finalize_stream_locked(self, stream: YamuxStream, *, fully_closed: bool) -> None:
        """Drop a stream that has ended, with its bytes if we have reset it; libp2p keeps them."""
        if stream.reset_received and stream.send_closed and stream.recv_closed:
            self.stream_buffers.get(stream.stream_id, bytearray()).clear()
        super()._finalize_stream_locked(stream, fully_closed=fully_closed)


async def _relieve() -> None:
    """End the connection with the most unread bytes while all together hold too many."""
    unread = {muxer: muxer.unread for muxer in _live if not muxer.event_shutting_down.is_set()}
    if sum(unread.values()) > UNREAD_IN_ALL:
        fullest = max(unread, key=lambda muxer: unread[muxer])
        log.debug("peer=%s nobody reads what it sends", short_peer(PeerId(str(fullest.peer_id))))
        await fullest.secured_conn.close()


# libp2p makes its own class for this protocol, whatever class its options name.
muxer_multistream.Yamux = BoundedYamux  # type: ignore[attr-defined]
