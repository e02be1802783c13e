"""Attacks on the calls: frames, requests, answers, and the streams that carry them."""

from functools import partial

import trio

from dipaco.node.network.framing import frame
from dipaco.node.network.gossip import SYNC
from dipaco.node.network.rpc import CONTROL
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.messages import (
    AskInventory,
    Failure,
    Ping,
    ReadLedger,
    Reply,
    Request,
)
from tests.adversary.arena import Arena, attempt
from tests.adversary.client import Stranger, cbor
from tests.adversary.registry import attack

FRAME = (1 << 20) - 64  # bytes of the largest frame on the control stream
SYNC_FRAME = (4 << 20) + 1000
MAP_OF_ONE = b"\xa1"
ANY = Digest(bytes(32))


async def _send_to_all(arena: Arena, frames: list[bytes], protocol: str = CONTROL) -> None:
    """Send each frame to each node, from an identity of its own: the first may end the line."""

    async def send(stranger: Stranger, number: int) -> None:
        target = arena.everybody[number % len(arena.everybody)]
        await stranger.meet(target)
        line = await stranger.line(target, protocol)
        await line.send(frames[number // len(arena.everybody)])
        await line.ended.wait()

    await arena.crowd(len(frames) * len(arena.everybody), send, prefix=None)


def _request(body: bytes, kind: str = "Ping") -> bytes:
    return frame(encode(Request(id=1, kind=kind, body=body)))


# -------------------------------------------------------------------- cost before the check


@attack()
async def decimal_tag(arena: Arena) -> None:
    """Make the decoder build a decimal of 30 kB of digits before the check refuses it."""
    digits = b"\xc2\x5a" + (30_000).to_bytes(4, "big") + b"\xff" * 30_000
    await _send_to_all(arena, [frame(b"\xc4\x82\x01" + digits), _request(b"\xc4\x82\x01" + digits)])


@attack()
async def bigfloat_tag(arena: Arena) -> None:
    """Make the decoder raise 2 to a power that a stranger chose."""
    await _send_to_all(
        arena,
        [frame(b"\xc5\x82\x1a\x00\x7f\xff\xff\x01"), frame(b"\xc5\x82\x1a\x7f\xff\xff\xff\x01")],
    )


@attack()
async def regular_expression_tag(arena: Arena) -> None:
    """Have the decoder compile a stranger's regular expression."""
    text = b"(" * 90 + b"a" + b"){1,200}" * 90
    bomb = b"\xd8\x23\x79" + len(text).to_bytes(2, "big") + text
    await _send_to_all(arena, [frame(bomb), _request(bomb)])


@attack()
async def other_tags(arena: Arena) -> None:
    """Try every tag that the decoder knows: dates, e-mails, addresses, shared and cyclic values."""
    values = {
        0: b"\x78\x400" + b"0" * 63,
        1: b"\xfb\x7f\xef\xff\xff\xff\xff\xff\xff",
        28: b"\x81\xd8\x1d\x00",
        30: b"\x82\x01\x00",
        36: b"\x58\x40" + b"From: a\n" * 8,
        37: b"\x50" + b"\x00" * 16,
        52: b"\x44\x7f\x00\x00\x01",
        258: b"\x83\x01\x01\x80",
        55799: b"\xa0",
    }
    heads = [cbor_tag(number) + value for number, value in values.items()]
    await _send_to_all(arena, [frame(head) for head in heads])


def cbor_tag(number: int) -> bytes:
    """Return the head of a tag in its shortest form."""
    if number < 24:
        return bytes([0xC0 + number])
    return b"\xd8" + bytes([number]) if number < 256 else b"\xd9" + number.to_bytes(2, "big")


@attack()
async def empty_maps(arena: Arena) -> None:
    """Have 4 MB of empty maps, arrays and texts decoded, at hundreds of bytes of memory each."""
    count = SYNC_FRAME - 8
    head = b"\x9a" + count.to_bytes(4, "big")
    frames = [frame(head + item * count) for item in (b"\xa0", b"\x80", b"\x60")]
    await _send_to_all(arena, frames, SYNC)


@attack()
async def nested_arrays(arena: Arena) -> None:
    """Nest a megabyte of arrays, maps and tags, each in the one before."""
    frames = [frame(item * FRAME) for item in (b"\x81", b"\xa1\x60", b"\xc6")]
    await _send_to_all(arena, [each[: FRAME + 4] for each in frames])


@attack()
async def claimed_lengths(arena: Arena) -> None:
    """Claim arrays, maps, texts and bytes of 2^64 - 1 and send none."""
    tail = b"\xff" * 8
    bodies = [bytes([major]) + tail for major in (0x9B, 0xBB, 0x7B, 0x5B)]
    await _send_to_all(arena, [frame(body) for body in bodies] + [_request(b) for b in bodies])


@attack()
async def many_keys(arena: Arena) -> None:
    """Send a map of 100,000 keys where one of three is expected, and one key many times."""
    keys = {f"{number:07d}": 0 for number in range(90_000)}
    double = b"\xb9\x80\x00" + b"\x61a\x00" * 0x8000
    await _send_to_all(arena, [frame(cbor(keys)), frame(double)])


@attack()
async def numbers_without_end(arena: Arena) -> None:
    """Send integers of a megabyte where a count is expected."""
    digits = b"\xc2\x5a" + (900_000).to_bytes(4, "big") + b"\x01" * 900_000
    message = b"\xa4\x62id" + digits + b"\x64body\x40\x64kind\x64Ping\x64type\x67Request"
    await _send_to_all(arena, [frame(message), _request(digits)])


# -------------------------------------------------------------------- text that reaches a log

ESCAPES = "\x1b]0;owned\x07\x1b[2J\r\n2030-01-01T00:00:00 error   forged\u202e\x9b31m"


@attack()
async def escapes_in_names(arena: Arena) -> None:
    """Bring terminal sequences and forged lines into the log by the names of unknown fields."""
    named = [{"type": "Ping", ESCAPES: 1}, {ESCAPES: ESCAPES}, {"type": ESCAPES}]
    frames = [frame(cbor(each)) for each in named] + [_request(cbor(each)) for each in named]
    frames.append(_request(b"\xa0", ESCAPES[:60]))
    await _send_to_all(arena, frames)


@attack()
async def long_names(arena: Arena) -> None:
    """Bring a name of a megabyte into a message and a log line."""
    await _send_to_all(
        arena, [frame(cbor({"a" * 900_000: 1})), frame(cbor({"type": "x" * 900_000}))]
    )


@attack()
async def log_flood(arena: Arena) -> None:
    """Fill the log: 300 identities, each with one breach, each worth a line."""

    async def breach(stranger: Stranger, number: int) -> None:
        line = await stranger.meet(arena.everybody[number % len(arena.everybody)])
        await line.send(frame(b"\xff"))
        await line.ended.wait()

    await arena.crowd(300, breach, prefix=None)


# -------------------------------------------------------------------- the streams


async def _answer_with(arena: Arena, body: bytes, kind: str) -> None:
    async def answer(stranger: Stranger, number: int) -> None:
        async def bad(_request: object) -> bytes:
            return body

        stranger.answers[kind] = bad
        await stranger.meet(arena.everybody[number % len(arena.everybody)])
        await trio.sleep_forever()

    await arena.crowd(2 * len(arena.everybody), answer, prefix=None)


@attack()
async def foreign_answers(arena: Arena) -> None:
    """Answer calls with another type, with refusals, with ids that nobody asked for."""
    bodies = [
        encode(Reply(id=0, body=encode(AskInventory(summary=ANY)))),
        encode(Failure(id=0, fault="refusal", reason="x" * 500)),
        encode(Reply(id=(1 << 53) - 1, body=b"")),
        encode(Reply(id=0, body=b"\xff" * 1000)),
    ]
    with trio.move_on_after(arena.seconds):
        async with trio.open_nursery() as nursery:
            for body in bodies:
                for kind in ("AskInventory", "ListPeers"):
                    nursery.start_soon(_answer_with, arena, body, kind)


@attack()
async def unasked_replies(arena: Arena) -> None:
    """Send a thousand replies that nobody asked for."""

    async def send(stranger: Stranger, number: int) -> None:
        line = await stranger.meet(arena.everybody[number])
        for each in range(1000):
            await line.say(encode(Reply(id=each + 1000, body=bytes(1000))))
        await line.ended.wait()

    await arena.crowd(len(arena.everybody), send)


@attack()
async def frames_drop_by_drop(arena: Arena) -> None:
    """Announce frames of the largest length, and send a byte of each a second."""

    async def drip(stranger: Stranger, number: int) -> None:
        target = arena.everybody[number % len(arena.everybody)]
        await stranger.meet(target)
        for protocol, length in ((CONTROL, FRAME), (SYNC, SYNC_FRAME)):
            line = await stranger.line(target, protocol)
            await line.send(length.to_bytes(4, "big"))
        while True:
            await line.send(b"\x00")
            await trio.sleep(1.0)

    await arena.crowd(24, drip)


@attack()
async def half_frames(arena: Arena) -> None:
    """Leave nearly whole frames of the largest length unfinished on many connections."""

    async def leave(stranger: Stranger, number: int) -> None:
        target = arena.everybody[number % len(arena.everybody)]
        await stranger.meet(target)
        line = await stranger.line(target, SYNC)
        await line.send(SYNC_FRAME.to_bytes(4, "big") + bytes(SYNC_FRAME - 1))
        await trio.sleep_forever()

    await arena.crowd(30, leave)


@attack()
async def requests_without_reading(arena: Arena) -> None:
    """Ask for large answers without end, and read none."""

    async def ask(stranger: Stranger, number: int) -> None:
        target = arena.everybody[number % len(arena.everybody)]
        await stranger.meet(target)
        stream = await stranger.door.open(target.peer, SYNC)  # that nothing here reads
        body = encode(ReadLedger(run=arena.run, first=0))
        for each in range(5000):
            await stream.send(frame(encode(Request(id=each, kind="ReadLedger", body=body))))
        await trio.sleep_forever()

    await arena.crowd(9, ask)


@attack()
async def request_flood(arena: Arena) -> None:
    """Keep 32 requests open, of the kinds that cost most to answer."""
    asks = (
        ("AskInventory", encode(AskInventory(summary=ANY))),
        ("ReadLedger", encode(ReadLedger(run=arena.run, first=0))),
    )

    async def flood(stranger: Stranger, number: int) -> None:
        target = arena.everybody[number % len(arena.everybody)]
        await stranger.meet(target)
        line = await stranger.line(target, SYNC)

        async def ask(kind: str, body: bytes) -> None:
            for _ in range(30):
                await line.call(kind, body)
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            for each in range(32):
                nursery.start_soon(attempt, ask(*asks[each % 2]))

    await arena.crowd(9, flood)


@attack()
async def unknown_requests(arena: Arena) -> None:
    """Ask thousands of times for what no node serves."""

    async def ask(stranger: Stranger, number: int) -> None:
        line = await stranger.meet(arena.everybody[number % len(arena.everybody)])
        for each in range(1000):
            await line.call(f"Kind{each}", b"")

    await arena.crowd(6, ask)


@attack()
async def stream_after_stream(arena: Arena) -> None:
    """Open the control stream again and again: each one replaces the one before."""

    async def open_again(stranger: Stranger, number: int) -> None:
        target = arena.everybody[number % len(arena.everybody)]
        await stranger.dial(target)
        for _ in range(200):
            stream = await stranger.door.open(target.peer, CONTROL)
            await stream.send(frame(encode(Request(id=1, kind="Ping", body=encode(Ping())))))
            await trio.sleep(0.01)

    await arena.crowd(12, open_again)


@attack()
async def idle_streams(arena: Arena) -> None:
    """Open every kind of stream as often as allowed, and say nothing."""

    async def open_all(stranger: Stranger, number: int) -> None:
        target = arena.everybody[number % len(arena.everybody)]
        await stranger.dial(target)
        for each in range(120):
            await attempt(partial(_open, stranger, target.peer, each)())
        await trio.sleep_forever()

    async def _open(stranger: Stranger, peer: object, each: int) -> None:
        protocol = (CONTROL, SYNC, "/dipaco/blob/2")[each % 3]
        await stranger.door.open(peer, protocol)  # type: ignore[arg-type]

    await arena.crowd(12, open_all)


@attack()
async def silent_peers(arena: Arena) -> None:
    """Connect and never answer anything, from sixty identities of one prefix."""

    async def silent(stranger: Stranger, number: int) -> None:
        async def nothing(_request: object) -> None:
            await trio.sleep_forever()

        for kind in ("Ping", "AskInventory", "ListPeers", "Register", "AskHave"):
            stranger.answers[kind] = nothing
        await stranger.meet(arena.everybody[number % len(arena.everybody)])
        await trio.sleep_forever()

    await arena.crowd(60, silent)


@attack()
async def reconnect_storm(arena: Arena) -> None:
    """Connect and leave two hundred times, the same key and new ones."""

    async def come_and_go(stranger: Stranger, number: int) -> None:
        for _ in range(20):
            target = arena.everybody[number % len(arena.everybody)]
            await stranger.dial(target)
            await trio.sleep(0.05)
            await stranger.door.hang_up(target.peer)

    await arena.crowd(10, come_and_go)
    await arena.crowd(100, come_and_go, prefix=None)
