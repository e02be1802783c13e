"""Rules of this file: every claim is held against fractions, math or counting, never a copy."""

from collections import Counter
from fractions import Fraction
from math import isqrt as exact_isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipaco.protocol.routing.integers import (
    Draw,
    isqrt,
    isqrt_array,
    rdiv,
    rdiv_array,
    rdiv_float64,
)

DIVIDENDS = st.integers(-(1 << 60), 1 << 60)
DIVISORS = st.integers(1, 1 << 60)


@settings(derandomize=True, deadline=None)
@given(DIVIDENDS, DIVISORS)
def test_rdiv_is_the_nearest_integer_and_halves_go_up(a: int, b: int) -> None:
    off = rdiv(a, b) - Fraction(a, b)
    assert -Fraction(1, 2) < off <= Fraction(1, 2)


@settings(derandomize=True, deadline=None)
@given(st.lists(DIVIDENDS, min_size=1, max_size=5), DIVISORS)
def test_rdiv_of_arrays_is_rdiv_of_each_element(values: list[int], b: int) -> None:
    assert rdiv_array(np.array(values), b).tolist() == [rdiv(a, b) for a in values]


@settings(derandomize=True, deadline=None)
@given(st.integers(0, (1 << 50) - 1), st.integers(1, 1 << 50), st.integers(-3, 3))
def test_rdiv_in_float64_is_rdiv_up_to_its_bound(quotient: int, b: int, near: int) -> None:
    """Near the halves, where a rounded quotient would first go wrong."""
    most = ((1 << 52) - 1 - b) // 2
    half = min((2 * quotient + 1) * b // 2, most - 3) + near
    for a in (half, -half, most, -most):
        found = rdiv_float64(np.array([a]), np.array([b]))
        assert found.tolist() == [rdiv(a, b)]


def test_rdiv_in_float64_refuses_what_it_cannot_do_exactly() -> None:
    for a, b in ((1 << 52, 1), (-(1 << 52), 1), (0, 1 << 51), (1, 0), (1, -1)):
        with pytest.raises(ValueError, match="below 2"):
            rdiv_float64(np.array([a]), np.array([b]))


def test_rdiv_of_arrays_takes_a_divisor_per_row() -> None:
    found = rdiv_array(np.array([[-1, -3], [-5, 3]]), np.array([[2], [3]]))
    assert found.tolist() == [[0, -1], [-2, 1]]


@pytest.mark.parametrize("b", [0, -1])
def test_rdiv_refuses_divisors_that_are_not_positive(b: int) -> None:
    with pytest.raises(ValueError, match="not positive"):
        rdiv(1, b)
    with pytest.raises(ValueError, match="not positive"):
        rdiv_array(np.array([1]), b)


@settings(derandomize=True, deadline=None)
@given(st.integers(0, (1 << 26) - 2), st.sampled_from([-1, 0, 1]))
def test_isqrt_is_exact_around_squares_up_to_its_limit(root: int, step: int) -> None:
    value = max(root * root + step, 0)
    assert isqrt_array(np.array([value])).tolist() == [exact_isqrt(value)] == [isqrt(value)]


def test_isqrt_of_arrays_refuses_what_float64_cannot_vouch_for() -> None:
    assert isqrt_array(np.array([(1 << 52) - 1])).tolist() == [exact_isqrt((1 << 52) - 1)]
    for value in (-1, 1 << 52):
        with pytest.raises(ValueError, match="isqrt_array"):
            isqrt_array(np.array([value]))


def test_isqrt_of_no_values_is_no_values() -> None:
    assert isqrt_array(np.array([], dtype=np.int64)).tolist() == []


def test_draw_is_unbiased_where_a_quarter_of_all_words_must_be_rejected() -> None:
    third = 1 << 61
    draw, words = Draw(b"unbiased"), Draw(b"unbiased")
    counts = Counter(draw.below(3 * third) // third for _ in range(6000))
    assert sorted(counts) == [0, 1, 2]
    # Taken mod 3 * 2^61 without rejection, words of 6/8 to 8/8 would double the lower two thirds.
    assert sum((count - 2000) ** 2 / 2000 for count in counts.values()) < 13.8  # p = 0.001
    accepted = [word for word in (words.word() for _ in range(100)) if word < 6 * third]
    again = Draw(b"unbiased")
    assert [again.below(3 * third) for _ in accepted] == [word % (3 * third) for word in accepted]
    assert len(accepted) < 90


def test_draw_below_two_to_the_64_is_the_word_itself() -> None:
    assert Draw(b"x").below(1 << 64) == Draw(b"x").word()


@pytest.mark.parametrize("m", [0, -1, (1 << 64) + 1])
def test_draw_refuses_ranges_that_64_bits_cannot_fill(m: int) -> None:
    with pytest.raises(ValueError, match="cannot draw"):
        Draw(b"x").below(m)
