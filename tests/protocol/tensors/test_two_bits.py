"""Arrays in 2 bits to the bit, against exact arithmetic; and every byte string is judged."""

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.tensors import two_bits
from dipaco.protocol.tensors.block_float import GROUP, Float32
from dipaco.protocol.tensors.two_bits import pack, packed_bytes, steps, unpack
from dipaco.protocol.wire.digest import sha256

CHECK = [0.7, -0.35, 0.05, 0.1, -0.15, 0.25, 0.0, 0.875]
TINY = Fraction(1, 2**100)
LARGEST = float(np.finfo(np.float32).max)


def array(*values: float) -> Float32:
    return np.array(values, dtype=np.float32)


def slow_group(values: list[float]) -> tuple[int, list[int]]:
    """k and every code of one group, in exact arithmetic."""
    sizes = [abs(Fraction(value)) for value in values]
    if max(sizes) < TINY:
        return -128, [0] * len(values)
    above = math.frexp(max(map(abs, values)))[1]
    unit, step = Fraction(2) ** (above - 24), Fraction(2) ** (above - 12)
    mean = unit * sum(size // unit for size in sizes) / len(values)
    while 8 * step < 7 * mean and 2 * step <= max(sizes):
        step *= 2
    codes = [(v > -step) + (v >= 0) + (v >= step) for v in map(Fraction, values)]
    return math.frexp(step)[1] - 2, codes


def slow_pack(values: list[float]) -> bytes:
    groups = [values[i : i + GROUP] for i in range(0, len(values), GROUP)]
    found = [slow_group(group) for group in groups]
    codes = [code for _, of_group in found for code in of_group]
    codes += [0] * (-len(codes) % 4)
    quads = [codes[i : i + 4] for i in range(0, len(codes), 4)]
    packed = bytes(a | b << 2 | c << 4 | d << 6 for a, b, c, d in quads)
    return bytes(k % 256 for k, _ in found) + packed


USUAL = st.floats(-1, 1, width=32)
ANY = st.floats(-LARGEST, LARGEST, width=32)
LISTS = st.lists(USUAL | ANY, max_size=9) | st.lists(USUAL, min_size=GROUP - 2, max_size=GROUP + 3)


def test_the_check_values_of_the_method() -> None:
    data = pack(array(*CHECK))
    assert data.hex() == "fea7e9"  # s = 1/2, k = -2
    assert unpack(data, 8).tolist() == [0.75, -0.25, 0.25, 0.25, -0.25, 0.25, 0.25, 0.75]
    assert steps(data, 8).tolist() == [0.5] * 8


def test_the_golden_digest() -> None:
    draw = random.Random(7)
    values = array(*(draw.gauss(0, 2.0 ** draw.randrange(-30, 5)) for _ in range(1000)))
    assert sha256(pack(values)).hex()[:16] == "ea1d23a1d5a73607"


@pytest.mark.slow
@given(LISTS)
def test_packing_is_that_of_exact_arithmetic(drawn: list[float]) -> None:
    values = [float(np.float32(each)) for each in drawn]
    packed = pack(array(*values))
    assert packed == slow_pack(values)
    back = unpack(packed, len(values)).tolist()
    step = steps(packed, len(values)).astype(float).tolist()
    for value, found, s in zip(values, back, step, strict=True):
        assert abs(found) == 0.5 * s or abs(found) == 1.5 * s
        assert abs(found) <= Fraction(abs(value)) + Fraction(s) / 2  # the bound of method 6(e)


@given(st.data(), st.integers(0, 5))
def test_different_bytes_unpack_to_different_arrays_or_are_refused(
    data: st.DataObject, elements: int
) -> None:
    seen: dict[bytes, bytes] = {}
    length = packed_bytes(elements)
    for given_ in data.draw(st.lists(st.binary(min_size=length, max_size=length), max_size=20)):
        try:
            values = unpack(given_, elements)
        except RemoteProtocolError:
            continue
        assert np.isfinite(values).all()
        assert seen.setdefault(values.tobytes(), given_) == given_


def test_every_exponent_with_every_code_is_judged_right() -> None:
    accepted = {}
    for k in range(-128, 128):
        for code in range(4):
            try:
                values = unpack(bytes([k % 256, code]), 1)
            except RemoteProtocolError:
                continue
            accepted[k, code] = values.tolist()
    outer = {(k, code): [math.ldexp(2 * code - 3, k)] for k in range(-108, 127) for code in (0, 3)}
    assert accepted == outer | {(-128, 0): [0.0]}


def test_a_group_of_small_values_alone_is_refused_since_its_step_would_have_no_bound() -> None:
    """Half of a huge step would widen the bound of every element by as much as it is large."""
    inner = bytes([100]) + b"\x99" * (GROUP // 4)  # codes 1 and 2
    with pytest.raises(RemoteProtocolError, match="group 0"):
        unpack(inner, GROUP)
    short = bytes([100]) + b"\x01"  # one element; the filling is no value
    with pytest.raises(RemoteProtocolError, match="group 0"):
        unpack(short, 1)


def test_zeros_have_one_form_and_a_small_group_is_packed_as_zeros() -> None:
    data = pack(array(*[0.0] * (GROUP - 1), 2.0**-101))
    assert data == b"\x80" + bytes(GROUP // 4)
    assert not unpack(data, GROUP).any()
    assert not np.signbit(unpack(data, GROUP)).any()
    assert not steps(data, GROUP).any()
    with pytest.raises(RemoteProtocolError, match="group 0"):
        unpack(b"\x80" + bytes(GROUP // 4 - 1) + b"\xc0", GROUP)


def test_the_extremes_of_float32_are_packed() -> None:
    assert unpack(pack(array(LARGEST, -LARGEST)), 2).tolist() == [1.5 * 2.0**127, -1.5 * 2.0**127]
    one = pack(array(2.0**-100, *[0.0] * (GROUP - 1)))
    assert np.frombuffer(one, np.int8)[0] == two_bits.LEAST
    assert unpack(one, GROUP)[0] == 1.5 * 2.0**-107


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_packed(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN"):
        pack(array(*([0.0] * GROUP), 1.0, bad))


@pytest.mark.parametrize("wrong", [-1, 1])
def test_any_other_length_is_refused(wrong: int) -> None:
    with pytest.raises(RemoteProtocolError, match="are due"):
        unpack(bytes(packed_bytes(10) + wrong), 10)


def test_the_bits_past_the_end_have_one_value() -> None:
    assert unpack(bytes([0, 3]), 1).tolist() == [3.0]
    with pytest.raises(RemoteProtocolError, match="past the last element"):
        unpack(bytes([0, 7]), 1)


def test_two_bits_take_a_sixteenth_of_float32_and_a_128th() -> None:
    assert packed_bytes(GROUP * 100) == 33 * 100
    assert packed_bytes(0) == 0
    assert pack(array()) == b""


def test_normal_elements_lose_an_eighth_of_their_square() -> None:
    values = np.random.default_rng(3).standard_normal(400 * GROUP).astype(np.float32)
    for scale in (1.0, 1.2, 1.4, 1.7):  # powers of two lie differently to each
        scaled = np.float32(scale) * values
        error = unpack(pack(scaled), values.size) - scaled
        assert np.square(error).mean() < 0.16 * np.square(scaled).mean()


def test_slices_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.linspace(-3, 5, 5 * GROUP + 3, dtype=np.float32)
    whole, plain = pack(values), unpack(pack(values), values.size)
    monkeypatch.setattr(two_bits, "SLICE", 2 * GROUP)
    assert pack(values) == whole
    assert unpack(whole, values.size).tolist() == plain.tolist()
