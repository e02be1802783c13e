"""The rows of its shard that a path trains on at each step, and the learning rate there.

Everything here follows from the manifest, the path and the step, and no library's random
generator is used: anybody can repeat a lease. Source: docs/method.md 2.1 and 2.2.
"""

import math

from msgspec import UNSET

from dipaco.protocol.run.training import Training
from dipaco.protocol.wire.digest import Digest, tagged, u32

DENSE = 0xFFFFFFFF
"""Stands for the whole training stream instead of a path; the seed phase trains on it."""


def batch_run(training: Training, run: Digest) -> Digest:
    """Return the run id that the order of batches of the run `run` follows from."""
    return run if training.batch_order is UNSET else training.batch_order


def batch_seed(run: Digest, path: int) -> Digest:
    """Return the seed of the row order of `path` (or `DENSE`) in the run `run` (`batch_run`)."""
    return tagged("dipaco/1/batch-seed", run, u32(path))


def order_of_pass(seed: Digest, number: int, rows: int) -> list[int]:
    """Return the indices of all `rows` rows in the order of pass `number` (from 0)."""
    mark = u32(number)
    return sorted(range(rows), key=lambda i: tagged("dipaco/1/order", seed, mark, u32(i)))


class RowOrder:
    """The endless sequence of rows of one shard, pass after pass; a batch may span passes."""

    def __init__(self, seed: Digest, rows: int) -> None:
        if rows < 1:
            raise ValueError("a shard without a row has no order")
        self._seed, self._rows = seed, rows
        self._pass, self._order = 0, order_of_pass(seed, 0, rows)

    def batch(self, step: int, size: int) -> list[int]:
        """Return the rows of the batch of `step` (from 0, counted over all rounds)."""
        return [self._at(place) for place in range(step * size, (step + 1) * size)]

    def _at(self, place: int) -> int:
        number, index = divmod(place, self._rows)
        if number != self._pass:
            self._pass, self._order = number, order_of_pass(self._seed, number, self._rows)
        return self._order[index]


def first_step(training: Training, round_: int) -> int:
    """Return the first step of round `round_` (from 1), counted over all rounds of a path."""
    return (round_ - 1) * training.inner_steps


def learning_rate(training: Training, step: int) -> float:
    """Return lr(k) of the inner optimizer: linear warm-up, then cosine down to the floor.

    step   k, counted from the first step of the seed phase; the last is k0 + T * tau - 1.
    """
    adam = training.inner
    end = training.seed_steps + training.rounds * training.inner_steps
    warm = min(1.0, (step + 1) / adam.warmup) if adam.warmup else 1.0
    cosine = (1.0 + math.cos(math.pi * min(1.0, step / end))) / 2.0
    return adam.lr * warm * (adam.floor + (1.0 - adam.floor) * cosine)
