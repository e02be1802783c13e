"""The entries of a ledger, as its signed records hold them."""

from dipaco.node.runs.store import RunStore
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.signed import decode_signed
from dipaco.protocol.work.ledger import Entry, LedgerRecord


def entries_of(run_store: RunStore, run: Digest) -> list[Entry]:
    """Return all entries of a run's ledger, oldest first."""
    records = run_store.read_ledger(run, 0, 1 << 30)
    return [decode_signed(record, LedgerRecord)[1].entry for record in records]
