"""The journal: the values that a node must keep over a crash, in one SQLite file.

Write-ahead log, synchronous=FULL: changes that `saving()` has saved survive a power cut. The rule
is *save, then send*: a change is in the journal, whole, before it is sent to any peer.

    with journal.saving():
        journal.save_result(...)
        journal.drop_lease(token)
    # only now answer

Values are kept as the bytes that were signed or sent, and are not decoded here. What strangers can
make grow is bounded by the store above (`runs/store.py`), but for proofs and dropped runs, whose
oldest are removed here. The pages of removed rows are used again, and given back to the disk once
they are most of the file. One process uses a journal at a time; within it any thread may, one after
the other.

The main file is never far behind: it takes the log in every `CHECKPOINT_PAGES` pages and at each
close, so a log that is lost costs the last changes alone. A node learns those again from its peers.
"""

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dipaco.node.storage.files import DiskFull, probe_space, whose
from dipaco.node.storage.keeper_tables import KeeperTables
from dipaco.protocol.errors import ConfigError, DipacoError, LocalProtocolError, Unavailable
from dipaco.protocol.wire.digest import Digest, short
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.text import one_line

MAX_PROOFS = 64  # faults of signers that are kept, the latest
MAX_PROOF = 64 << 10  # bytes of a record in a proof, so that all proofs have 8 MiB at most
MAX_DROPPED = 4096  # runs that are not taken in again, the latest: 40 bytes each
CHECKPOINT_PAGES = 64  # of the log (256 KiB), after which the main file takes it in
COMPACT_BYTES = 4 << 20  # of free pages, and more than the rest: then the file is made smaller
BUSY_SECONDS = 5.0  # the wait for another process (a client command) that reads the file

SignedKind = Literal["manifest", "spec", "receipt", "grant"]

FIRST_VERSION = 2  # the oldest version that can be migrated; version 1 held other values
# Newest on top: the last entry makes a new file of FIRST_VERSION, each one above it leads to the
# next version. Never edit one that was released: put a new one on top.
MIGRATIONS = (
    """
    CREATE TABLE certificates (
        run BLOB NOT NULL, length INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (run, length)
    ) WITHOUT ROWID;
    CREATE TABLE promised (
        run BLOB PRIMARY KEY, term INTEGER NOT NULL, data BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE tail (
        run BLOB NOT NULL, seq INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (run, seq)
    ) WITHOUT ROWID;
    CREATE TABLE acceptances (
        run BLOB NOT NULL, round INTEGER NOT NULL, path INTEGER NOT NULL, data BLOB NOT NULL,
        PRIMARY KEY (run, round, path)
    ) WITHOUT ROWID;
    CREATE TABLE grants (run BLOB PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE places (
        id INTEGER PRIMARY KEY, run BLOB NOT NULL, key TEXT NOT NULL, peer TEXT NOT NULL,
        UNIQUE (run, key)
    );
    """,
    """
    CREATE TABLE kept (run BLOB PRIMARY KEY) WITHOUT ROWID;
    INSERT INTO kept SELECT run FROM verdicts UNION SELECT run FROM leases
        UNION SELECT run FROM results UNION SELECT run FROM ledger;
    CREATE TABLE proofs (
        id INTEGER PRIMARY KEY, run BLOB NOT NULL, reason TEXT NOT NULL, one BLOB NOT NULL,
        other BLOB NOT NULL
    );
    CREATE TABLE dropped (id INTEGER PRIMARY KEY, run BLOB NOT NULL UNIQUE);
    """,
    """
    CREATE TABLE totals (name TEXT PRIMARY KEY, amount NOT NULL) WITHOUT ROWID;
    """,
    """
    CREATE TABLE signed (
        id INTEGER PRIMARY KEY, kind TEXT NOT NULL, run BLOB NOT NULL, digest BLOB NOT NULL,
        data BLOB NOT NULL, UNIQUE (kind, digest)
    );
    CREATE INDEX signed_by_run ON signed (kind, run);
    CREATE TABLE ledger (
        run BLOB NOT NULL, seq INTEGER NOT NULL, digest BLOB NOT NULL, data BLOB NOT NULL,
        PRIMARY KEY (run, seq)
    ) WITHOUT ROWID;
    CREATE TABLE verdicts (
        run BLOB NOT NULL, spec BLOB NOT NULL, data BLOB NOT NULL, PRIMARY KEY (run, spec)
    ) WITHOUT ROWID;
    CREATE TABLE leases (
        token BLOB PRIMARY KEY, run BLOB NOT NULL, peer TEXT NOT NULL, data BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE results (
        run BLOB NOT NULL, round INTEGER NOT NULL, path INTEGER NOT NULL, peer TEXT NOT NULL,
        data BLOB NOT NULL, PRIMARY KEY (run, round, path)
    ) WITHOUT ROWID;
    """,
)

# The tables whose values go with their run. What a keeper promised and signed stands for good.
OF_RUNS = (
    *("signed", "ledger", "verdicts", "leases", "results"),
    *("certificates", "acceptances", "grants", "places"),
)
VERSION = FIRST_VERSION + len(MIGRATIONS) - 1


@dataclass(frozen=True, slots=True)
class SavedValue:
    """One signed envelope."""

    run: Digest
    digest: Digest
    """Of the body."""
    data: bytes
    """The encoded envelope."""


@dataclass(frozen=True, slots=True)
class SavedRecord:
    """One signed record of a ledger."""

    seq: int
    digest: Digest
    """Of the body."""
    data: bytes
    """The encoded envelope."""


@dataclass(frozen=True, slots=True)
class SavedProof:
    """Two records of one ledger that contradict each other, or one that cannot be."""

    run: Digest
    reason: str
    one: bytes
    """The encoded envelope of the record that came first; empty if there is only one."""
    other: bytes
    """The encoded envelope of the record that contradicts it, or that cannot follow."""


@dataclass(frozen=True, slots=True)
class SavedLease:
    """A lease that was held when it was saved."""

    run: Digest
    token: bytes
    peer: PeerId
    data: bytes
    """The encoded lease."""


@dataclass(frozen=True, slots=True)
class SavedResult:
    """The result that was accepted for one path and round."""

    run: Digest
    round: int
    path: int
    peer: PeerId
    data: bytes
    """The encoded result."""


class Journal(KeeperTables):
    """One node's journal; open it with `Journal.open`, close it with `close`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path, self._db = path, connection
        self._lock = threading.RLock()
        self._depth = 0

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @classmethod
    def open(cls, path: Path) -> "Journal":
        """Open the journal at `path`, created or migrated if needed.

        Raises ConfigError, DiskFull and Unavailable.
        """
        if path.is_dir():
            raise ConfigError(f"{path} is a folder where a file belongs: move it away")
        with _translated(path), ExitStack() as unfinished:
            connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            unfinished.callback(connection.close)
            journal = cls(path, connection)
            journal._prepare()
            unfinished.pop_all()
        return journal

    def close(self) -> None:
        """Close the file; do not use the journal afterwards."""
        with self._lock, _translated(self._path):
            self._db.close()

    @property
    def mark(self) -> int:
        """A random number that tells this journal from another one in its place; 0: none yet."""
        ((mark,),) = self._rows("PRAGMA application_id", ())
        return int(mark)

    def set_mark(self, mark: int) -> None:
        """Give the journal its number, 1 to 2**31 - 1; it is in the main file afterwards."""
        self._change(f"PRAGMA application_id = {mark:d}", ())
        self._rows("PRAGMA wal_checkpoint(TRUNCATE)", ())

    def sizes(self) -> dict[str, int]:
        """Return the number of rows of every table."""
        tables = self._rows("SELECT name FROM sqlite_master WHERE type = 'table'", ())
        return {name: self._rows(f"SELECT count(*) FROM {name}", ())[0][0] for (name,) in tables}

    def foreign(self, error: DipacoError) -> ConfigError:
        """Return what to raise for a value of the journal that this version cannot read."""
        return ConfigError(
            f"{self._path} was made by another version of dipaco-node, or is damaged ({error}): "
            f"{_ANEW}; or use that version"
        )

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Save all changes of the block at its end, or none if it raises.

        Blocks may be nested: the outermost one saves. Never await inside a block, and let errors
        leave it: only then are all its changes undone. Raises DiskFull.
        """
        with self._lock:
            if self._depth:
                yield
                return
            with _translated(self._path):
                self._db.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield
                with _translated(self._path):
                    self._db.execute("COMMIT")
            finally:
                self._depth = 0
                if self._db.in_transaction:
                    with _translated(self._path):
                        self._db.execute("ROLLBACK")

    # Signed values

    def save_signed(self, kind: SignedKind, run: Digest, digest: Digest, data: bytes) -> bool:
        """Keep an envelope by the digest of its body; returns whether it is new."""
        new = self._change(
            "INSERT OR IGNORE INTO signed (kind, run, digest, data) VALUES (?, ?, ?, ?)",
            (kind, run, digest, data),
        )
        return bool(new)

    def drop_signed(self, kind: SignedKind, digest: Digest) -> None:
        """Remove one envelope."""
        self._change("DELETE FROM signed WHERE kind = ? AND digest = ?", (kind, digest))

    def signed(self, kind: SignedKind, run: Digest | None = None) -> list[SavedValue]:
        """Return the envelopes of a kind, of one run or of all, in the order of arrival."""
        rows = self._rows(
            "SELECT run, digest, data FROM signed WHERE kind = ? AND run = ifnull(?, run) "
            "ORDER BY id",
            (kind, run),
        )
        return [SavedValue(*row) for row in rows]

    def one_signed(self, kind: SignedKind, digest: Digest) -> bytes | None:
        """Return the envelope whose body has `digest`."""
        row = self._row("SELECT data FROM signed WHERE kind = ? AND digest = ?", (kind, digest))
        return row[0] if row else None

    # Runs

    def keep(self, run: Digest) -> None:
        """Note that this node works for a run."""
        self._change("INSERT OR IGNORE INTO kept VALUES (?)", (run,))

    def worked_runs(self) -> set[Digest]:
        """Return the runs that this node has kept, verified, scheduled or worked for."""
        rows = self._rows(
            "SELECT run FROM kept UNION SELECT run FROM verdicts UNION SELECT run FROM leases "
            "UNION SELECT run FROM results",
            (),
        )
        return {row[0] for row in rows}

    def drop_run(self, run: Digest) -> None:
        """Remove all values of a run."""
        with self.saving():
            for table in OF_RUNS:
                self._change(f"DELETE FROM {table} WHERE run = ?", (run,))

    def drop_details(self, run: Digest) -> None:
        """Remove all values of a run but its manifest."""
        with self.saving():
            self._change("DELETE FROM signed WHERE run = ? AND kind != 'manifest'", (run,))
            self.cut_ledger(run, 0)

    def bury(self, run: Digest) -> None:
        """Remove all values of a run, and note that it is not taken in again."""
        with self.saving():
            self.drop_run(run)
            self._change("INSERT OR IGNORE INTO dropped (run) VALUES (?)", (run,))
            self._trim("dropped", MAX_DROPPED)

    def buried(self) -> set[Digest]:
        """Return the runs that are not taken in again."""
        return {row[0] for row in self._rows("SELECT run FROM dropped", ())}

    # Proofs

    def save_proof(self, proof: SavedProof) -> bool:
        """Keep the proof of a signer's fault; returns False for one that is too large to keep."""
        if max(len(proof.one), len(proof.other)) > MAX_PROOF:
            return False
        with self.saving():
            self._change(
                "INSERT INTO proofs (run, reason, one, other) VALUES (?, ?, ?, ?)",
                (proof.run, proof.reason, proof.one, proof.other),
            )
            self._trim("proofs", MAX_PROOFS)
        return True

    def proofs(self) -> list[SavedProof]:
        """Return the proofs that are kept, in the order in which they were found."""
        rows = self._rows("SELECT run, reason, one, other FROM proofs ORDER BY id", ())
        return [SavedProof(*row) for row in rows]

    def _trim(self, table: str, most: int) -> None:
        """Remove the oldest rows of a table beyond `most`."""
        kept = f"SELECT id FROM {table} ORDER BY id DESC LIMIT ?"
        self._change(f"DELETE FROM {table} WHERE id NOT IN ({kept})", (most,))

    # Ledger

    def append_ledger(self, run: Digest, seq: int, digest: Digest, data: bytes) -> None:
        """Add the next record; raises LocalProtocolError if `seq` is not the next number."""
        with self.saving():
            if seq != self.ledger_length(run):
                raise LocalProtocolError(f"record {seq} does not continue ledger {short(run)}")
            self._change("INSERT INTO ledger VALUES (?, ?, ?, ?)", (run, seq, digest, data))

    def cut_ledger(self, run: Digest, length: int) -> None:
        """Remove all records from number `length` on, and their certificates."""
        with self.saving():
            self._change("DELETE FROM ledger WHERE run = ? AND seq >= ?", (run, length))
            self._change("DELETE FROM certificates WHERE run = ? AND length > ?", (run, length))

    def ledger(self, run: Digest, start: int = 0, limit: int = -1) -> list[SavedRecord]:
        """Return the records from number `start` on, at most `limit` of them (-1: all)."""
        rows = self._rows(
            "SELECT seq, digest, data FROM ledger WHERE run = ? AND seq >= ? ORDER BY seq LIMIT ?",
            (run, start, limit),
        )
        return [SavedRecord(*row) for row in rows]

    def ledger_length(self, run: Digest) -> int:
        """Return the number of records, which is the `seq` of the next one."""
        row = self._row("SELECT seq FROM ledger WHERE run = ? ORDER BY seq DESC", (run,))
        return row[0] + 1 if row else 0

    # Verdicts

    def save_verdict(self, run: Digest, spec: Digest, data: bytes) -> None:
        """Keep the verdict on a spec; it replaces an earlier one."""
        self._change("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", (run, spec, data))

    def verdict(self, run: Digest, spec: Digest) -> bytes | None:
        """Return the verdict on a spec."""
        row = self._row("SELECT data FROM verdicts WHERE run = ? AND spec = ?", (run, spec))
        return row[0] if row else None

    # The node's sums

    def save_totals(self, totals: Mapping[str, float]) -> None:
        """Keep the node's sums by name; they replace the earlier ones."""
        with self.saving():
            for name, amount in totals.items():
                self._change("INSERT OR REPLACE INTO totals VALUES (?, ?)", (name, amount))

    def totals(self) -> dict[str, float]:
        """Return the sums that were kept, integers as such."""
        return {name: amount for name, amount in self._rows("SELECT * FROM totals", ())}

    # The schedule

    def save_lease(self, lease: SavedLease) -> None:
        """Keep a lease."""
        self._change(
            "INSERT OR REPLACE INTO leases (token, run, peer, data) VALUES (?, ?, ?, ?)",
            (lease.token, lease.run, lease.peer, lease.data),
        )

    def drop_lease(self, token: bytes) -> None:
        """Remove a lease that ended."""
        self._change("DELETE FROM leases WHERE token = ?", (token,))

    def leases(self, run: Digest) -> list[SavedLease]:
        """Return the leases of a run, by token."""
        rows = self._rows(
            "SELECT run, token, peer, data FROM leases WHERE run = ? ORDER BY token",
            (run,),
        )
        return [SavedLease(*row) for row in rows]

    def save_result(self, result: SavedResult) -> bool:
        """Keep an accepted result; returns False, and changes nothing, if there is one already."""
        new = self._change(
            "INSERT OR IGNORE INTO results (run, round, path, peer, data) VALUES (?, ?, ?, ?, ?)",
            (result.run, result.round, result.path, result.peer, result.data),
        )
        return bool(new)

    def results(self, run: Digest) -> list[SavedResult]:
        """Return the accepted results of a run, by round and path."""
        rows = self._rows(
            "SELECT run, round, path, peer, data FROM results WHERE run = ? ORDER BY round, path",
            (run,),
        )
        return [SavedResult(*row) for row in rows]

    def drop_result(self, run: Digest, round_: int, path: int) -> None:
        """Remove one accepted result: its work must be done again."""
        self._change(
            "DELETE FROM results WHERE run = ? AND round = ? AND path = ?", (run, round_, path)
        )

    def drop_results(self, run: Digest, *, before_round: int) -> None:
        """Remove the results of the rounds before `before_round`."""
        self._change("DELETE FROM results WHERE run = ? AND round < ?", (run, before_round))

    def key_of(self, table: str) -> tuple[str, ...]:
        """Return the columns of a table's primary key, in their order."""
        columns = self._rows(f"SELECT name, pk FROM pragma_table_info('{table}') WHERE pk", ())
        return tuple(name for name, place in sorted(columns, key=lambda column: column[1]))

    def insert_row(self, table: str, row: Mapping[str, Any]) -> None:
        """Put in one row of another journal (`salvage.py`), unless its key is here."""
        names, places = ", ".join(row), ", ".join("?" * len(row))
        statement = f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({places})"
        self._change(statement, tuple(row.values()))

    def save_place(self, run: Digest, key: str, peer: PeerId) -> None:
        """Keep a place at the end of a run's queue; one that is there stays where it is."""
        self._change(
            "INSERT OR IGNORE INTO places (run, key, peer) VALUES (?, ?, ?)", (run, key, peer)
        )

    def drop_place(self, run: Digest, key: str) -> None:
        """Remove a place that was given up."""
        self._change("DELETE FROM places WHERE run = ? AND key = ?", (run, key))

    def places(self, run: Digest) -> list[tuple[str, PeerId]]:
        """Return key and peer of the places in a run's queue, the first one first."""
        return self._rows("SELECT key, peer FROM places WHERE run = ? ORDER BY id", (run,))

    # Inside

    def _prepare(self) -> None:
        # fullfsync has an effect on macOS alone, where fsync stops at the disk's own cache.
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "fullfsync = ON",
            f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
        ):
            self._db.execute(f"PRAGMA {pragma}")
        ((found,),) = self._rows("PRAGMA quick_check(1)", ())  # 10 ms for 10 MB
        if found != "ok":
            raise ConfigError(f"{self._path} is damaged ({one_line(found)}): {_CURE}")
        with self.saving():  # of two processes that open at once, the second one migrates nothing
            ((version,),) = self._rows("PRAGMA user_version", ())
            self._check_version(version)
            if not version and self._rows("SELECT name FROM sqlite_master LIMIT 1", ()):
                raise ConfigError(f"{self._path} is a database of another program: {_ANEW}")
            done = version - FIRST_VERSION + 1 if version else 0
            for number in range(done, len(MIGRATIONS)):
                for statement in MIGRATIONS[len(MIGRATIONS) - 1 - number].split(";"):
                    self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {VERSION}")
        self._compact()

    def _check_version(self, version: int) -> None:
        """Raise ConfigError for a version that this node cannot use; 0 is a new file."""
        if version > VERSION:
            raise ConfigError(
                f"{self._path} was made by a newer version of dipaco-node (journal version "
                f"{version}, this one knows {VERSION}): update, or choose another --home"
            )
        if 0 < version < FIRST_VERSION:
            raise ConfigError(
                f"{self._path} was made by another version of dipaco-node (journal version "
                f"{version}, this one reads {FIRST_VERSION} and later): choose another --home, or "
                "move the file away; its runs are then joined or created anew"
            )

    def _compact(self) -> None:
        """Give the pages of removed rows back to the disk, where that pays and it has room."""
        ((free,),) = self._db.execute("PRAGMA freelist_count").fetchall()
        ((pages,),) = self._db.execute("PRAGMA page_count").fetchall()
        ((size,),) = self._db.execute("PRAGMA page_size").fetchall()
        if free * size > COMPACT_BYTES and 2 * free > pages:
            with suppress(sqlite3.OperationalError):  # a full disk, another process: next time
                self._db.execute("VACUUM")

    def _change(self, statement: str, values: tuple[Any, ...]) -> int:
        """Execute one statement, saved at once unless in `saving()`; returns the changed rows."""
        with self.saving(), _translated(self._path):
            return self._db.execute(statement, values).rowcount

    def _rows(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with self._lock, _translated(self._path):
            return self._db.execute(query, values).fetchall()

    def _row(self, query: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Return the first row, if any."""
        with self._lock, _translated(self._path):
            row: tuple[Any, ...] | None = self._db.execute(query, values).fetchone()
            return row


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours; one that means a bug in this module passes unchanged."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith("SQLITE_FULL"):
            raise DiskFull(f"cannot write {path}: no space left on the disk") from error
        if name.startswith("SQLITE_BUSY"):
            raise Unavailable(f"cannot use {path}: another process holds it") from error
        if name.startswith(_OF_THE_DISK) and (shortage := probe_space(path.parent)):
            raise DiskFull(f"cannot write {path}: {shortage}") from error
        if name.startswith(_UNREADABLE):
            raise ConfigError(f"cannot use {path}: {error}: {_CURE}") from error
        if name.startswith(_OF_THE_DISK):
            raise ConfigError(f"cannot use {path}: {error}{whose(path)}") from error
        raise


_OF_THE_DISK = tuple(f"SQLITE_{name}" for name in ("CANTOPEN", "READONLY", "IOERR", "PERM"))
"""Errors by which SQLite also hides that the disk or a quota is full: of the log that it writes
ahead, of its index in shared memory, and of a file that it has to make."""
_UNREADABLE = ("SQLITE_NOTADB", "SQLITE_CORRUPT")
_CURE = "stop the node and run `dipaco-node repair`, or restore the file from a copy"
_ANEW = "restore it from a copy, or move it away; its runs are then joined or created anew"
