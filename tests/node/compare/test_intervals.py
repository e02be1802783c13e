"""The bootstrap is held against cases whose answer is known, and against theory where it is not."""

import numpy as np
import pytest

from dipaco.node.compare.intervals import ratio

DOCUMENTS = 400


def losses(*, runs: int, run_spread: float, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return losses of two methods that differ by nothing but chance."""
    chance = np.random.default_rng(seed)
    shared = chance.normal(500.0, 100.0, DOCUMENTS)
    theirs = np.tile(shared, (runs, 1))
    drift = chance.normal(0.0, run_spread, (runs, 1))
    return theirs + drift * 100 + chance.normal(0.0, 2.0, (runs, DOCUMENTS)), theirs


TOKENS = np.full(DOCUMENTS, 100.0)


def test_equal_losses_are_a_ratio_of_one_that_is_not_told_apart() -> None:
    _, theirs = losses(runs=3, run_spread=0.0)
    found = ratio(theirs, theirs, TOKENS)
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)
    assert not found.told_apart


def test_the_mean_is_geometric_over_runs_and_weighted_by_tokens() -> None:
    tokens = np.array([1.0, 3.0])
    ours = np.log(np.array([[2.0, 2.0], [8.0, 8.0]])) * tokens
    assert ratio(ours, np.zeros((2, 2)), tokens).mean == pytest.approx(4.0)


def test_what_documents_share_cancels() -> None:
    ours, theirs = losses(runs=1, run_spread=0.0)
    found = ratio(ours, theirs, TOKENS)
    deviation = 2.0 / 100 / DOCUMENTS**0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.1)


def test_one_better_document_in_twenty_runs_is_told_apart_and_chance_is_not() -> None:
    ours, theirs = losses(runs=4, run_spread=0.0)
    assert ratio(ours - 1.0, theirs, TOKENS).told_apart
    assert not ratio(ours - ours.mean() + theirs.mean(), theirs, TOKENS).told_apart


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_the_spread_between_runs_widens_the_interval_as_much_as_theory_says(runs: int) -> None:
    widths, spread = [], 0.01
    for seed in range(40):
        ours, theirs = losses(runs=runs, run_spread=spread, seed=seed)
        found = ratio(ours, theirs, TOKENS)
        widths.append((np.log(found.high / found.low) / (2 * 1.96)) ** 2)
    assert np.mean(widths) ** 0.5 == pytest.approx(spread / runs**0.5, rel=0.25)
