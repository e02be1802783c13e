"""The router of the next epoch: its centroids are means of labelled documents, in exact integers.

Featurizer, mean and predictor are those of the epoch before; only the centroids change, and with
them bias and counts. Source: docs/method.md, section 5.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from dipaco.protocol.routing.features import normalise
from dipaco.protocol.routing.featurize import featurizer_of
from dipaco.protocol.routing.integers import Int32, Int64, rdiv
from dipaco.protocol.routing.labels import NO_LABEL, Labels
from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.wire.digest import Digest

MIN_LABELLED: Final = 8  # documents; a path with fewer keeps its centroid


@dataclass(frozen=True)
class Resharded:
    """The centroids that labels give."""

    labels: Digest
    """SHA-256 of the label sheet."""
    centroids: Int32
    """(P, D), times S; not used where the sample falls back to round_robin."""
    rows: int
    """Number of the source's rows, from the first, that were read for the labels."""


class ClassMeans:
    """Sums over labelled documents, in memory that does not grow with their number."""

    def __init__(self, previous: RouterSpec) -> None:
        """previous: the spec whose featurizer and mean make the features."""
        self._spec = previous
        self._featurize = featurizer_of(previous)
        self._mean = previous.mean_array()
        self._sums = np.zeros((previous.paths, previous.dimension), dtype=np.int64)
        self._counts = np.zeros(previous.paths, dtype=np.int64)

    def add(self, prefixes: Int64, labels: Labels) -> None:
        """Take n router documents: the ids of their prefixes, (n, F), and their labels, (n,)."""
        chosen = labels != NO_LABEL
        x = normalise(self._featurize(prefixes[chosen]), self._mean, self._spec.norm_bits)
        np.add.at(self._sums, labels[chosen], x)
        np.add.at(self._counts, labels[chosen], 1)

    def absorb(self, other: "ClassMeans") -> None:
        """Add the sums of another `ClassMeans`."""
        self._sums += other._sums
        self._counts += other._counts

    def centroids(self) -> Int32:
        """Return c_p = rdiv(S * sum of x, n), (P, D); the old one where n is below 8.

        It divides in Python's integers, since a sum times S may exceed 64 bits.
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
