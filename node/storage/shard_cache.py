"""The shard cache: groups of files that can be computed again, bounded in bytes.

A group holds all shards of one window under one router spec: the output of one pass over that
window. It is written into a draft folder and renamed whole, so a crash leaves no half group. Each
file's length and SHA-256 are in the group's index, so a damaged, cut or foreign file is noticed
when it is opened, and the group is computed again. For the same reason nothing is synced.

    cache/shards/{spec in hex}-{window}/   index, lock, and files named by the group's builder
    cache/shards/.build-*, .gone-*         drafts, and groups that are being removed
    cache/shards/.turn-*                   lock of the process that builds a group; others wait

Every user of a group holds a shared lock on it. Eviction removes the least recently used groups
without a lock. Several processes and threads may share one cache: every lock is a flock on an open
file of its own. So it also separates threads, and ends with its process.
"""

import fcntl
import hashlib
import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import numpy as np
from msgspec import Meta
from numpy.typing import DTypeLike, NDArray

from dipaco.node.storage.files import PRIVATE, DiskFull, remove_path, translated
from dipaco.protocol.errors import ConfigError, RemoteProtocolError
from dipaco.protocol.wire.canonical import Wire, decode, encode
from dipaco.protocol.wire.digest import DIGEST_BYTES, Digest, DigestField, sha256

MAX_FILES = 1 << 13  # of one group: some per path of the largest grid
MAX_INDEX_BYTES = 2 << 20
FLUSH_BYTES = 8 << 20  # buffered while a group is written, over all its files
_LOCK, _INDEX = "lock", "index"

Size = Annotated[int, Meta(ge=0, le=1 << 50)]


class GroupFile(Wire, frozen=True, kw_only=True):
    """One file of a group."""

    name: Annotated[str, Meta(min_length=1, max_length=32)]
    size: Size
    """Bytes."""
    sha256: DigestField


class GroupFacts(Wire, frozen=True, kw_only=True):
    """A group's properties as a whole, stated by its builder."""

    context: Annotated[int, Meta(ge=1, le=1 << 20)]
    """Tokens of one training sequence."""
    token_bytes: Annotated[int, Meta(ge=2, le=4)]
    """Of one stored token id, little-endian."""
    documents: Size
    tokens: Size


class GroupIndex(Wire, frozen=True, kw_only=True):
    """The index file of a group; one of another format is made again."""

    format: Literal[2] = 2
    spec: DigestField
    window: Size
    facts: GroupFacts
    files: Annotated[tuple[GroupFile, ...], Meta(max_length=MAX_FILES)]


class DamagedGroup(Exception):
    """A file of the group differs from the index; the group has been removed."""


class ShardGroup:
    """One whole group, locked until `close`; get one from `ShardCache.open`."""

    def __init__(self, cache: "ShardCache", folder: Path, index: GroupIndex, lock: int) -> None:
        self._cache, self._folder, self._lock = cache, folder, lock
        self._files = {file.name: file for file in index.files}
        self.facts = index.facts

    def array(self, name: str, dtype: DTypeLike) -> NDArray[np.integer]:
        """Return a file's content as a read-only mapped array, (n,); empty without such a file.

        The file is hashed first; raises DamagedGroup if it is not the one that was written.
        The array stays valid after the group is closed, and even after it is evicted.
        """
        entry = self._files.get(name)
        if entry is None or entry.size == 0:
            return np.empty(0, dtype=dtype)
        try:
            with (self._folder / name).open("rb") as file:
                mapped = mmap.mmap(file.fileno(), entry.size, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # gone, or shorter than the index says
            self._damaged(name)
        if sha256(memoryview(mapped)) != entry.sha256:
            self._damaged(name)
        return np.frombuffer(mapped, dtype=dtype)

    def close(self) -> None:
        """Release the lock: the group may be evicted from now on."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _damaged(self, name: str) -> NoReturn:
        self.close()
        self._cache.drop(self._folder)
        raise DamagedGroup(f"{self._folder / name} is damaged; it will be computed again")


class GroupWriter:
    """Writes the files of a group, a little of each at a time."""

    def __init__(self, cache: "ShardCache", folder: Path) -> None:
        self._cache, self._folder = cache, folder
        self._buffered: dict[str, bytearray] = {}
        self.buffered_bytes = 0
        self._hashes: dict[str, hashlib._Hash] = {}
        self._sizes: dict[str, int] = {}
        self.facts: GroupFacts | None = None

    def append(self, name: str, data: bytes) -> None:
        """Add bytes to the file called `name`; raises DiskFull, and ConfigError past cache_max."""
        self._buffered.setdefault(name, bytearray()).extend(data)
        self.buffered_bytes += len(data)
        if self.buffered_bytes >= FLUSH_BYTES:
            self.flush()

    def finish(self, facts: GroupFacts) -> None:
        """State the facts; without this call the group is discarded."""
        self.facts = facts

    def flush(self) -> None:
        """Write the buffered bytes."""
        self._cache.evict_for(self.buffered_bytes, own=self._folder)
        for name, data in self._buffered.items():
            with translated(self._folder, "write"), (self._folder / name).open("ab") as file:
                file.write(data)
            self._hashes.setdefault(name, hashlib.sha256()).update(data)
            self._sizes[name] = self._sizes.get(name, 0) + len(data)
        self._buffered.clear()
        self.buffered_bytes = 0

    def entries(self) -> tuple[GroupFile, ...]:
        """Return the index's entries of the files."""
        return tuple(
            GroupFile(name=name, size=self._sizes[name], sha256=Digest(running.digest()))
            for name, running in sorted(self._hashes.items())
        )


class ShardCache:
    """All groups of one node."""

    def __init__(
        self, root: Path, cache_max: int, *, besides: Callable[[], int] = lambda: 0
    ) -> None:
        """Use the cache at `root`, and remove the drafts of dead processes.

        cache_max   the most bytes of all groups, together with what else the bound counts.
        besides     measures that, in bytes.
        """
        self._root, self._cache_max, self._besides = root, cache_max, besides
        with translated(root, "use the cache"):
            root.mkdir(parents=True, exist_ok=True)
            self._clear_away()

    def open(self, spec: Digest, window: int) -> ShardGroup | None:
        """Return a group, locked and marked as used, or None if it is not here."""
        folder = self._folder(spec, window)
        lock = _lock(folder, fcntl.LOCK_SH)
        if lock is None:
            if not _is_whole(folder):
                self.drop(folder)
            return None
        index = _read_index(folder)
        if index is None or (index.spec, index.window) != (spec, window):
            os.close(lock)
            self.drop(folder)
            return None
        try:
            with translated(folder, "use"):
                os.utime(folder / _INDEX)
        except (ConfigError, DiskFull):
            os.close(lock)
            raise
        return ShardGroup(self, folder, index, lock)

    @contextmanager
    def turn(self, spec: Digest, window: int, waits: Callable[[], None]) -> Iterator[None]:
        """Hold the exclusive right to build this group during the block.

        waits   called once if another process holds it. After a wait, `open` the group first: it
                may be there now.
        """
        path = self._root / f".turn-{spec.hex()}-{window}"
        with translated(path, "lock"):
            turn = _sole(path, waits)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # while locked: a process that waits sees the removal
            os.close(turn)

    @contextmanager
    def build(self, spec: Digest, window: int) -> Iterator[GroupWriter]:
        """Build a group; it is put in place if the block calls `finish` and succeeds.

        If another process was faster, its group stays: it holds the same bytes.
        """
        draft, lock = self._draft()
        try:
            writer = GroupWriter(self, draft)
            yield writer
            writer.flush()
            if writer.facts is not None:
                self._commit(draft, writer, spec, window)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            os.close(lock)

    def evict_for(self, extra: int, *, own: Path) -> None:
        """Evict groups until `extra` more bytes fit beside the draft `own`.

        Raises ConfigError if they cannot fit: the operator's limit is never exceeded.
        """
        beside = self._besides()
        left = self._cache_max - beside - extra - _bytes_of(own)
        self.shrink(left, own=own)
        if self.total_bytes() - _bytes_of(own) > max(0, left) or left < 0:
            held = f", with {beside} bytes of module states and source files" if beside else ""
            raise ConfigError(
                f"storage.cache_max: the shards of one window{held} need more than "
                f"{self._cache_max} bytes; raise it to train this run"
            )

    def shrink(self, most: int, *, own: Path | None = None) -> int:
        """Evict groups until at most `most` bytes of groups are left; returns the bytes freed.

        own   a draft that does not count, and stays.
        """
        others = [folder for folder in self._root.iterdir() if folder != own and folder.is_dir()]
        sizes = {folder: _bytes_of(folder) for folder in others}
        total, freed = sum(sizes.values()), 0
        for folder in sorted(others, key=_last_use):
            if total - freed <= most:
                break
            if not folder.name.startswith(".") and self._remove(folder):
                freed += sizes[folder]
        return freed

    def drop(self, folder: Path) -> None:
        """Remove a damaged group, even while a process has it mapped."""
        gone = self._gone()
        try:
            folder.rename(gone)
        except FileNotFoundError:
            return  # another process was faster
        remove_path(gone)

    def clear(self) -> None:
        """Remove every group that is not locked."""
        for folder in self._root.iterdir():
            self._remove(folder)

    def total_bytes(self) -> int:
        """Return the bytes of all groups and drafts."""
        return sum(_bytes_of(folder) for folder in self._root.iterdir())

    def groups(self) -> int:
        """Return the number of groups."""
        return sum(1 for folder in self._root.iterdir() if not folder.name.startswith("."))

    def _folder(self, spec: Digest, window: int) -> Path:
        return self._root / f"{spec.hex()}-{window}"

    def _gone(self) -> Path:
        return self._root / f".gone-{os.getpid()}-{os.urandom(4).hex()}"

    def _draft(self) -> tuple[Path, int]:
        """Make the folder of a new group; returns it and the descriptor of its lock, held."""
        draft = self._root / f".build-{os.getpid()}-{os.urandom(4).hex()}"
        with translated(self._root, "write"), self._quiet():
            draft.mkdir()
            lock = os.open(draft / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
            fcntl.flock(lock, fcntl.LOCK_EX)
        return draft, lock

    def _clear_away(self) -> None:
        """Remove the drafts and locks of dead processes; live processes hold their locks."""
        with self._quiet():
            for gone in self._root.glob(".gone-*"):
                remove_path(gone)
            for draft in self._root.glob(".build-*"):
                if _is_whole(draft):
                    self._remove(draft)
                else:
                    self.drop(draft)  # its process died before it had the lock, or in removing it
            for turn in self._root.glob(".turn-*"):
                _remove_idle(turn)

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Lock the whole cache: drafts are made and cleared away only under this lock."""
        root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(root, fcntl.LOCK_EX)
            yield
        finally:
            os.close(root)

    def _commit(self, draft: Path, writer: GroupWriter, spec: Digest, window: int) -> None:
        assert writer.facts is not None
        index = GroupIndex(spec=spec, window=window, facts=writer.facts, files=writer.entries())
        body = encode(index)
        with translated(draft, "write"):
            (draft / _INDEX).write_bytes(body + sha256(body))
            try:
                draft.rename(self._folder(spec, window))
            except OSError:
                if not self._folder(spec, window).is_dir():
                    raise

    def _remove(self, folder: Path) -> bool:
        """Remove a group or draft unless it is locked; returns whether it was removed."""
        lock = _lock(folder, fcntl.LOCK_EX)
        if lock is None:
            return False
        try:
            self.drop(folder)
        finally:
            os.close(lock)
        return True


def _lock(folder: Path, kind: int) -> int | None:
    """Lock a folder; returns None if it is missing, damaged, or under a conflicting lock."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        if _is_at(descriptor, folder / _LOCK):  # else removed meanwhile, and perhaps built again
            return descriptor
    except BlockingIOError:
        pass  # locked by another user
    os.close(descriptor)
    return None


def _sole(path: Path, waits: Callable[[], None]) -> int:
    """Return the lock on a file of this name; wait until no other process holds it."""
    told = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                told = True
                waits()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)  # the last holder removed the name: a newcomer would not see this lock


def _remove_idle(path: Path) -> None:
    """Remove a lock file that is not locked."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(descriptor, path):
            path.unlink(missing_ok=True)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_whole(folder: Path) -> bool:
    """Return whether a name is free or a folder with a lock; anything else is damaged."""
    return not os.path.lexists(folder) or (folder / _LOCK).is_file()


def _read_index(folder: Path) -> GroupIndex | None:
    """Return the group's index, if it is whole and the files have the sizes that it states."""
    try:
        data = (folder / _INDEX).read_bytes()
        body, digest = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
        if sha256(body) != digest:
            return None
        index = decode(body, GroupIndex, limit=MAX_INDEX_BYTES)
        whole = all((folder / file.name).stat().st_size == file.size for file in index.files)
    except (OSError, RemoteProtocolError):  # gone, a folder of this name, or a bad sector
        return None
    return index if whole else None


def _bytes_of(folder: Path) -> int:
    total = 0
    try:
        for entry in os.scandir(folder):
            total += entry.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        pass  # removed meanwhile by another process
    return total


def _last_use(folder: Path) -> float:
    try:
        return (folder / _INDEX).stat().st_mtime
    except FileNotFoundError:
        return 0.0
