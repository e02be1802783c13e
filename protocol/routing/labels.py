"""Labels: which path scores a router document best, where honest scorers cannot differ on it.

Scores are float likelihoods, close across hardware and not equal. So they are quantised, compared
within a tolerance, and only what survives it becomes a label; all that follows from labels is
exact. Source: docs/method.md, section 5.

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
MAX_OPINIONS: Final = 16  # sheets of one path and window

_NEVER: Final = 1 << 40  # worse than any score


def quantised(nll: float, tokens: int) -> int:
    """Return the score of `tokens` tokens of that summed negative log-likelihood, in nats."""
    if not tokens:
        return NOT_SCORED
    if not nll / tokens < MAX_SCORE / UNITS:  # NaN, too: a path that diverged is nobody's best
        return MAX_SCORE
    return int(np.floor(UNITS * (nll / tokens) + 0.5))


def sheet_bytes(scores: Sequence[int]) -> bytes:
    """Return scores as a sheet holds them."""
    return np.array(scores, dtype="<i4").tobytes()


def read_sheet(data: bytes, documents: int) -> Scores:
    """Return the scores of a sheet, (documents,); raises RemoteProtocolError for no such sheet."""
    if len(data) != SCORE_BYTES * documents:
        raise RemoteProtocolError(f"{len(data)} bytes are no sheet of {documents} scores")
    scores = np.frombuffer(data, dtype="<i4").astype(np.int32)
    if scores.size and not (scores.min() >= NOT_SCORED and scores.max() <= MAX_SCORE):
        raise RemoteProtocolError(f"a score is not in {NOT_SCORED} to {MAX_SCORE}")
    return scores


def agree(ours: Scores, theirs: Scores, tolerance: int) -> bool:
    """Return whether both can be honest: the same documents scored, none too far apart."""
    return len(ours) == len(theirs) and not len(contradictions(ours, theirs, tolerance))


def contradictions(ours: Scores, theirs: Scores, tolerance: int) -> npt.NDArray[np.intp]:
    """Return the rows on which two sheets of one length cannot both be honest."""
    apart = np.abs(ours.astype(np.int64) - theirs) > 2 * tolerance
    return np.flatnonzero(apart | ((ours < 0) != (theirs < 0)))


def standing(
    opinions: int, agrees: Callable[[int, int], bool], *, scorers: int
) -> tuple[int, ...] | None:
    """Return which of so many sheets of one path and window stand, earliest first, or None.

    Those that agree with the earliest sheet that has `scorers` behind it, itself counted, and a
    strict majority of all. Its scores are the ones that count. The others are refuted.

    agrees   whether sheets i < j agree.
    """
    needed = max(scorers, opinions // 2 + 1)
    for first in range(opinions):
        behind = tuple(
            other
            for other in range(opinions)
            if other == first or agrees(min(first, other), max(first, other))
        )
        if len(behind) >= needed:
            return behind
    return None


def labels_of(sheets: Iterable[tuple[int, Scores]], documents: int, *, margin: int) -> Labels:
    """Return the labels of one window, (documents,).

    A document's label is the path of its least score, if the second least is worse by more than
    `margin`: so a tie gives none, nor does a single candidate.

    sheets   (path, its standing scores), one at a time in memory.
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
    """Return the labels of all windows as the label sheet holds them: u16, little-endian."""
    return labels.astype("<u2").tobytes()
