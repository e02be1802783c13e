"""The log as a file of bounded size: a full one becomes `FILE.1`, and older ones move up."""

import os
from pathlib import Path

from dipaco.node.storage.files import PRIVATE, translated


class LogFile:
    """Appends to a file, and begins a new one before it would grow beyond its bound."""

    def __init__(self, path: Path, *, most: int, keep: int) -> None:
        """Open `path`; raises ConfigError if it cannot be written.

        most   bytes of one file.
        keep   number of older files that stay.
        """
        self._path, self._most, self._keep = path, most, keep
        with translated(path, "write the log to"):
            self._descriptor = self._open()

    def write(self, data: bytes | memoryview) -> int:
        """Write what can be written of some lines, and return the number of bytes."""
        size = os.fstat(self._descriptor).st_size
        if size and size + len(data) > self._most:
            self._begin_anew()
        return os.write(self._descriptor, data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, PRIVATE)

    def _begin_anew(self) -> None:
        for number in range(self._keep, 0, -1):
            older = self._numbered(number - 1)
            if older.exists():
                older.replace(self._numbered(number))
        if not self._keep:
            self._path.unlink(missing_ok=True)
        new = self._open()
        os.close(self._descriptor)
        self._descriptor = new

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path
