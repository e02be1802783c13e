"""A peer's side of a stream: frames, and the download of a blob, whatever its holder sends."""

import io
from collections.abc import Iterator
from typing import cast

import trio

from dipaco.node.network.blob_stream import SMALL_CHUNK, Download
from dipaco.node.network.framing import frame, receive_frame
from dipaco.node.network.transport import Stream
from dipaco.protocol.errors import RemoteProtocolError, Unavailable
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import sha256
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import Absent, Outline
from tests.fuzz.mutate import Raw
from tests.fuzz.target import Target, hold
from tests.values import peer

FRAME_LIMIT = 1 << 12  # bytes
FRAMES = 2  # as many as the seed has
BLOB = b"a blob of one chunk"


class Sent:
    """A stream in memory that gives what its peer sent, in small parts, and then ends."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)
        self.peer = PeerId(peer("a"))

    async def receive(self, most: int) -> bytes:
        return self._data.read(min(most, 1000))

    async def send(self, data: bytes) -> None:
        """Take our questions and forget them."""


async def _frames(data: bytes) -> None:
    stream = cast(Stream, Sent(data))
    for _ in range(FRAMES):
        hold(len(await receive_frame(stream, FRAME_LIMIT)) <= FRAME_LIMIT, "a frame is too long")


async def _download(data: bytes) -> None:
    download, received = Download(cast(Stream, Sent(data)), sha256(BLOB)), 0
    outline = await download.begin()
    for index in range(len(outline.digests)):
        await download.ask(index)
        received += len((await download.receive())[1])
    hold(received == outline.length, "the chunks are not the blob")


def frames(data: bytes) -> None:
    """Read two frames."""
    trio.run(_frames, data)


def download(data: bytes) -> None:
    """Download a blob from one who sends these bytes."""
    trio.run(_download, data)


def outlines() -> tuple[bytes, ...]:
    outline = Outline(length=len(BLOB), chunk=SMALL_CHUNK, digests=(sha256(BLOB),))
    return (frame(encode(outline)) + BLOB, frame(encode(Absent())))


def targets() -> Iterator[Target]:
    """Yield the reader of frames, and the download."""
    refused = (RemoteProtocolError, Unavailable)
    yield Target(
        "stream/frames", lambda: (frame(b"ab") + frame(b"c"),), refused, Raw, call=frames, batch=200
    )
    yield Target("stream/download", outlines, refused, Raw, call=download, batch=200)
