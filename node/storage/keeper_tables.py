"""The journal's tables of runs with keepers: certificates, tails, promises, acceptances.

A part of the journal (`journal.py`), apart from it by its subject: the same file, the same rule of
*save, then send*. All values are kept as the bytes that were signed or sent.
"""

from collections.abc import Sequence
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

    def save_promised(self, run: Digest, term: int, promise: bytes) -> None:
        """Keep the term below which this keeper signs nothing any more.

        promise   its encoded promise of that term, empty once it has signed a head of it.
        """
        self._change("INSERT OR REPLACE INTO promised VALUES (?, ?, ?)", (run, term, promise))

    def promised(self, run: Digest) -> tuple[int, bytes]:
        """Return the term and the promise that were saved; 0 and nothing if none was."""
        row = self._row("SELECT term, data FROM promised WHERE run = ?", (run,))
        return row or (0, b"")

    def has_promised(self, run: Digest) -> bool:
        """Return whether a term was saved, be it the first."""
        return self._row("SELECT term FROM promised WHERE run = ?", (run,)) is not None

    def save_tail(
        self, run: Digest, floor: int, first: int, records: Sequence[tuple[int, bytes]]
    ) -> None:
        """Keep of the tail the records from `floor` to before `first`, then put `records`.

        records   with their numbers, from `first` on.
        """
        with self.saving():
            self._change(
                "DELETE FROM tail WHERE run = ? AND (seq < ? OR seq >= ?)", (run, floor, first)
            )
            for seq, data in records:
                self._change("INSERT INTO tail VALUES (?, ?, ?)", (run, seq, data))

    def tail(self, run: Digest) -> list[bytes]:
        """Return the records that this keeper cosigned after the final ones."""
        rows = self._rows("SELECT data FROM tail WHERE run = ? ORDER BY seq", (run,))
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
