"""Sparse arrays to the bit, against plain Python; and every byte string is judged."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.tensors import block_float, top_k
from dipaco.protocol.tensors.block_float import Float32
from dipaco.protocol.tensors.top_k import CHUNK, kept, pack, packed_bytes, steps, unpack
from dipaco.protocol.wire.digest import sha256

SIZES = (1, 63, 64, 130, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 700)


def drawn(elements: int, seed: int = 7) -> Float32:
    draw = random.Random(seed)
    return np.array([draw.gauss(0, 1) for _ in range(elements)], np.float32)


def slow_pack(values: list[float]) -> bytes:
    within, found = [], []
    for start in range(0, len(values), CHUNK):
        chunk = values[start : start + CHUNK]
        by_size = sorted(range(len(chunk)), key=lambda i: (-abs(chunk[i]), i))
        for index in sorted(by_size[: max(1, len(chunk) // 64)]):
            within.append(index)
            found.append(chunk[index])
    number = sum(index << 12 * place for place, index in enumerate(within))
    packed = number.to_bytes(-(-len(within) * 12 // 8), "little")
    return packed + block_float.pack(np.array(found, np.float32), 4)


@pytest.mark.parametrize("elements", SIZES)
def test_packing_is_that_of_plain_python(elements: int) -> None:
    values = np.round(drawn(elements), 1)  # with many equal ones
    data = pack(values)
    assert data == slow_pack(values.tolist())
    assert len(data) == packed_bytes(elements)
    found = unpack(data, elements)
    moved = np.flatnonzero(found)
    assert moved.size <= kept(elements)
    assert (np.abs(found - values)[moved] <= steps(data, elements)[moved] / 2).all()


def test_the_golden_digest() -> None:
    assert sha256(pack(drawn(10_000))).hex()[:16] == "027fff576a42ee5b"


def test_the_check_values_of_the_method() -> None:
    values = np.zeros(128, np.float32)
    values[[3, 100]] = [0.5, -0.75]
    assert pack(values).hex() == "034006fd2c"
    assert unpack(pack(values), 128)[[3, 100]].tolist() == [0.5, -0.75]


def test_an_array_of_zeros_has_zeros_to_keep() -> None:
    assert not unpack(pack(np.zeros(CHUNK, np.float32)), CHUNK).any()
    assert pack(np.zeros(0, np.float32)) == b""


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_packed(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN"):
        pack(np.array([0.0, bad], np.float32))


@pytest.mark.parametrize("wrong", [-1, 1])
def test_any_other_length_is_refused(wrong: int) -> None:
    with pytest.raises(RemoteProtocolError, match="are due"):
        unpack(bytes(packed_bytes(200) + wrong), 200)


@pytest.mark.parametrize("indices", [(5, 5), (6, 5), (5, 128), (5, 4095)])
def test_indices_that_do_not_ascend_or_are_past_the_end_are_refused(
    indices: tuple[int, int],
) -> None:
    number = indices[0] | indices[1] << 12
    values = block_float.pack(np.array([1, 1], np.float32), 4)
    with pytest.raises(RemoteProtocolError, match="ascend"):
        unpack(number.to_bytes(3, "little") + values, 128)


def test_bits_past_the_last_index_and_values_of_another_form_are_refused() -> None:
    data = bytearray(pack(np.ones(1, np.float32)))
    assert unpack(bytes(data), 1).tolist() == [1.0]
    data[1] |= 0x10
    with pytest.raises(RemoteProtocolError, match="past the last index"):
        unpack(bytes(data), 1)
    huge = bytes(2) + bytes([127]) + b"\x8f"  # 7 * 2^127 is no float32
    with pytest.raises(RemoteProtocolError, match="group 0"):
        unpack(huge, 1)


@given(st.binary(min_size=packed_bytes(130), max_size=packed_bytes(130)))
def test_any_bytes_are_refused_or_few_finite_values(data: bytes) -> None:
    try:
        values = unpack(data, 130)
    except RemoteProtocolError:
        return
    assert np.isfinite(values).all()
    assert np.count_nonzero(values) <= kept(130)


def test_slices_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = drawn(3 * CHUNK + 700)
    whole = pack(values)
    monkeypatch.setattr(top_k, "CHUNKS", 1)
    assert pack(values) == whole


def test_an_element_takes_a_quarter_of_a_bit() -> None:
    assert kept(128 * CHUNK) == 2 * CHUNK
    assert packed_bytes(128 * CHUNK) * 8 / (128 * CHUNK) == 16.0625 / 64
