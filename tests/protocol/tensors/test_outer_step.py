"""The outer step to the bit: the golden bytes of docs/method.md section 2, and plain Python."""

import random
import struct

import numpy as np
import pytest

from dipaco.protocol.run.training import Nesterov
from dipaco.protocol.tensors.block_float import Bits, packed_bytes, unpack
from dipaco.protocol.tensors.outer_step import Float32, advance, outer_step, outer_update, quantise

OUTER = Nesterov()


def array(*values: float) -> Float32:
    return np.array(values, dtype=np.float32)


def single(value: float) -> float:
    """Round to float32, as every operation of the oracle does."""
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


def oracle(theta: float, b: float, weights: list[int], deltas: list[float]) -> tuple[float, float]:
    """One element in Python floats: a float64 result rounded to float32 is the float32 one."""
    acc = 0.0
    for n, delta in zip(weights, deltas, strict=True):
        acc = single(acc + single(single(n / sum(weights)) * delta))
    g = single(single(len(weights) ** 0.5) * acc)
    mu, eta = single(0.9), single(0.7)
    b = single(single(mu * b) + g)
    return single(theta - single(eta * single(g + single(mu * b)))), b


def test_two_steps_give_the_golden_bytes_of_the_method() -> None:
    deltas = [array(0.4), array(-0.2)]
    state, momentum = outer_step(array(1.0), None, [3, 1], deltas, OUTER)
    assert (state.tobytes().hex(), momentum[0]) == ("469f073f", np.float32(0.35355338))
    state, momentum = outer_step(state, momentum, [3, 1], deltas, OUTER)
    assert (state.tobytes().hex(), momentum[0]) == ("744c10be", np.float32(0.6717514))


def test_every_element_equals_plain_python_with_rounding_after_every_operation() -> None:
    draw = random.Random(7)
    for paths in (1, 2, 3, 16):
        theta, b = ([single(draw.gauss(0, 1)) for _ in range(50)] for _ in range(2))
        weights = [draw.randrange(1, 1 << 40) for _ in range(paths)]
        deltas = [[single(draw.gauss(0, 0.1)) for _ in range(50)] for _ in range(paths)]
        state, momentum = outer_step(
            array(*theta), array(*b), weights, map(lambda d: array(*d), deltas), OUTER
        )
        for k in range(50):
            expected = oracle(theta[k], b[k], weights, [d[k] for d in deltas])
            assert (state[k], momentum[k]) == expected


def test_one_path_takes_its_own_delta_with_factor_one() -> None:
    state, momentum = outer_step(array(1.0, -2.0), None, [5], [array(0.5, 0.25)], OUTER)
    assert momentum.tolist() == [0.5, 0.25]
    assert state == pytest.approx([1.0 - 0.7 * 1.9 * 0.5, -2.0 - 0.7 * 1.9 * 0.25])


def test_equal_shards_give_the_plain_mean_times_the_root() -> None:
    deltas = [array(d) for d in (1.0, 2.0, 3.0, 6.0)]
    _, momentum = outer_step(array(0.0), None, [9, 9, 9, 9], deltas, OUTER)
    assert momentum.tolist() == [6.0]


def test_the_inputs_are_left_as_they_are_and_no_zero_has_a_sign() -> None:
    state, before, delta = array(1.0), array(0.0), array(-0.0)
    new, after = outer_step(state, before, [1], [delta], OUTER)
    assert (state[0], before[0], delta[0]) == (1.0, 0.0, 0.0)
    assert after.tobytes() == array(0.0).tobytes()
    assert new is not state


def test_weights_and_deltas_must_pair_up() -> None:
    with pytest.raises(ValueError, match="shorter"):
        outer_step(array(1.0), None, [1, 2], [array(1.0)], OUTER)


def test_diloco_takes_the_plain_mean() -> None:
    plain = Nesterov(rescale="none")
    deltas = [array(d) for d in (1.0, 2.0, 3.0, 6.0)]
    _, momentum = outer_step(array(0.0), None, [9, 9, 9, 9], deltas, plain)
    assert momentum.tolist() == [3.0]
    one, _ = outer_step(array(1.0), None, [5], deltas[:1], plain)
    assert one.tobytes() == outer_step(array(1.0), None, [5], deltas[:1], OUTER)[0].tobytes()


def test_uniform_weights_are_those_of_equal_shards() -> None:
    deltas = [array(d, -d) for d in (0.3, 0.7, -0.2)]
    uniform = outer_step(array(1.0, 2.0), None, [1, 20, 300], deltas, Nesterov(weights="uniform"))
    equal = outer_step(array(1.0, 2.0), None, [7, 7, 7], deltas, OUTER)
    assert [part.tobytes() for part in uniform] == [part.tobytes() for part in equal]


@pytest.mark.parametrize("bits", [4, 8])
def test_a_packed_update_leaves_out_what_the_next_one_brings(bits: Bits) -> None:
    draw = np.random.default_rng(3)
    state = start = draw.normal(size=300).astype(np.float32)
    residual = momentum = np.zeros_like(state)
    wanted = np.zeros(300)
    for _ in range(6):
        delta = (0.01 * draw.normal(size=300)).astype(np.float32)
        update, momentum = outer_update(momentum, [1], [delta], OUTER)
        data, left = quantise(update, residual, bits)
        assert len(data) == packed_bytes(bits, 300)
        assert (update + residual - unpack(data, bits, 300)).tobytes() == left.tobytes()
        state, residual = advance(state, data, bits), left
        wanted += update
    moved = start.astype(float) - state  # all that was wanted but the last residual
    assert moved == pytest.approx(wanted - residual, abs=1e-5)
    assert np.abs(residual).max() < np.abs(update).max() / (4 if bits == 4 else 64)


def test_the_packed_update_of_the_check_values() -> None:
    update = array(0.7, -0.35, 0.05, 0.1, -0.15, 0.25, 0.0, 0.8)
    residual = array(0, 0, 0, 0, 0, 0, 0, 0.075)
    data, left = quantise(update, residual, 4)
    assert data.hex() == "fd5e98a7f8"  # docs/method.md 7.3
    assert left.tolist() == pytest.approx([-0.05, 0.025, 0.05, -0.025, -0.025, 0, 0, 0], abs=1e-7)
    assert advance(array(*[1.0] * 8), data, 4).tolist() == [
        0.25, 1.375, 1.0, 0.875, 1.125, 0.75, 1.0, 0.125,
    ]  # fmt: skip
