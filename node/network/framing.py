"""Frames on a stream: 4 bytes of big-endian length, then that many bytes.

Owns lengths alone; callers decode the bytes. A length is checked against its limit before anything
is allocated, and the buffer grows only with the bytes that arrive.
"""

from dipaco.node.network.transport import Stream
from dipaco.protocol.errors import RemoteProtocolError, Unavailable

READ = 1 << 20  # bytes asked for at once: small reads cost a third of the speed
_LENGTH_BYTES = 4


async def receive_exactly(stream: Stream, count: int) -> bytes:
    """Return the next `count` bytes; raises Unavailable when the stream ends earlier."""
    parts = bytearray()
    while len(parts) < count:
        data = await stream.receive(min(READ, count - len(parts)))
        if not data:
            raise Unavailable("the connection ended")
        parts += data
    return bytes(parts)


async def receive_frame(stream: Stream, limit: int) -> bytes:
    """Return the next frame's bytes; raises Unavailable, and RemoteProtocolError above `limit`."""
    length = int.from_bytes(await receive_exactly(stream, _LENGTH_BYTES), "big")
    if length > limit:
        raise RemoteProtocolError(f"a frame of {length} bytes where {limit} are allowed")
    return await receive_exactly(stream, length)


def frame(body: bytes) -> bytes:
    """Return the frame of `body`: its length and its bytes."""
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body
