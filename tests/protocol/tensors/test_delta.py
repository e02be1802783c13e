"""Encodings to the bit, and the bound on what honest AdamW can do."""

import math
import struct

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.run.batches import first_step, learning_rate
from dipaco.protocol.run.training import Adam, Nesterov, Training
from dipaco.protocol.tensors.delta import (
    Encoding,
    Float32,
    check_bound,
    decode_delta,
    encode_delta,
    encoded_bytes,
    largest_update,
    rounding,
)

FLOATS: list[Encoding] = ["f32", "bf16"]
ENCODINGS: list[Encoding] = [*FLOATS, "int8", "int4", "int2", "topk"]
LARGEST_BF16 = float.fromhex("0x1.fep127")
TRAINING = Training(
    seed_steps=3,
    rounds=2,
    inner_steps=4,
    batch=1,
    inner=Adam(lr=0.01, warmup=2),
    outer=Nesterov(),
    deltas="f32",
    updates="f32",
)


def array(*values: float) -> Float32:
    return np.array(values, dtype=np.float32)


def nearest_bf16(value: float) -> float:
    """Round a float32 to 8 bits of significand, ties to even, in exact Python arithmetic."""
    if value == 0:
        return value
    exponent = max(math.frexp(value)[1] - 8, -133)  # 2^-133: the smallest subnormal
    return math.ldexp(round(math.ldexp(value, -exponent)), exponent)  # round: ties to even


def test_f32_is_little_endian_float32_as_it_is() -> None:
    values = array(1.0, -2.5, 1e-40)
    assert encode_delta(values, "f32") == struct.pack("<3f", *values)
    assert decode_delta(encode_delta(values, "f32"), "f32", 3).tolist() == values.tolist()


def test_bf16_rounds_to_nearest_even() -> None:
    ulp = 2**-7
    values = array(1.0, 1 + ulp / 2, 1 + 3 * ulp / 2, 1 + ulp / 2 + 2**-20, -1 - ulp / 2)
    decoded = decode_delta(encode_delta(values, "bf16"), "bf16", 5)
    assert decoded.tolist() == [1.0, 1.0, 1 + 2 * ulp, 1 + ulp, -1.0]
    assert encode_delta(array(1.0, -2.0), "bf16").hex() == "803f00c0"


@given(st.lists(st.floats(width=32, min_value=-LARGEST_BF16, max_value=LARGEST_BF16), max_size=9))
def test_bf16_is_the_nearest_value_for_every_float(values: list[float]) -> None:
    decoded = decode_delta(encode_delta(array(*values), "bf16"), "bf16", len(values))
    assert decoded.tolist() == [nearest_bf16(value) for value in values]


@pytest.mark.parametrize("encoding", FLOATS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_neither_encoded_nor_decoded(encoding: Encoding, bad: float) -> None:
    with pytest.raises(ValueError, match="NaN"):
        encode_delta(array(0.0, bad), encoding)
    width = encoded_bytes(encoding, 1)
    data = bytes(width) + struct.pack("<f", bad)[-width:]
    with pytest.raises(RemoteProtocolError, match="NaN or infinity"):
        decode_delta(data, encoding, 2)


def test_a_value_that_bf16_would_round_to_infinity_is_not_encoded() -> None:
    with pytest.raises(ValueError, match="too large"):
        encode_delta(array(3.4e38), "bf16")


def test_a_quiet_nan_with_low_bits_alone_stays_a_nan() -> None:
    sneaky = np.array([0x7F800001, 0x7FFFFFFF], dtype="<u4").view("<f4")
    with pytest.raises(ValueError, match="NaN"):
        encode_delta(sneaky, "bf16")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("length", [-1, 1])
def test_any_other_length_is_refused(encoding: Encoding, length: int) -> None:
    data = bytes(encoded_bytes(encoding, 10) + length)
    with pytest.raises(RemoteProtocolError, match="are due"):
        decode_delta(data, encoding, 10)


def adam_path(gradients: list[float], start: float, round_: int) -> float:
    """Return where plain AdamW takes one element in a round."""
    adam, m, v, w = TRAINING.inner, 0.0, 0.0, start
    for s, g in enumerate(gradients):
        lr = learning_rate(TRAINING, TRAINING.seed_steps + (round_ - 1) * 4 + s)
        m, v = adam.beta1 * m + (1 - adam.beta1) * g, adam.beta2 * v + (1 - adam.beta2) * g * g
        bias1, bias2 = 1 - adam.beta1 ** (s + 1), 1 - adam.beta2 ** (s + 1)
        w -= lr * adam.weight_decay * w
        w -= lr * (m / bias1) / (math.sqrt(v / bias2) + adam.eps)
    return w


def steps_of(round_: int) -> range:
    """Return the steps of a round, counted from the first of the seed phase."""
    first = TRAINING.seed_steps + first_step(TRAINING, round_)
    return range(first, first + TRAINING.inner_steps)


@given(
    st.lists(st.floats(-1, 1), min_size=4, max_size=4),
    st.floats(-3, 3),
    st.sampled_from([1, 2]),
)
def test_no_gradients_take_honest_adam_beyond_the_bound(
    gradients: list[float], start: float, round_: int
) -> None:
    delta = array(start - adam_path(gradients, start, round_))
    check_bound(delta, array(start), TRAINING, steps_of(round_))


def test_the_worst_gradients_come_near_the_bound_and_a_tenth_more_is_refused() -> None:
    reach = sum(learning_rate(TRAINING, k) for k in (3, 4, 5, 6))
    limit = 1.05 * reach * (largest_update(0.9, 0.95) * (1 + 0.1 * reach) + 0.1 * 2.0)
    check_bound(array(0.0, limit * 0.999), array(0.0, 2.0), TRAINING, steps_of(1))
    with pytest.raises(RemoteProtocolError, match=r"element 1 .* in 4 steps"):
        check_bound(array(0.0, limit * 1.001), array(0.0, 2.0), TRAINING, steps_of(1))
    with pytest.raises(RemoteProtocolError, match="element 0"):
        check_bound(array(-limit * 1.001, 0.0), array(-2.0, 0.0), TRAINING, steps_of(1))
    honest = 2.0 - adam_path([1.0] * 4, 2.0, 1)
    assert honest > 0.7 * limit


@given(st.sampled_from(["int8", "int4"]), st.floats(1e-4, 1e-1), st.integers(-3, 0))
def test_the_bound_gives_way_by_half_a_step_and_no_more(
    encoding: Encoding, lr: float, halvings: int
) -> None:
    training = msgspec.structs.replace(TRAINING, inner=Adam(lr=lr, warmup=2))
    reach = sum(learning_rate(training, k) for k in (3, 4, 5, 6))
    limit = 1.05 * reach * largest_update(0.9, 0.95) * (1 + 0.1 * reach)  # of a weight of 0
    step = 2.0 ** (math.frexp(limit)[1] + halvings)  # at most twice the limit
    largest = {"int8": 127, "int4": 7}[encoding] * step  # decay moves a large weight so far
    state = array(0.0, 1e9)
    honest = encode_delta(array(limit * 0.999999, largest), encoding)
    found, rounded = decode_delta(honest, encoding, 2), rounding(honest, encoding, 2)
    check_bound(found, state, training, steps_of(1), rounded=rounded)
    found[0] += np.float32(step)
    assume(found[0] > (limit + step / 2) * 1.000001 and found[0] <= largest)
    forged = encode_delta(found, encoding)
    assert decode_delta(forged, encoding, 2).tolist() == found.tolist()
    with pytest.raises(RemoteProtocolError, match="element 0"):
        check_bound(found, state, training, steps_of(1), rounded=rounding(forged, encoding, 2))


def test_rounding_up_passes_the_bound_of_what_was_rounded() -> None:
    """Without the half step an honest delta would be refused."""
    training = msgspec.structs.replace(TRAINING, inner=Adam(lr=0.013, warmup=2))
    reach = sum(learning_rate(training, k) for k in (3, 4, 5, 6))
    limit = 1.05 * reach * largest_update(0.9, 0.95) * (1 + 0.1 * reach)
    step = 2.0 ** math.frexp(limit)[1]
    data = encode_delta(array(limit, 7 * step), "int4")
    found = decode_delta(data, "int4", 2)
    assert found[0] == step > limit
    with pytest.raises(RemoteProtocolError, match="element 0"):
        check_bound(found, array(0.0, 1e9), training, steps_of(1))


def test_what_floats_round_is_within_the_slack() -> None:
    for encoding in FLOATS:
        assert rounding(encode_delta(array(1.0), encoding), encoding, 1) is None


def test_the_largest_update_is_that_of_the_method() -> None:
    assert largest_update(0.9, 0.95) == pytest.approx(1.165, abs=5e-4)
    assert largest_update(0.9, 0.99) == pytest.approx(2.35, abs=5e-3)


def test_betas_without_a_bound_of_their_own_have_that_of_the_clipped_gradient() -> None:
    assert largest_update(0.99, 0.9) == math.inf
    adam = Adam(lr=1e-3, beta1=0.99, beta2=0.9, warmup=0, weight_decay=0.0, eps=1e-8)
    training = msgspec.structs.replace(TRAINING, inner=adam)
    first = range(1)
    check_bound(array(1.04e5), array(0.0), training, first)  # lr * clip / eps
    with pytest.raises(RemoteProtocolError, match="in 1 steps"):
        check_bound(array(1.06e5), array(0.0), training, first)


def test_no_settings_make_a_limit_that_floats_cannot_hold() -> None:
    adam = Adam(lr=1e3, beta1=0.99, beta2=0.9, eps=1e-300)
    training = msgspec.structs.replace(TRAINING, inner=adam)
    check_bound(array(3e38), array(3e38), training, range(1 << 10))


def test_without_a_step_nothing_moves() -> None:
    check_bound(array(0.0), array(2.0), TRAINING, range(0))
    with pytest.raises(RemoteProtocolError, match="in 0 steps"):
        check_bound(array(1e-30), array(2.0), TRAINING, range(0))
