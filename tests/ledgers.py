"""The entries of a ledger, as its signed records hold them."""

from dipaco.node.catalogue import Catalogue
from dipaco.protocol.digest import Digest
from dipaco.protocol.ledger import Entry, LedgerRecord
from dipaco.protocol.signed import decode_signed


def entries_of(catalogue: Catalogue, run: Digest) -> list[Entry]:
    """Return all entries of a run's ledger, oldest first."""
    records = catalogue.read_ledger(run, 0, 1 << 30)
    return [decode_signed(record, LedgerRecord)[1].entry for record in records]
