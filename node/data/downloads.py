"""Downloads: files that are fetched whole, hashed before use, and kept in a bounded folder.

The name of a file is the SHA-256 that it must have, never the name in a manifest. An incomplete
file has the suffix `.part`, so a download continues after a broken connection and after a restart.
Processes that want the same file wait for one another. The file that was used longest ago is
deleted first; a file that is open stays readable.
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
from dipaco.node.storage.files import PRIVATE, hash_file, temporary_name, translated
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
    """Bytes of all its files, together with what else the bound counts."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    besides: Callable[[], int] = lambda: 0
    """Measures that, in bytes."""

    def get(self, file: SourceFile, fetch: Fetch, on_progress: OnProgress) -> Path:
        """Return the path of a file of the right size, after fetching it if it is missing.

        A fetched file has the right digest; the reader hashes one that was there before. Raises
        Unavailable if the file cannot be fetched or has another digest, ConfigError if it is larger
        than the folder may be, and DiskFull.
        """
        if file.size > self.most:
            raise ConfigError(
                f"storage.cache_max: {file.name} of the source has {file.size} bytes, the limit of "
                f"{self.cache_max} leaves {max(0, self.most)}"
            )
        path = self.folder / file.sha256.hex()
        with self._locked():
            if not self._is_good(path, file):
                self._evict_for(path, file.size)
                self._fetch(path, file, fetch, on_progress)
            with translated(path, "use"):
                os.utime(path)
        return path

    @property
    def most(self) -> int:
        """The bytes that its files may have together now."""
        return self.cache_max - self.besides()

    def get_unpinned(
        self, name: str, fetch: Fetch, on_progress: OnProgress
    ) -> tuple[Path, int, Digest]:
        """Fetch a file whose digest is not known yet; return its path, size and SHA-256.

        name   for messages. Raises the errors of `get`.
        """
        part = self.folder / temporary_name("download")
        with self._locked(), translated(part, "write"):
            try:
                with part.open("xb") as out:
                    meter = Meter(on_progress, "download", 0, unit="MB")
                    self.retry.telling(on_progress).retry(
                        lambda: _append(out, name, self.most, fetch, meter),
                        f"source.files: {name}",
                    )
                    size = out.tell()
                digest = hash_file(part)
                path = part.rename(self.folder / digest.hex())
                self._evict_for(path, size)
            finally:
                part.unlink(missing_ok=True)  # it is there only if something failed
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
        """Return whether the file is there in the right size; its reader checks the digest."""
        return path.is_file() and path.stat().st_size == file.size

    def forget(self, file: SourceFile) -> None:
        """Delete a damaged file."""
        with self._locked():
            (self.folder / file.sha256.hex()).unlink(missing_ok=True)

    def _evict_for(self, kept: Path, size: int) -> None:
        """Delete old files until `size` bytes fit, beside the file `kept` and its part."""
        mine = (_LOCK, kept.name, kept.name + _PART)
        with translated(self.folder, "read"):
            others = [path for path in self.folder.iterdir() if path.name not in mine]
            marks = sorted((p.stat().st_mtime_ns, p.stat().st_size, p) for p in others)
            used, most = sum(each for _, each, _ in marks), self.most
            for _, each, path in marks:
                if used + size <= most:
                    return
                path.unlink(missing_ok=True)
                used -= each

    def _fetch(self, path: Path, file: SourceFile, fetch: Fetch, on_progress: OnProgress) -> None:
        part = path.with_name(path.name + _PART)
        with translated(part, "write"), part.open("ab") as out:
            meter = Meter(on_progress, "download", file.size // MEGABYTE, unit="MB")
            if out.tell() < file.size:
                self.retry.telling(on_progress).retry(
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
    """Append the missing bytes; raises Unavailable as soon as they are more than `limit`."""
    done = out.seek(0, os.SEEK_END)
    for piece in fetch(done):
        if done + len(piece) > limit:
            out.truncate(0)
            raise Unavailable(f"source.files: {name}: longer than its limit of {limit} bytes")
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
    """Return length and SHA-256 of all pieces together."""
    running, size = hashlib.sha256(), 0
    for piece in pieces:
        running.update(piece)
        size += len(piece)
    return size, Digest(running.digest())
