"""The router of the next epoch: centroids are the means of what was labelled, in exact integers.

The same features, by the same mean and sign rows, and the same predictor as before; only the
centroids move, and with them bias and counts. Source: docs/method.md, section 5.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from dipaco.protocol.routing.features import normalise, raw_features
from dipaco.protocol.routing.integers import Int32, Int64, rdiv
from dipaco.protocol.routing.labels import NO_LABEL, Labels
from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.wire.digest import Digest

MIN_LABELLED: Final = 8  # documents; a path with fewer keeps its centroid


@dataclass(frozen=True)
class Resharded:
    """What the labels came to."""

    labels: Digest
    """SHA-256 of the label sheet."""
    centroids: Int32
    """(P, D), times S; of no use where the sample falls back to round_robin."""
    rows: int
    """Of the source, from the first on, that were read for it."""


class ClassMeans:
    """Sums over labelled documents, in memory that does not depend on how many they are."""

    def __init__(self, previous: RouterSpec) -> None:
        """previous: the spec whose mean and sign rows make the features."""
        self._spec = previous
        self._mean = previous.mean_array()
        self._sums = np.zeros((previous.paths, previous.dimension), dtype=np.int64)
        self._counts = np.zeros(previous.paths, dtype=np.int64)

    def add(self, prefixes: Int64, labels: Labels) -> None:
        """Take n router documents: the ids of their prefixes, (n, F), and their labels, (n,)."""
        chosen = labels != NO_LABEL
        y = raw_features(prefixes[chosen], self._spec.feat_seed, self._spec.dimension)
        x = normalise(y, self._mean, self._spec.norm_bits)
        np.add.at(self._sums, labels[chosen], x)
        np.add.at(self._counts, labels[chosen], 1)

    def absorb(self, other: "ClassMeans") -> None:
        """Add what another one summed."""
        self._sums += other._sums
        self._counts += other._counts

    def centroids(self) -> Int32:
        """Return c_p = rdiv(S * sum of x, n), (P, D); the old one where n is below 8.

        Divided in Python's integers: a sum times S may leave 64 bits.
        """
        shape = self._sums.shape
        old = self._spec.centroid_array() if self._spec.centroids else np.zeros(shape, np.int32)
        centroids: Int32 = old.copy()
        scale = 1 << self._spec.scale_bits
        for path, count in enumerate(self._counts.tolist()):
            if count >= MIN_LABELLED:
                sums = self._sums[path].tolist()
                centroids[path] = [rdiv(scale * value, count) for value in sums]
        return centroids
