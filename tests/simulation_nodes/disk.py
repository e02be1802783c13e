"""A disk that keeps after a crash what was synced, and of the rest what chance will have.

Under it are real files and real journals of SQLite. What was written and not synced is cut
anywhere; the log of the journal gets the torn beginning of a write that was under way. Its commits
are synced as long as its connection says so (`synchronous = FULL`). A full disk refuses every
write.
"""

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dipaco.node.assembly import Node
from dipaco.node.storage import blobs, files
from dipaco.node.storage.files import DiskFull

TORN_BYTES = 5000  # of the journal's log at most: one page and its frame have 4,120
FULL_SYNC = 2  # of SQLite's `synchronous`: every commit is synced
IN_PLACE = ("journal.sqlite", "journal.sqlite-wal")
"""Files that change under their name: they are copied, and all others linked."""


class Disks:
    """The disks of all nodes of a universe."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._synced: dict[int, int] = {}
        """By inode the bytes that a sync has put on the disk."""
        self.full: set[Path] = set()
        """The homes whose disks are full."""
        self._lazy: set[Path] = set()
        """The homes whose journals do not sync their commits."""

    @contextmanager
    def noting_syncs(self) -> Iterator[None]:
        """Note every sync of a file instead of waiting for the disk of this machine."""

        def note(descriptor: int) -> None:
            status = os.fstat(descriptor)
            self._synced[status.st_ino] = status.st_size

        before = files.sync
        files.sync = blobs.sync = note  # type: ignore[attr-defined]
        try:
            yield
        finally:
            files.sync = blobs.sync = before  # type: ignore[attr-defined]

    def attach(self, node: Node) -> None:
        """Have the writes of a node fail while its disk is full; see whether its journal syncs."""
        journal, store, home = node.journal, node.blobs, node.home.root
        ((synchronous,),) = journal._rows("PRAGMA synchronous", ())
        (self._lazy.discard if synchronous >= FULL_SYNC else self._lazy.add)(home)
        saving, write, append = journal.saving, store.write, store.partial

        def check() -> None:
            if home in self.full:
                raise DiskFull(f"cannot write {home}: no space left on the disk")

        @contextmanager
        def save() -> Iterator[None]:
            if not journal._depth:
                check()
            with saving():
                yield

        def refuse_first(function: Any) -> Any:
            def checked(*arguments: Any, **named: Any) -> Any:
                check()
                return function(*arguments, **named)

            return checked

        journal.saving = save  # type: ignore[method-assign]
        store.write = refuse_first(write)  # type: ignore[method-assign]
        store.partial = refuse_first(append)  # type: ignore[method-assign]

    def crash(self, home: Path) -> Path:
        """Return a copy of a home as a loss of power leaves it at this moment."""
        left = home.with_name(f"{home.name}.left")
        shutil.rmtree(left, ignore_errors=True)
        shutil.copytree(home, left, copy_function=self._leave)
        log = left / "journal.sqlite-wal"
        if log.exists():
            if home in self._lazy:
                os.truncate(log, self._chance.randint(0, log.stat().st_size))
            with log.open("ab") as file:
                file.write(self._chance.randbytes(self._chance.randrange(TORN_BYTES)))
        return left

    def tear(self, home: Path) -> None:
        """Have about half of the blobs of a node that is down end in zeros."""
        for path in sorted((home / "blobs").glob("??/*")):
            if self._chance.random() < 0.5:
                data = path.read_bytes()
                path.unlink()  # its bytes may be those of a linked file
                path.write_bytes(
                    data[: self._chance.randrange(len(data) + 1)].ljust(len(data), b"\0")
                )

    def _leave(self, source: str, target: str) -> None:
        path = Path(source)
        if path.name in IN_PLACE:
            shutil.copyfile(source, target)
            return
        if path.name == "journal.sqlite-shm" or not path.is_file():
            return
        synced, size = self._synced.get(path.stat().st_ino, 0), path.stat().st_size
        if synced >= size:
            os.link(source, target)
            return
        kept = self._chance.randint(synced, size)
        Path(target).write_bytes(path.read_bytes()[:kept])

    def restore(self, home: Path, left: Path) -> None:
        """Put what a crash left in the place of the home."""
        shutil.rmtree(home)
        left.rename(home)
        for path in home.rglob("*"):
            if path.is_file():
                status = path.stat()
                self._synced.setdefault(status.st_ino, status.st_size)
