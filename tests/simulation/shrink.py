"""Leaves faults out of a universe while it still fails: the fewer are left, the more they say."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from tests.simulation.faults import Fault, Plan, plan_of


def without(seed: int, left_out: Sequence[int]) -> Plan:
    """Return the universe of a seed without some of its faults, by their numbers from 0."""
    plan = plan_of(seed)
    return replace(plan, faults=tuple(f for n, f in enumerate(plan.faults) if n not in left_out))


def shrink(seed: int, fails: Callable[[Plan], bool]) -> tuple[int, ...]:
    """Return the numbers of faults that can be left out, all together.

    fails   whether a universe still fails: with any violation, or with the same one.
    """
    return needless(len(plan_of(seed).faults), lambda left_out: fails(without(seed, left_out)))


def needless(count: int, fails: Callable[[Sequence[int]], bool]) -> tuple[int, ...]:
    """Return which of `count` faults can be left out, all together: halves first, then each.

    fails   whether a universe still fails without the faults of these numbers.
    """
    left_out: list[int] = []
    size = max(1, count // 2)
    while size:
        for first in range(0, count, size):
            more = [n for n in range(first, min(first + size, count)) if n not in left_out]
            if more and fails([*left_out, *more]):
                left_out += more
        size //= 2
    return tuple(sorted(left_out))


def remaining(seed: int, left_out: Sequence[int]) -> tuple[Fault, ...]:
    """Return the faults that were not left out."""
    return without(seed, left_out).faults
