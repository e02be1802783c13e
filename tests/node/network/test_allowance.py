"""Rules of this file: pure values, times by hand."""

import pytest

from dipaco.node.network.allowance import Allowances


def test_a_key_spends_its_burst_at_once_and_gets_it_back_bit_by_bit() -> None:
    allowances = Allowances(4, seconds=60, keys=8)
    for _ in range(4):
        assert allowances.wait("a", 0.0) == 0
        allowances.spend("a", 0.0)
    assert allowances.wait("a", 0.0) == 15
    assert allowances.wait("a", 14.0) == pytest.approx(1)
    assert allowances.wait("a", 15.0) == 0
    assert allowances.wait("b", 0.0) == 0


def test_nobody_can_spend_more_than_the_burst() -> None:
    allowances = Allowances(4, seconds=60, keys=8)
    allowances.spend("a", 0.0, 1000)
    assert allowances.wait("a", 0.0) == 15


def test_what_was_spent_can_be_given_back() -> None:
    allowances = Allowances(1, seconds=60, keys=8)
    allowances.spend("a", 0.0)
    allowances.give_back("a", 10.0)
    assert allowances.wait("a", 10.0) == 0
    assert len(allowances) == 0
    allowances.give_back("a", 10.0)
    allowances.spend("a", 10.0)
    assert allowances.wait("a", 10.0) == 60


def test_keys_are_bounded_and_the_one_that_spent_first_is_forgotten() -> None:
    allowances = Allowances(1, seconds=60, keys=3)
    for key in ("a", "b", "c", "a", "d"):
        allowances.spend(key, 0.0)
    assert len(allowances) == 3
    assert [allowances.wait(key, 0.0) for key in ("a", "b", "c", "d")] == [60, 0, 60, 60]
