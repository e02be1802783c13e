"""Moments in 8 bits: what rounding does, against exact Python arithmetic, and what is refused."""

import math
from dataclasses import replace
from fractions import Fraction

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.run.training import Adam, Muon, Nesterov, Training
from dipaco.protocol.tensors.delta import largest_update
from dipaco.protocol.tensors.moments import (
    GROUP,
    Moments,
    check_moments,
    decode_moments,
    encode_moments,
    largest_ratio,
    moments_bytes,
)

ADAM = Adam()
FREE = Adam(beta1=0.9, beta2=0.5)  # no bound between the two moments
TRAINING = Training(
    seed_steps=0,
    rounds=9,
    inner_steps=3,
    batch=1,
    inner=ADAM,
    outer=Nesterov(),
    inner_state="carry",
)
SMALLEST = 2.0**-149
LARGEST = 2.0**127
firsts = st.floats(width=32, min_value=-LARGEST, max_value=LARGEST)
seconds = st.floats(width=32, min_value=0, max_value=LARGEST)
pairs = st.lists(st.tuples(firsts, seconds), max_size=8)


def moments(*values: tuple[float, float]) -> Moments:
    """Return moments of (m, v) pairs."""
    first, second = np.array(values, dtype=np.float32).reshape(-1, 2).T
    return Moments(first.copy(), second.copy())


def through(value: Moments, adam: Adam = FREE, steps: int = 50) -> Moments:
    return decode_moments(encode_moments(value, adam, steps), len(value.first))


@given(pairs, st.integers(0, 10**9))
def test_a_moment_goes_to_one_of_its_two_neighbours(
    values: list[tuple[float, float]], steps: int
) -> None:
    """Of 4 significant bits, or of units of about 2^-18 and 2^-34 of the group's largest."""
    got = through(moments(*values), FREE, steps)
    top_v = max((v for _, v in values), default=0.0)
    top_m = max((abs(m) for m, _ in values), default=0.0)
    for (m, v), first, second in zip(values, got.first.tolist(), got.second.tolist(), strict=True):
        assert abs(second - v) <= max(v / 8, top_v * 2.0**-32, SMALLEST)
        assert first * m >= 0
        if second:
            assert abs(m - first) <= max(abs(m) / 8, top_m * 2.0**-16, 2.0**-145)
        else:
            assert first == 0  # |m| <= c sqrt(v)


def test_rounding_keeps_the_mean_of_both_moments_from_small_to_large() -> None:
    """A value and its like in another element are rounded apart, and so are the same in two steps.

    The 4,096 values lie 1 / 2^12 of an octave apart, so a mean is known to about 1 in 1,000.
    """
    wanted = np.exp2(-np.arange(4096, dtype=np.float64) / 4096).astype(np.float32)
    for scale in (1.0, 2.0**-8, 2.0**-14):
        value = Moments(scale * wanted, scale**2 * wanted)
        value = Moments(*(np.append(each, np.float32(1)) for each in (value.first, value.second)))
        seen = [through(value, FREE, steps) for steps in range(40)]
        for name in ("first", "second"):
            sums = np.mean([getattr(each, name)[:-1] for each in seen], axis=0, dtype=np.float64)
            assert np.mean(sums) == pytest.approx(np.mean(getattr(value, name)[:-1]), rel=2e-3)
        assert len({each.second.tobytes() for each in seen}) == len(seen)


@pytest.mark.parametrize("beta2", [0.95, 0.99, 0.999])
def test_a_second_moment_falls_from_round_to_round_as_exact_ones_do(beta2: float) -> None:
    """From 100 times the gradients' square, over 40 rounds of 20 steps, in 4,096 elements."""
    kept, exact, steps = moments(*[(0.0, 100.0)] * 4096), 100.0, 0
    for _ in range(40):
        steps += 20
        exact = beta2**20 * exact + (1 - beta2**20)
        second = beta2**20 * kept.second.astype(np.float64) + (1 - beta2**20)
        kept = through(Moments(kept.first, second.astype(np.float32)), Adam(beta2=beta2), steps)
    assert np.mean(kept.second) == pytest.approx(exact, rel=0.03)


@given(pairs, st.sampled_from([ADAM, FREE]), st.integers(1, 10**6))
def test_encoding_what_was_decoded_gives_the_same_bytes(
    values: list[tuple[float, float]], adam: Adam, steps: int
) -> None:
    data = encode_moments(moments(*values), adam, steps)
    again = decode_moments(data, len(values))
    assert encode_moments(again, adam, steps) == data
    assert encode_moments(again, adam, steps + 1) == data  # the bound only grows


@given(st.integers(0, 3 * GROUP), st.randoms(use_true_random=False))
def test_every_byte_string_of_the_only_length_is_finite(elements: int, draw: object) -> None:
    data = draw.randbytes(moments_bytes(elements))  # type: ignore[attr-defined]
    got = decode_moments(data, elements)
    assert np.isfinite(got.first).all() and np.isfinite(got.second).all()
    assert got.first.shape == got.second.shape == (elements,)
    assert (got.second >= 0).all()
    for wrong in (data + b"\0", data[:-1]):
        if len(wrong) != len(data):
            with pytest.raises(RemoteProtocolError, match="are due"):
                decode_moments(wrong, elements)


def test_all_codes_stand_for_what_the_format_says() -> None:
    elements = 256
    for exponent in (0, 12, 127, 255):
        data = bytes([exponent] * 4) + bytes(range(256)) * 2
        got = decode_moments(data, elements)
        for code in range(256):
            e = exponent - 127
            first = exact(code & 127, e - 18) * (-1 if code & 128 else 1)
            assert Fraction(got.first[code].item()) == first
            assert Fraction(got.second[code].item()) == exact(code, max(e, -115) - 34)


def exact(code: int, unit: int) -> Fraction:
    shift = max(code // 8, 1) - 1
    return Fraction(code - 8 * shift) * Fraction(2) ** (shift + unit)


def test_groups_do_not_touch_each_other_and_blocks_leave_no_seam(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = (1 << 18) + 77  # more than one block, and a short last group
    draw = np.random.default_rng(5)
    second = draw.random(size, np.float32) ** 2 * 9
    value = Moments(draw.normal(size=size).astype(np.float32), second)
    data = encode_moments(value, FREE, 50)
    got = decode_moments(data, size)
    monkeypatch.setattr("dipaco.protocol.tensors.moments.BLOCK", 1 << 30)
    assert encode_moments(value, FREE, 50) == data
    kept = (got.first != 0) & (got.second != 0)
    assert np.mean(kept) > 0.999
    assert np.abs(got.first - value.first)[kept].max() <= np.abs(value.first).max() / 8
    assert np.median(np.abs(1 - got.first[kept] / value.first[kept])) < 0.06
    value.first[GROUP : 2 * GROUP] *= 1000
    value.second[GROUP : 2 * GROUP] *= 1000
    other = through(value)
    outside = np.r_[0:GROUP, 2 * GROUP : size]
    assert other.first[outside].tobytes() == got.first[outside].tobytes()
    assert other.second[outside].tobytes() == got.second[outside].tobytes()


def test_a_group_whose_largest_rounds_up_to_a_power_of_two() -> None:
    got = through(moments((0.0, 0.99), (0.0, 1.0), (0.0, 15 / 16)))
    assert got.second.tolist() == [1.0, 1.0, 15 / 16]


@pytest.mark.slow
@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=3, max_size=3), min_size=1, max_size=6),
    st.sampled_from([ADAM, Adam(beta1=0.5, beta2=0.999), Adam(beta1=0.0), Adam(beta1=0.97)]),
)
@settings(max_examples=200)
def test_no_step_from_carried_moments_is_longer_than_the_bound(
    rounds: list[list[float]], adam: Adam
) -> None:
    """Whatever the gradients, a round's decoded moments pass, and every update is within c."""
    m = v = 0.0
    steps = 0
    for gradients in rounds:
        for g in gradients:
            steps += 1
            m = adam.beta1 * m + (1 - adam.beta1) * g
            v = adam.beta2 * v + (1 - adam.beta2) * g * g
            update = m / (1 - adam.beta1**steps)
            root = math.sqrt(v / (1 - adam.beta2**steps)) + adam.eps
            assert abs(update) <= 1.0001 * largest_update(adam.beta1, adam.beta2) * root
        carried = through(moments((m, v)), adam, steps)
        training = Training(
            seed_steps=0, rounds=9, inner_steps=3, batch=1, inner=adam, outer=Nesterov()
        )
        check_moments(carried, training, steps // 3)
        m, v = float(carried.first[0]), float(carried.second[0])


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ((0.5, 0.0), "element 1 of the first moment is 0.5"),
        ((0.5, 0.1), "too large for its second moment 0.1"),
        ((0.0, 1.2), "the second moment is 1.2"),
    ],
)
def test_moments_that_honest_adam_cannot_have_are_refused(
    pair: tuple[float, float], words: str
) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        check_moments(moments((0.0, 0.0), pair), TRAINING, 2)


def test_the_bound_holds_at_equality_and_grows_with_the_steps() -> None:
    c = largest_ratio(ADAM, 6)
    check_moments(moments((c * 0.5, 0.25)), TRAINING, 2)
    with pytest.raises(RemoteProtocolError, match="first moment"):
        check_moments(moments((c * 0.5, 0.25)), TRAINING, 1)
    assert largest_ratio(ADAM, 1) == pytest.approx(0.1 / math.sqrt(0.05))
    assert largest_ratio(ADAM, 10**9) == pytest.approx(largest_update(0.9, 0.95))
    assert largest_ratio(FREE, 3) == math.inf


def test_encoding_draws_a_first_moment_down_to_the_bound() -> None:
    got = through(moments((1.0, 0.01), (-1.0, 0.01), (1.0, 0.0)), ADAM, 6)
    c = largest_ratio(ADAM, 6)
    assert (np.abs(got.first) <= c * np.sqrt(got.second)).all()
    assert min(got.first[0], -got.first[1]) > 0.87 * c * 0.1
    assert got.first[2] == 0


@pytest.mark.parametrize(
    "bad", [(math.nan, 1.0), (1.0, math.inf), (0.0, -1.0), (0.0, 3e38), (3e38, 1.0)]
)
def test_what_adam_cannot_come_to_is_not_encoded(bad: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="moment"):
        encode_moments(moments(bad), ADAM, 1)


def test_nothing_is_no_bytes() -> None:
    assert encode_moments(Moments.zeros(0), ADAM, 1) == b""
    assert moments_bytes(1) == 4 and moments_bytes(129) == 2 * 2 + 2 * 129
    zeros = through(Moments.zeros(130))
    assert not zeros.first.any() and not zeros.second.any()


MUON = Muon(clip=0.5)


def of_muon(*values: float, rest: tuple[tuple[float, float], ...] = ()) -> Moments:
    """Return moments of a momentum, and of (m, v) pairs."""
    return replace(moments(*rest), momentum=np.array(values, np.float32))


def momentum_through(value: Moments, steps: int = 50) -> NDArray[np.float32]:
    elements = len(value.first) + len(value.momentum)
    data = encode_moments(value, MUON, steps)
    assert len(data) == moments_bytes(elements, len(value.momentum))
    return decode_moments(data, elements, len(value.momentum)).momentum


def test_a_momentum_takes_half_of_the_bytes_and_follows_the_moments_of_adamw() -> None:
    draw = np.random.default_rng(0)
    momentum = (1e-3 * draw.normal(size=300)).astype(np.float32)
    rest = moments((1e-3, 0.01), (-1e-4, 0.5))
    data = encode_moments(replace(rest, momentum=momentum), MUON, 7)
    assert len(data) == moments_bytes(2) + 3 + 300 == moments_bytes(302, 300)
    assert data[: moments_bytes(2)] == encode_moments(rest, MUON, 7)
    got = decode_moments(data, 302, 300)
    assert (got.first == decode_moments(data[: moments_bytes(2)], 2).first).all()
    assert np.abs(got.momentum - momentum).max() <= np.abs(momentum).max() / 8
    for wrong in (data + b"0", data[:-1]):
        with pytest.raises(RemoteProtocolError, match="bytes"):
            decode_moments(wrong, 302, 300)


@given(st.lists(st.floats(-0.25, 0.25, width=32), max_size=300), st.integers(0, 10**9))
def test_a_momentum_goes_to_one_of_its_two_neighbours_within_the_clip(
    values: list[float], steps: int
) -> None:
    before = np.array(values, np.float32)
    before *= np.float32(min(1.0, 0.499999 / (float(np.linalg.norm(before)) or 1.0)))
    got = momentum_through(of_muon(*before.tolist()), steps)
    assert np.linalg.norm(got.astype(np.float64)) <= MUON.clip
    top = np.abs(before).max(initial=0.0)
    assert (np.abs(got - before) <= np.maximum(np.abs(before) / 8, top * 2.0**-16)).all()
    assert (got * before >= 0).all()
    again = of_muon(*got.tolist())
    assert momentum_through(again, steps + 1).tolist() == got.tolist()


def test_rounding_keeps_the_mean_of_a_momentum() -> None:
    wanted = 1e-3 * np.exp2(-np.arange(4096, dtype=np.float64) / 4096)
    seen = [momentum_through(of_muon(*wanted.tolist()), steps) for steps in range(40)]
    assert np.mean(seen, dtype=np.float64) == pytest.approx(np.mean(wanted), rel=2e-3)


def test_a_momentum_at_the_clip_is_rounded_towards_zero() -> None:
    """Else it could grow from round to round, and its next owner would be refused."""
    beside, alone = of_muon(0.353, 0.353), of_muon(0.353)
    assert all(momentum_through(beside, steps).tolist() == [0.34375] * 2 for steps in range(20))
    found = {momentum_through(alone, steps).item() for steps in range(20)}
    assert found == {0.34375, 0.375}


def test_a_momentum_that_no_clipped_gradients_have_is_refused() -> None:
    training = msgspec.structs.replace(TRAINING, inner=MUON)
    check_moments(of_muon(0.3, 0.4), training, 1)
    for values in ((0.3, 0.41), (0.6,), (-0.6, 0.0), (1e30,)):
        with pytest.raises(RemoteProtocolError, match="the momentum has a norm of"):
            check_moments(of_muon(*values), training, 1)
    with pytest.raises(RemoteProtocolError, match="first moment"):
        check_moments(of_muon(0.3, rest=((0.4, 0.01),)), training, 1)
    with pytest.raises(ValueError, match="NaN"):
        encode_moments(of_muon(math.nan), MUON, 1)
