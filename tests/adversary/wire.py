"""An attacker's own TCP, Noise, yamux and multiselect: everything below the transport by hand.

`RawLink` is one connection whose frames an attack writes as it likes. `WireDoor` makes a `Door` of
such links, from any source address of this machine and without the cost of a libp2p host, so that
hundreds of identities fit into one process.
"""

import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from libp2p.security.noise.transport import Transport as Noise

from dipaco.node.network.shims import translated
from dipaco.node.network.transport import Handler
from dipaco.protocol.errors import DipacoError, Unavailable
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.identity import PeerId, peer_id, short_peer

MULTISTREAM = "/multistream/1.0.0"
MESHSUB = "/meshsub/1.1.0"
DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
GRANTED = 256 * 1024  # bytes that a side may send before the other one grants more
LARGEST_FRAME = 60_000  # bytes of data in a frame of ours
CONNECT_SECONDS = 8.0
HEADER = struct.Struct("!BBHII")


async def connect(address: Address, source: str) -> trio.SocketStream:
    """Connect from a source address of this machine; raises Unavailable."""
    socket = trio.socket.socket()
    with translated("connecting"), trio.fail_after(CONNECT_SECONDS):
        await socket.bind((source, 0))
        await socket.connect((address.host, address.port))
    return trio.SocketStream(socket)


def delimited(text: str | bytes) -> bytes:
    """Return a message of multiselect: its length as a varint, the text, a line break."""
    line = (text.encode() if isinstance(text, str) else text) + b"\n"
    return varint(len(line)) + line


def varint(number: int) -> bytes:
    """Return an unsigned varint."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


class RawLink:
    """One connection: secured and multiplexed, its frames by hand."""

    def __init__(self, secured: Any, peer: PeerId) -> None:
        self._secured, self.peer = secured, peer
        self._buffer = bytearray()
        self.streams: dict[int, RawStream] = {}
        self.inbound, self.arrivals = trio.open_memory_channel[RawStream](256)
        self.ended = trio.Event()
        self._next = 1
        self._writing = trio.Lock()

    @classmethod
    async def open(
        cls, key: Ed25519PrivateKey, peer: PeerId, address: Address, source: str
    ) -> "RawLink":
        """Connect and shake hands; raises Unavailable."""
        tcp = await connect(address, source)
        pair = create_new_key_pair(key.private_bytes_raw())
        noise = Noise(pair, noise_privkey=new_x25519().private_key)
        try:
            with translated("a handshake"), trio.fail_after(CONNECT_SECONDS):
                raw = RawConnection(TrioTCPStream(tcp), True)
                await _select(raw, "/noise")
                secured = await noise.secure_outbound(raw, ID.from_string(peer))
                link = cls(secured, peer)
                await link.write(delimited(MULTISTREAM) + delimited("/yamux/1.0.0"))
                await link._expect(MULTISTREAM, "/yamux/1.0.0")
        except DipacoError:
            await trio.aclose_forcefully(tcp)
            raise
        return link

    async def _expect(self, *texts: str) -> None:
        for text in texts:
            wanted = delimited(text)
            if await self._exactly(len(wanted)) != wanted:
                raise Unavailable(f"{short_peer(self.peer)} does not speak {text}")

    async def write(self, data: bytes) -> None:
        """Send bytes on the secured connection; raises Unavailable."""
        async with self._writing:
            with translated("writing"):
                for first in range(0, len(data), LARGEST_FRAME):
                    await self._secured.write(data[first : first + LARGEST_FRAME])

    async def frame(
        self, kind: int, flags: int, stream: int, length: int, body: bytes = b"", version: int = 0
    ) -> None:
        """Send a frame, whatever sense it makes; raises Unavailable."""
        await self.write(HEADER.pack(version, kind, flags, stream, length) + body)

    async def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            with translated("reading"):
                data = await self._secured.read()
            if not data:
                raise Unavailable("the connection ended")
            self._buffer += data
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def serve(self) -> None:
        """Take in frames until the connection ends."""
        with suppress(DipacoError):
            while True:
                _, kind, flags, number, length = HEADER.unpack(await self._exactly(HEADER.size))
                if kind == DATA:
                    await self._on_data(flags, number, await self._exactly(length))
                elif kind == WINDOW:
                    self._on_window(flags, number, length)
                elif kind == PING and flags & SYN:
                    await self.frame(PING, ACK, 0, length)
                elif kind == GO_AWAY:
                    break
        self.end()

    async def _on_data(self, flags: int, number: int, body: bytes) -> None:
        stream = self._known(flags, number)
        if stream is None:
            return
        stream.take(body)
        if flags & (FIN | RST):
            stream.finish()

    def _on_window(self, flags: int, number: int, length: int) -> None:
        stream = self._known(flags, number)
        if stream is None:
            return
        stream.window += length
        stream.wake()
        if flags & (FIN | RST):
            stream.finish()

    def _known(self, flags: int, number: int) -> "RawStream | None":
        if flags & SYN and number not in self.streams:
            self.streams[number] = RawStream(self, number)
            with suppress(trio.WouldBlock, trio.ClosedResourceError):
                self.inbound.send_nowait(self.streams[number])
        return self.streams.get(number)

    async def open_stream(self, *protocols: str) -> "RawStream":
        """Open a stream and choose its protocol; none: it is left without; raises Unavailable."""
        number, self._next = self._next, self._next + 2
        stream = self.streams[number] = RawStream(self, number)
        await self.frame(WINDOW, SYN, number, 0)
        if protocols:
            await stream.send(b"".join(map(delimited, (MULTISTREAM, *protocols))))
            with trio.move_on_after(CONNECT_SECONDS) as slow:
                for text in (MULTISTREAM, *protocols):
                    wanted = delimited(text)
                    if await stream.exactly(len(wanted)) != wanted:
                        raise Unavailable(f"{short_peer(self.peer)} opens no {text}")
            if slow.cancelled_caught:
                raise Unavailable(f"{short_peer(self.peer)} opens no {protocols[-1]} in time")
        return stream

    async def accept(self, stream: "RawStream") -> str:
        """Agree to the protocol that the other side chose for its stream; raises Unavailable."""
        while True:
            text = await stream.line()
            await stream.send(delimited(text))
            if text != MULTISTREAM:
                return text

    def end(self) -> None:
        """Wake all that wait."""
        self.ended.set()
        self.inbound.close()
        for stream in self.streams.values():
            stream.finish()

    async def close(self) -> None:
        """Close the socket."""
        self.end()
        deadline = trio.current_time() + 1
        with (
            suppress(DipacoError),
            trio.CancelScope(shield=True, deadline=deadline),
            translated("closing"),
        ):
            await self._secured.close()


async def _select(raw: RawConnection, protocol: str) -> None:
    await raw.write(delimited(MULTISTREAM) + delimited(protocol))
    wanted = delimited(MULTISTREAM) + delimited(protocol)
    got = b""
    while len(got) < len(wanted):
        data = await raw.read(len(wanted) - len(got))
        if not data:
            raise Unavailable("the connection was closed")
        got += data
    if got != wanted:
        raise Unavailable(f"no {protocol} there")


class RawStream:
    """One stream of a link; see `transport.Stream`."""

    def __init__(self, link: RawLink, number: int) -> None:
        self.link, self.number = link, number
        self.window = GRANTED
        self._buffer = bytearray()
        self._ended = False
        self._changed = trio.Event()

    @property
    def peer(self) -> PeerId:
        """The peer at the other end."""
        return self.link.peer

    def take(self, data: bytes) -> None:
        """Take in bytes."""
        self._buffer += data
        self.wake()

    def finish(self) -> None:
        """Note that nothing follows."""
        self._ended = True
        self.wake()

    def wake(self) -> None:
        """Wake all that wait for a change."""
        self._changed.set()
        self._changed = trio.Event()

    async def send(self, data: bytes) -> None:
        """Send within the window that the other side grants; raises Unavailable."""
        rest = memoryview(data)
        while rest:
            if self._ended or self.link.ended.is_set():
                raise Unavailable("the stream is gone")
            count = min(self.window, LARGEST_FRAME, len(rest))
            if count <= 0:
                await self._changed.wait()
                continue
            self.window -= count
            await self.link.frame(DATA, 0, self.number, count, bytes(rest[:count]))
            rest = rest[count:]

    async def receive(self, most: int) -> bytes:
        """Return 1 to `most` bytes, b"" at the end; grants as much again."""
        while not self._buffer:
            if self._ended:
                return b""
            await self._changed.wait()
        data = bytes(self._buffer[:most])
        del self._buffer[:most]
        await self.link.frame(WINDOW, 0, self.number, len(data))
        return data

    async def exactly(self, count: int) -> bytes:
        """Return the next `count` bytes; raises Unavailable."""
        data = b""
        while len(data) < count:
            more = await self.receive(count - len(data))
            if not more:
                raise Unavailable("the stream ended")
            data += more
        return data

    async def line(self) -> str:
        """Return the next message of multiselect; raises Unavailable."""
        length = shift = 0
        while True:
            byte = (await self.exactly(1))[0]
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return (await self.exactly(length))[:-1].decode("utf-8", "replace")

    async def close(self) -> None:
        """Say that nothing more is sent."""
        with suppress(DipacoError):
            await self.link.frame(DATA, FIN, self.number, 0)

    async def reset(self) -> None:
        """Drop the stream."""
        self.finish()
        with suppress(DipacoError):
            await self.link.frame(WINDOW, RST, self.number, 0)


class WireDoor:
    """A `Door` whose connections are raw links from one source address; it only dials out."""

    def __init__(self, key: Ed25519PrivateKey, source: str, nursery: trio.Nursery) -> None:
        self._key, self._source, self._nursery = key, source, nursery
        self._handlers: dict[str, Handler] = {}
        self.links: dict[PeerId, RawLink] = {}
        self._gossip: dict[PeerId, RawStream] = {}
        self._sequence = 0

    @property
    def me(self) -> PeerId:
        """The PeerID of the key."""
        return peer_id(self._key)

    async def dial(self, peer: PeerId, addresses: Sequence[Address]) -> None:
        """Connect; raises Unavailable."""
        if peer in self.peers():
            return
        link = await RawLink.open(self._key, peer, addresses[0], self._source)
        self.links[peer] = link
        self._nursery.start_soon(link.serve)
        self._nursery.start_soon(self._accept_all, link)

    async def _accept_all(self, link: RawLink) -> None:
        async for stream in link.arrivals:
            self._nursery.start_soon(self._serve, link, stream)

    async def _serve(self, link: RawLink, stream: RawStream) -> None:
        with suppress(DipacoError):
            handler = self._handlers.get(await link.accept(stream))
            if handler is not None:
                await handler(stream)

    async def open(self, peer: PeerId, protocol: str) -> RawStream:
        """Open a stream; raises Unavailable."""
        if peer not in self.peers():
            raise Unavailable(f"not connected to {short_peer(peer)}")
        return await self.links[peer].open_stream(protocol)

    def serve(self, protocol: str, handler: Handler) -> None:
        """Serve the streams of a protocol."""
        self._handlers[protocol] = handler

    def peers(self) -> frozenset[PeerId]:
        """Return the peers that are connected now."""
        return frozenset(peer for peer, link in self.links.items() if not link.ended.is_set())

    async def hang_up(self, peer: PeerId) -> None:
        """Close the connection."""
        if (link := self.links.pop(peer, None)) is not None:
            await link.close()

    async def close(self) -> None:
        """Close all connections."""
        for peer in list(self.links):
            await self.hang_up(peer)

    # ---------------------------------------------------------------- gossip

    async def gossip(self, peer: PeerId, rpc: Any) -> None:
        """Send an RPC of gossipsub, whatever it holds; raises Unavailable."""
        stream = self._gossip.get(peer)
        if stream is None:
            stream = self._gossip[peer] = await self.open(peer, MESHSUB)
        data = rpc if isinstance(rpc, bytes) else rpc.SerializeToString()
        await stream.send(varint(len(data)) + data)

    async def publish(self, topic: str, data: bytes) -> None:
        """Publish to all that are connected; raises Unavailable."""
        for peer in self.peers():
            await self.gossip(peer, rpc_pb2.RPC(publish=[self.message(topic, data)]))

    def message(self, topic: str, data: bytes) -> Any:
        """Return a signed message."""
        self._sequence += 1
        pair = create_new_key_pair(self._key.private_bytes_raw())
        message = rpc_pb2.Message(
            from_id=ID.from_string(self.me).to_bytes(),
            data=data,
            topicIDs=[topic],
            seqno=(time.time_ns() + self._sequence).to_bytes(8, "big"),
        )
        signed = PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString()
        message.signature = pair.private_key.sign(signed)
        message.key = pair.public_key.serialize()
        return message
