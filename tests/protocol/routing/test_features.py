"""Rules of this file: the oracle is `reference.py`; equality is exact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipaco.protocol.routing.features import (
    mean_of,
    normalise,
    normalise_in_place,
    raw_features,
    sign_rows,
)
from dipaco.protocol.routing.integers import Int64
from tests.protocol.routing import reference

SEED = bytes(range(32))


@st.composite
def prefixes(draw: st.DrawFn) -> Int64:
    """Up to six prefixes of up to eight ids, from few ids, so that they repeat."""
    length = draw(st.integers(1, 8))
    ids = st.integers(0, 5) | st.integers(0, (1 << 20) - 1)
    rows = st.lists(st.lists(ids, min_size=length, max_size=length), min_size=1, max_size=6)
    return np.array(draw(rows), dtype=np.int64)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(prefixes(), st.sampled_from([8, 24, 256]), st.sampled_from([4, 10, 12]))
def test_features_equal_the_oracle_s(rows: Int64, dimension: int, norm_bits: int) -> None:
    y = raw_features(rows, SEED, dimension)
    mean = mean_of(y)
    x = normalise(y, mean, norm_bits)
    expected_y = [reference.raw(row, SEED, dimension) for row in rows.tolist()]
    expected_mean = reference.mean(expected_y)
    assert y.tolist() == expected_y
    assert mean.tolist() == expected_mean
    assert x.tolist() == [reference.normalised(r, expected_mean, norm_bits) for r in expected_y]


def adversarial(prefix: int) -> Int64:
    """One token all over, all tokens distinct, and mixtures of the two."""
    rows = np.tile(np.arange(prefix), (64, 1))
    for row in range(64):
        rows[row, : row * prefix // 63] = row % 3
    return rows


@pytest.mark.parametrize(("prefix", "norm_bits"), [(1, 10), (32, 10), (1024, 12)])
def test_features_stay_within_their_bounds_for_adversarial_prefixes(
    prefix: int, norm_bits: int
) -> None:
    y = raw_features(adversarial(prefix), SEED, 256)
    mean = mean_of(y)
    x = normalise(y, mean, norm_bits)
    assert np.abs(y).max() <= 16 * prefix
    assert np.abs(mean).max() <= 16 * prefix
    assert np.abs(x).max() <= 1 << norm_bits


def test_a_single_direction_reaches_the_bound_and_not_more() -> None:
    y = np.array([[7, 0, 0], [-7, 0, 0]], dtype=np.int32)
    assert normalise(y, np.zeros(3, np.int32), 10).tolist() == [[1024, 0, 0], [-1024, 0, 0]]


def test_features_of_the_longest_prefix_are_exact_at_their_bounds() -> None:
    bound = 16 * 1024
    y = np.tile(np.array([[bound, -bound], [1 - bound, bound]], dtype=np.int32), (1, 128))
    mean = np.tile(np.array([-bound, bound], dtype=np.int32), 128)
    expected = [reference.normalised(row, mean.tolist(), 12) for row in y.tolist()]
    assert normalise(y, mean, 12).tolist() == expected


def test_a_document_at_the_mean_has_zero_features() -> None:
    y = np.full((2, 8), 5, dtype=np.int32)
    assert not normalise(y, mean_of(y), 10).any()


def test_the_mean_of_no_rows_is_zero() -> None:
    assert mean_of(np.empty((0, 8), dtype=np.int32)).tolist() == [0] * 8


def test_features_do_not_depend_on_how_documents_are_batched() -> None:
    rows = np.random.default_rng(1).integers(0, 500, (2500, 16))
    whole = raw_features(rows, SEED, 64)
    pieces = [raw_features(rows[i : i + 313], SEED, 64) for i in range(0, 2500, 313)]
    assert np.array_equal(whole, np.concatenate(pieces))
    x = normalise(whole, mean_of(whole), 10)
    normalise_in_place(whole, mean_of(whole), 10)
    assert np.array_equal(whole, x)


def test_the_order_of_tokens_does_not_matter_their_counts_do() -> None:
    rows = np.array([[1, 2, 2, 3], [2, 3, 1, 2], [1, 2, 3, 3]])
    y = raw_features(rows, SEED, 32)
    assert y[0].tolist() == y[1].tolist() != y[2].tolist()


def test_signs_of_a_smaller_dimension_begin_those_of_a_larger_and_hang_on_the_seed() -> None:
    tokens = np.arange(50)
    wide = sign_rows(SEED, tokens, 256)
    assert np.array_equal(wide[:, :40], sign_rows(SEED, tokens, 40))
    assert not np.array_equal(wide, sign_rows(bytes(32), tokens, 256))
    assert set(np.unique(wide).tolist()) == {-1, 1}
    assert abs(wide.mean()) < 0.05
