"""Order of rows and learning rates: golden values, taken once, and the laws they follow."""

import hashlib
import math
from collections import Counter

import pytest
from msgspec.structs import replace

from dipaco.protocol.run.batches import (
    DENSE,
    RowOrder,
    batch_run,
    batch_seed,
    first_step,
    learning_rate,
    order_of_pass,
)
from dipaco.protocol.run.training import Adam, Nesterov, Training
from tests.values import digest

RUN = digest("run")
TRAINING = Training(
    seed_steps=10,
    rounds=4,
    inner_steps=5,
    batch=3,
    inner=Adam(lr=1e-3, warmup=4, floor=0.1),
    outer=Nesterov(),
)


def test_the_first_two_passes_of_path_3_have_their_golden_order() -> None:
    seed = batch_seed(RUN, 3)
    assert seed.hex() == "bcb7a28ba614a9cde654a19572b0885f9212773d78b046c3a66ac0e5decaf55b"
    assert order_of_pass(seed, 0, 8) == [1, 3, 4, 7, 5, 6, 2, 0]
    assert order_of_pass(seed, 1, 8) == [6, 3, 2, 4, 1, 5, 0, 7]


def test_the_order_is_that_of_plain_tagged_hashes() -> None:
    def part(data: bytes) -> bytes:
        return len(data).to_bytes(4, "little") + data

    def key(i: int) -> bytes:
        numbers = (2).to_bytes(4, "little"), i.to_bytes(4, "little")
        parts = b"".join(map(part, (b"dipaco/1/order", batch_seed(RUN, 0), *numbers)))
        return hashlib.sha256(parts).digest()

    assert order_of_pass(batch_seed(RUN, 0), 2, 50) == sorted(range(50), key=key)


def test_batches_run_on_through_the_ends_of_passes() -> None:
    seed = batch_seed(RUN, 0)
    order = RowOrder(seed, 5)
    places = [row for step in range(5) for row in order.batch(step, 4)]
    assert places == [row for number in range(4) for row in order_of_pass(seed, number, 5)]
    assert Counter(places) == dict.fromkeys(range(5), 4)


def test_a_batch_depends_on_its_step_alone() -> None:
    seed = batch_seed(RUN, 1)
    forward = RowOrder(seed, 7)
    in_order = [forward.batch(step, 3) for step in range(12)]
    assert [RowOrder(seed, 7).batch(step, 3) for step in range(12)] == in_order
    backward = RowOrder(seed, 7)
    assert [backward.batch(step, 3) for step in reversed(range(12))] == in_order[::-1]


def test_a_batch_may_be_longer_than_the_shard() -> None:
    assert Counter(RowOrder(batch_seed(RUN, 0), 2).batch(3, 7)) in ({0: 3, 1: 4}, {0: 4, 1: 3})


def test_a_shard_without_rows_has_no_order() -> None:
    with pytest.raises(ValueError, match="without a row"):
        RowOrder(batch_seed(RUN, 0), 0)


def test_paths_runs_and_the_dense_stream_have_orders_of_their_own() -> None:
    seeds = {batch_seed(run, path) for run in (RUN, digest("other")) for path in (0, 1, DENSE)}
    assert len(seeds) == 6


def test_rounds_continue_where_the_last_one_ended() -> None:
    assert [first_step(TRAINING, t) for t in (1, 2, 3)] == [0, 5, 10]


def test_the_learning_rate_warms_up_then_falls_along_a_cosine_to_its_floor() -> None:
    cosine = [0.1 + 0.9 * (1 + math.cos(math.pi * k / 30)) / 2 for k in range(31)]
    assert [learning_rate(TRAINING, k) for k in range(4)] == pytest.approx(
        [1e-3 * (k + 1) / 4 * cosine[k] for k in range(4)], rel=1e-15
    )
    assert [learning_rate(TRAINING, k) for k in range(4, 31)] == pytest.approx(
        [1e-3 * c for c in cosine[4:]], rel=1e-15
    )
    assert learning_rate(TRAINING, 30) == pytest.approx(1e-4)
    assert learning_rate(TRAINING, 10_000) == pytest.approx(1e-4)


def test_without_warm_up_the_first_step_has_the_whole_rate() -> None:
    training = Training(
        seed_steps=0, rounds=1, inner_steps=1, batch=1, inner=Adam(warmup=0), outer=Nesterov()
    )
    assert learning_rate(training, 0) == 1e-3


def test_a_run_may_take_the_batches_of_another() -> None:
    own = Training(seed_steps=0, rounds=1, inner_steps=1, batch=1)
    other = replace(own, batch_order=digest("other"))
    assert batch_run(own, RUN) == RUN
    assert batch_run(other, RUN) == digest("other")
