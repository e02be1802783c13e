"""Rules of this file: losses whose units are known by heart."""

import math

import pytest

from dipaco.protocol.work.kinds import Evaluation
from dipaco.protocol.work.losses import (
    bits_per_byte,
    bits_text,
    perplexity,
    stated_bytes,
    sum_if_known,
    vocabulary_text,
)


def test_a_uniform_guess_has_the_vocabulary_as_perplexity_and_eight_bits_for_a_byte() -> None:
    nll = 10 * math.log(256)
    assert perplexity(nll, 10) == pytest.approx(256)
    assert bits_per_byte(nll, 10) == pytest.approx(8)
    assert bits_per_byte(nll, 40) == pytest.approx(2)


def test_nothing_scored_has_no_finite_figure() -> None:
    assert perplexity(0.0, 0) is None
    assert bits_per_byte(0.0, 0) is None and bits_per_byte(1.0, None) is None
    assert perplexity(1e9, 1) == math.exp(700)
    assert (bits_text(None), bits_text(2.30951)) == ("-", "2.310")


def test_a_sum_is_known_only_if_each_of_its_parts_is() -> None:
    assert sum_if_known([]) == 0 and sum_if_known([1, 2]) == 3
    assert sum_if_known([1, None, 2]) is None
    assert stated_bytes(Evaluation(documents=1, tokens=1, nll=1.0)) is None
    assert stated_bytes(Evaluation(documents=1, tokens=1, nll=1.0, bytes=0)) == 0


def test_a_vocabulary_is_named_with_its_size() -> None:
    assert vocabulary_text(4096) == "vocabulary 4,096"
