"""Paired bootstrap intervals of the ratio of two methods' perplexities.

A run here is one seed and one order of batches. The two methods of a pair are compared run by run
and document by document, so all that they share cancels. Documents and runs are both drawn with
replacement (a bootstrap of two crossed factors; Owen 2007, "The pigeonhole bootstrap"): the
interval answers for other documents of the same sources and for other seeds and orders.
"""

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

DRAWS: Final = 4000
LOW, HIGH = 2.5, 97.5  # percentiles: an interval of 95 %
SEED: Final = 0  # the same results give the same table


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """The ratio of two perplexities over their common runs."""

    mean: float
    """The geometric mean over the runs."""
    low: float
    high: float
    runs: int
    """With one run the interval is over documents alone."""

    @property
    def told_apart(self) -> bool:
        """Whether the interval leaves out 1."""
        return not self.low <= 1.0 <= self.high


def ratio(ours: Float64, theirs: Float64, tokens: Float64) -> Ratio:
    """Return the ratio of our perplexity to theirs.

    ours     (runs, documents), the summed loss of each document, in nats; `theirs` likewise, for
             the same runs and documents.
    tokens   (documents,), scored tokens of each.
    """
    runs, documents = ours.shape
    difference = ours - theirs
    chance = np.random.default_rng(SEED)
    drawn = chance.multinomial(documents, np.full(documents, 1 / documents), size=DRAWS)
    by_run = (drawn @ difference.T) / (drawn @ tokens)[:, None]
    logs = by_run.mean(axis=1)
    if runs > 1:
        # Few runs drawn with replacement vary too little, by (n - 1) / n: the factor mends it.
        chosen = chance.integers(runs, size=(DRAWS, runs))
        spread = np.take_along_axis(by_run, chosen, axis=1).mean(axis=1) - logs
        logs = logs + np.sqrt(runs / (runs - 1)) * spread
    low, high = np.exp(np.percentile(logs, [LOW, HIGH]))
    mean = np.exp(difference.sum() / (runs * tokens.sum()))
    return Ratio(mean=float(mean), low=float(low), high=float(high), runs=runs)
