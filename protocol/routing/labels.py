"""Labels: the path that scores a router document best, where honest scorers cannot differ on it.

Scores are float likelihoods: close across hardware, but not equal. So they are quantised and
compared within a tolerance, and a document gets a label only where its best path is best beyond
that tolerance. Everything that follows from labels is exact. Source: docs/method.md, section 5.

A score sheet holds, per router document of one window, one path's score as int32, little-endian:
q = floor(1024 * mean negative log-likelihood in nats + 1/2), or -1 where the path does not score
the document.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from dipaco.protocol.errors import RemoteProtocolError

Scores = npt.NDArray[np.int32]
"""(n,), per router document; -1: not scored."""
Labels = npt.NDArray[np.uint16]
"""(n,), per router document its path, or `NO_LABEL`."""

SCORE_BYTES: Final = 4
UNITS: Final = 1024  # of a score, in one nat
NOT_SCORED: Final = -1
MAX_SCORE: Final = 1 << 24  # 16,384 nats per token: no model comes near
NO_LABEL: Final = 0xFFFF
MAX_SHEETS_PER_WINDOW: Final = 16  # sheets of one path and window

_NEVER: Final = 1 << 40  # worse than any score


def quantised(nll: float, tokens: int) -> int:
    """Return the score of `tokens` tokens of that summed negative log-likelihood, in nats."""
    if not tokens:
        return NOT_SCORED
    if not nll / tokens < MAX_SCORE / UNITS:  # true for NaN: a path that diverged is never best
        return MAX_SCORE
    return int(np.floor(UNITS * (nll / tokens) + 0.5))


def sheet_bytes(scores: Sequence[int]) -> bytes:
    """Return scores as a sheet holds them."""
    return np.array(scores, dtype="<i4").tobytes()


def read_sheet(data: bytes, documents: int) -> Scores:
    """Return the scores of a sheet, (documents,); raises RemoteProtocolError if it is malformed."""
    if len(data) != SCORE_BYTES * documents:
        raise RemoteProtocolError(f"{len(data)} bytes are no sheet of {documents} scores")
    scores = np.frombuffer(data, dtype="<i4").astype(np.int32)
    if scores.size and not (scores.min() >= NOT_SCORED and scores.max() <= MAX_SCORE):
        raise RemoteProtocolError(f"a score is not in {NOT_SCORED} to {MAX_SCORE}")
    return scores


def agree(ours: Scores, theirs: Scores, tolerance: int) -> bool:
    """Return whether both can be honest: they score the same documents, none too far apart."""
    return len(ours) == len(theirs) and not len(contradictions(ours, theirs, tolerance))


def contradictions(ours: Scores, theirs: Scores, tolerance: int) -> npt.NDArray[np.intp]:
    """Return the rows on which two sheets of one length cannot both be honest."""
    apart = np.abs(ours.astype(np.int64) - theirs) > 2 * tolerance
    return np.flatnonzero(apart | ((ours < 0) != (theirs < 0)))


def standing(
    sheets: int, agrees: Callable[[int, int], bool], *, scorers: int
) -> tuple[int, ...] | None:
    """Return the indices of the sheets of one path and window that stand, ascending, or None.

    A sheet counts if at least `scorers` sheets and a strict majority of all agree with it, itself
    included. The scores of the earliest such sheet are used. The sheets that agree with it stand;
    the others are refuted.

    sheets     number of sheets, in the order of the ledger.
    agrees     whether sheets i < j agree.
    """
    needed = max(scorers, sheets // 2 + 1)
    for first in range(sheets):
        agreeing = tuple(
            other
            for other in range(sheets)
            if other == first or agrees(min(first, other), max(first, other))
        )
        if len(agreeing) >= needed:
            return agreeing
    return None


def labels_of(sheets: Iterable[tuple[int, Scores]], documents: int, *, margin: int) -> Labels:
    """Return the labels of one window, (documents,).

    A document's label is the path of its least score, if the second least is worse by more than
    `margin`. So neither a tie nor a single candidate gives a label.

    sheets   (path, the scores that count), one at a time in memory.
    """
    best = np.full(documents, _NEVER, dtype=np.int64)
    second = best.copy()
    labels = np.full(documents, NO_LABEL, dtype=np.uint16)
    for path, scores in sheets:
        score = np.where(scores < 0, _NEVER, scores.astype(np.int64))
        better = score < best
        second = np.where(better, best, np.minimum(second, score))
        labels[better] = path
        best = np.minimum(best, score)
    labels[(second == _NEVER) | (second - best <= margin)] = NO_LABEL
    return labels


def label_bytes(labels: Labels) -> bytes:
    """Return the bytes of labels in a label sheet, which holds all windows: u16, little-endian."""
    return labels.astype("<u2").tobytes()
