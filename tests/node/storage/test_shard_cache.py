"""Rules of this file: real files and locks; two caches on one folder stand for two processes."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cbor2
import pytest

from dipaco.node.storage import shard_cache as module
from dipaco.node.storage.files import DiskFull
from dipaco.node.storage.shard_cache import DamagedGroup, GroupFacts, ShardCache
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.wire.digest import Digest, sha256

SPEC = sha256(b"spec")
FACTS = GroupFacts(context=8, token_bytes=2, documents=3, tokens=6)


def make(cache: ShardCache, window: int, *, size: int = 100, spec: Digest = SPEC) -> None:
    with cache.build(spec, window) as writer:
        writer.append("a", b"\x01\x00" * (size // 2))
        writer.append("b", b"\x02\x00")
        writer.finish(FACTS)


def content(cache: ShardCache, window: int, name: str = "a") -> list[int] | None:
    group = cache.open(SPEC, window)
    if group is None:
        return None
    try:
        values: list[int] = group.array(name, "<u2").tolist()
        return values
    finally:
        group.close()


def age(root: Path, window: int, seconds: int) -> None:
    index = root / f"{SPEC.hex()}-{window}" / "index"
    os.utime(index, (seconds, seconds))


def test_a_group_comes_back_as_it_was_written(tmp_path: Path) -> None:
    make(ShardCache(tmp_path, 10_000), 0)
    other = ShardCache(tmp_path, 10_000)
    assert content(other, 0) == [1] * 50
    assert content(other, 0, "b") == [2]
    assert content(other, 0, "never written") == []
    group = other.open(SPEC, 0)
    assert group is not None and group.facts == FACTS
    group.close()


def test_a_group_is_known_by_spec_and_window(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10_000)
    make(cache, 0)
    assert content(cache, 1) is None
    assert cache.open(sha256(b"other"), 0) is None


def test_a_group_under_a_foreign_name_is_removed(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10_000)
    make(cache, 0)
    (tmp_path / f"{SPEC.hex()}-0").rename(tmp_path / f"{SPEC.hex()}-1")
    assert content(cache, 1) is None
    assert cache.groups() == 0


def test_small_pieces_and_large_ones_make_the_same_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ShardCache(tmp_path, 10_000)
    monkeypatch.setattr(module, "FLUSH_BYTES", 3)
    with cache.build(SPEC, 0) as writer:
        for value in range(20):
            writer.append("a", value.to_bytes(2, "little"))
            assert writer.buffered_bytes < 3
        writer.finish(FACTS)
    assert content(cache, 0) == list(range(20))


def test_a_maker_that_fails_or_does_not_finish_leaves_nothing(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10_000)
    with pytest.raises(RuntimeError), cache.build(SPEC, 0) as writer:
        writer.append("a", b"half")
        writer.flush()
        raise RuntimeError
    with cache.build(SPEC, 0) as writer:
        writer.append("a", b"half")
    assert list(tmp_path.iterdir()) == []


def test_a_draft_of_a_killed_maker_is_cleared_away_and_one_of_a_living_is_not(
    tmp_path: Path,
) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from dipaco.node.storage.shard_cache import ShardCache\n"
        "from dipaco.protocol.wire.digest import sha256\n"
        "with ShardCache(pathlib.Path(sys.argv[1]), 10_000).build(sha256(b''), 0) as writer:\n"
        "    writer.append('a', b'half')\n"
        "    writer.flush()\n"
        "    print('written', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == b"written\n"
        ShardCache(tmp_path, 10_000)
        assert len(list(tmp_path.iterdir())) == 1
        maker.kill()
    ShardCache(tmp_path, 10_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", [".build-1-a", ".gone-1-a"])
def test_folders_of_the_dead_without_a_lock_are_cleared_away(left: str, tmp_path: Path) -> None:
    (tmp_path / left).mkdir()
    (tmp_path / left / "a").write_bytes(b"half")
    (tmp_path / f".turn-{SPEC.hex()}-0").touch()
    ShardCache(tmp_path, 10_000)
    assert list(tmp_path.iterdir()) == []


def test_two_makers_of_one_group_leave_one(tmp_path: Path) -> None:
    first, second = ShardCache(tmp_path, 10_000), ShardCache(tmp_path, 10_000)
    with first.build(SPEC, 0) as slow:
        slow.append("a", b"\x01\x00" * 50)
        make(second, 0)
        slow.finish(FACTS)
    assert content(first, 0) == [1] * 50
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["a", "b", "index"])
@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "remove"])
def test_damage_is_noticed_and_the_group_removed(name: str, damage: str, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10_000)
    make(cache, 0)
    path = tmp_path / f"{SPEC.hex()}-0" / name
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(
            {"flip": bytes([data[0] ^ 1]) + data[1:], "cut": data[:-1], "grow": data + b"!"}[damage]
        )
    stream = "b" if name == "b" else "a"
    if damage == "flip" and name != "index":  # lengths are as the index has them
        with pytest.raises(DamagedGroup, match=name):
            content(cache, 0, stream)
    else:
        assert content(cache, 0, stream) is None
    assert cache.groups() == 0
    make(cache, 0)
    assert content(cache, 0) == [1] * 50


@pytest.mark.parametrize("foreign", ["file", "empty folder", "no lock", "folder as index"])
def test_what_is_no_group_gives_way_to_one(foreign: str, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10_000)
    folder = tmp_path / f"{SPEC.hex()}-0"
    if foreign == "file":
        folder.write_bytes(b"not a folder")
    elif foreign == "empty folder":
        folder.mkdir()
    else:
        make(cache, 0)
        (folder / ("lock" if foreign == "no lock" else "index")).unlink()
        if foreign == "folder as index":
            (folder / "index").mkdir()
    assert content(cache, 0) is None
    make(cache, 0)
    assert content(cache, 0) == [1] * 50
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_in_mid_group_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10_000)
    with pytest.raises(DiskFull, match="no space left on the disk"), cache.build(SPEC, 0) as writer:
        writer.append("a", b"\x01\x00")
        writer.flush()
        (draft,) = tmp_path.glob(".build-*")
        (draft / "b").symlink_to("/dev/full")  # ENOSPC from the kernel itself
        writer.append("b", b"\x02\x00")
        writer.finish(FACTS)
    assert list(tmp_path.iterdir()) == []
    make(cache, 0)
    assert content(cache, 0) == [1] * 50


def test_the_turn_to_make_a_group_is_one_makers_and_outlives_a_dead_one(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys\n"
        "from dipaco.node.storage.shard_cache import ShardCache\n"
        "from dipaco.protocol.wire.digest import sha256\n"
        "with ShardCache(pathlib.Path(sys.argv[1]), 10_000).turn(sha256(b'spec'), 0, print):\n"
        "    print('mine', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    cache, waits = ShardCache(tmp_path, 10_000), list[str]()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"mine\n"
        with cache.turn(SPEC, 1, lambda: waits.append("for another window")):
            pass

        def killed() -> None:
            waits.append("for the other")
            other.kill()

        with cache.turn(SPEC, 0, killed):
            assert waits == ["for the other"]
    assert list(tmp_path.iterdir()) == []


def test_threads_take_turns_too_and_leave_no_lock_behind(tmp_path: Path) -> None:
    inside, most = 0, 0
    gate = threading.Lock()

    def make_one(_: int) -> None:
        nonlocal inside, most
        with ShardCache(tmp_path, 10_000).turn(SPEC, 0, lambda: None):
            with gate:
                inside, most = inside + 1, max(most, inside + 1)
            os.sched_yield()
            with gate:
                inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make_one, range(200)))
    assert most == 1
    assert list(tmp_path.iterdir()) == []


def test_the_least_recently_used_groups_make_room(tmp_path: Path) -> None:
    size = 5_000
    cache = ShardCache(tmp_path, 3 * size + 4_000)
    for window in range(3):
        make(cache, window, size=size)
        age(tmp_path, window, 1_000_000 + window)
    assert content(cache, 0) is not None  # used: now the newest
    make(cache, 3, size=size)
    assert [content(cache, window) is not None for window in range(4)] == [True, False, True, True]
    assert cache.total_bytes() <= 3 * size + 4_000


def test_what_somebody_uses_is_not_evicted_and_the_bound_is_kept(tmp_path: Path) -> None:
    cache, other = ShardCache(tmp_path, 12_000), ShardCache(tmp_path, 12_000)
    make(cache, 0, size=5_000)
    make(cache, 1, size=5_000)
    held = other.open(SPEC, 0)
    assert held is not None
    with pytest.raises(ConfigError, match=r"storage\.cache_max"):
        make(cache, 2, size=8_000)
    assert [content(cache, window) is not None for window in range(3)] == [True, False, False]
    held.close()
    make(cache, 2, size=8_000)
    assert [content(cache, window) is not None for window in range(3)] == [False, False, True]


def test_a_mapped_file_stays_readable_after_its_group_is_gone(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10_000)
    make(cache, 0)
    group = cache.open(SPEC, 0)
    assert group is not None
    array = group.array("a", "<u2")
    cache.clear()
    assert cache.groups() == 1  # held
    group.close()
    cache.clear()
    assert list(tmp_path.iterdir()) == []
    assert array.tolist() == [1] * 50 and not array.flags.writeable


def test_a_group_that_cannot_be_marked_as_used_is_not_left_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ShardCache(tmp_path, 10_000)
    make(cache, 0)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "utime", refuse)
        with pytest.raises(ConfigError, match=r"cannot use .*: Permission denied"):
            cache.open(SPEC, 0)
    cache.clear()  # takes what is not locked
    assert cache.groups() == 0


@pytest.mark.parametrize("other", [1, 3])
def test_a_group_of_another_format_is_made_again(other: int, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10_000)
    make(cache, 0)
    index = tmp_path / f"{SPEC.hex()}-0" / "index"
    body = cbor2.dumps(cbor2.loads(index.read_bytes()[:-32]) | {"format": other}, canonical=True)
    index.write_bytes(body + sha256(body))
    assert content(cache, 0) is None
    assert cache.groups() == 0
