"""Attacks below the calls: sockets, handshakes, yamux, multiselect, gossipsub. On real sockets."""

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import cast

import trio
import trio.lowlevel
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.envelope import seal_record
from libp2p.peer.id import ID
from libp2p.peer.peer_record import PeerRecord as Libp2pRecord
from libp2p.pubsub.pb import rpc_pb2
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from dipaco.node.network.blob_stream import BLOB
from dipaco.node.network.framing import frame
from dipaco.node.network.gossip import TOPIC
from dipaco.node.network.twins import HELLO, TWIN
from dipaco.protocol.errors import DipacoError
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import sha256
from dipaco.protocol.wire.messages import Announcement, AskChunk, AskOutline, Item
from tests.adversary.arena import Arena, attempt
from tests.adversary.attacks.dials import KNOCKS
from tests.adversary.attacks.work import known_blob
from tests.adversary.client import Stranger, Target
from tests.adversary.registry import attack
from tests.adversary.wire import (
    DATA,
    GO_AWAY,
    MESHSUB,
    MULTISTREAM,
    PING,
    RST,
    SYN,
    WINDOW,
    RawLink,
    WireDoor,
    connect,
    delimited,
    varint,
)

OnLink = Callable[[RawLink, int], Awaitable[None]]


async def _on_links(arena: Arena, count: int, act: OnLink, *, prefix: int | None = 10) -> None:
    """Let `count` identities connect to the nodes in turn, and act on their links."""

    async def one(stranger: Stranger, number: int) -> None:
        target = arena.everybody[number % len(arena.everybody)]
        await stranger.dial(target)
        await act(cast(WireDoor, stranger.door).links[target.peer], number)

    await arena.crowd(count, one, prefix=prefix)


async def _on_sockets(
    arena: Arena, count: int, act: Callable[[trio.SocketStream, int], Awaitable[None]]
) -> None:
    """Open `count` sockets to the nodes in turn, all from one prefix."""

    async def one(number: int) -> None:
        target = arena.everybody[number % len(arena.everybody)]
        with suppress(DipacoError, trio.BrokenResourceError, trio.ClosedResourceError):
            async with await connect(target.addresses[0], arena.ip(10, 1 + number % 250)) as stream:
                await act(stream, number)

    with trio.move_on_after(arena.seconds):
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(one, number)


# -------------------------------------------------------------------- sockets and handshakes


@attack(needs="process")
async def half_open_sockets(arena: Arena) -> None:
    """Fill the door: 300 connections that say nothing."""

    async def wait(stream: trio.SocketStream, _number: int) -> None:
        await stream.receive_some(1000)
        await trio.sleep_forever()

    await _on_sockets(arena, 300, wait)


@attack(needs="process")
async def handshakes_that_stop(arena: Arena) -> None:
    """Begin a handshake and stop in each of its stages."""
    stages = (
        delimited(MULTISTREAM),
        delimited(MULTISTREAM) + delimited("/noise"),
        delimited(MULTISTREAM) + delimited("/noise") + b"\x00\x20" + bytes(32),
        delimited(MULTISTREAM) + delimited("/noise") + b"\xff\xff" + bytes(60_000),
        b"\xff\xff\xff\xff\x7f",
        b"GET / HTTP/1.1\r\n\x1b[2J\r\n\r\n",
    )

    async def stop(stream: trio.SocketStream, number: int) -> None:
        await stream.send_all(stages[number % len(stages)])
        await trio.sleep_forever()

    await _on_sockets(arena, 150, stop)


@attack(needs="process")
async def socket_storm(arena: Arena) -> None:
    """Connect and leave at once, as fast as one machine can."""

    async def storm(stream: trio.SocketStream, number: int) -> None:
        target = arena.everybody[number % len(arena.everybody)]
        while True:
            async with await connect(target.addresses[0], arena.ip(10, 1)):
                await trio.lowlevel.checkpoint()

    await _on_sockets(arena, 6, storm)


@attack(needs="process")
async def protocols_without_end(arena: Arena) -> None:
    """Name thousands of protocols on one connection that is not secured yet."""

    async def name(stream: trio.SocketStream, number: int) -> None:
        await stream.send_all(delimited(MULTISTREAM))
        for each in range(20_000):
            await stream.send_all(delimited(f"/nothing/{each}" + "x" * 200))

    await _on_sockets(arena, 6, name)


# -------------------------------------------------------------------- yamux


@attack(needs="process")
async def window_overrun(arena: Arena) -> None:
    """Send megabytes on a stream that was granted 256 kB, and that nobody reads."""

    async def overrun(stranger: Stranger, _number: int) -> None:
        await stranger.meet(arena.scheduler)
        blob = await known_blob(arena, stranger)
        link = cast(WireDoor, stranger.door).links[arena.scheduler.peer]
        for _ in range(8):
            stream = await link.open_stream(BLOB)
            await stream.send(frame(encode(AskOutline(blob=blob))))
            await stream.send(frame(encode(AskChunk(index=0))) * 2000)  # it waits for our window
            for _ in range(100):
                await link.frame(DATA, 0, stream.number, 60_000, bytes(60_000))
        await trio.sleep_forever()

    await arena.crowd(4, overrun)


@attack(needs="process")
async def stream_flood(arena: Arena) -> None:
    """Open thousands of streams and choose no protocol."""

    async def flood(link: RawLink, _number: int) -> None:
        for number in range(1, 20_001, 2):
            await link.frame(WINDOW, SYN, number, 0)
        await trio.sleep_forever()

    await _on_links(arena, 6, flood)


@attack(needs="process")
async def frames_of_no_kind(arena: Arena) -> None:
    """Send frames of unknown versions, types and flags, for streams that do not exist."""

    async def send(link: RawLink, number: int) -> None:
        await link.frame(DATA, 0, 999, 10, bytes(10))
        await link.frame(WINDOW, 0, 0, 0xFFFFFFFF)
        await link.frame(GO_AWAY, 0, 0, 0x77)
        await link.frame(DATA, RST, 12345, 0)
        await link.frame(9, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
        await link.frame(DATA, 0, 1, 10, bytes(10), version=7)
        await trio.sleep_forever()

    await _on_links(arena, 6, send)


@attack(needs="process")
async def endless_frame(arena: Arena) -> None:
    """Announce a frame of 4 GB and send it slowly."""

    async def send(link: RawLink, _number: int) -> None:
        stream = await link.open_stream()
        await link.frame(DATA, 0, stream.number, 0xFFFFFFFF)
        while True:
            await link.write(bytes(60_000))
            await trio.sleep(0.01)

    await _on_links(arena, 6, send)


@attack(needs="process")
async def ping_flood(arena: Arena) -> None:
    """Send yamux pings as fast as possible, and read no answer."""

    async def ping(link: RawLink, _number: int) -> None:
        for number in range(100_000):
            await link.frame(PING, SYN, 0, number)

    await _on_links(arena, 3, ping)


@attack(needs="process")
async def window_of_all(arena: Arena) -> None:
    """Grant a window of 4 GB again and again, so that it overflows."""

    async def grant(link: RawLink, _number: int) -> None:
        stream = await link.open_stream(MESHSUB)
        for _ in range(1000):
            await link.frame(WINDOW, 0, stream.number, 0xFFFFFFFF)
        await trio.sleep_forever()

    await _on_links(arena, 3, grant)


@attack(needs="process")
async def multiselect_flood(arena: Arena) -> None:
    """Negotiate on every stream for ever: unknown protocols, lists, lines without end."""

    async def negotiate(link: RawLink, number: int) -> None:
        for _ in range(20):
            stream = await link.open_stream()
            await stream.send(delimited(MULTISTREAM))
            lines = (delimited("/x\x1b[2J" + "y" * 900), delimited("ls"), varint(1 << 30))
            for _ in range(200):
                await stream.send(lines[number % 3])

    await _on_links(arena, 9, negotiate)


# -------------------------------------------------------------------- gossipsub


async def _gossip(arena: Arena, count: int, rpcs: Callable[[int], list[object]]) -> None:
    async def send(stranger: Stranger, number: int) -> None:
        for target in arena.everybody:
            await _gossip_to(stranger, target, rpcs(number))
        await trio.sleep_forever()

    await arena.crowd(count, send, prefix=None)


async def _gossip_to(stranger: Stranger, target: Target, rpcs: list[object]) -> None:
    await stranger.dial(target)
    door = cast(WireDoor, stranger.door)
    await door.gossip(
        target.peer,
        rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=TOPIC)]),
    )
    for rpc in rpcs:
        await door.gossip(target.peer, rpc)


@attack(needs="process")
async def peer_exchange(arena: Arena) -> str | None:
    """Have nodes dial a third party: PRUNE with peers whose signed records name its address."""
    async with arena.third_party(62) as victim:

        def prunes(_number: int) -> list[object]:
            infos = []
            for _ in range(16):
                pair = create_new_key_pair(random.randbytes(32))
                peer = ID.from_pubkey(pair.public_key)
                record = Libp2pRecord(peer, [Multiaddr(str(victim.address))])
                sealed = seal_record(record, pair.private_key).marshal_envelope()
                infos.append(rpc_pb2.PeerInfo(peerID=peer.to_bytes(), signedPeerRecord=sealed))
            prune = rpc_pb2.ControlPrune(topicID=TOPIC, peers=infos, backoff=1)
            return [rpc_pb2.RPC(control=rpc_pb2.ControlMessage(prune=[prune]))] * 3

        await _gossip(arena, 4, prunes)
        return f"{victim.knocks} knocks at a third party" if victim.knocks > KNOCKS // 4 else None


@attack(needs="process")
async def topics_without_end(arena: Arena) -> None:
    """Grow the tables of gossip: GRAFT, PRUNE and subscriptions of 100,000 topics."""

    def rpcs(number: int) -> list[object]:
        found: list[object] = []
        for first in range(0, 20_000, 500):
            names = [f"{number}-{each}-" + "t" * 100 for each in range(first, first + 500)]
            found.append(
                rpc_pb2.RPC(
                    control=rpc_pb2.ControlMessage(
                        graft=[rpc_pb2.ControlGraft(topicID=name) for name in names],
                        prune=[
                            rpc_pb2.ControlPrune(topicID=name, backoff=1 << 40) for name in names
                        ],
                    )
                )
            )
            subscribe = [rpc_pb2.RPC.SubOpts(subscribe=True, topicid=name) for name in names[:90]]
            found.append(rpc_pb2.RPC(subscriptions=subscribe))
        return found

    await _gossip(arena, 4, rpcs)


@attack(needs="process")
async def ids_without_end(arena: Arena) -> None:
    """Offer and ask for messages that do not exist: IHAVE, IWANT, IDONTWANT by the thousand."""

    def rpcs(_number: int) -> list[object]:
        ids = [random.randbytes(40) for _ in range(5000)]
        return [
            rpc_pb2.RPC(
                control=rpc_pb2.ControlMessage(
                    ihave=[rpc_pb2.ControlIHave(topicID=TOPIC, messageIDs=ids)],
                    iwant=[rpc_pb2.ControlIWant(messageIDs=ids)],
                    idontwant=[rpc_pb2.ControlIDontWant(messageIDs=ids)],
                )
            )
        ] * 10

    await _gossip(arena, 4, rpcs)


@attack(needs="process")
async def sender_records(arena: Arena) -> None:
    """Fill the address book by signed records of ever more addresses in every RPC."""

    async def send(stranger: Stranger, number: int) -> None:
        pair = create_new_key_pair(stranger.key.private_bytes_raw())
        for target in arena.everybody:
            rpcs: list[object] = []
            for each in range(50):
                addresses = [
                    Multiaddr(f"/ip4/10.{each}.{port}.1/tcp/{port + 1}") for port in range(200)
                ]
                record = Libp2pRecord(ID.from_string(stranger.me), addresses, seq=each + 1)
                sealed = seal_record(record, pair.private_key).marshal_envelope()
                rpcs.append(rpc_pb2.RPC(senderRecord=sealed))
            await _gossip_to(stranger, target, rpcs)
        await trio.sleep_forever()

    await arena.crowd(6, send, prefix=None)


@attack(needs="process")
async def large_messages(arena: Arena) -> None:
    """Publish messages of a megabyte, unsigned ones, and ones that claim an honest author."""

    async def send(stranger: Stranger, number: int) -> None:
        door = cast(WireDoor, stranger.door)
        rpcs: list[object] = []
        item = Item(kind="manifest", run=arena.run, digest=sha256(b"x"), seq=0)
        for each in range(10):
            large = door.message(TOPIC, bytes(900_000))
            unsigned = rpc_pb2.Message(data=bytes([each]), topicIDs=[TOPIC], seqno=bytes(8))
            forged = door.message(TOPIC, encode(Announcement(item=item, size=each)))
            forged.from_id = ID.from_string(arena.scheduler.peer).to_bytes()
            rpcs += [rpc_pb2.RPC(publish=[message]) for message in (large, unsigned, forged)]
        for target in arena.everybody:
            await _gossip_to(stranger, target, [*rpcs, b"\xff" * 1000])

    await arena.crowd(3, send, prefix=None)


# -------------------------------------------------------------------- hello and twin


@attack(needs="process")
async def false_hellos(arena: Arena) -> None:
    """Say hello with other lengths, again and again, and tell nodes of twins that do not exist."""

    async def hello(link: RawLink, number: int) -> None:
        for each in range(20):
            await attempt(_say(link, HELLO, random.randbytes(16 if each % 2 else 3)))
            words = (b"", b"203.0.113.9", b"\x1b[2J", b"::ffff:1.2.3.4%en0", b"x" * 64)
            await attempt(_say(link, TWIN, frame(words[each % len(words)])))
        await trio.sleep_forever()

    await _on_links(arena, 9, hello, prefix=None)


async def _say(link: RawLink, protocol: str, words: bytes) -> None:
    stream = await link.open_stream(protocol)
    await stream.send(words)


@attack(needs="process")
async def many_processes_of_one_key(arena: Arena) -> None:
    """Connect twenty times with one key, each time as another process."""
    key = arena.new_key()

    async def one(number: int) -> None:
        target = arena.everybody[number % len(arena.everybody)]
        try:
            async with arena.door(key, arena.ip(10, 1)) as door:
                arena.strangers.append(door.me)
                await door.dial(target.peer, target.addresses)
                arena.got_in += 1
                stream = await door.open(target.peer, HELLO)
                await stream.send(random.randbytes(16))
                await trio.sleep_forever()
        except* DipacoError:
            pass  # the node ended the connection, in a task of the door

    with trio.move_on_after(arena.seconds):
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(one, number)
