"""Rules of this file: the oracle is `reference.py`; points come from few values, so that ties,
duplicates and empty clusters are the rule; both products must agree with it to the bit."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dipaco.protocol.errors import LocalProtocolError
from dipaco.protocol.routing.integers import Int32
from dipaco.protocol.routing.kmeans import (
    Clustering,
    ClusterSums,
    Points,
    capacity_bias,
    fill_empty_clusters,
    has_distinct_rows,
    run_once,
    run_restarts,
)
from dipaco.protocol.routing.scores import PRODUCTS, float64_product
from dipaco.protocol.run.exactness import EXACT_FLOAT64
from tests.protocol.routing import reference


@st.composite
def small_cases(draw: st.DrawFn) -> tuple[list[list[int]], int]:
    """Points of one to three dimensions with many equal ones, and a number of paths."""
    dimension = draw(st.integers(1, 3))
    row = st.lists(st.integers(-3, 3), min_size=dimension, max_size=dimension)
    rows = draw(st.lists(row, min_size=1, max_size=14))
    distinct = len({tuple(row) for row in rows})
    paths = draw(st.integers(1, 6))
    assume(paths <= distinct)
    return rows, paths


def points_of(rows: list[list[int]], scale: int, which: int = 0) -> Points:
    x = np.array(rows, dtype=np.int32)
    return Points.of(x, scale=scale, product=PRODUCTS[which])


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=250)
@given(small_cases(), st.binary(max_size=4), st.sampled_from([1, 4]), st.sampled_from([1, 2, 64]))
def test_k_means_equals_the_oracle_s(
    case: tuple[list[list[int]], int], seed: bytes, scale: int, max_updates: int
) -> None:
    rows, paths = case
    centroids, updates, inertia = reference.kmeans(
        rows, paths, seed, scale=scale, max_updates=max_updates
    )
    for which in range(len(PRODUCTS)):
        found = run_once(points_of(rows, scale, which), paths, seed, max_updates=max_updates)
        assert found.centroids.tolist() == centroids
        assert (found.updates, found.inertia) == (updates, inertia)


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    small_cases(),
    st.binary(max_size=4),
    st.sampled_from([(1, 1), (5, 4), (2, 1)]),
    st.one_of(st.none(), st.lists(st.integers(1, 1 << 24), min_size=14, max_size=14)),
)
def test_the_capacity_rule_equals_the_oracle_s(
    case: tuple[list[list[int]], int],
    seed: bytes,
    capacity: tuple[int, int],
    sizes: list[int] | None,
) -> None:
    rows, paths = case
    weights = [1] * len(rows) if sizes is None else sizes[: len(rows)]
    found = run_once(points_of(rows, 4), paths, seed, max_updates=8)
    expected = reference.capacity_bias(
        rows, found.centroids.tolist(), found.inertia, capacity, 4, weights
    )
    for which in range(len(PRODUCTS)):
        bias = capacity_bias(
            points_of(rows, 4, which),
            found,
            capacity,
            weights=None if sizes is None else np.array(weights),
            max_bias=EXACT_FLOAT64,
        )
        assert bias == expected


def test_the_heaviest_sample_is_weighed_exactly() -> None:
    """As many tokens as a path may hold: floats of 53 bits, and 64-bit products, would round."""
    points = points_of([[0], [1], [9], [10]], 1)
    found = Clustering(np.array([[0], [10]], dtype=np.int32), 0, 1, inertia=2 << 50)
    heavy = [(1 << 61) - 1, 1, 1, 1]
    bias = capacity_bias(points, found, (1, 1), weights=np.array(heavy), max_bias=EXACT_FLOAT64)
    rows, centroids = [[0], [1], [9], [10]], [[0], [10]]
    assert bias == reference.capacity_bias(rows, centroids, 2 << 50, (1, 1), 1, heavy)


def test_the_least_inertia_wins_and_the_lowest_restart_on_ties() -> None:
    rows = [[4, 4], [6, 8], [0, 1], [7, 8], [2, 2], [7, 3], [2, 7], [2, 3], [5, 4], [0, 0]]
    points, seeds = points_of(rows, 4), [bytes([i]) for i in range(12)]
    runs = [run_once(points, 4, seed, max_updates=64) for seed in seeds]
    inertias = [run.inertia for run in runs]
    best = run_restarts(points, 4, seeds, max_updates=64)
    assert (
        len(set(inertias)) > 1 and inertias.count(min(inertias)) > 1 and min(inertias) < inertias[0]
    )
    assert best.restart == inertias.index(min(inertias))
    assert best.centroids.tolist() == runs[best.restart].centroids.tolist()
    assert (best.inertia, best.updates) == (min(inertias), runs[best.restart].updates)


def test_empty_clusters_take_the_farthest_point_of_those_not_alone_lowest_first() -> None:
    assigned = np.array([0, 0, 0, 2, 0])
    distances = np.array([1, 5, 5, 99, 0])
    fill_empty_clusters(assigned, distances, 5)
    assert assigned.tolist() == [4, 1, 3, 2, 0]  # 99 is alone; 5 and 5 by index; then 1
    assert distances.tolist() == [0, 0, 0, 99, 0]


def test_centroids_round_halves_up() -> None:
    points = points_of([[1], [2], [-1], [-2]], 1)
    sums = ClusterSums(points, 2)
    assert sums.move(np.array([0, 0, 1, 1]))
    assert sums.centroids().tolist() == [[2], [-1]]


def test_sums_that_points_moved_through_are_those_of_a_fresh_start() -> None:
    draw = np.random.default_rng(7)
    rows = draw.integers(-4096, 4097, (5000, 8)).tolist()
    for which in range(len(PRODUCTS)):
        points = points_of(rows, 256, which)
        moving = ClusterSums(points, 3)
        for _ in range(6):
            assigned = draw.integers(0, 3, len(rows))
            assert moving.move(assigned)
            fresh = ClusterSums(points, 3)
            fresh.move(assigned)
            assert np.array_equal(moving.centroids(), fresh.centroids())
        assert not moving.move(assigned.copy())


def test_distinct_rows_are_counted_up_to_the_number_asked_for() -> None:
    x = np.array([[0, 1], [0, 1], [1, 0], [0, 1]], dtype=np.int32)
    assert has_distinct_rows(x, 2)
    assert not has_distinct_rows(x, 3)
    assert not has_distinct_rows(x[:0], 1)


def test_an_inertia_beyond_64_bits_is_exact() -> None:
    far, scale = 1 << 12, 1 << 16
    rows = [[far * (1 - 2 * (i >> d % 8 & 1)) for d in range(16)] for i in range(256)] * 8
    found = run_once(points_of(rows, scale), 1, b"seed", max_updates=3)
    assert found.centroids.tolist() == [[0] * 16]
    assert found.inertia == 2048 * 16 * far**2 * scale**2
    assert found.inertia > 1 << 64


def test_a_bias_that_leaves_exact_arithmetic_is_our_failure() -> None:
    x: Int32 = np.array([[0], [1], [2], [3], [4], [10]], dtype=np.int32)
    points = Points.of(x, scale=1, product=float64_product)
    found = Clustering(np.array([[2], [10]], dtype=np.int32), 0, 1, inertia=10)
    assert max(capacity_bias(points, found, (1, 1), max_bias=EXACT_FLOAT64)) > 10
    with pytest.raises(LocalProtocolError, match="leaves exact arithmetic"):
        capacity_bias(points, found, (1, 1), max_bias=10)


def test_clustering_makes_no_second_copy_of_the_sample() -> None:
    x = np.random.default_rng(5).integers(-99, 99, (60_000, 64)).astype(np.int32)
    tracemalloc.start()
    run_once(Points.of(x, scale=256, product=float64_product), 4, b"seed", max_updates=2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < x.nbytes / 2


def test_samples_of_several_blocks_equal_the_oracle_s() -> None:
    rows = np.random.default_rng(6).integers(-50, 50, (4500, 2)).tolist()
    centroids, updates, inertia = reference.kmeans(rows, 4, b"seed", scale=4, max_updates=2)
    found = run_once(points_of(rows, 4), 4, b"seed", max_updates=2)
    assert found.centroids.tolist() == centroids
    assert (found.updates, found.inertia) == (updates, inertia)
