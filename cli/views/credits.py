"""The board of a run, for people and programs."""

from collections.abc import Sequence

import msgspec

from dipaco.cli.views.layout import Column, table_text
from dipaco.node.runs.files import RunFile
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import fingerprint
from dipaco.protocol.wire.text import escaped
from dipaco.protocol.work.credits import credits_of
from dipaco.protocol.work.ledger import LedgerRecord

COLUMNS = (
    Column("peer", words=True),
    Column("fingerprint", words=True, drop=5),
    Column("rounds"),
    Column("steps", drop=1),
    Column("tokens", drop=2),
    Column("evaluations", drop=3),
    Column("scores", drop=4),
    Column("again", drop=6),
    Column("loss fell by"),
)


class CreditRow(msgspec.Struct, frozen=True, kw_only=True):
    """The work of one peer in a run, as the ledger tells it."""

    peer: str
    fingerprint: str
    """Of the PeerID, to read out."""
    rounds: int
    """Rounds of a path that it trained and an outer step used."""
    steps: int
    """Inner steps of these rounds, and of the seed model."""
    tokens: int
    """The most tokens that these steps can have seen: steps x batch x context."""
    evaluations: int
    """Held-out losses that it computed."""
    scores: int
    """Score sheets for a re-sharding."""
    again: int
    """Rounds that it trained as a second peer."""
    improvement: float
    """Nats per token by which the held-out loss of its paths fell in its rounds, summed."""


class CreditBoard(msgspec.Struct, frozen=True, kw_only=True):
    """The output of `credits --json`."""

    run: str
    """Run id, hex."""
    name: str
    """The run's name."""
    records: int
    """Number of records of the ledger that were checked."""
    head: str
    """Digest of the last one, hex: boards of one head are equal."""
    rows: tuple[CreditRow, ...]
    """A row for each peer, the most inner steps first."""


def credit_board(run: RunFile, records: Sequence[LedgerRecord], head: Digest) -> CreditBoard:
    """Return the board of a run whose checked ledger ends with `head`."""
    rows = tuple(
        CreditRow(
            peer=each.peer,
            fingerprint=fingerprint(each.peer),
            rounds=each.rounds,
            steps=each.steps,
            tokens=each.tokens,
            evaluations=each.evaluations,
            scores=each.scores,
            again=each.again,
            improvement=each.improvement,
        )
        for each in credits_of(run.manifest, (record.entry for record in records))
    )
    return CreditBoard(
        run=run.id.hex(),
        name=run.manifest.name,
        records=len(records),
        head=head.hex(),
        rows=rows,
    )


def board_text(board: CreditBoard, own: str, name: str, width: int | None) -> str:
    """Return a line for each peer, and the ledger that it follows from.

    own, name   the PeerID of this node, and what its row is marked with.
    """
    rows = [
        (
            f"{row.peer[:8]}...{row.peer[-4:]}{f' ({escaped(name)})' if row.peer == own else ''}",
            row.fingerprint,
            f"{row.rounds:,}",
            f"{row.steps:,}",
            f"{row.tokens:,}",
            f"{row.evaluations:,}",
            f"{row.scores:,}",
            f"{row.again:,}",
            f"{row.improvement:.3f}",
        )
        for row in board.rows
    ]
    foot = f"{board.name} {board.run[:16]}: {board.records:,} records, head {board.head[:16]}"
    return "\n".join([*([table_text(COLUMNS, rows, width)] if rows else []), foot])
