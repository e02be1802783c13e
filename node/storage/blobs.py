"""Content-addressed files: large values are sent and kept under their SHA-256.

    blobs/ab/abcdef...         a whole blob, named by its digest in hex
    blobs/partial/abcdef...    the first bytes of a blob that a peer is sending

All state is in files: the daemon and its worker processes use one folder at the same time, each
through a store of its own. A blob in place is whole and synced. Its content is checked against its
name when it is read; a file that does not match is removed and counts as missing, so that it is
fetched again.

All methods use the disk: in the daemon, call those that read or write much in a thread.
"""

import hashlib
import math
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dipaco.node.storage.files import (
    hash_file,
    remove_path,
    remove_temporary,
    replacing,
    sync,
    sync_folder,
    temporary_name,
    translated,
)
from dipaco.protocol.errors import LocalProtocolError, RemoteProtocolError, Unavailable
from dipaco.protocol.wire.digest import DIGEST_BYTES, Digest, sha256, short

READ_BYTES = 1 << 20  # of one read while hashing
_PARTIAL = "partial"
_BLOB = re.compile(rf"[0-9a-f]{{{2 * DIGEST_BYTES}}}")

Buffer = bytes | bytearray | memoryview
Float32 = NDArray[np.float32]
_Mark = tuple[int, int, int]


class BlobMissing(Unavailable):
    """The blob is not in this store: fetch it from a peer that has it."""


class BlobStore:
    """The blobs of one node."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._checked: dict[Digest, _Mark] = {}
        with translated(root, "make"):
            (root / _PARTIAL).mkdir(parents=True, exist_ok=True)

    # Writing

    def write(self, data: Buffer) -> Digest:
        """Keep `data` and return its digest; it is synced to the disk then. Raises DiskFull."""
        digest = sha256(data)
        if not self._usable(digest):
            with replacing(self._place(digest)) as file:
                file.write(data)
        return digest

    def write_stream(self, chunks: Iterable[Buffer]) -> Digest:
        """Keep the concatenation of `chunks`, never whole in memory; returns its digest."""
        running = hashlib.sha256()
        draft = self._root / _PARTIAL / temporary_name("draft")
        try:
            with replacing(draft) as file:
                for chunk in chunks:
                    running.update(chunk)
                    file.write(chunk)
            digest = Digest(running.digest())
            self._adopt(draft, digest)
        finally:
            draft.unlink(missing_ok=True)  # there only if it found no place
        return digest

    def write_array(self, array: Float32) -> Digest:
        """Keep a float32 array of any shape as little-endian bytes; returns its digest."""
        if array.dtype != np.float32:
            raise LocalProtocolError(f"a blob of floats is float32, not {array.dtype}")
        flat = np.ascontiguousarray(array, dtype="<f4").reshape(-1)
        return self.write(flat.view(np.uint8).data)

    def partial(self, digest: Digest, size: int) -> "Partial":
        """Open the received bytes of a blob of `size` bytes; go on at `received`."""
        return Partial(self, digest, size, self._root / _PARTIAL / digest.hex())

    # Reading

    def path(self, digest: Digest) -> Path:
        """Return the path of the blob's file, which may not exist; nothing is checked."""
        name = digest.hex()
        return self._root / name[:2] / name

    def has(self, digest: Digest, length: int | None = None) -> bool:
        """Return whether the blob is here (its content is checked when it is read).

        length   of the blob in bytes, if it is known: a file of another length is checked now, and
                 removed if it is damaged.
        """
        try:
            size = self.size(digest)
        except BlobMissing:
            return False
        return length in (None, size) or self._sound(digest)

    def size(self, digest: Digest) -> int:
        """Return the blob's bytes; raises BlobMissing."""
        path = self.path(digest)
        with translated(path, "read"):
            try:
                status = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                raise _missing(digest) from None
        if not stat.S_ISREG(status.st_mode):
            raise _missing(digest)
        return status.st_size

    def read(self, digest: Digest, limit: int) -> bytes:
        """Return the blob, its digest checked; raises BlobMissing.

        Raises RemoteProtocolError for a blob of more than `limit` bytes: it is not the one meant.
        """
        size = self.size(digest)
        if size > limit:
            self._check(digest)
            raise RemoteProtocolError(f"blob {short(digest)} has {size} bytes, at most {limit}")
        data = bytearray(size)
        self._fill(digest, memoryview(data))
        return bytes(data)

    def read_array(self, digest: Digest, elements: int) -> Float32:
        """Return the blob as a new float32 array of shape (elements,), its digest checked.

        Raises BlobMissing, and RemoteProtocolError if the blob has any other length.
        """
        size = self.size(digest)
        if size != 4 * elements:
            self._check(digest)
            raise RemoteProtocolError(
                f"blob {short(digest)} has {size} bytes, {elements} float32 have {4 * elements}"
            )
        array = np.empty(elements, dtype="<f4")
        self._fill(digest, array.view(np.uint8).data)
        return array

    def read_range(self, digest: Digest, offset: int, length: int) -> bytes:
        """Return at most `length` bytes from `offset` on, for a peer; raises BlobMissing.

        The whole blob is hashed before its first range is returned, and again only if the file has
        changed: the peer would give this node a strike for damaged bytes.
        """
        self._check(digest)
        with self._open(digest) as file:
            file.seek(offset)
            data = file.read(length)
        self._touch(digest)
        return data

    def chunk_digests(self, digest: Digest, chunk: int) -> tuple[Digest, ...]:
        """Return the SHA-256 of every `chunk` bytes of the blob, checked; raises BlobMissing.

        The same pass over the file checks the blob, unless that was done before.
        """
        mark = self._mark(digest)
        if mark is None:
            raise _missing(digest)
        known = self._checked.get(digest) == mark
        whole, parts = hashlib.sha256(), []
        with self._open(digest) as file:
            while data := file.read(chunk):
                parts.append(sha256(data))
                if not known:
                    whole.update(data)
        if not known and whole.digest() != digest:
            self.remove(digest)
            raise _missing(digest)
        self._checked[digest] = mark
        return tuple(parts)

    # Space

    def total_bytes(self) -> int:
        """Return the bytes of all files of the store."""
        return sum(size for _, size, _ in self._files())

    def prune(
        self, keep: Collection[Digest], max_bytes: int, *, used_before: float = math.inf
    ) -> int:
        """Remove the least recently used blobs until `max_bytes` are left; returns bytes freed.

        keep         digests that stay even above `max_bytes`, partial blobs included. It must name
                     all blobs that running work reads or has just written.
        used_before  Unix time, seconds: what was used later stays, too.
        """
        kept = {digest.hex() for digest in keep}
        files = sorted(self._files())
        total, freed = sum(size for _, size, _ in files), 0
        for used, size, path in files:
            if total - freed <= max_bytes or used >= used_before * 1e9:
                break
            if _BLOB.fullmatch(path.name) and path.name not in kept:  # never a draft
                self._checked.pop(Digest(bytes.fromhex(path.name)), None)
                remove_path(path)
                freed += size
        return freed

    def remove(self, digest: Digest) -> None:
        """Remove the blob if it is here."""
        self._checked.pop(digest, None)
        remove_path(self.path(digest))

    def check_all(self) -> tuple[int, tuple[Digest, ...]]:
        """Hash every blob; returns how many were sound, and those that were damaged and removed."""
        sound, damaged = 0, []
        for _, _, path in sorted(self._files(), key=lambda file: file[2]):
            if path.parent.name == _PARTIAL or not _BLOB.fullmatch(path.name):
                continue
            digest = Digest(bytes.fromhex(path.name))
            if self._sound(digest):
                sound += 1
            else:
                damaged.append(digest)
        return sound, tuple(damaged)

    def remove_drafts(self) -> None:
        """Remove the temporary files of crashed writers; only while this process writes none."""
        for folder in self._root.glob("*"):
            remove_temporary(folder)

    # Inside

    def _files(self) -> list[tuple[int, int, Path]]:
        """Return last use (ns), bytes and path of every file."""
        found = []
        for folder in self._root.iterdir():
            try:
                entries = list(os.scandir(folder))
            except NotADirectoryError:
                continue
            for entry in entries:
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue  # removed meanwhile by another process
                found.append((status.st_mtime_ns, status.st_size, Path(entry.path)))
        return found

    def _place(self, digest: Digest) -> Path:
        """Return the path of a blob that is not here, in its folder."""
        path = self.path(digest)
        if path.is_dir():
            remove_path(path)
        if not path.parent.is_dir():
            remove_path(path.parent)  # a file is damage: the store has none of this name
            with translated(path.parent, "make"):
                path.parent.mkdir(exist_ok=True)
                sync_folder(self._root)
        return path

    def _adopt(self, file: Path, digest: Digest) -> None:
        """Give a synced file of the right content its name."""
        path = self._place(digest)
        with translated(path, "write"):
            file.replace(path)
            sync_folder(path.parent)

    def _note_sound(self, digest: Digest) -> None:
        """Note that a blob that was just put here was hashed: it is served without a second pass.

        Whatever changes the file afterwards changes its mark.
        """
        mark = self._mark(digest)
        if mark is not None:
            self._checked[digest] = mark

    def _usable(self, digest: Digest) -> bool:
        """Return whether the blob is here and sound, so that it need not be written."""
        if not self._sound(digest):
            return False
        self._touch(digest)
        return True

    def _fill(self, digest: Digest, target: memoryview) -> None:
        with self._open(digest) as file:
            whole = _read_into(file, target) and not file.read(1)
        if not whole or sha256(target) != digest:
            self.remove(digest)
            raise _missing(digest)
        self._touch(digest)

    @contextmanager
    def _open(self, digest: Digest) -> Iterator[BinaryIO]:
        path = self.path(digest)
        with translated(path, "read"):
            try:
                file = path.open("rb")
            except FileNotFoundError:
                raise _missing(digest) from None
            with file:
                yield file

    def _check(self, digest: Digest) -> None:
        """Raise BlobMissing unless the blob is here and sound; a damaged one is removed."""
        if not self._sound(digest):
            raise _missing(digest)

    def _sound(self, digest: Digest) -> bool:
        """Return whether the file has the content that its name says; remove it if not."""
        mark = self._mark(digest)
        if mark is None:
            return False
        if self._checked.get(digest) == mark:
            return True
        try:
            with self._open(digest) as file:
                found = hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]
        except BlobMissing:
            return False  # removed meanwhile
        if found != digest:
            self.remove(digest)
            return False
        self._checked[digest] = mark
        return True

    def _mark(self, digest: Digest) -> _Mark | None:
        """Return a value that changes whenever the file does; None if there is no file."""
        try:
            status = self.path(digest).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _touch(self, digest: Digest) -> None:
        """Note the use of the blob in its modification time: access times are often disabled."""
        checked = self._checked.get(digest) == self._mark(digest)
        try:
            os.utime(self.path(digest))
        except OSError:
            return  # removed meanwhile, or a read-only disk: only the order of removal is affected
        mark = self._mark(digest)
        if checked and mark is not None:
            self._checked[digest] = mark


class Partial:
    """A blob being received in order. Its bytes outlive a restart. One writer at a time."""

    def __init__(self, store: BlobStore, digest: Digest, size: int, path: Path) -> None:
        self._store, self._digest, self._size, self._path = store, digest, size, path

    @property
    def received(self) -> int:
        """The number of bytes received: the offset to ask for next."""
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def append(self, data: Buffer) -> None:
        """Add the bytes at `received`; raises RemoteProtocolError past the size, and DiskFull."""
        if self.received + len(data) > self._size:
            raise RemoteProtocolError(
                f"more than the {self._size} bytes of blob {short(self._digest)} arrived"
            )
        with translated(self._path, "write"), self._path.open("ab") as file:
            file.write(data)

    def finish(self) -> None:
        """Put the blob into the store, once all its bytes are here.

        Raises RemoteProtocolError if bytes are missing (the others are kept), or if the digest is
        another (all are deleted).
        """
        if self.received != self._size:
            raise RemoteProtocolError(
                f"{self.received} of {self._size} bytes of blob {short(self._digest)} arrived"
            )
        if self._size == 0:
            with translated(self._path, "write"):
                self._path.touch()
        if hash_file(self._path) != self._digest:
            self.discard()
            raise RemoteProtocolError(
                f"the bytes of blob {short(self._digest)} have another digest"
            )
        with translated(self._path, "write"), self._path.open("rb") as file:
            sync(file.fileno())
        self._store._adopt(self._path, self._digest)
        self._store._note_sound(self._digest)

    def discard(self) -> None:
        """Delete the received bytes."""
        with translated(self._path, "remove"):
            self._path.unlink(missing_ok=True)


def _read_into(file: BinaryIO, target: memoryview) -> bool:
    """Fill `target` from the file; returns whether the file had enough bytes."""
    filled = 0
    while filled < len(target):
        count = file.readinto(target[filled : filled + READ_BYTES])  # type: ignore[attr-defined]
        if not count:
            return False
        filled += count
    return True


def _missing(digest: Digest) -> BlobMissing:
    return BlobMissing(f"blob {short(digest)} is not here")
