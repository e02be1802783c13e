"""Score sheets in the blob store: read, and held against each other. NumPy alone.

Source: docs/method.md, section 5.
"""

from collections.abc import Sequence

from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.lease import Sheet
from dipaco.protocol.ledger import Scored
from dipaco.protocol.manifest import Reshard
from dipaco.protocol.routing.labels import SCORE_BYTES, Scores, agree, read_sheet, standing


def read_scores(blobs: BlobStore, sheet: Sheet) -> Scores:
    """Return a sheet's scores, (documents,); raises Unavailable, RemoteProtocolError."""
    data = blobs.read(sheet.digest, SCORE_BYTES * sheet.documents)
    return read_sheet(data, sheet.documents)


def sheets_agree(blobs: BlobStore, ours: Sheet, theirs: Sheet, tolerance: int) -> bool:
    """Return whether both can be honest; raises Unavailable, RemoteProtocolError."""
    if ours == theirs:
        return True
    return agree(read_scores(blobs, ours), read_scores(blobs, theirs), tolerance)


def standing_sheet(blobs: BlobStore, reshard: Reshard, given: Sequence[Scored]) -> Scored | None:
    """Return the one whose scores count, of the sheets of one path and window, as recorded.

    Raises Unavailable, and RemoteProtocolError for a blob that is no sheet.
    """
    scores = [read_scores(blobs, each.sheet) for each in given]
    stand = standing(
        len(given),
        lambda i, j: agree(scores[i], scores[j], reshard.tolerance),
        scorers=reshard.scorers,
    )
    return None if stand is None else given[stand[0]]
