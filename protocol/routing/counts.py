"""Counting documents and tokens per path, in memory that does not grow with their number."""

from collections.abc import Sequence

import numpy as np

from dipaco.protocol.routing.integers import Int64


class PathCounts:
    """The numbers of documents and tokens that were routed to each of P paths."""

    def __init__(self, paths: int) -> None:
        self._documents = np.zeros(paths, dtype=np.int64)
        self._tokens = np.zeros(paths, dtype=np.int64)

    def add(self, paths: Int64, sizes: Sequence[int] | Int64) -> None:
        """Count n documents on each of their paths, (n, top); `sizes` are their tokens, (n,)."""
        np.add.at(self._documents, paths, 1)
        np.add.at(self._tokens, paths, np.asarray(sizes, dtype=np.int64)[:, None])

    @property
    def documents(self) -> tuple[int, ...]:
        """Documents per path."""
        return tuple(self._documents.tolist())

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens per path."""
        return tuple(self._tokens.tolist())
