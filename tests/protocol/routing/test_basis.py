"""Rules of this file: the oracle is `reference.py`; equality is exact."""

from math import isqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipaco.protocol.errors import LocalProtocolError
from dipaco.protocol.routing.basis import (
    Basis,
    basis_featurizer,
    fit_basis,
    orthogonalised,
    terms_of,
)
from dipaco.protocol.routing.features import mean_of, normalise
from dipaco.protocol.routing.featurize import sample_features
from dipaco.protocol.routing.integers import Int32, Int64
from dipaco.protocol.routing.params import (
    BASIS_DOCUMENTS,
    COLUMN_SQUARES,
    MAX_TERMS,
    max_idf,
    max_projection,
)
from dipaco.protocol.routing.scores import PRODUCTS, Whole, float64_product, int64_product
from tests.protocol.routing import reference
from tests.protocol.routing.doubles import recipe

SEED = bytes(range(32))
VOCABULARY = 12


@st.composite
def documents(draw: st.DrawFn) -> Int64:
    """Up to forty prefixes of up to six ids, from few ids: many terms, some of them dependent."""
    length = draw(st.integers(1, 6))
    row = st.lists(st.integers(0, VOCABULARY - 1), min_size=length, max_size=length)
    rows = draw(st.lists(row, min_size=1, max_size=8))
    picks = draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=40))
    return np.array([rows[pick] for pick in picks], dtype=np.int64)


def fitted(prefixes: Int64, vocabulary: int = VOCABULARY, **options: Any) -> Basis:
    asked: dict[str, Any] = {"feat_seed": SEED, "dimension": 8} | options
    return fit_basis(prefixes, vocabulary=vocabulary, **asked)


def random_documents(count: int, vocabulary: int, length: int = 12) -> Int64:
    """Return documents of eight topics, of skewed ids."""
    draw = np.random.default_rng(7)
    own = (draw.random((count, length)) ** 2 * vocabulary / 8).astype(np.int64)
    topics = np.arange(count)[:, None] % 8 * (vocabulary // 8)
    return np.where(draw.random((count, length)) < 0.7, own + topics, own * 8)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(documents())
def test_terms_basis_and_features_equal_the_oracle_s(prefixes: Int64) -> None:
    basis = fitted(prefixes)
    idf, columns = reference.basis(prefixes.tolist(), SEED, 8)
    assert dict(zip(basis.terms.tolist(), basis.idf.tolist(), strict=True)) == idf
    assert basis.columns.T.tolist() == columns
    y = basis_featurizer(basis, VOCABULARY)(prefixes)
    assert y.tolist() == [reference.projected(row, idf, columns) for row in prefixes.tolist()]


def test_a_basis_of_many_terms_equals_the_oracle_s() -> None:
    prefixes = random_documents(150, 64)
    basis = fitted(prefixes, 64)
    idf, columns = reference.basis(prefixes.tolist(), SEED, 8)
    assert (basis.terms.tolist(), basis.idf.tolist()) == ([*idf], [*idf.values()])
    assert basis.columns.T.tolist() == columns


def in_parts(x: Whole, c: Whole) -> Int64:
    """Add up in another order: the last terms first."""
    half = x.shape[1] // 3
    return float64_product(x[:, half:], c[:, half:]) + int64_product(x[:, :half], c[:, :half])


def row_by_row(x: Whole, c: Whole) -> Int64:
    return np.concatenate([float64_product(x[i : i + 1], c) for i in range(len(x))])


@pytest.mark.parametrize("product", [int64_product, in_parts, row_by_row])
def test_a_basis_does_not_depend_on_type_batch_or_order_of_summation(product: Any) -> None:
    prefixes = random_documents(300, 256)
    first, second = fitted(prefixes, 256), fitted(prefixes, 256, products=(product,))
    assert np.array_equal(first.columns, second.columns)


def test_a_product_that_is_not_exact_is_not_used() -> None:
    def wrong(x: Whole, c: Whole) -> Int64:
        return float64_product(x, c) + 1

    prefixes = random_documents(60, 64)
    spare = fitted(prefixes, 64, products=(wrong, int64_product))
    assert np.array_equal(spare.columns, fitted(prefixes, 64).columns)
    with pytest.raises(LocalProtocolError, match="disagree with plain integers"):
        fitted(prefixes, 64, products=(wrong,))


def test_the_order_of_documents_and_of_tokens_does_not_matter() -> None:
    prefixes = random_documents(200, 64)
    other = np.random.default_rng(1).permuted(prefixes[::-1], axis=1)
    assert np.array_equal(fitted(prefixes, 64).columns, fitted(other, 64).columns)


def test_another_seed_gives_another_basis_of_the_same_terms() -> None:
    prefixes = random_documents(200, 64)
    first, second = fitted(prefixes, 64), fitted(prefixes, 64, feat_seed=bytes(32))
    assert np.array_equal(first.terms, second.terms) and np.array_equal(first.idf, second.idf)
    assert not np.array_equal(first.columns, second.columns)


def test_the_columns_are_about_orthogonal_and_as_long_as_is_said() -> None:
    columns = fitted(random_documents(300, 256), 256, dimension=32).columns.astype(np.float64)
    products = columns.T @ columns / (1 << 28)
    assert np.abs(products - np.eye(32)).max() < 1e-3


def test_a_rotation_within_equal_eigenvalues_is_decided_by_the_integers() -> None:
    """Eight terms that are alike in all: every basis of their differences would do as well."""
    prefixes = np.array([[v, v] for v in range(8) for _ in range(6)], dtype=np.int64)
    basis = fitted(prefixes, 8)
    _, columns = reference.basis(prefixes.tolist(), SEED, 8)
    assert basis.columns.T.tolist() == columns
    assert (basis.columns != 0).any(axis=0).sum() == 8


def test_columns_that_depend_on_others_are_zero_and_so_are_their_features() -> None:
    prefixes = np.array([[0, 1], [0, 2], [3, 4]] * 5, dtype=np.int64)  # of rank 3
    basis = fitted(prefixes)
    assert (basis.columns == 0).all(axis=0).tolist() == [False] * 3 + [True] * 5
    assert not basis_featurizer(basis, VOCABULARY)(prefixes)[:, 3:].any()


def test_a_rest_just_long_enough_is_kept() -> None:
    kept = orthogonalised(np.array([[1 << 19, 0], [1 << 19, 1024]], dtype=np.int64))
    lost = orthogonalised(np.array([[1 << 19, 0], [1 << 19, 1023]], dtype=np.int64))
    assert kept.tolist() == [[1 << 14, 0], [0, 1 << 14]]
    assert lost.tolist() == [[1 << 14, 0], [0, 0]]


@pytest.mark.parametrize("count", [0, 1, 3, 7, 40])
def test_documents_that_are_all_alike_or_too_few_have_no_features_that_differ(count: int) -> None:
    prefixes = np.tile(np.array([[1, 2, 2]], dtype=np.int64), (count, 1))
    y = basis_featurizer(fitted(prefixes), VOCABULARY)(prefixes)
    assert not normalise(y, mean_of(y), 10).any()


def test_a_sample_smaller_than_the_columns_leaves_some_zero() -> None:
    prefixes = random_documents(20, 64)
    basis = fitted(prefixes, 64, dimension=64)
    used = (basis.columns != 0).any(axis=0).sum()
    assert 4 < used <= 20


def test_of_too_many_terms_those_of_the_most_documents_are_kept() -> None:
    ids = np.arange(MAX_TERMS + 10)
    copies = np.full(len(ids), 4)
    copies[100:] = 5  # the first hundred are in fewer documents: the last ten of them go
    terms, idf = terms_of(np.repeat(ids, copies), 2048, len(ids))
    assert terms.tolist() == [*range(90), *range(100, len(ids))]
    assert set(idf.tolist()) == {9}


def test_the_weight_falls_with_the_documents_that_have_a_token() -> None:
    copies = np.array([3, 4, 7, 8, 31, 32, 63, 64, 100])
    terms, idf = terms_of(np.repeat(np.arange(9), copies), 100, 9)
    assert dict(zip(terms.tolist(), idf.tolist(), strict=True)) == {
        1: 4,
        2: 4,
        3: 3,
        4: 2,
        5: 1,
        6: 1,
    }


@pytest.mark.parametrize("length", [1, 32, 1024])
def test_features_stay_within_their_bounds_for_the_worst_basis(length: int) -> None:
    """One token all over, of the largest weight, on the longest column of one term."""
    prefixes = np.zeros((2, length), dtype=np.int64)
    longest = np.array([[16384, -16384]], dtype=np.int16)
    most = max_idf(BASIS_DOCUMENTS)
    basis = Basis(np.zeros(1, np.int32), np.array([most], np.uint8), longest)
    y = basis_featurizer(basis, 1)(prefixes)
    wide = isqrt(256 * length) * most * 16384
    assert y.tolist() == [[wide >> 12, -wide >> 12]] * 2
    assert np.abs(y).max() <= max_projection(length, BASIS_DOCUMENTS)


def test_every_partial_sum_of_the_longest_prefix_fits_in_32_bits() -> None:
    squares = 256 * 1024 * max_idf(1 << 20) ** 2 * COLUMN_SQUARES
    assert isqrt(squares) < 1 << 31
    assert max_idf(1 << 20) == max_idf(BASIS_DOCUMENTS) == 9


def as_fed(prefixes: Int64, sizes: int) -> tuple[Int32, Basis]:
    asked = recipe(featurizer="idf-svd-v1", dimension=8, sample=3000)
    features = sample_features(asked, PRODUCTS)
    for start in range(0, len(prefixes), sizes):
        features.add(prefixes[start : start + sizes])
    y, basis = features.finish()
    assert basis is not None
    return y, basis


@pytest.mark.parametrize("count", [100, BASIS_DOCUMENTS, BASIS_DOCUMENTS + 300])
def test_features_do_not_depend_on_how_documents_are_batched(count: int) -> None:
    prefixes = random_documents(count, 256, length=6)
    whole, basis = as_fed(prefixes, count)
    pieces, again = as_fed(prefixes, 313)
    assert np.array_equal(whole, pieces) and np.array_equal(basis.columns, again.columns)
    assert np.array_equal(whole, basis_featurizer(basis, 256)(prefixes))


def test_a_basis_is_fitted_on_the_first_documents_alone() -> None:
    prefixes = random_documents(BASIS_DOCUMENTS + 300, 256, length=6)
    _, longer = as_fed(prefixes, 500)
    _, shorter = as_fed(prefixes[:BASIS_DOCUMENTS], 500)
    assert np.array_equal(longer.columns, shorter.columns)


def test_a_token_that_is_no_term_does_not_count() -> None:
    basis = Basis(np.array([3], np.int32), np.array([2], np.uint8), np.full((1, 8), 9000, np.int16))
    y = basis_featurizer(basis, 5)(np.array([[0, 3, 4], [1, 1, 2]]))
    assert y.tolist() == [[16 * 2 * 9000 >> 12] * 8, [0] * 8]
