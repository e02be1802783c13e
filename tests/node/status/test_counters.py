"""Rules of this file: virtual time; folders are real, walks are counted, and last as told."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.status.counters import (
    LEAST_SECONDS,
    MOST_SECONDS,
    StorageMeter,
    memory,
)
from dipaco.node.storage.files import folder_bytes

WHILE = 600.0  # seconds


class Walks:
    """Stands in for the thread: walks last `seconds`, and are noted with their time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds
        self.begun: list[float] = []
        self.at_once = self.most_at_once = 0

    async def __call__(self, walk: Callable[[], int]) -> int:
        self.begun.append(trio.current_time())
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        await trio.sleep(self._seconds)
        self.at_once -= 1
        return walk()


async def ask_often(meter: StorageMeter) -> None:
    while True:
        meter.look_soon()
        await trio.sleep(0.06)


async def test_a_size_is_known_once_it_is_measured(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    (tmp_path / "file").write_bytes(bytes(7))
    meter = StorageMeter(tmp_path, in_thread=Walks(2.0))
    async with trio.open_nursery() as nursery:
        await nursery.start(meter.run)
        assert meter.latest is None
        await trio.sleep(3.0)
        assert meter.latest is not None and meter.latest.bytes == 7
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seconds", [0.0, 25.0], ids=["quick", "slow"])
async def test_however_often_it_is_asked_one_walk_follows_another_after_a_pause(
    seconds: float, tmp_path: Path, autojump_clock: MockClock
) -> None:
    walks = Walks(seconds)
    meter = StorageMeter(tmp_path, in_thread=walks)
    with trio.move_on_after(WHILE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(meter.run)
            nursery.start_soon(ask_often, meter)
    apart = [later - earlier for earlier, later in zip(walks.begun, walks.begun[1:], strict=False)]
    assert min(apart) >= LEAST_SECONDS + seconds and max(apart) < LEAST_SECONDS + seconds + 1
    assert walks.most_at_once == 1


async def test_without_work_it_looks_now_and_then(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    walks = Walks()
    with trio.move_on_after(WHILE):
        await StorageMeter(tmp_path, in_thread=walks).run()
    assert len(walks.begun) == WHILE / MOST_SECONDS


async def test_work_that_ends_while_it_walks_is_looked_at_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    walks = Walks(2.0)
    meter = StorageMeter(tmp_path, in_thread=walks)
    with trio.move_on_after(MOST_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(meter.run)
            await trio.sleep(1.0)
            meter.look_soon()
    assert len(walks.begun) == 2


async def test_the_walk_is_done_in_another_thread(tmp_path: Path) -> None:
    main, seen = trio.lowlevel.current_task(), []

    def walk(folder: Path) -> int:
        seen.append(folder)
        with pytest.raises(RuntimeError):  # there is no event loop in this thread
            trio.lowlevel.current_task()
        trio.from_thread.run_sync(done.set)
        return 0

    done = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(StorageMeter(tmp_path, walk=walk).run)
        await done.wait()
        nursery.cancel_scope.cancel()
    assert trio.lowlevel.current_task() is main and seen == [tmp_path]


def test_all_files_below_a_folder_count(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "file").write_bytes(bytes(1))
    (tmp_path / "a/file").write_bytes(bytes(20))
    (tmp_path / "a/b/file").write_bytes(bytes(300))
    (tmp_path / "link").symlink_to(tmp_path / "a/b/file")
    links = (tmp_path / "link").lstat().st_size
    assert folder_bytes(tmp_path) == 321 + links
    assert folder_bytes(tmp_path / "nowhere") == 0


def test_what_vanishes_under_the_walk_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Entries(list[os.DirEntry[str]]):
        """A folder's entries, of which all files are removed once they are listed."""

        def __enter__(self) -> "Entries":
            for entry in self:
                Path(entry.path).unlink()
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing is open."""

    def listed(path: str) -> Entries:
        with real(path) as entries:
            return Entries(entries)

    real = os.scandir
    (tmp_path / "file").write_bytes(bytes(9))
    assert folder_bytes(tmp_path) == 9
    monkeypatch.setattr(os, "scandir", listed)
    assert folder_bytes(tmp_path) == 0


def test_memory_is_that_of_this_process_and_of_the_worker() -> None:
    code = "x = bytearray(64 << 20); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None and child.stdout.readline()
        found = memory([child.pid])
        child.communicate(b"\n")
    assert 64 << 20 < found.worker < 512 << 20
    assert 16 << 20 < found.daemon <= found.peak
    assert memory([child.pid]).worker == 0 and memory(()).worker == 0
