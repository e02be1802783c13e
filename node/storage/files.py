"""The home folder of a node, and the one way in which its files are written.

A file is written whole or not at all: temporary file, fsync, rename, fsync of the folder. A
process that is killed leaves at most a temporary file, and the next daemon of the home removes it.
One daemon at a time holds a home; the operating system releases the lock when the process ends,
even by a crash. Errors of the operating system are translated here, once, into one line that names
the path.
"""

import errno
import fcntl
import hashlib
import os
import pwd
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dipaco.protocol.errors import ConfigError, Unavailable
from dipaco.protocol.wire.digest import Digest

PRIVATE = 0o600  # keys, tokens, sockets: only their owner may read them
PUBLIC = 0o644
NO_SPACE = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
"""Errors of a write that finds no room: on the disk, in a quota, in the limit on a file's size."""
NO_LOCKS = frozenset((errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS))
"""Errors by which a file system says that it has no locks."""
READ_BYTES = 1 << 16  # of a file at a time
PROBE_BYTES = 1 << 17  # more than SQLite adds to one of its files at a time
MAX_SOCKET_PATH = 103 if sys.platform == "darwin" else 107  # bytes: sun_path less its zero


class HomeTaken(ConfigError):
    """Another daemon holds this home: the command ends with its own exit code."""


class DiskFull(Unavailable):
    """The disk is full: the node waits, and a command ends with its own exit code."""


@contextmanager
def translated(path: Path, doing: str) -> Iterator[None]:
    """Turn an OSError into DiskFull, Unavailable or ConfigError: "cannot {doing} {path}: reason".

    Unavailable means that the process has too many files open at the moment.
    """
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DiskFull(f"cannot {doing} {path}: {_shortage(error)}") from error
        reason = error.strerror or str(error)
        if error.errno in (errno.EACCES, errno.EPERM):
            reason += whose(path)
        fault = Unavailable if error.errno in (errno.EMFILE, errno.ENFILE) else ConfigError
        raise fault(f"cannot {doing} {path}: {reason}") from error


def whose(path: Path) -> str:
    """Say that a path, or the folder that it is to stand in, is another user's; empty: it is ours.

    With the cure, to be put behind what went wrong.
    """
    nearest = next((each for each in (path, *path.parents) if os.path.lexists(each)), path)
    try:
        owner = nearest.stat().st_uid
    except OSError:
        return ""
    if owner == os.geteuid():
        return ""
    return (
        f": {nearest} belongs to {_user(owner)}, and this process is {_user(os.geteuid())}: "
        "start it as that user, or give the files to this one with chown"
    )


def _user(number: int) -> str:
    try:
        return f"{pwd.getpwuid(number).pw_name} (user {number})"
    except KeyError:
        return f"user {number}"


def _shortage(error: OSError) -> str:
    """Say which room is used up."""
    if error.errno == errno.EDQUOT:
        return "the disk quota is used up"
    if error.errno == errno.EFBIG:
        return "the file would be larger than this system allows (ulimit -f)"
    return "no space left on the disk"


def probe_space(folder: Path) -> str:
    """Write a file to `folder` and remove it; return which room is used up, empty if none is.

    A library that hides the error of a write is asked in this way. Another error of the disk is not
    told: it comes again where it matters.
    """
    name = folder / temporary_name("probe")
    try:
        with name.open("xb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            sync(file.fileno())
    except OSError as error:
        return _shortage(error) if error.errno in NO_SPACE else ""
    finally:
        with suppress(OSError):
            name.unlink()
    return ""


def sync(descriptor: int) -> None:
    """Have a file's bytes on the disk itself, so that they survive a power cut.

    On macOS fsync leaves them in the disk's own cache; F_FULLFSYNC does not, where the file system
    knows it.
    """
    if hasattr(fcntl, "F_FULLFSYNC"):
        with suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names of its files survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def temporary_name(name: str) -> str:
    """Return a name that no other process and no other call gives to a temporary file."""
    return f"{name}.{os.getpid()}-{os.urandom(4).hex()}.temp"


_TEMPORARY = re.compile(r".*\.([0-9]+)-[0-9a-f]{8}\.temp")


def remove_temporary(folder: Path) -> None:
    """Remove the temporary files and folders in `folder` whose writers are dead.

    Only while this process writes none itself: a file of its number is of an earlier process.
    """
    with translated(folder, "list"):
        paths = list(folder.glob("*.temp"))
    for path in paths:
        found = _TEMPORARY.fullmatch(path.name)
        if found and not _is_alive(int(found[1])):
            remove_path(path)


def _is_alive(pid: int) -> bool:
    """Return whether another process has this number."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # of another user
    return True


def remove_path(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; what cannot be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path | None:
    """Rename what is at `path`, file or folder, so that it can be made again; return its new name.

    An earlier one that was set aside is replaced. None: it cannot be renamed.
    """
    aside = path.with_name(f"{path.name}.damaged")
    remove_path(aside)
    try:
        path.rename(aside)
    except OSError:
        return None
    return aside


@contextmanager
def replacing(path: Path, *, mode: int = PUBLIC) -> Iterator[BinaryIO]:
    """Open a temporary file; it becomes `path` if the block succeeds, and is removed if not.

    Several processes may do this to one path at once: the file of the last one stays, whole.
    Raises DiskFull, and ConfigError if the folder cannot be written.
    """
    temporary = path.with_name(temporary_name(path.name))
    with translated(path, "write"):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        descriptor = os.open(temporary, flags, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                sync(file.fileno())
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
    temporary = path.with_name(temporary_name(f".{path.name}"))
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
        sync(file.fileno())


def write_file(path: Path, data: bytes | bytearray | memoryview, *, mode: int = PUBLIC) -> None:
    """Write the whole of `path`, or nothing; raises DiskFull and ConfigError."""
    with replacing(path, mode=mode) as file:
        file.write(data)


def read_file(path: Path, *, limit: int) -> bytes:
    """Return the bytes of `path`, at most `limit`; raises ConfigError."""
    data = bytearray()
    with translated(path, "read"), path.open("rb") as file:
        # In parts: a read of `limit` bytes would allocate them all for a file of one byte.
        while part := file.read(min(READ_BYTES, limit + 1 - len(data))):
            data += part
    if len(data) > limit:
        raise ConfigError(f"{path} has more than {limit} bytes")
    return bytes(data)


@dataclass(frozen=True)
class Home:
    """The paths of one node's files; get one from `Home.at`."""

    root: Path

    @classmethod
    def at(cls, root: Path) -> "Home":
        """Return the home at `root`; the folder is made if it does not exist (mode 0700).

        Raises ConfigError if it cannot be read and written.
        """
        home = cls(root.expanduser().absolute())
        with translated(home.root, "use the home"):
            home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (home.blobs, home.cache):
                if folder.is_file():
                    raise ConfigError(f"home: {folder} is a file, not a folder: move it away")
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
    def journal_mark(self) -> Path:
        """The number of the journal, as text: an empty or another one in its place is noticed."""
        return self.root / "journal.mark"

    @property
    def blobs(self) -> Path:
        """The folder of `BlobStore`."""
        return self.root / "blobs"

    @property
    def cache(self) -> Path:
        """The folder of what can be fetched or computed again."""
        return self.root / "cache"

    @property
    def shards(self) -> Path:
        """The folder of `ShardCache`."""
        return self.cache / "shards"

    @property
    def sources(self) -> Path:
        """The folder of source files that are fetched whole."""
        return self.cache / "sources"

    @property
    def scratch(self) -> Path:
        """The folder of other libraries' own files: empty while no process uses them."""
        return self.cache / "scratch"

    @property
    def results(self) -> Path:
        """The folder of local results."""
        return self.root / "accounts"

    @property
    def runs(self) -> Path:
        """The folder of the run files that this node offers."""
        return self.root / "runs"

    def clear_temporary(self) -> None:
        """Remove what killed processes left half-written; only at the start of a daemon."""
        for folder in (self.root, self.runs, self.results, self.sources, self.scratch):
            remove_temporary(folder)

    @property
    def socket(self) -> Path:
        """The socket of the local API."""
        return self.root / "api.sock"

    @property
    def events(self) -> Path:
        """The folder of the journal of events."""
        return self.root / "events"

    @property
    def token(self) -> Path:
        """The token of the local API's port, mode 0600."""
        return self.root / "ui.token"

    @property
    def lock_file(self) -> Path:
        """The file that the daemon of this home locks; its text is the process id, for people."""
        return self.root / "lock"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold this home for a daemon's block.

        Raises HomeTaken if another process does, and ConfigError if its path is too long for the
        daemon's socket.
        """
        length = len(os.fsencode(self.socket))
        if length > MAX_SOCKET_PATH:
            raise ConfigError(
                f"home: the path {self.socket} has {length} bytes, a socket's path at most "
                f"{MAX_SOCKET_PATH}: choose a shorter --home"
            )
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
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise ConfigError(
                f"home: {self.root} is on a file system without locks (as NFS may be): choose a "
                "--home on a disk of this machine, or mount it with locks"
            ) from error
        with translated(self.lock_file, "write"):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)


def stamped(folder: Path, pattern: str) -> list[tuple[Path, int, int]]:
    """Return path, time of change (ns) and bytes of the files that match; none without a folder.

    A file that is removed meanwhile is left out. Raises OSError if the folder cannot be listed.
    """
    found = []
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):
            status = path.stat()
            found.append((path, status.st_mtime_ns, status.st_size))
    return found


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below `folder`; a file removed meanwhile does not count."""
    total, folders = 0, [os.fspath(folder)]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                    continue
                with suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def hash_file(path: Path) -> Digest:
    """Return the SHA-256 of a file, read in pieces; raises ConfigError."""
    with translated(path, "read"), path.open("rb") as file:
        return Digest(hashlib.file_digest(file, "sha256").digest())
