"""Corrections of libp2p 0.8.1, applied once per process before the first host.

Owns every change to libp2p's own functions. A test holds the hash of each function that is
replaced or relied on, so that a new version that changes one is noticed. Other tests show that each
correction still has its effect. Our own protocols do not appear here.
"""

import logging
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import libp2p.network.swarm as swarm
import libp2p.protocol_muxer.multiselect_communicator as communicator
import libp2p.pubsub.pubsub as pubsub
import libp2p.stream_muxer.yamux.yamux as yamux
import trio
from libp2p.exceptions import ParseError
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError, MultiselectError
from libp2p.protocol_muxer.multiselect import MULTISELECT_PROTOCOL_ID, Multiselect
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from dipaco.node.network.door import Door
from dipaco.node.network.paced import Paced
from dipaco.protocol.errors import DipacoError, Unavailable, WrongPlace

log = logging.getLogger(__name__)

ROUND_TRIP_SECONDS = 600  # between two yamux pings, which tune the window alone; libp2p has 30
FRAME = 65519  # bytes of a yamux frame: 12 of header and 65507 fill one Noise message, not two
LARGEST_WINDOW = (
    2 << 20
)  # bytes of a stream in flight: 20 MB/s at 100 ms; libp2p grows it to 16 MiB
PENDING = 1024  # messages of a topic that wait; libp2p keeps 32 and drops the rest silently
WINDOW_STALL = 60.0  # s that a reader may pause before a transfer to it fails
SOCKET_STALL = 20.0  # s in which the kernel accepts no frame: the peer is gone
TINY_READ = 4096  # bytes; a call's frames are shorter, and an update costs as much as such a read
LEAST_WINDOW = 2  # part of its window, 1 / 2, that a peer can always fill: updates come before
LONGEST_POLL = 0.02  # s between two checks of a closed window: a long stall must not cost CPU
LONGEST_LINE = 256  # bytes of a protocol's name in a negotiation; ours have 23
MOST_PROPOSALS = 8  # names that a peer may propose; ours propose one
NO_NODE = "no libp2p node answers there,"
"""The cause of a dial that failed since a program of another kind answered."""

OTHER_PEER = "another peer answers"

Pace = Callable[[Any], Any]
"""Puts an accepted connection under the caps of the node."""

_installed = False


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn every error of libp2p into Unavailable: the one broad except for foreign errors.

    Its dozen error classes, those of its dependencies and its own bugs all have the same meaning
    here: this connection or stream is unusable. An error that escaped would end the whole host.
    """
    try:
        yield
    except DipacoError:
        raise
    except Exception as error:
        raise Unavailable(f"{doing}: {cause_of(error)}") from error


def cause_of(error: BaseException) -> str:
    """Return the first cause of a chain of errors, in words."""
    first = _first(error)
    return _known(first) or str(first).partition("\n")[0] or type(first).__name__


def dial_error(error: BaseException, place: str) -> Unavailable:
    """Return what to raise for a dial of `place` that failed."""
    cause = dial_cause_of(error)
    kind = WrongPlace if cause in (NO_NODE, OTHER_PEER) else Unavailable
    return kind(f"{cause} at {place}")


def dial_cause_of(error: BaseException) -> str:
    """Return why a dial failed, in words that fit "... at HOST:PORT".

    After the connection itself, whatever else goes wrong means that the program at that address
    speaks another language: libp2p then tells of the bytes that it could not read.
    """
    first = _first(error)
    if isinstance(first, IncompleteReadError) and first.is_clean_close:
        return "the connection was closed without an answer"
    return _known(first) or NO_NODE


def _known(first: BaseException) -> str | None:
    if isinstance(first, PeerIDMismatchesPubkey):
        return OTHER_PEER
    if isinstance(first, OSError) and first.errno is not None:
        return os.strerror(first.errno).lower()
    return None


def _first(error: BaseException) -> BaseException:
    """Return the error at the beginning of a chain, or the first that says all."""
    while _known(error) is None:
        deeper = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
        if deeper is None:
            break
        error = deeper
    return error


def install_shims() -> None:
    """Change libp2p; a second call does nothing."""
    global _installed
    if _installed:
        return
    _installed = True
    yamux.MAX_MESSAGE_SIZE = FRAME
    yamux.RTT_MEASURE_INTERVAL = ROUND_TRIP_SECONDS
    yamux.MAX_WINDOW_SIZE = LARGEST_WINDOW
    pubsub.SUBSCRIPTION_CHANNEL_SIZE = PENDING
    yamux.YamuxStream.write = _write  # type: ignore[method-assign]
    yamux.YamuxStream._auto_tune_and_send_window_update = (  # type: ignore[method-assign]
        _update_window
    )
    yamux.Yamux._write_frame = _write_frame  # type: ignore[method-assign]
    swarm.DNSResolver = _NoNames  # type: ignore[attr-defined]
    communicator.read_delim = _read_line  # type: ignore[attr-defined]
    Multiselect.negotiate = _negotiate  # type: ignore[method-assign, assignment]


class _NoNames:
    """Stands where each host makes a resolver of its own: it is never asked, nor is it loaded.

    `addresses.resolve` looks names up before libp2p sees an address.
    """


async def _write(self: yamux.YamuxStream, data: bytes) -> None:
    """Wait `WINDOW_STALL` for the window; the original fails after 5 s, and polls every 10 ms."""
    view, most = memoryview(data), FRAME - yamux.HEADER_SIZE
    while view:
        stop, pause = trio.current_time() + WINDOW_STALL, 0.001
        while self.send_window <= 0 and not (self.closed or self.send_closed):
            if trio.current_time() > stop:
                raise MuxedStreamError(f"peer opened no window for {WINDOW_STALL:g} s")
            await trio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_POLL)
        if self.closed or self.send_closed:
            raise MuxedStreamError("stream is closed")
        count = min(self.send_window, most, len(view))
        self.send_window -= count  # no await since the test: no lock needed
        head = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_DATA, 0, self.stream_id, count)
        await self.conn._write_frame(head + view[:count])
        view = view[count:]


def needs_update(window: int, target: int, read: int) -> bool:
    """Return whether a window update is due after a read.

    window   bytes that the peer may still send.
    target   bytes that the window has when all was read and told.
    read     bytes that the reader has just taken.
    """
    return read >= TINY_READ or window * LEAST_WINDOW < target


_update = yamux.YamuxStream._auto_tune_and_send_window_update


async def _update_window(self: yamux.YamuxStream, *, bytes_read: int = 0) -> None:
    """Keep the updates of tiny reads; the original sends one for each, two in three of all frames.

    Nothing has to be noted: the next update fills the window up to its target. Under a cap the
    target is small, so that little stands in front of a small message.
    """
    most = cast(Any, self.conn).window()
    if most is not None:
        await _open_narrow(self, most)
    elif needs_update(self.recv_window, self.target_recv_window, bytes_read):
        await _update(self, bytes_read=bytes_read)


async def _open_narrow(stream: yamux.YamuxStream, most: int) -> None:
    """Let the peer have `most` bytes under way, once it has less than half of them left."""
    async with stream.window_lock:
        unread = len(stream.conn.stream_buffers.get(stream.stream_id, b""))
        more = most - stream.recv_window - unread
        if more * LEAST_WINDOW < most:
            return
        stream.recv_window += more
        stream._pending_recv_release = 0
    await stream.send_window_update(more, skip_lock=True)


async def _write_frame(self: yamux.Yamux, data: bytes) -> None:
    """Send a frame whole or not at all: a cancelled write broke the connection unnoticed."""
    async with self._write_lock:  # the wait for the lock may be cancelled
        deadline = trio.current_time() + SOCKET_STALL
        with trio.CancelScope(shield=True, deadline=deadline) as scope:
            await self.secured_conn.write(data)  # once encrypted it must be sent whole
        if scope.cancelled_caught:  # a part of the message was sent: the connection is unusable
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await self.secured_conn.close()
            raise ConnectionClosedError(f"peer took no bytes for {SOCKET_STALL:g} s")
    await trio.lowlevel.checkpoint()


async def handle_inbound(
    net: Any, door: Door, pace: Pace, accepted: Any, maddr: Any, _failure: Any
) -> None:
    """Serve a connection, and hold an inbound slot while it lasts: the original until shutdown.

    The handshake needs a place at the door. TCP only: yamux sets `event_closed`, QUIC does not.
    """
    raw = pace(accepted)
    try:
        with translated("inbound connection"):
            place = raw.get_remote_address()
            with trio.CancelScope() as handshake:
                seat = door.knock(place[0] if place else None, handshake.cancel)
                try:
                    muxed = await net.upgrade_inbound_raw_conn(RawConnection(raw, False), maddr)
                finally:
                    door.answered(seat)
            if handshake.cancelled_caught:
                raise Unavailable("another handshake takes the place of this one")
            await muxed.event_closed.wait()
    except Unavailable as error:
        log.debug("%s", error)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await raw.close()


async def _read_line(reader: Any) -> bytes:
    """Read a line of a negotiation; the original takes one of any length."""
    line = await read_varint_prefixed_bytes_limited(reader, LONGEST_LINE)
    if not (line.endswith(b"\n") and line.isascii()):
        raise ParseError("a negotiation consists of lines of ASCII")
    return line[:-1]


async def _negotiate(self: Multiselect, lines: Any, negotiate_timeout: float) -> tuple[Any, Any]:
    """Agree on one of `MOST_PROPOSALS` names; the original waits for any number of them."""
    try:
        with trio.fail_after(negotiate_timeout):
            await lines.write(MULTISELECT_PROTOCOL_ID)
            if await lines.read() != MULTISELECT_PROTOCOL_ID:
                raise MultiselectError("the peer speaks another language")
            for _ in range(MOST_PROPOSALS):
                name = await lines.read()
                if name and name in self.handlers:
                    await lines.write(name)
                    return name, self.handlers[name]
                await lines.write("na")
    except (trio.TooSlowError, MultiselectCommunicatorError) as error:
        raise MultiselectError("the negotiation failed") from error
    raise MultiselectError(f"none of {MOST_PROPOSALS} proposals is served")


def contain_logging(*, verbose: bool = False) -> None:
    """Silence libp2p: it logs everyday failures as errors, some through the root logger.

    Configure our own root handler first: else libp2p's first connection installs one.
    """
    if not logging.root.handlers:
        logging.root.addHandler(logging.NullHandler())
    level = logging.DEBUG if verbose else logging.CRITICAL
    for name in ("libp2p", "libp2p.network.auto_connector"):
        logging.getLogger(name).setLevel(level)
    logging.getLogger("libp2p").propagate = True
    accepting = logging.getLogger("trio.serve_listeners")
    for old in [each for each in accepting.filters if isinstance(each, _FullTable)]:
        accepting.removeFilter(old)
    accepting.addFilter(_FullTable())


class _FullTable(logging.Filter):
    """Replaces trio's ten tracebacks a second while no file descriptor is free by a line."""

    def __init__(self) -> None:
        super().__init__()
        self._paced = Paced(log, now=time.monotonic)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return False, so that the record is dropped."""
        error = record.exc_info[1] if record.exc_info else None
        cause = cause_of(error) if error else record.getMessage()
        self._paced.say("accept", f"connections to this node wait: {cause} (see `ulimit -n`)")
        return False
