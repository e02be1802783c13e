"""Rules of this file: virtual time over loopback sockets; a line's seconds are exact."""

import trio
from trio.testing import MockClock

from benchmarks.link import HOST, PART_BYTES, Direction, Link

RATE, DELAY = 1e6, 0.25
SENT = bytes(range(256)) * 4000  # 1.024 s at this rate


async def echo(stream: trio.SocketStream) -> None:
    async for part in stream:
        await stream.send_all(part)


async def there_and_back(port: int, data: bytes) -> bytes:
    back = bytearray()
    async with await trio.open_tcp_stream(HOST, port) as stream, trio.open_nursery() as nursery:

        async def send() -> None:
            await stream.send_all(data)
            await stream.send_eof()

        nursery.start_soon(send)
        async for part in stream:
            back += part
    return bytes(back)


async def through_a_line(nursery: trio.Nursery) -> Link:
    serve = await nursery.start(trio.serve_tcp, echo, 0)
    port = serve[0].socket.getsockname()[1]
    return Link(port, Direction(RATE, DELAY), Direction(RATE, DELAY))


async def test_bytes_arrive_unchanged_at_the_rate_and_after_the_delay(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        async with (await through_a_line(nursery)).open() as link:
            began = trio.current_time()
            assert await there_and_back(link.entrance, SENT) == SENT
            took = trio.current_time() - began
        nursery.cancel_scope.cancel()
    least = len(SENT) / RATE + 2 * DELAY  # up and down overlap but for the first part
    assert least <= took <= least + 10 * PART_BYTES / RATE
    assert (link.up.bytes, link.down.bytes) == (len(SENT), len(SENT))


async def test_connections_share_the_line(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        async with (await through_a_line(nursery)).open() as link:
            began = trio.current_time()
            async with trio.open_nursery() as both:
                both.start_soon(there_and_back, link.entrance, SENT)
                both.start_soon(there_and_back, link.entrance, SENT)
            took = trio.current_time() - began
        nursery.cancel_scope.cancel()
    assert took >= 2 * len(SENT) / RATE


async def test_a_far_end_that_is_not_there_ends_the_connection(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        link = await through_a_line(nursery)
        nursery.cancel_scope.cancel()
    async with link.open():
        assert await there_and_back(link.entrance, b"") == b""
