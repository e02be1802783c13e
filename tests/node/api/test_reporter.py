"""Rules of this file: a whole node over the transport in memory, and a home with a large cache.

What a status costs is counted, not timed: the calls that it makes, and the files that it touches.
"""

import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.api.server import serve_api
from dipaco.node.status.counters import LEAST_SECONDS
from dipaco.node.status.document import Status
from dipaco.node.storage.files import Home
from dipaco.node.storage.stored import tidy
from dipaco.protocol.wire.messages import Ping, Pong
from tests.node.api.served import request
from tests.node.scheduler.swarm import SCHEDULER, Swarm, SwarmNode, at_once, found, until
from tests.values import manifest

FILES, BYTES = 2000, 3
FOLDER = 100  # files of one
SLOW_SECONDS = 30.0  # of a walk on a loaded disk


@pytest.fixture
async def swarm(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[Swarm]:
    async with trio.open_nursery() as nursery:
        yield Swarm(tmp_path, nursery)
        nursery.cancel_scope.cancel()


def fill(home: Home) -> None:
    """Put a large cache into a home."""
    for number in range(FILES):
        folder = home.cache / "shards" / str(number // FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(number)).write_bytes(bytes(BYTES))


class Cost:
    """Counts the calls of this thread, and names those that ask the system for a file."""

    def __init__(self) -> None:
        self.calls = 0
        self.files: Counter[str] = Counter()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        self.calls += event in ("call", "c_call")
        if event != "c_call":
            return
        owner = getattr(argument, "__self__", None)
        module = argument.__module__ or getattr(owner, "__name__", "")
        asks = module in ("posix", "io", "_io") or type(owner).__module__ == "posix"
        if asks and argument.__name__ not in ("getpid", "fspath"):  # these two touch no disk
            self.files[argument.__name__] += 1


def measured(node: SwarmNode) -> tuple[Status, Cost]:
    """Return a status, and what it cost."""
    node.reporter.status()  # the first one compiles regular expressions
    cost = Cost()
    sys.setprofile(cost)
    try:
        status = node.reporter.status()
    finally:
        sys.setprofile(None)
    return status, cost


def test_the_count_would_notice_a_walk(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cost = Cost()
    sys.setprofile(cost)
    sizes = [path.stat().st_size for path in tmp_path.rglob("*")]
    sys.setprofile(None)
    assert sizes == [0] and {"scandir", "stat"} <= cost.files.keys()


async def test_a_status_costs_the_same_however_large_the_cache_is(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    node = await swarm.start(SCHEDULER)
    await trio.sleep(LEAST_SECONDS + 1)
    before, small = measured(node)
    fill(node.parts.home)
    node.parts.storage.look_soon()
    await trio.sleep(LEAST_SECONDS + 1)
    after, large = measured(node)
    assert after.cache.bytes - before.cache.bytes == FILES * BYTES
    assert large.calls == small.calls
    # The one file that is opened is the kernel's, for the memory of this process.
    assert large.files == {"open": 1}


async def slow_disk(work: Callable[[], Any]) -> Any:
    """Do disk work as `at_once` does, but walk for as long as a loaded disk takes."""
    if isinstance(work, partial) and work.func is tidy:
        await trio.sleep(SLOW_SECONDS)
    return await at_once(work)


async def pings(node: SwarmNode, other: SwarmNode) -> list[float]:
    """Ping `other` for a minute; returns how long each answer took, in virtual seconds."""
    took = []
    for _ in range(60):
        asked = trio.current_time()
        await node.parts.rpc.call(other.parts.me, Ping(), Pong, timeout=10)
        took.append(trio.current_time() - asked)
        await trio.sleep(1 - took[-1])
    return took


async def ask_for_statuses(home: Home, count: int, seconds: float, took: list[float]) -> None:
    """Ask for `count` statuses over the socket in `seconds`; notes how long each took."""
    async with await trio.open_unix_socket(str(home.socket)) as stream:
        for _ in range(count):
            asked = trio.current_time()
            await stream.send_all(request("GET", "/v1/status"))
            assert (await stream.receive_some(1 << 16)).startswith(b"HTTP/1.1 200 ")
            took.append(trio.current_time() - asked)
            await trio.sleep(seconds / count)


async def test_a_thousand_statuses_a_minute_on_a_slow_disk_move_no_ping(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    swarm.in_thread = slow_disk
    found(tmp_path, manifest())
    fill(Home.at(tmp_path / SCHEDULER))
    scheduler = await swarm.start(SCHEDULER)
    peer = await swarm.start("anna")
    await until(lambda: scheduler.parts.me in peer.parts.rpc.ready(), seconds=60)
    quiet = await pings(peer, scheduler)

    async with trio.open_nursery() as nursery:
        await nursery.start(serve_api, scheduler.parts.home, scheduler.reporter)
        took: list[float] = []
        nursery.start_soon(ask_for_statuses, scheduler.parts.home, 1000, 60, took)
        assert max(await pings(peer, scheduler)) <= max(quiet)
        nursery.cancel_scope.cancel()
    # Of the real time that a status costs, the daemon rests four times as much: a slow one waits.
    assert len(took) > 500 and sorted(took)[len(took) // 2] == 0
