"""A node's disk: tables of bytes, written in transactions, as the journal and the blob store do.

A transaction is there as a whole or not at all. What was not synced is lost with the power.
"""

from dipaco.node.storage.files import DiskFull

Key = tuple[object, ...]
Write = tuple[str, Key, bytes | None]
"""Table, key, and the new value; None: the row goes."""


class Crashed(Exception):
    """The node died here: nothing of the step's rest happens."""


class Disk:
    """What outlives a crash."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[Key, bytes]] = {}
        self._unsynced: list[Write] = []
        """What was there before the writes that are not synced, the oldest first."""
        self._backup: dict[str, dict[Key, bytes]] = {}
        self.full = False
        self.commits = 0
        self.dies: str = ""
        """Where the next commit kills the node: `unsaved` or `saved`; empty: it does not."""

    def rows(self, table: str) -> dict[Key, bytes]:
        """Return a table, in the order in which its rows were first written; it is not copied."""
        return self._tables.setdefault(table, {})

    def commit(self, writes: list[Write], *, synced: bool = True) -> None:
        """Make a transaction; raises DiskFull, and then nothing has happened."""
        if self.dies == "unsaved":
            raise Crashed
        if self.full and any(value is not None for _, _, value in writes):
            raise DiskFull("the disk is full")
        self.commits += 1
        for table, key, value in writes:
            self._unsynced.append((table, key, self._put(table, key, value)))
        if synced:
            self._unsynced.clear()
        if self.dies == "saved":
            raise Crashed

    def cut_power(self) -> None:
        """Lose what was not synced."""
        while self._unsynced:
            self._put(*self._unsynced.pop())

    def wipe(self) -> None:
        """Lose everything."""
        self._tables.clear()
        self._unsynced.clear()

    def back_up(self) -> None:
        """Copy everything, for `restore`."""
        self._backup = {table: dict(rows) for table, rows in self._tables.items()}

    def restore(self) -> None:
        """Go back to the copy."""
        self.wipe()
        self._tables.update({table: dict(rows) for table, rows in self._backup.items()})

    def _put(self, table: str, key: Key, value: bytes | None) -> bytes | None:
        rows = self.rows(table)
        before = rows.get(key)
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value
        return before
