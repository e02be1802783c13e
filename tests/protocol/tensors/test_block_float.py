"""Packed arrays to the bit, against plain Python integers; and every byte string is judged."""

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.tensors import block_float
from dipaco.protocol.tensors.block_float import (
    GROUP,
    Bits,
    Float32,
    pack,
    packed_bytes,
    steps,
    unpack,
)
from dipaco.protocol.wire.digest import sha256

BOTH = pytest.mark.parametrize("bits", [4, 8])
LARGEST: dict[Bits, float] = {4: float.fromhex("0x1.bp127"), 8: float.fromhex("0x1.fcp127")}
"""What fits into float32 once it is rounded to so many bits."""
CHECK = [0.7, -0.35, 0.05, 0.1, -0.15, 0.25, 0.0, 0.875]


def array(*values: float) -> Float32:
    return np.array(values, dtype=np.float32)


def slow_group(values: list[float], bits: Bits) -> tuple[int, list[int]]:
    """k and every q of one group, in exact arithmetic."""
    most = 2 ** (bits - 1) - 1
    largest = Fraction(max(map(abs, values)))
    if largest < Fraction(1, 2**100):
        return 0, [0] * len(values)
    k = -400
    while most * Fraction(2) ** k < largest:
        k += 1
    return k, [round(Fraction(value) / Fraction(2) ** k) for value in values]


def slow_pack(values: list[float], bits: Bits) -> bytes:
    groups = [values[i : i + GROUP] for i in range(0, len(values), GROUP)]
    found = [slow_group(group, bits) for group in groups]
    q = [each for _, of_group in found for each in of_group]
    if bits == 8:
        codes = bytes(each % 256 for each in q)
    else:
        halves = [each + 8 for each in q] + [8] * (len(q) % 2)
        codes = bytes(low | high << 4 for low, high in zip(halves[::2], halves[1::2], strict=True))
    return bytes(k % 256 for k, _ in found) + codes


def floats_for(bits: Bits) -> st.SearchStrategy[list[float]]:
    usual = st.floats(-1, 1, width=32)
    any_ = st.floats(-LARGEST[bits], LARGEST[bits], width=32)
    short = st.lists(usual | any_, max_size=9)
    return short | st.lists(usual, min_size=GROUP - 2, max_size=GROUP + 3)


def test_the_check_values_of_the_method() -> None:
    data = pack(array(*CHECK), 4)
    assert data.hex() == "fd5e98a7f8"  # k = -3; q + 8, the low half first
    assert unpack(data, 4, 8).tolist() == [0.75, -0.375, 0, 0.125, -0.125, 0.25, 0, 0.875]
    assert steps(data, 4, 8).tolist() == [0.125] * 8
    assert pack(array(*CHECK), 8).hex() == "f95ad3060ded200070"


def test_the_golden_digests() -> None:
    draw = random.Random(7)
    values = array(*(draw.gauss(0, 2.0 ** draw.randrange(-30, 5)) for _ in range(1000)))
    found = {bits: sha256(pack(values, bits)).hex()[:16] for bits in (4, 8)}
    assert found == {4: "342ed96e1d5589cb", 8: "585e1cbad5398884"}


@pytest.mark.slow
@given(st.data(), st.sampled_from([4, 8]))
def test_packing_is_that_of_exact_arithmetic(data: st.DataObject, bits: Bits) -> None:
    values = [float(np.float32(each)) for each in data.draw(floats_for(bits))]
    packed = pack(array(*values), bits)
    assert packed == slow_pack(values, bits)
    back = unpack(packed, bits, len(values))
    half = [step / 2 for step in steps(packed, bits, len(values)).astype(float).tolist()]
    for value, found, most in zip(values, back.tolist(), half, strict=True):
        assert abs(Fraction(value) - Fraction(found)) <= max(most, 2.0**-100)
    assert pack(back, bits) == packed


@given(st.data(), st.sampled_from([4, 8]), st.integers(0, 5))
def test_any_bytes_are_the_packed_form_of_what_they_unpack_to_or_refused(
    data: st.DataObject, bits: Bits, elements: int
) -> None:
    length = packed_bytes(bits, elements)
    given_ = data.draw(st.binary(min_size=length, max_size=length))
    try:
        values = unpack(given_, bits, elements)
    except RemoteProtocolError:
        return
    assert np.isfinite(values).all()
    assert pack(values, bits) == given_


@BOTH
def test_every_exponent_with_every_largest_integer_is_judged_right(bits: Bits) -> None:
    accepted = set()
    half, every = 2 ** (bits - 2), range(-(2 ** (bits - 1)), 2 ** (bits - 1))
    edges = [q for q in every if min(abs(q), abs(abs(q) - half), abs(abs(q) - 2 * half)) < 2]
    for k in range(-128, 128):
        for q in every if k % 16 == 0 else edges:
            code = (q + 8) | 0x80 if bits == 4 else q % 256
            data = bytes([k % 256, code])
            try:
                values = unpack(data, bits, 1)
            except RemoteProtocolError:
                continue
            assert values.tolist() == [math.ldexp(q, k)]
            assert pack(values, bits) == data
            accepted.add((k, q))
    expected = {
        (k, q)
        for k in range(-128, 128)
        for q in (every if k % 16 == 0 else edges)
        if half <= abs(q) < 2 * half and 2.0**-100 <= abs(q) * 2.0**k < 2.0**128
    }
    assert accepted == expected | {(0, 0)}


@BOTH
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_packed(bits: Bits, bad: float) -> None:
    with pytest.raises(ValueError, match="NaN"):
        pack(array(*([0.0] * GROUP), 1.0, bad), bits)


@BOTH
def test_what_would_round_to_infinity_is_not_packed(bits: Bits) -> None:
    with pytest.raises(ValueError, match="too large"):
        pack(array(3.4e38), bits)
    assert np.isfinite(unpack(pack(array(LARGEST[bits]), bits), bits, 1)).all()


@BOTH
@pytest.mark.parametrize("wrong", [-1, 1])
def test_any_other_length_is_refused(bits: Bits, wrong: int) -> None:
    with pytest.raises(RemoteProtocolError, match="are due"):
        unpack(bytes(packed_bytes(bits, 10) + wrong), bits, 10)


def test_the_half_byte_past_the_end_has_one_value() -> None:
    assert unpack(bytes([0, 0x88]), 4, 1).tolist() == [0.0]
    with pytest.raises(RemoteProtocolError, match="past the last element"):
        unpack(bytes([0, 0x78]), 4, 1)


def test_four_bits_take_an_eighth_of_float32_and_a_64th() -> None:
    assert packed_bytes(4, GROUP * 100) == 65 * 100
    assert packed_bytes(8, GROUP * 100) == 129 * 100
    assert packed_bytes(4, 0) == packed_bytes(8, 0) == 0
    assert pack(array(), 4) == b""


@BOTH
def test_slices_change_nothing(bits: Bits, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.linspace(-3, 5, 5 * GROUP + 3, dtype=np.float32)
    whole = pack(values, bits)
    monkeypatch.setattr(block_float, "SLICE", 2 * GROUP)
    assert pack(values, bits) == whole
    cut = unpack(whole, bits, values.size), steps(whole, bits, values.size)
    monkeypatch.undo()
    assert cut[0].tolist() == unpack(whole, bits, values.size).tolist()
    assert cut[1].tolist() == steps(whole, bits, values.size).tolist()
