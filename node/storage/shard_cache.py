"""The shard cache: groups of files that can be made again, bounded in bytes.

A group is what one pass over one window leaves behind: all shards of that window under one router
spec. It is written into a draft folder and renamed whole, so a crash leaves no half group. Each
file's length and SHA-256 stand in the group's index, so a damaged, cut or foreign file is noticed
when it is opened, and the group made again. Nothing is synced for the same reason.

    cache/shards/{spec in hex}-{window}/   index, lock, and files named by their maker
    cache/shards/.build-*, .gone-*         drafts, and groups on their way out
    cache/shards/.turn-*                   who makes a group; the others wait for him

Whoever uses a group holds a shared lock on it. Eviction takes the least recently used groups that
nobody holds. Several processes, and threads, may share one cache: every lock is a flock on an open
file of its own, which keeps threads apart as well, and dies with its process.
"""

import fcntl
import hashlib
import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import numpy as np
from msgspec import Meta
from numpy.typing import DTypeLike, NDArray

from dipaco.node.storage.files import PRIVATE, translated
from dipaco.protocol.errors import ConfigError, RemoteProtocolError
from dipaco.protocol.wire.canonical import Wire, decode, encode
from dipaco.protocol.wire.digest import DIGEST_BYTES, Digest, DigestField, sha256

MAX_FILES = 1 << 13  # of one group: some per path of the largest grid
MAX_INDEX_BYTES = 2 << 20
FLUSH_BYTES = 8 << 20  # held in memory while a group is written, over all its files
_LOCK, _INDEX = "lock", "index"

Size = Annotated[int, Meta(ge=0, le=1 << 50)]


class GroupFile(Wire, frozen=True, kw_only=True):
    """One file of a group."""

    name: Annotated[str, Meta(min_length=1, max_length=32)]
    size: Size
    """Bytes."""
    sha256: DigestField


class GroupFacts(Wire, frozen=True, kw_only=True):
    """What a group's maker says of it as a whole."""

    context: Annotated[int, Meta(ge=1, le=1 << 20)]
    """Tokens of one training sequence."""
    token_bytes: Annotated[int, Meta(ge=2, le=4)]
    """Of one stored token id, little-endian."""
    documents: Size
    tokens: Size


class GroupIndex(Wire, frozen=True, kw_only=True):
    """The index file of a group."""

    spec: DigestField
    window: Size
    facts: GroupFacts
    files: Annotated[tuple[GroupFile, ...], Meta(max_length=MAX_FILES)]


class DamagedGroup(Exception):
    """A file of the group is not what the index says; the group has been removed."""


class ShardGroup:
    """One whole group, held until `close`; get one from `ShardCache.open`."""

    def __init__(self, cache: "ShardCache", folder: Path, index: GroupIndex, lock: int) -> None:
        self._cache, self._folder, self._lock = cache, folder, lock
        self._files = {file.name: file for file in index.files}
        self.facts = index.facts

    def array(self, name: str, dtype: DTypeLike) -> NDArray[np.integer]:
        """Return a file's content as a read-only mapped array, (n,); empty without such a file.

        The file is hashed first; raises DamagedGroup if it is not the one that was written.
        The mapping stays good when the group is closed, and even when it is evicted.
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
        """Let go of the group: it may be evicted from now on."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _damaged(self, name: str) -> NoReturn:
        self.close()
        self._cache.drop(self._folder)
        raise DamagedGroup(f"{self._folder / name} is damaged; it will be made again")


class GroupWriter:
    """Writes the files of a group, a little of each at a time."""

    def __init__(self, cache: "ShardCache", folder: Path) -> None:
        self._cache, self._folder = cache, folder
        self._waiting: dict[str, bytearray] = {}
        self.waiting_bytes = 0
        self._hashes: dict[str, hashlib._Hash] = {}
        self._sizes: dict[str, int] = {}
        self.facts: GroupFacts | None = None

    def append(self, name: str, data: bytes) -> None:
        """Add bytes to the file called `name`; raises DiskFull, and ConfigError past the bound."""
        self._waiting.setdefault(name, bytearray()).extend(data)
        self.waiting_bytes += len(data)
        if self.waiting_bytes >= FLUSH_BYTES:
            self.flush()

    def finish(self, facts: GroupFacts) -> None:
        """State the facts; without this call the group is thrown away."""
        self.facts = facts

    def flush(self) -> None:
        """Write out what waits in memory."""
        self._cache.make_room(self.waiting_bytes, own=self._folder)
        for name, data in self._waiting.items():
            with translated(self._folder, "write"), (self._folder / name).open("ab") as file:
                file.write(data)
            self._hashes.setdefault(name, hashlib.sha256()).update(data)
            self._sizes[name] = self._sizes.get(name, 0) + len(data)
        self._waiting.clear()
        self.waiting_bytes = 0

    def entries(self) -> tuple[GroupFile, ...]:
        """Return what the index says of the files."""
        return tuple(
            GroupFile(name=name, size=self._sizes[name], sha256=Digest(running.digest()))
            for name, running in sorted(self._hashes.items())
        )


class ShardCache:
    """All groups of one node."""

    def __init__(self, root: Path, cache_max: int) -> None:
        """cache_max: that all groups may take together."""
        self._root, self._cache_max = root, cache_max
        with translated(root, "use the cache"):
            root.mkdir(parents=True, exist_ok=True)
            self._clear_away()

    def open(self, spec: Digest, window: int) -> ShardGroup | None:
        """Return a group, held and marked as used, or None if it is not here."""
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
        with translated(folder, "use"):
            os.utime(folder / _INDEX)
        return ShardGroup(self, folder, index, lock)

    @contextmanager
    def turn(self, spec: Digest, window: int, waits: Callable[[], None]) -> Iterator[None]:
        """Be the only one who makes this group: nobody else is in such a block meanwhile.

        waits   called once if somebody else is at it; look again for the group afterwards.
        """
        path = self._root / f".turn-{spec.hex()}-{window}"
        with translated(path, "lock"):
            turn = _sole(path, waits)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is ours: who waits for it sees that it is gone
            os.close(turn)

    @contextmanager
    def build(self, spec: Digest, window: int) -> Iterator[GroupWriter]:
        """Make a group, in place once the block has called `finish` and ended well.

        If another process was faster its group stays: it holds the same bytes.
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

    def make_room(self, extra: int, *, own: Path) -> None:
        """Evict until `extra` more bytes fit beside the draft `own`.

        Raises ConfigError if they cannot: the bound is the volunteer's, and it is kept.
        """
        total = extra + _bytes_of(own)
        others = [folder for folder in self._root.iterdir() if folder != own and folder.is_dir()]
        sizes = {folder: _bytes_of(folder) for folder in others}
        total += sum(sizes.values())
        for folder in sorted(others, key=_last_use):
            if total <= self._cache_max:
                return
            if not folder.name.startswith(".") and self._remove(folder):
                total -= sizes[folder]
        if total > self._cache_max:
            raise ConfigError(
                f"storage.cache_max: the shards of one window need more than its "
                f"{self._cache_max} bytes; raise it to train this run"
            )

    def drop(self, folder: Path) -> None:
        """Remove a damaged group, even while somebody has it mapped."""
        gone = self._gone()
        try:
            folder.rename(gone)
        except FileNotFoundError:
            return  # another process was faster
        _delete(gone)

    def clear(self) -> None:
        """Remove every group that nobody holds."""
        for folder in self._root.iterdir():
            self._remove(folder)

    def total_bytes(self) -> int:
        """Return the bytes of all groups and drafts."""
        return sum(_bytes_of(folder) for folder in self._root.iterdir())

    def groups(self) -> int:
        """Return how many groups there are."""
        return sum(1 for folder in self._root.iterdir() if not folder.name.startswith("."))

    def _folder(self, spec: Digest, window: int) -> Path:
        return self._root / f"{spec.hex()}-{window}"

    def _gone(self) -> Path:
        return self._root / f".gone-{os.getpid()}-{os.urandom(4).hex()}"

    def _draft(self) -> tuple[Path, int]:
        """Make a folder for a new group; returns it and its lock, held."""
        draft = self._root / f".build-{os.getpid()}-{os.urandom(4).hex()}"
        with translated(self._root, "write"), self._quiet():
            draft.mkdir()
            lock = os.open(draft / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
            fcntl.flock(lock, fcntl.LOCK_EX)
        return draft, lock

    def _clear_away(self) -> None:
        """Remove what processes that died left behind; those that live hold their locks."""
        with self._quiet():
            for gone in self._root.glob(".gone-*"):
                _delete(gone)
            for draft in self._root.glob(".build-*"):
                if _is_whole(draft):
                    self._remove(draft)
                else:
                    self.drop(draft)  # its maker died before it had a lock, or while it removed it
            for turn in self._root.glob(".turn-*"):
                _remove_idle(turn)

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Hold the whole cache for a moment: drafts are made and cleared away in here alone."""
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
        """Remove a group or draft unless somebody holds it."""
        lock = _lock(folder, fcntl.LOCK_EX)
        if lock is None:
            return False
        try:
            self.drop(folder)
        finally:
            os.close(lock)
        return True


def _lock(folder: Path, kind: int) -> int | None:
    """Lock a folder; None if it is not there, damaged, or held in a way that forbids it."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        if _is_at(descriptor, folder / _LOCK):  # else removed meanwhile, and perhaps made again
            return descriptor
    except BlockingIOError:
        pass  # in use
    os.close(descriptor)
    return None


def _sole(path: Path, waits: Callable[[], None]) -> int:
    """Return the lock on a file of this name, once nobody else has it."""
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
        os.close(descriptor)  # its holder removed the name: the next to come would not see ours


def _remove_idle(path: Path) -> None:
    """Remove a lock file that nobody holds."""
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
    """Whether an open file still goes by this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_whole(folder: Path) -> bool:
    """Whether a name is free, or a folder with a lock in it; anything else is damaged."""
    return not os.path.lexists(folder) or (folder / _LOCK).is_file()


def _delete(path: Path) -> None:
    """Delete a folder, or whatever lies in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _read_index(folder: Path) -> GroupIndex | None:
    """The group's index, if it is whole and the files have the sizes it states."""
    try:
        data = (folder / _INDEX).read_bytes()
        body, digest = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
        if sha256(body) != digest:
            return None
        index = decode(body, GroupIndex, limit=MAX_INDEX_BYTES)
        whole = all((folder / file.name).stat().st_size == file.size for file in index.files)
    except (OSError, RemoteProtocolError):  # gone, a folder of this name, a bad sector: no matter
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
