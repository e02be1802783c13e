"""What top-k leaves out is sent later: nothing is lost but by packing."""

import numpy as np
import pytest

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.tensors.block_float import Float32
from dipaco.protocol.tensors.delta import decode_delta
from dipaco.protocol.tensors.feedback import (
    carried_bytes,
    decode_feedback,
    encode_feedback,
    feedback_bytes,
    send,
)
from dipaco.protocol.tensors.moments import moments_bytes

SIZE = 300


def normal(seed: int) -> Float32:
    return np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)


def test_what_is_sent_and_what_is_left_are_the_delta_and_what_was_left_before() -> None:
    delta, before = normal(1), normal(2)
    data, left = send(delta, before, "topk")
    sent, after = decode_delta(data, "topk", SIZE), decode_feedback(left, SIZE)
    assert np.count_nonzero(sent) == SIZE // 64
    missing = np.abs(sent + after - (delta + before))
    assert (missing <= np.abs(after) * 2.0**-8 + np.float32(1e-6)).all()
    chosen = np.argsort(-np.abs(delta + before))[: SIZE // 64]
    assert set(np.flatnonzero(sent)) == set(chosen)  # of the sum, and not of the delta


def test_the_same_delta_again_and_again_is_sent_in_full_in_the_mean() -> None:
    delta, left, sent = normal(3), encode_feedback(np.zeros(SIZE, np.float32)), np.zeros(SIZE)
    for _ in range(400):
        data, left = send(delta, decode_feedback(left, SIZE), "topk")
        sent += decode_delta(data, "topk", SIZE)
    assert (np.abs(sent / 400 - delta) < 0.25).all()  # of up to 3.3: what waits is some 64 rounds'


def test_feedback_follows_the_moments_of_topk_alone() -> None:
    assert feedback_bytes("topk", 256) == 512
    assert carried_bytes("topk", 256) == moments_bytes(256) + 512
    assert feedback_bytes("int2", 256) == 0


def test_what_is_not_finite_or_has_another_length_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="NaN"):
        decode_feedback(b"\xff" * 256, 128)
    with pytest.raises(RemoteProtocolError, match="are due"):
        decode_feedback(b"", 128)
