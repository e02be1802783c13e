"""Files fetched whole: hashed before use, kept in a folder that is bounded in bytes.

A file is called by the SHA-256 that it must have, never by what a manifest calls it. What has come
of it waits in a `.part` beside it, so a broken connection, and a restart too, go on where they
stopped. Processes that want the same file wait for one another. Eviction takes what was used
longest ago; a file that is open stays readable all the same.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from dipaco.node.data.retry import RetryPolicy
from dipaco.node.jobs.meter import Meter, OnProgress
from dipaco.node.storage.files import PRIVATE, hash_file, translated
from dipaco.protocol.errors import ConfigError, Unavailable
from dipaco.protocol.run.source import SourceFile
from dipaco.protocol.wire.digest import Digest, short

MEGABYTE = 1_000_000
_PART, _LOCK = ".part", "lock"

Fetch = Callable[[int], Iterator[bytes]]
"""Yields the file's bytes from an offset on, in pieces; raises Broken or Unavailable."""


@dataclass(frozen=True)
class Downloads:
    """The folder of one home."""

    folder: Path
    cache_max: int
    """Bytes of all its files together."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    def get(self, file: SourceFile, fetch: Fetch, on_progress: OnProgress) -> Path:
        """Return where the verified file is, fetched if it is not there yet.

        Raises Unavailable if it cannot be had or is another one, ConfigError if it is larger than
        the folder may be, DiskFull.
        """
        if file.size > self.cache_max:
            raise ConfigError(
                f"storage.cache_max: {file.name} of the source has {file.size} bytes, "
                f"{self.cache_max} are allowed"
            )
        path = self.folder / file.sha256.hex()
        with self._locked():
            if not self._is_good(path, file):
                self._make_room(path, file.size)
                self._fetch(path, file, fetch, on_progress)
            with translated(path, "use"):
                os.utime(path)
        return path

    def get_unpinned(
        self, name: str, fetch: Fetch, on_progress: OnProgress
    ) -> tuple[Path, int, Digest]:
        """Fetch a file of which nothing is known yet; return where it is, its size and SHA-256.

        name   for messages. Raises what `get` raises.
        """
        part = self.folder / f"{os.getpid()}-{os.urandom(4).hex()}{_PART}"
        with self._locked(), translated(part, "write"):
            try:
                with part.open("xb") as out:
                    meter = Meter(on_progress, "download", 0, unit="MB")
                    self.retry.retry(
                        lambda: _append(out, name, self.cache_max, fetch, meter),
                        f"source.files: {name}",
                    )
                    size = out.tell()
                digest = hash_file(part)
                path = part.rename(self.folder / digest.hex())
                self._make_room(path, size)
            finally:
                part.unlink(missing_ok=True)  # it has its own name by now, unless this failed
        return path, size, digest

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with translated(self.folder, "use"):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _is_good(self, path: Path, file: SourceFile) -> bool:
        """Whether it is there, of the right length: who reads it looks at the digest again."""
        return path.is_file() and path.stat().st_size == file.size

    def forget(self, file: SourceFile) -> None:
        """Delete a file that turned out damaged."""
        with self._locked():
            (self.folder / file.sha256.hex()).unlink(missing_ok=True)

    def _make_room(self, kept: Path, size: int) -> None:
        """Evict until `size` bytes fit, not counting what `kept` has and its part."""
        mine = (_LOCK, kept.name, kept.name + _PART)
        with translated(self.folder, "read"):
            others = [path for path in self.folder.iterdir() if path.name not in mine]
            marks = sorted((p.stat().st_mtime_ns, p.stat().st_size, p) for p in others)
            used = sum(each for _, each, _ in marks)
            for _, each, path in marks:
                if used + size <= self.cache_max:
                    return
                path.unlink()
                used -= each

    def _fetch(self, path: Path, file: SourceFile, fetch: Fetch, on_progress: OnProgress) -> None:
        part = path.with_name(path.name + _PART)
        with translated(part, "write"), part.open("ab") as out:
            meter = Meter(on_progress, "download", file.size // MEGABYTE, unit="MB")
            if out.tell() < file.size:
                self.retry.retry(
                    lambda: _append(out, file.name, file.size, fetch, meter),
                    f"source.files: {file.name}",
                )
            out.flush()
            os.fsync(out.fileno())
        found = hash_file(part)
        if found != file.sha256:
            part.unlink()
            raise _other_file(file, found)
        with translated(path, "write"):
            part.rename(path)


def _append(out: BinaryIO, name: str, limit: int, fetch: Fetch, meter: Meter) -> None:
    """Append what is missing; a file that is longer than `limit` is noticed at once."""
    done = out.seek(0, os.SEEK_END)
    for piece in fetch(done):
        if done + len(piece) > limit:
            out.truncate(0)
            raise Unavailable(f"source.files: {name}: more than the {limit} bytes that it may have")
        out.write(piece)
        done += len(piece)
        if done // MEGABYTE > (done - len(piece)) // MEGABYTE:
            meter.at(done // MEGABYTE)


def _other_file(file: SourceFile, found: Digest) -> Unavailable:
    return Unavailable(
        f"source.files: {file.name}: not the file that the run pins (SHA-256 "
        f"{short(file.sha256)}..., found {short(found)}...)"
    )


def hashed(pieces: Iterator[bytes]) -> tuple[int, Digest]:
    """Return length and SHA-256 of what comes."""
    running, size = hashlib.sha256(), 0
    for piece in pieces:
        running.update(piece)
        size += len(piece)
    return size, Digest(running.digest())
