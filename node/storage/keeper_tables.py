"""The journal's tables of runs with keepers: certificates, tails, promises, acceptances, proposals.

A part of the journal (`journal.py`), apart from it by its subject: the same file, the same rule of
*save, then send*. All values are kept as the bytes that were signed or sent.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dipaco.protocol.wire.digest import Digest


@dataclass(frozen=True, slots=True)
class SavedCertificate:
    """The proof that the first `length` records of a ledger are final."""

    length: int
    data: bytes
    """The encoded certificate."""


@dataclass(frozen=True, slots=True)
class SavedAcceptance:
    """An acceptance that this node keeps for a run's scheduler."""

    round: int
    path: int
    data: bytes
    """The encoded envelope."""


class KeeperTables:
    """What the journal holds of runs with keepers."""

    if TYPE_CHECKING:  # the journal's own

        def saving(self) -> AbstractContextManager[None]:
            """Save all changes of the block at its end."""

        def _change(self, statement: str, values: tuple[Any, ...]) -> int: ...

        def _rows(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]: ...

        def _row(self, query: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None: ...

    # Certificates

    def save_certificate(self, run: Digest, certificate: SavedCertificate) -> None:
        """Keep the certificate of a ledger's head."""
        self._change(
            "INSERT OR REPLACE INTO certificates VALUES (?, ?, ?)",
            (run, certificate.length, certificate.data),
        )

    def drop_certificate(self, run: Digest, length: int) -> None:
        """Remove a certificate that a later one makes needless."""
        self._change("DELETE FROM certificates WHERE run = ? AND length = ?", (run, length))

    def certificates(self, run: Digest, after: int = 0) -> list[SavedCertificate]:
        """Return the certificates of heads of more than `after` records, by length."""
        rows = self._rows(
            "SELECT length, data FROM certificates WHERE run = ? AND length > ? ORDER BY length",
            (run, after),
        )
        return [SavedCertificate(*row) for row in rows]

    # A keeper's promise and tail

    def save_promised(self, run: Digest, term: int) -> None:
        """Keep the term below which this keeper signs nothing any more."""
        self._change("INSERT OR REPLACE INTO promised VALUES (?, ?)", (run, term))

    def promised(self, run: Digest) -> int:
        """Return the term that was promised; 0 if none was."""
        row = self._row("SELECT term FROM promised WHERE run = ?", (run,))
        return row[0] if row else 0

    def save_tail(self, run: Digest, first: int, records: tuple[bytes, ...]) -> None:
        """Keep records that are not final yet, from number `first` on, in place of all others."""
        self._save_records("tail", run, first, records)

    def tail(self, run: Digest) -> list[bytes]:
        """Return the records that this keeper cosigned after the final ones."""
        return self._records("tail", run)

    # A scheduler's proposal

    def save_proposed(self, run: Digest, first: int, records: tuple[bytes, ...]) -> None:
        """Keep the records that this scheduler signed, in place of the ones before."""
        self._save_records("proposed", run, first, records)

    def proposed(self, run: Digest) -> list[bytes]:
        """Return the records that this scheduler signed and that are not final yet."""
        return self._records("proposed", run)

    def _save_records(
        self, table: str, run: Digest, first: int, records: tuple[bytes, ...]
    ) -> None:
        with self.saving():
            self._change(f"DELETE FROM {table} WHERE run = ?", (run,))
            for seq, data in enumerate(records, first):
                self._change(f"INSERT INTO {table} VALUES (?, ?, ?)", (run, seq, data))

    def _records(self, table: str, run: Digest) -> list[bytes]:
        rows = self._rows(f"SELECT data FROM {table} WHERE run = ? ORDER BY seq", (run,))
        return [row[0] for row in rows]

    # The acceptances that a keeper keeps for the scheduler

    def save_acceptance(self, run: Digest, acceptance: SavedAcceptance) -> None:
        """Keep an acceptance in place of an earlier one of the same path and round."""
        self._change(
            "INSERT OR REPLACE INTO acceptances VALUES (?, ?, ?, ?)",
            (run, acceptance.round, acceptance.path, acceptance.data),
        )

    def acceptances(self, run: Digest) -> list[SavedAcceptance]:
        """Return the acceptances that are kept of a run, by round and path."""
        rows = self._rows(
            "SELECT round, path, data FROM acceptances WHERE run = ? ORDER BY round, path", (run,)
        )
        return [SavedAcceptance(*row) for row in rows]

    def drop_acceptance(self, run: Digest, round_: int, path: int) -> None:
        """Remove an acceptance that the ledger has taken in."""
        self._change(
            "DELETE FROM acceptances WHERE run = ? AND round = ? AND path = ?", (run, round_, path)
        )

    # An owner's word

    def save_grant(self, run: Digest, data: bytes) -> None:
        """Keep the newest term that the owner granted by hand, an encoded envelope."""
        self._change("INSERT OR REPLACE INTO grants VALUES (?, ?)", (run, data))

    def grant(self, run: Digest) -> bytes | None:
        """Return the newest term that the owner granted."""
        row = self._row("SELECT data FROM grants WHERE run = ?", (run,))
        return row[0] if row else None
