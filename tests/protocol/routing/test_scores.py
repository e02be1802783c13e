"""Rules of this file: exactness is shown at the bounds, where floats would fail first."""

import numpy as np
import pytest

from dipaco.protocol.errors import LocalProtocolError
from dipaco.protocol.routing import scores
from dipaco.protocol.routing.integers import Int32, Int64
from dipaco.protocol.routing.scores import (
    PRODUCTS,
    Whole,
    checked_product,
    float64_product,
    int64_product,
    lowest,
    python_products,
    squared_norms,
)
from dipaco.protocol.run.model_shape import MAX_PATHS
from tests.protocol.routing import reference

X, S, D = 1 << 10, 1 << 8, 256


def off_by_one(x: Whole, c: Whole) -> Int64:
    """A matrix product that is wrong in a single element."""
    found = int64_product(x, c)
    found[-1, -1] += 1
    return found


def extreme_points() -> tuple[Int32, Int32]:
    """Points and centroids at the bounds, with odd neighbours, all signs."""
    rng = np.random.default_rng(7)
    x = rng.choice(np.array([-X, X, X - 1, 1 - X]), (40, D)).astype(np.int32)
    c = rng.choice(np.array([-S * X, S * X, S * X - 1, 1 - S * X]), (6, D)).astype(np.int32)
    x[0], c[0], c[1] = X, -S * X, S * X
    return x, c


@pytest.mark.parametrize("product", PRODUCTS)
def test_products_are_exact_at_the_bounds(product: object) -> None:
    x, c = extreme_points()
    assert callable(product)
    found = product(x, c).T.tolist()
    assert found == [python_products(x, np.broadcast_to(row, x.shape)) for row in c]


@pytest.mark.parametrize("product", PRODUCTS)
def test_the_largest_score_is_exact(product: object) -> None:
    x, c = extreme_points()
    assert callable(product)
    _, best = lowest(x[:1], c[:1], np.zeros(1, np.int64), scale=S, top=1, product=product)
    assert best.tolist() == [3 * D * (S * X) ** 2]


def test_float32_would_not_pass_the_self_check() -> None:
    def float32_product(x: Whole, c: Whole) -> Int64:
        return (x.astype(np.float32) @ c.astype(np.float32).T).astype(np.int64)

    x, c = extreme_points()
    assert checked_product(x, c, (float32_product, int64_product)) is int64_product


def test_a_product_that_is_wrong_once_is_replaced_by_the_next() -> None:
    x, c = extreme_points()
    assert checked_product(x, c, (off_by_one, float64_product)) is float64_product
    assert checked_product(x, c, PRODUCTS) is float64_product


def test_int64_itself_is_held_against_plain_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    x, c = extreme_points()

    def wrong(x: Whole, c: Whole) -> Int64:
        return float64_product(x, c) + 1

    monkeypatch.setattr(scores, "int64_product", wrong)
    with pytest.raises(LocalProtocolError, match="disagree with plain integers"):
        checked_product(x, c, (wrong, float64_product))


def test_the_largest_score_and_path_fit_in_one_key() -> None:
    c = np.full((MAX_PATHS, 1), 1 << 26, dtype=np.int32)
    x = np.array([[-1], [1]], dtype=np.int32)
    bias = np.full(MAX_PATHS, (1 << 52) - 1 - (1 << 27), dtype=np.int64)  # with |c|^2: 2^53 - 1
    for product in PRODUCTS:
        paths, best = lowest(x, c, bias, scale=1, top=MAX_PATHS, product=product)
        assert best.tolist() == [(1 << 53) - 1, (1 << 53) - 1 - (1 << 28)]
        assert paths.tolist() == [list(range(MAX_PATHS))] * 2


def test_a_machine_that_cannot_do_integers_is_found_out() -> None:
    x, c = extreme_points()
    with pytest.raises(LocalProtocolError, match="disagree with plain integers"):
        checked_product(x, c, (off_by_one,))


def test_paths_come_by_score_and_equal_scores_by_the_lowest_path() -> None:
    x = np.array([[1, 0]], dtype=np.int32)
    c = np.array([[0, 2], [2, 0], [0, 2], [2, 0], [0, -2]], dtype=np.int32)
    for product in PRODUCTS:
        paths, best = lowest(x, c, np.zeros(5, np.int64), scale=2, top=5, product=product)
        assert paths.tolist() == [[1, 3, 0, 2, 4]]
        assert best.tolist() == [-4]


def test_many_equal_scores_keep_the_order_of_the_paths() -> None:
    rng = np.random.default_rng(2)
    x, c = (rng.integers(-1, 2, (n, 2)).astype(np.int32) for n in (5, 300))
    bias = np.zeros(300, dtype=np.int64)
    paths, _ = lowest(x, c, bias, scale=1, top=80, product=float64_product)
    rows, centroids = x.tolist(), c.tolist()
    assert paths.tolist() == [reference.route(r, centroids, 1, [0] * 300, 80) for r in rows]


def test_a_bias_is_added_to_the_score() -> None:
    x = np.array([[1, 0]], dtype=np.int32)
    c = np.array([[2, 0], [0, 2]], dtype=np.int32)
    for bias, path in ((7, 0), (8, 0), (9, 1)):
        wide = np.array([bias, 0], dtype=np.int64)
        paths, _ = lowest(x, c, wide, scale=2, top=1, product=float64_product)
        assert paths.tolist() == [[path]]


def test_scores_do_not_depend_on_blocks() -> None:
    rng = np.random.default_rng(3)
    x = rng.integers(-9, 10, (5000, 8)).astype(np.int32)
    c = rng.integers(-9, 10, (7, 8)).astype(np.int32)
    bias = np.zeros(7, dtype=np.int64)
    for top in (1, 2):
        paths, best = lowest(x, c, bias, scale=1, top=top, product=float64_product)
        for i in (0, 2047, 2048, 4999):
            row = lowest(x[i : i + 1], c, bias, scale=1, top=top, product=int64_product)
            assert (paths[i].tolist(), best[i]) == (row[0][0].tolist(), row[1][0])
    assert squared_norms(x).tolist() == (x.astype(np.int64) ** 2).sum(axis=1).tolist()


def test_no_points_have_no_norms() -> None:
    assert squared_norms(np.empty((0, 8), dtype=np.int32)).tolist() == []
