"""Artificial rows in memory, with the interface of a shard."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rows:
    """(rows, context + 1) token ids."""

    data: NDArray[np.int64]

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.data)

    def row(self, index: int) -> NDArray[np.int64]:
        """Return one row, (context + 1,)."""
        found: NDArray[np.int64] = self.data[index]
        return found
