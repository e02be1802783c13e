"""The home folder of a node, and the one way in which its files are written.

A file is written whole or not at all: temporary file, fsync, rename, fsync of the folder. One
daemon at a time holds a home; the operating system releases the lock when the process ends, even by
a crash. Errors of the operating system are translated here, once, into one line that names the
path.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dipaco.protocol.errors import ConfigError, Unavailable
from dipaco.protocol.wire.digest import Digest

PRIVATE = 0o600  # keys, tokens, sockets: only their owner may read them
PUBLIC = 0o644
MAX_SOCKET_PATH = 103 if sys.platform == "darwin" else 107  # bytes: sun_path less its zero


class HomeTaken(ConfigError):
    """Another daemon holds this home: the command ends with its own exit code."""


class DiskFull(Unavailable):
    """The disk is full: the node waits, and a command ends with its own exit code."""


@contextmanager
def translated(path: Path, doing: str) -> Iterator[None]:
    """Turn an OSError into "cannot {doing} {path}: reason".

    It is a DiskFull without space, an Unavailable without a free descriptor, else a ConfigError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"cannot {doing} {path}: no space left on the disk") from error
        reason = error.strerror or str(error)
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise Unavailable(f"cannot {doing} {path}: {reason.lower()}") from error
        raise ConfigError(f"cannot {doing} {path}: {reason}") from error


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names of its files survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path, *, mode: int = PUBLIC) -> Iterator[BinaryIO]:
    """Open a temporary file; it becomes `path` if the block succeeds, and is removed if not.

    Several processes may do this to one path at once: the file of the last one stays, whole.
    Raises DiskFull, and ConfigError if the folder cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}.temp")
    with translated(path, "write"):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        descriptor = os.open(temporary, flags, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)  # after a success it is already renamed


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder; it becomes `path` if the block succeeds, and is removed if not.

    Raises ConfigError if `path` exists already: nothing is overwritten. The caller syncs the files
    that it writes in the block (`write_file`, `sync_file`).
    """
    if path.exists():
        raise ConfigError(f"{path} exists already: choose another folder, or remove it")
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.temp")
    with translated(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            yield temporary
            sync_folder(temporary)
            temporary.rename(path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # after a success it is already renamed


def sync_file(path: Path) -> None:
    """Sync a file that a library wrote, so that it survives a power cut."""
    with translated(path, "write"), path.open("rb") as file:
        os.fsync(file.fileno())


def write_file(path: Path, data: bytes | bytearray | memoryview, *, mode: int = PUBLIC) -> None:
    """Write the whole of `path`, or nothing; raises DiskFull and ConfigError."""
    with replacing(path, mode=mode) as file:
        file.write(data)


def read_file(path: Path, *, limit: int) -> bytes:
    """Return the bytes of `path`, at most `limit`; raises ConfigError."""
    with translated(path, "read"), path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ConfigError(f"{path} has more than {limit} bytes")
    return data


@dataclass(frozen=True)
class Home:
    """The paths of one node's files; get one from `Home.at`."""

    root: Path

    @classmethod
    def at(cls, root: Path) -> "Home":
        """Return the home at `root`; the folder is made if it does not exist (mode 0700).

        Raises ConfigError if it cannot be read and written, or if its path is too long for a
        socket in it.
        """
        home = cls(root.expanduser().absolute())
        length = len(os.fsencode(home.socket))
        if length > MAX_SOCKET_PATH:
            raise ConfigError(
                f"home: the path {home.socket} has {length} bytes, a socket's path at most "
                f"{MAX_SOCKET_PATH}: choose a shorter --home"
            )
        with translated(home.root, "use the home"):
            home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (home.blobs, home.cache):
                folder.mkdir(mode=0o700, exist_ok=True)
            if not os.access(home.root, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "Permission denied")
        return home

    @property
    def identity(self) -> Path:
        """The node's key, mode 0600."""
        return self.root / "identity.key"

    @property
    def journal(self) -> Path:
        """The SQLite file of `Journal`."""
        return self.root / "journal.sqlite"

    @property
    def blobs(self) -> Path:
        """The folder of `BlobStore`."""
        return self.root / "blobs"

    @property
    def cache(self) -> Path:
        """The folder of `ShardCache`: all its files can be computed again."""
        return self.root / "cache"

    @property
    def socket(self) -> Path:
        """The socket of the local API."""
        return self.root / "api.sock"

    @property
    def lock_file(self) -> Path:
        """The file that the daemon of this home locks; its text is the process id, for people."""
        return self.root / "lock"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold this home for the block; raises HomeTaken if another process does."""
        with translated(self.lock_file, "lock"):
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        try:
            self._take(descriptor)
            yield
        finally:
            # This releases the lock. The file stays: with a new file two daemons could hold a lock.
            os.close(descriptor)

    def _take(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            raise HomeTaken(
                f"home: {self.root} is held by another daemon (process {holder}); "
                "stop it, or choose another --home"
            ) from None
        with translated(self.lock_file, "write"):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)


def hash_file(path: Path) -> Digest:
    """Return the SHA-256 of a file, read in pieces; raises ConfigError."""
    with translated(path, "read"), path.open("rb") as file:
        return Digest(hashlib.file_digest(file, "sha256").digest())
