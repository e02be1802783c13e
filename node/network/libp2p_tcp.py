"""TCP for libp2p whose connections count their bytes, and keep to the caps of the node.

Bytes are counted as the socket takes and gives them: handshakes, encryption and headers of streams
included, those of TCP and IP not.
"""

import socket
from contextlib import suppress

import trio
from libp2p.abc import IRawConnection
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from dipaco.node.network.caps import URGENT, Caps, is_near

READ = 256 * 1024  # bytes of one system call without a cap


class PacedStream(TrioTCPStream):
    """A TCP connection under the caps of a node.

    It reads ahead; the original makes one system call each for length, header and body.
    """

    def __init__(self, stream: trio.SocketStream, caps: Caps) -> None:
        super().__init__(stream)
        self._caps = caps
        self._near = is_near(_ip_of(stream))
        self._ahead = memoryview(b"")
        self._buffer = 0
        """The size that the kernel's buffer was given; 0: its own choice."""

    async def write(self, data: bytes) -> None:
        """Send `data`, when the cap lets it."""
        if self._caps.counts(self._near):
            await self._caps.up.turn(urgent=len(data) <= URGENT)
            self._caps.up.carry(len(data))
        await super().write(data)

    async def read(self, n: int | None = None) -> bytes:
        """Return 1 to `n` bytes, b"" at the end."""
        if n == 0:
            return b""
        if not self._ahead:
            self._ahead = memoryview(await self._receive())
        count = len(self._ahead) if n is None else min(n, len(self._ahead))
        data, self._ahead = bytes(self._ahead[:count]), self._ahead[count:]
        return data

    async def _receive(self) -> bytes:
        if not self._caps.counts(self._near):
            return await super().read(READ)
        down, most = self._caps.down, READ
        if down.rate is not None:
            self._bound_buffer()
            await down.turn(urgent=False)
            most = down.piece
        data = await super().read(most)
        down.carry(len(data))
        return data

    def _bound_buffer(self) -> None:
        """Have the kernel take in little ahead of us: it takes what comes, at any rate."""
        if self._buffer != self._caps.buffer:
            self._buffer = self._caps.buffer
            with suppress(OSError, trio.ClosedResourceError):  # the read that follows says so
                self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer)


def _ip_of(stream: trio.SocketStream) -> str | None:
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:  # it has ended
        return None


def paced(raw: TrioTCPStream, caps: Caps) -> PacedStream:
    """Return a connection of libp2p's, nothing of it read yet, under the caps."""
    return PacedStream(raw.stream, caps)


class PacedTcp(TCP):
    """Dials under the caps; who is dialled is put under them by `shims.handle_inbound`."""

    def __init__(self, caps: Caps) -> None:
        super().__init__()
        self._caps = caps

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """Return a connection to `maddr`; raises libp2p's OpenConnectionError."""
        made = await super().dial(maddr)
        assert isinstance(made, RawConnection) and isinstance(made.stream, TrioTCPStream)
        return RawConnection(paced(made.stream, self._caps), True)
