"""What can still be read of a damaged journal, row by row, into a new one.

SQLite stops at the first damaged page. Each table is read from its beginning to the damage, and
from its end back to it, so that one damaged page costs the rows on it alone. Signed values and
ledger records are held against their digests; a ledger is kept as far as its chain goes.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dipaco.node.storage.journal import FIRST_VERSION, VERSION, Journal
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.canonical import decode
from dipaco.protocol.wire.digest import sha256
from dipaco.protocol.wire.signed import MAX_ENVELOPE, Signed, open_signed
from dipaco.protocol.work.kinds import TrainResult, decode_lease
from dipaco.protocol.work.ledger import LedgerRecord
from dipaco.protocol.work.terms import NO_RECORD

Row = dict[str, Any]

PROMISED = "promised"
"""The table of a keeper's promises, taken last, and only if all else is whole: a keeper that does
not know all that it signed must not vote as if it did. Without promises it learns from others."""


@dataclass
class Salvaged:
    """What was read of a damaged journal."""

    rows: dict[str, int] = field(default_factory=dict)
    """By table the rows that are in the new journal."""
    lost: dict[str, int] = field(default_factory=dict)
    """By table the rows that were read and are damaged, or do not continue a ledger."""
    unread: set[str] = field(default_factory=set)
    """The tables with rows that could not be read: nobody knows how many."""

    @property
    def whole(self) -> bool:
        """Whether nothing is known to be lost."""
        return not self.lost and not self.unread


def salvage(damaged: Path, journal: Journal) -> Salvaged:
    """Put what can be read of a damaged journal into a new, empty one."""
    told = Salvaged()
    with closing(sqlite3.connect(damaged, isolation_level=None)) as old:
        old.text_factory = bytes.decode
        if not _is_readable(old):
            told.unread = set(journal.sizes())
            return told
        with journal.saving():
            for table in sorted(journal.sizes(), key=PROMISED.__eq__):
                _take_table(old, journal, table, told)
    return told


def _is_readable(old: sqlite3.Connection) -> bool:
    """Return whether the file is still a journal whose tables this version knows."""
    try:
        ((version,),) = old.execute("PRAGMA user_version").fetchall()
        old.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except sqlite3.DatabaseError:
        return False
    return bool(FIRST_VERSION <= version <= VERSION)


def _take_table(old: sqlite3.Connection, journal: Journal, table: str, told: Salvaged) -> None:
    rows, whole = _rows(old, table, journal.key_of(table))
    if not whole:
        told.unread.add(table)
    kept = list(_chained(rows) if table == "ledger" else filter(_CHECKS.get(table), rows))
    if table == PROMISED and not told.whole:
        kept = []
    for row in kept:
        journal.insert_row(table, row)
    told.rows[table] = len(kept)
    if len(kept) < len(rows):
        told.lost[table] = len(rows) - len(kept)


def _rows(old: sqlite3.Connection, table: str, key: tuple[str, ...]) -> tuple[list[Row], bool]:
    """Return the rows of a table that can be read, in the order of its key, and whether all can."""
    found, whole = _until_damage(old, f"SELECT * FROM {table} ORDER BY {', '.join(key)}")
    if whole:
        return found, True
    back = ", ".join(f"{name} DESC" for name in key)
    others, _ = _until_damage(old, f"SELECT * FROM {table} ORDER BY {back}")
    by_key = {tuple(row[name] for name in key): row for row in (*found, *reversed(others))}
    return list(by_key.values()), False


def _until_damage(old: sqlite3.Connection, query: str) -> tuple[list[Row], bool]:
    found: list[Row] = []
    try:
        cursor = old.execute(query)
        names = [each[0] for each in cursor.description]
        for row in cursor:
            found.append(dict(zip(names, row, strict=True)))
    except sqlite3.OperationalError as error:  # a table that an older journal does not have
        return found, str(error).startswith("no such table")
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return found, False
    return found, True


def _is_envelope(row: Row) -> bool:
    """Return whether a signed value is the one that its digest names."""
    return isinstance(row["data"], bytes) and bool(sha256(row["data"]) == row["digest"])


def _is_lease(row: Row) -> bool:
    try:
        return bool(decode_lease(row["data"]).token == row["token"])
    except RemoteProtocolError:
        return False


def _is_result(row: Row) -> bool:
    try:
        decode(row["data"], TrainResult)
    except RemoteProtocolError:
        return False
    return True


_CHECKS = {"signed": _is_envelope, "leases": _is_lease, "results": _is_result}


def _chained(rows: list[Row]) -> Iterator[Row]:
    """Yield the records of each ledger as far as each names the one before it."""
    head: dict[bytes, bytes] = {}
    length: dict[bytes, int] = {}
    for row in rows:
        run = row["run"]
        if row["seq"] != length.get(run, 0):
            continue
        try:
            signed = decode(row["data"], Signed, limit=MAX_ENVELOPE)
            record = open_signed(signed, LedgerRecord)
        except RemoteProtocolError:
            continue
        if record.previous == head.get(run, NO_RECORD) and signed.body_digest == row["digest"]:
            head[run], length[run] = signed.body_digest, row["seq"] + 1
            yield row
