"""Exact k-means on integer points: D^2 seeding, assignment, empty clusters, updates, restarts.

Nothing here stops on a tolerance and nothing depends on the order of floating-point sums, so all
nodes find the same centroids to the bit. Source: docs/method.md, 4.5 and 4.6.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dipaco.protocol.errors import LocalProtocolError
from dipaco.protocol.routing.integers import Draw, Int32, Int64, rdiv, rdiv_array
from dipaco.protocol.routing.scores import (
    Product,
    Whole,
    blocks,
    float64_product,
    lowest,
    squared_norms,
)

_READY_SIZE = 1 << 21  # features of a sample that may be held in float64 too: 16 MiB
_CAPACITY_STEPS = 64
_CAPACITY_SHIFT = 4  # a step moves a bias by a sixteenth of the mean distance
_CAPACITY_COOLING = 8  # steps after which the step size halves, then thirds, ...


@dataclass(frozen=True)
class Points:
    """n points to cluster, and the values that every step needs."""

    x: Int32
    """(n, D), each within -X to X."""
    ready: Whole
    """x for products: if they use float64 and memory allows, in float64, a column after another."""
    norms: Int64
    """(n,), the squared lengths."""
    scale: int
    """S, the centroids' fixed point."""
    product: Product

    @classmethod
    def of(cls, x: Int32, *, scale: int, product: Product) -> "Points":
        """Return the points x, (n, D)."""
        ready = product is float64_product and x.size <= _READY_SIZE
        return cls(
            x=x,
            ready=np.asfortranarray(x, dtype=np.float64) if ready else x,
            norms=squared_norms(x),
            scale=scale,
            product=product,
        )


@dataclass(frozen=True)
class Clustering:
    """The result of one restart."""

    centroids: Int32
    """(P, D), times S."""
    restart: int
    updates: int
    inertia: int
    """Sum of squared distances, times S^2; it may exceed 64 bits."""


def has_distinct_rows(x: Int32, count: int) -> bool:
    """Return whether x, (n, D), has at least `count` distinct rows."""
    seen: set[bytes] = set()
    for row in x:
        seen.add(row.tobytes())
        if len(seen) >= count:
            return True
    return len(seen) >= count


def seed_centres(points: Points, paths: int, draw: Draw) -> list[int]:
    """Return the rows of the first centres: each is drawn in proportion to its distance squared.

    There must be at least `paths` distinct rows.
    """
    chosen = [draw.below(len(points.x))]
    nearest = np.full(len(points.x), np.iinfo(np.int64).max, dtype=np.int64)
    while True:
        _shrink_to_centre(nearest, points, chosen[-1])
        if len(chosen) == paths:
            return chosen
        sums = np.cumsum(nearest)
        target = draw.below(int(sums[-1]))
        chosen.append(int(np.searchsorted(sums, target, side="right")))


def fill_empty_clusters(assigned: Int64, distances: Int64, paths: int) -> None:
    """Give each empty cluster the farthest point of the clusters with at least two, in place.

    assigned (n,) and the squared distances to the assigned centroid, (n,), are both updated.
    """
    counts = np.bincount(assigned, minlength=paths)
    for empty in np.flatnonzero(counts == 0).tolist():
        movable = np.where(counts[assigned] >= 2, distances, -1)
        moved = int(movable.argmax())  # the lowest index on ties
        counts[assigned[moved]] -= 1
        counts[empty] = 1
        assigned[moved] = empty
        distances[moved] = 0


class ClusterSums:
    """The sums of the members of P clusters, kept up to date by the points that move.

    The sums are integers, so adding a point and subtracting it again leaves no error.
    """

    def __init__(self, points: Points, paths: int) -> None:
        self._points = points
        self._sums = np.zeros((paths, points.x.shape[1]), dtype=np.int64)
        self._assigned = np.full(len(points.x), -1, dtype=np.int64)

    def move(self, assigned: Int64) -> bool:
        """Take the clusters of all points, (n,); return whether any point moved."""
        moved = np.flatnonzero(assigned != self._assigned)
        clusters = np.arange(len(self._sums))[:, None]
        for block in blocks(len(moved)):
            rows = moved[block]
            joined, left = assigned[rows] == clusters, self._assigned[rows] == clusters
            change = joined.astype(np.int32) - left
            self._sums += self._points.product(change, self._points.x[rows].T)  # 4.8 (b)
        self._assigned = assigned
        return len(moved) > 0

    def centroids(self) -> Int32:
        """Return the rounded means of the clusters times S, (P, D); none may be empty."""
        counts = np.bincount(self._assigned, minlength=len(self._sums))
        return rdiv_array(self._points.scale * self._sums, counts[:, None]).astype(np.int32)


def run_once(points: Points, paths: int, seed: bytes, *, max_updates: int) -> Clustering:
    """Run k-means from one seed until the assignment repeats or after `max_updates`."""
    centres = seed_centres(points, paths, Draw(seed))
    centroids = (points.scale * points.x[centres]).astype(np.int32)
    sums = ClusterSums(points, paths)
    updates = 0
    while True:
        assigned, distances = _assign(points, centroids)
        inertia = _big_sum(distances)
        fill_empty_clusters(assigned, distances, paths)
        if updates == max_updates or not sums.move(assigned):
            return Clustering(centroids, restart=0, updates=updates, inertia=inertia)
        centroids = sums.centroids()
        updates += 1


def run_restarts(
    points: Points, paths: int, seeds: Sequence[bytes], *, max_updates: int
) -> Clustering:
    """Run k-means once per seed; the least inertia wins, the lowest restart on ties."""
    best: Clustering | None = None
    for restart, seed in enumerate(seeds):
        found = run_once(points, paths, seed, max_updates=max_updates)
        if best is None or found.inertia < best.inertia:
            best = Clustering(found.centroids, restart, found.updates, found.inertia)
    assert best is not None
    return best


def inertia_of(points: Points, centroids: Int32) -> int:
    """Return the sum of squared distances to the nearest centroid, times S^2."""
    return _big_sum(_assign(points, centroids)[1])


def capacity_bias(
    points: Points,
    found: Clustering,
    capacity: tuple[int, int],
    *,
    weights: Int64 | None = None,
    max_bias: int,
) -> list[int]:
    """Return the bias per path that brings the largest cluster closest to num/den of the mean.

    A cluster is as large as the weights of its points together; `weights`, (n,), are above 0, and
    1 each if None. Python's integers are used, since a step times a size may exceed 64 bits. Raises
    LocalProtocolError above `max_bias`, where scores would no longer be exact. Source:
    docs/method.md, 4.6.
    """
    num, den = capacity
    paths, n = len(found.centroids), len(points.x)
    weights = np.ones(n, dtype=np.int64) if weights is None else weights
    total = int(weights.sum())
    mean_distance = found.inertia // n
    bias, best, smallest = [0] * paths, [0] * paths, total + 1
    for step in range(_CAPACITY_STEPS):
        if max(bias) > max_bias:
            raise LocalProtocolError(f"a capacity bias of {max(bias)} leaves exact arithmetic")
        sizes = _sizes(points, found.centroids, bias, weights)
        if max(sizes) < smallest:
            smallest, best = max(sizes), bias
        if max(sizes) * paths * den <= num * total:
            break
        eta = max(1, (mean_distance >> _CAPACITY_SHIFT) // (1 + step // _CAPACITY_COOLING))
        raised = [
            b + rdiv(eta * (paths * size - total), total)
            for b, size in zip(bias, sizes, strict=True)
        ]
        bias = [b - min(raised) for b in raised]
    return best


def _shrink_to_centre(nearest: Int64, points: Points, centre: int) -> None:
    """Lower `nearest`, (n,), to the squared distances to another centre where these are less."""
    x, norms = points.x, points.norms
    for block in blocks(len(x)):
        products = points.product(x[centre : centre + 1], points.ready[block])[0]
        distances = norms[block] + norms[centre] - 2 * products
        np.minimum(nearest[block], distances, out=nearest[block])


def _assign(points: Points, centroids: Int32) -> tuple[Int64, Int64]:
    bias = np.zeros(len(centroids), dtype=np.int64)
    paths, best = lowest(
        points.ready, centroids, bias, scale=points.scale, top=1, product=points.product
    )
    return paths[:, 0], points.scale**2 * points.norms + best


def _sizes(points: Points, centroids: Int32, bias: list[int], weights: Int64) -> list[int]:
    wide = np.array(bias, dtype=np.int64)
    paths, _ = lowest(
        points.ready, centroids, wide, scale=points.scale, top=1, product=points.product
    )
    sums = np.zeros(len(centroids), dtype=np.int64)
    np.add.at(sums, paths[:, 0], weights)  # 4.8 (f)
    sizes: list[int] = sums.tolist()
    return sizes


def _big_sum(values: Int64) -> int:
    """Sum in Python's integers of the high and the low halves: no 64-bit overflow."""
    high, low = values >> 32, values & 0xFFFFFFFF
    return (int(high.sum()) << 32) + int(low.sum())
