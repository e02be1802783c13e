"""Rules of this file: real files; two stores on one folder stand for two processes."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dipaco.node.storage.blobs import BlobMissing, BlobStore
from dipaco.protocol.errors import LocalProtocolError, RemoteProtocolError
from dipaco.protocol.wire.digest import Digest, sha256


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def used(store: BlobStore, digest: Digest, when: int) -> None:
    os.utime(store.path(digest), (when, when))


def test_a_blob_is_named_by_its_sha256_and_read_back(store: BlobStore) -> None:
    digest = store.write(b"words")
    assert digest == sha256(b"words")
    assert store.path(digest).parts[-2:] == (digest.hex()[:2], digest.hex())
    assert (store.has(digest), store.size(digest)) == (True, 5)
    assert store.read(digest, limit=5) == b"words"


def test_what_one_process_writes_another_reads(store: BlobStore, tmp_path: Path) -> None:
    other = BlobStore(tmp_path / "blobs")
    digest = store.write(b"words")
    assert other.read(digest, limit=5) == b"words"


def test_a_stream_gives_the_same_blob_as_its_bytes_and_leaves_no_draft(store: BlobStore) -> None:
    digest = store.write_stream([b"wo", b"", b"rds"])
    assert digest == sha256(b"words")
    assert store.total_bytes() == 5


def test_a_stream_that_breaks_off_leaves_nothing(store: BlobStore) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.write_stream(broken())
    assert store.total_bytes() == 0


def test_a_missing_blob_is_said_to_be_missing(store: BlobStore) -> None:
    digest = sha256(b"never written")
    assert not store.has(digest)
    for attempt in (
        lambda: store.size(digest),
        lambda: store.read(digest, limit=100),
        lambda: store.read_array(digest, 1),
        lambda: store.read_range(digest, 0, 1),
    ):
        with pytest.raises(BlobMissing, match=digest.hex()[:8]):
            attempt()


def test_a_blob_above_the_limit_is_not_read(store: BlobStore) -> None:
    digest = store.write(b"words")
    with pytest.raises(RemoteProtocolError, match="5 bytes, at most 4"):
        store.read(digest, limit=4)
    assert store.has(digest)


@pytest.mark.parametrize("damage", [b"wOrds", b"word", b"words "])
def test_a_damaged_blob_is_removed_and_counts_as_missing(store: BlobStore, damage: bytes) -> None:
    digest = store.write(b"words")
    store.path(digest).write_bytes(damage)
    with pytest.raises(BlobMissing):
        store.read(digest, limit=100)
    assert not store.has(digest)
    store.write(b"words")
    assert store.read(digest, limit=100) == b"words"


@pytest.mark.parametrize("damage", [b"", b"word", b"words and more"])
def test_a_blob_of_the_wrong_length_counts_as_missing_and_can_be_written_again(
    store: BlobStore, damage: bytes
) -> None:
    digest = store.write(b"words of 12.")
    store.path(digest).write_bytes(damage)
    assert store.has(digest)
    assert not store.has(digest, 12)
    assert not store.path(digest).exists()
    store.partial(digest, 12).append(b"words of 12.")
    store.partial(digest, 12).finish()
    assert store.has(digest, 12)


def test_a_sound_blob_of_another_length_than_the_expected_one_stays(store: BlobStore) -> None:
    digest = store.write(b"words")
    assert store.has(digest, 12)  # the reader names whose fault it is
    with pytest.raises(RemoteProtocolError, match="5 bytes"):
        store.read_array(digest, 3)
    assert store.has(digest)


@pytest.mark.parametrize("elements", [2, 4])
def test_a_cut_array_counts_as_missing_whatever_length_is_asked(
    store: BlobStore, elements: int
) -> None:
    digest = store.write_array(np.zeros(elements, dtype=np.float32))
    store.path(digest).write_bytes(bytes(12))
    with pytest.raises(BlobMissing):
        store.read_array(digest, elements)
    with pytest.raises(BlobMissing):
        store.size(digest)


def test_a_long_file_in_the_place_of_a_short_blob_counts_as_missing(store: BlobStore) -> None:
    digest = store.write(b"words")
    store.path(digest).write_bytes(b"words and more")
    with pytest.raises(BlobMissing):
        store.read(digest, limit=5)


@pytest.mark.parametrize("what", ["folder in place of the blob", "file in place of its folder"])
def test_damage_to_the_folders_is_repaired_by_the_next_write(store: BlobStore, what: str) -> None:
    digest = store.write(b"words")
    path = store.path(digest)
    path.unlink()
    if what.startswith("folder"):
        (path / "within").mkdir(parents=True)
    else:
        path.parent.rmdir()
        path.parent.write_bytes(b"")
    assert not store.has(digest)
    with pytest.raises(BlobMissing):
        store.read_range(digest, 0, 1)
    store.write(b"words")
    assert store.read(digest, limit=5) == b"words"


def test_pruning_forgets_that_a_blob_was_checked(store: BlobStore) -> None:
    digest = store.write(b"words")
    store.read_range(digest, 0, 5)
    assert digest in store._checked
    store.prune(keep=(), max_bytes=0)
    assert store._checked == {}


def test_a_damaged_blob_is_not_served_even_after_it_was_served_well(store: BlobStore) -> None:
    digest = store.write(b"words")
    assert store.read_range(digest, 1, 3) == b"ord"
    store.path(digest).write_bytes(b"wOrds")
    with pytest.raises(BlobMissing):
        store.read_range(digest, 1, 3)
    assert not store.has(digest)


def test_writing_over_a_damaged_blob_repairs_it(store: BlobStore) -> None:
    digest = store.write(b"words")
    store.path(digest).write_bytes(b"wOrds")
    assert store.write(b"words") == digest
    assert store.read(digest, limit=5) == b"words"


def test_ranges_end_at_the_end_of_the_blob(store: BlobStore) -> None:
    digest = store.write(b"words")
    assert store.read_range(digest, 3, 100) == b"ds"
    assert store.read_range(digest, 5, 100) == b""


def test_an_array_comes_back_bit_for_bit_and_can_be_written_to(store: BlobStore) -> None:
    array = np.array([0.0, -0.0, 1.5, np.inf, np.nan], dtype=np.float32)
    digest = store.write_array(array)
    assert store.read(digest, limit=20) == array.astype("<f4").tobytes()
    back = store.read_array(digest, 5)
    assert back.dtype == np.float32 and back.flags.writeable
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize("elements", [4, 6])
def test_an_array_of_another_length_is_refused(store: BlobStore, elements: int) -> None:
    digest = store.write_array(np.zeros(5, dtype=np.float32))
    with pytest.raises(RemoteProtocolError, match="20 bytes"):
        store.read_array(digest, elements)


def test_only_float32_is_written_as_an_array(store: BlobStore) -> None:
    with pytest.raises(LocalProtocolError, match="float64"):
        store.write_array(np.zeros(5))  # type: ignore[arg-type]


def test_a_blob_arrives_in_parts_over_a_restart(store: BlobStore, tmp_path: Path) -> None:
    digest = sha256(b"words")
    store.partial(digest, 5).append(b"wor")
    later = BlobStore(tmp_path / "blobs").partial(digest, 5)
    assert later.received == 3
    assert not store.has(digest)
    later.append(b"ds")
    later.finish()
    assert store.read(digest, limit=5) == b"words"
    assert store.partial(digest, 5).received == 0


def test_an_empty_blob_can_arrive_too(store: BlobStore) -> None:
    store.partial(sha256(b""), 0).finish()
    assert store.read(sha256(b""), limit=0) == b""


def test_a_wrong_blob_is_thrown_away_on_arrival(store: BlobStore) -> None:
    partial = store.partial(sha256(b"words"), 5)
    partial.append(b"wOrds")
    with pytest.raises(RemoteProtocolError, match="another digest"):
        partial.finish()
    assert (partial.received, store.total_bytes()) == (0, 0)


def test_bytes_past_the_size_are_refused_and_missing_ones_awaited(store: BlobStore) -> None:
    partial = store.partial(sha256(b"words"), 5)
    partial.append(b"word")
    with pytest.raises(RemoteProtocolError, match="more than the 5 bytes"):
        partial.append(b"s!")
    with pytest.raises(RemoteProtocolError, match="4 of 5 bytes"):
        partial.finish()
    assert partial.received == 4


def test_pruning_removes_what_was_not_used_for_longest(store: BlobStore) -> None:
    digests = [store.write(bytes([i]) * 10) for i in range(4)]
    for age, digest in enumerate(digests):
        used(store, digest, when=1_000_000 + age)
    store.read(digests[0], limit=10)  # now the most recently used
    assert store.prune(keep=[], max_bytes=25) == 20
    assert [store.has(digest) for digest in digests] == [True, False, False, True]


def test_pruning_never_removes_what_is_kept_whatever_the_bound(store: BlobStore) -> None:
    digests = [store.write(bytes([i]) * 10) for i in range(3)]
    arriving = sha256(b"arriving")
    store.partial(arriving, 8).append(b"arr")
    assert store.prune(keep={digests[1], arriving}, max_bytes=0) == 20
    assert [store.has(digest) for digest in digests] == [False, True, False]
    assert store.partial(arriving, 8).received == 3


def test_drafts_of_a_crashed_writer_are_removed_and_blobs_stay(
    store: BlobStore, tmp_path: Path
) -> None:
    digest = store.write(b"words")
    alive, dead = os.getppid(), 1 << 22  # Linux gives no such number to a process
    for place in (store.path(digest).parent, tmp_path / "blobs" / "partial"):
        (place / f"00.{dead}-0123abcd.temp").write_bytes(b"half")
        (place / f"00.{alive}-0123abcd.temp").write_bytes(b"at work")
    store.remove_drafts()
    assert store.total_bytes() == 5 + 2 * 7


@pytest.mark.parametrize("size", [0, 1, 4, 9])
def test_the_digests_of_chunks_come_with_the_check_of_the_blob(tmp_path: Path, size: int) -> None:
    store, data = BlobStore(tmp_path), bytes(range(size))
    digest = store.write(data)
    cut = tuple(sha256(data[at : at + 4]) for at in range(0, size, 4))
    assert store.chunk_digests(digest, 4) == cut
    assert store.chunk_digests(digest, 4) == cut  # known to be sound by now


@pytest.mark.parametrize("damage", [b"?123456789", b"01234", b"0123456789more"])
def test_a_damaged_blob_has_no_chunks_and_is_removed(tmp_path: Path, damage: bytes) -> None:
    store = BlobStore(tmp_path)
    digest = store.write(b"0123456789")
    assert store.chunk_digests(digest, 4)
    store.path(digest).write_bytes(damage)
    os.utime(store.path(digest), ns=(1, 1))
    with pytest.raises(BlobMissing):
        store.chunk_digests(digest, 4)
    assert not store.path(digest).exists()
