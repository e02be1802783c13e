"""The one bound of a home. Rules of this file: real files, whose times of use are set."""

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dipaco.node.runs.pinned import pinned_blobs
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.claims import Claims
from dipaco.node.storage.files import Home
from dipaco.node.storage.shard_cache import GroupFacts, ShardCache
from dipaco.node.storage.stored import UNCLAIMED_SECONDS, besides, stored_in, tidy
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.wire.digest import Digest, sha256

HOUR = 3600.0
SPEC = sha256(b"spec")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path / "home")


def blob(home: Home, name: str, *, hours: float, size: int = 1000) -> Digest:
    """Write a blob that was used so many hours ago."""
    store = BlobStore(home.blobs)
    digest = store.write(name.encode().ljust(size))
    when = time.time() - hours * HOUR
    os.utime(store.path(digest), (when, when))
    return digest


def group(home: Home, window: int, size: int = 1000) -> None:
    with ShardCache(home.shards, 10**9).build(SPEC, window) as writer:
        writer.append("0.tokens", bytes(size))
        writer.finish(GroupFacts(context=8, token_bytes=2, documents=1, tokens=size // 2))


def source(home: Home, size: int = 1000) -> Path:
    home.sources.mkdir(exist_ok=True)
    path = home.sources / sha256(b"source").hex()
    path.write_bytes(bytes(size))
    return path


def tidied(home: Home, most: int, *needed: Digest) -> int:
    blobs = BlobStore(home.blobs)
    claims = Claims(blobs)
    claims.claim("run", needed)
    return tidy(blobs, claims, most, home.root)


def test_every_kind_counts(home: Home) -> None:
    blob(home, "state", hours=0)
    BlobStore(home.blobs).partial(sha256(b"arriving"), 8).append(b"arr")
    source(home)
    group(home, 0)
    stored = stored_in(home)
    assert (stored.blobs, stored.partial, stored.sources, stored.scratch) == (1000, 3, 1000, 0)
    assert stored.shards > 1000
    assert stored.total == 2003 + stored.shards


def test_a_blob_that_nobody_knows_goes_after_an_hour(home: Home) -> None:
    assert UNCLAIMED_SECONDS == HOUR
    old, young, needed = (blob(home, n, hours=h) for n, h in (("o", 1.1), ("y", 0.9), ("n", 99)))
    tidied(home, 10**9, needed)
    store = BlobStore(home.blobs)
    assert [store.has(each) for each in (old, young, needed)] == [False, True, True]


def test_blobs_go_before_shards_and_shards_before_source_files(home: Home) -> None:
    unknown, needed = blob(home, "unknown", hours=0.5), blob(home, "needed", hours=0.5)
    group(home, 0)
    path, store, shards = source(home), BlobStore(home.blobs), ShardCache(home.shards, 10**9)
    everything = stored_in(home).total

    def left() -> list[bool]:
        return [store.has(unknown), shards.groups() == 1, path.exists(), store.has(needed)]

    assert tidied(home, everything, needed) == everything
    assert left() == [True, True, True, True]
    assert tidied(home, everything - 1, needed) == everything - 1000
    assert left() == [False, True, True, True]
    tidied(home, everything - 1001, needed)
    assert left() == [False, False, True, True]
    assert tidied(home, 1500, needed) == 1000
    assert left() == [False, False, False, True]
    assert tidied(home, 0, needed) == 1000  # what is needed stays, whatever the bound


def test_shards_find_the_room_that_blobs_leave(home: Home) -> None:
    blob(home, "state", hours=0, size=10_000)
    cache = ShardCache(home.shards, 12_000, besides=besides(home, home.shards))
    with cache.build(SPEC, 0) as writer:
        writer.append("0.tokens", bytes(1500))
        writer.finish(GroupFacts(context=8, token_bytes=2, documents=1, tokens=750))
    assert cache.groups() == 1
    named = r"storage.cache_max: the shards of one window, with 10000 bytes of module states"
    with pytest.raises(ConfigError, match=named), cache.build(SPEC, 1) as writer:
        writer.append("0.tokens", bytes(2500))
    assert stored_in(home).total <= 12_000


@pytest.fixture
def no_descriptor() -> Iterator[None]:
    """Take all free file descriptors for the test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_a_free_descriptor_nothing_is_removed_and_nothing_ends(
    home: Home, no_descriptor: None, caplog: pytest.LogCaptureFixture
) -> None:
    home.runs.mkdir()
    blobs = BlobStore(home.blobs)
    claims = Claims(blobs, lambda: pinned_blobs(home.root, ()))
    claims.claim("run", [sha256(b"one")])
    claims.claim("run", [])
    tidy(blobs, claims, 0, home.root)
    assert [line.partition(":")[0] for line in caplog.messages] == [
        "old blobs stay for now",
        "the stored files are not tidied",
    ]
    assert all("Too many open files" in line for line in caplog.messages)
