"""Score sheets in the blob store: reads and compares them, with NumPy alone.

Source: docs/method.md, section 5.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.routing.labels import SCORE_BYTES, Scores, agree, read_sheet, standing
from dipaco.protocol.run.manifest import Manifest, Reshard
from dipaco.protocol.work.kinds import Scored, ScoreLease, Sheet

if TYPE_CHECKING:
    from dipaco.node.routing.shards import RouterDocuments


def read_scores(blobs: BlobStore, sheet: Sheet) -> Scores:
    """Return a sheet's scores, (documents,); raises Unavailable, RemoteProtocolError."""
    data = blobs.read(sheet.digest, SCORE_BYTES * sheet.documents)
    return read_sheet(data, sheet.documents)


def sheets_agree(blobs: BlobStore, ours: Sheet, theirs: Sheet, tolerance: int) -> bool:
    """Return whether both sheets can be honest; raises Unavailable, RemoteProtocolError."""
    if ours == theirs:
        return True
    return agree(read_scores(blobs, ours), read_scores(blobs, theirs), tolerance)


def standing_sheet(blobs: BlobStore, reshard: Reshard, given: Sequence[Scored]) -> Scored | None:
    """Return the sheet whose scores count, None if too few agree.

    given   the sheets of one path and window, in the ledger's order.

    Raises Unavailable, and RemoteProtocolError for a blob that is no sheet.
    """
    scores = [read_scores(blobs, each.sheet) for each in given]
    stand = standing(
        len(given),
        lambda i, j: agree(scores[i], scores[j], reshard.tolerance),
        scorers=reshard.scorers,
    )
    return None if stand is None else given[stand[0]]


def wrong_sheet(
    blobs: BlobStore, manifest: Manifest, lease: ScoreLease, sheet: Sheet, due: "RouterDocuments"
) -> str:
    """Check that a sheet scores exactly the documents of its lease.

    due   the router documents of the lease's window.

    Returns the fault as text, empty if there is none. The set of scored documents is exact and is
    checked; the scores are not exact and are not checked. Raises Unavailable if the blob is
    missing, which is not the fault of the peer that handed it in.
    """
    try:
        scores = read_scores(blobs, sheet)
    except RemoteProtocolError as error:
        return f"score sheet: {error}"
    wanted = due.scored_by(lease.path, manifest.routing.first_scored)
    if len(scores) != len(due.documents) or not np.array_equal(np.flatnonzero(scores >= 0), wanted):
        return "score sheet: it scores other documents than the window has for this path"
    return ""
