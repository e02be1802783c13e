"""The bound on deltas of Muon: what its steps can do passes, and a little more does not."""

import math

import numpy as np
import pytest
from msgspec.structs import replace

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.run.batches import learning_rate
from dipaco.protocol.run.muon import LARGEST_SINGULAR
from dipaco.protocol.run.topology import Tensor
from dipaco.protocol.run.training import Muon, Nesterov, Training
from dipaco.protocol.tensors.delta import Encoding, Float32, decode_delta, encode_delta, rounding
from dipaco.protocol.tensors.muon_bound import check_muon_bound

INNER = Muon(lr=0.02, adamw_lr=0.002, warmup=2, weight_decay=0.0)
TRAINING = Training(seed_steps=3, rounds=2, inner_steps=4, batch=1, inner=INNER, outer=Nesterov())
MATRIX = Tensor("model.layers.0.mlp.up_proj.weight", (24, 8))
LAYOUT = (Tensor("model.norm.weight", (8,)), MATRIX, Tensor("lm_head.weight", (5, 8)))
SIZES = [tensor.size for tensor in LAYOUT]
STEPS = range(3, 7)
RATES = math.fsum(learning_rate(TRAINING, step) for step in STEPS)
SCALE = 0.2 * math.sqrt(24)
ORTHOGONAL = np.linalg.qr(np.random.default_rng(0).normal(size=(24, 8)))[0]
FURTHEST = RATES * SCALE * LARGEST_SINGULAR * ORTHOGONAL  # Muon's, if no update turned


def flat(*, norm: float = 0.0, matrix: object = 0.0, head: float = 0.0) -> Float32:
    """Return a delta of the layout."""
    parts = (np.full(8, norm), np.broadcast_to(np.asarray(matrix), (24, 8)), np.full(40, head))
    return np.concatenate([part.reshape(-1) for part in parts]).astype(np.float32)


def check(
    delta: Float32,
    *,
    state: Float32 | None = None,
    training: Training = TRAINING,
    steps: range = STEPS,
    rounded: Float32 | None = None,
) -> None:
    start = np.zeros_like(delta) if state is None else state
    check_muon_bound(delta, start, training, LAYOUT, steps, rounded=rounded)


def test_the_furthest_that_updates_can_go_passes_and_a_tenth_more_does_not() -> None:
    check(flat(matrix=FURTHEST))
    with pytest.raises(RemoteProtocolError, match=r"up_proj\.weight has a norm of .* in 4 steps"):
        check(flat(matrix=1.1 * FURTHEST))


def test_a_matrix_whose_elements_are_all_as_large_as_one_may_be_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="has a norm"):
        check(flat(matrix=RATES * SCALE * LARGEST_SINGULAR))


def test_one_element_has_no_more_than_a_singular_value() -> None:
    alone = np.zeros((24, 8))
    alone[3, 5] = RATES * SCALE * LARGEST_SINGULAR
    check(flat(matrix=alone))
    with pytest.raises(RemoteProtocolError, match=r"element 37 .* Muon can move it by"):
        check(flat(matrix=1.1 * alone))


def test_all_other_tensors_have_the_bound_of_adamw_at_its_own_rate() -> None:
    furthest = 1.165 * RATES / 10
    check(flat(norm=furthest, head=furthest))
    with pytest.raises(RemoteProtocolError, match=r"element 0 .* AdamW can move it by"):
        check(flat(norm=1.1 * furthest))
    with pytest.raises(RemoteProtocolError, match=r"element 200 .* AdamW can move it by"):
        check(flat(head=-1.1 * furthest))


def test_decay_moves_a_matrix_by_its_own_size() -> None:
    training = replace(TRAINING, inner=replace(INNER, weight_decay=0.5))
    state = flat(matrix=10.0 * ORTHOGONAL)
    decayed = flat(matrix=0.5 * RATES * 10.0 * ORTHOGONAL)
    check(decayed, state=state, training=training)
    check(decayed + flat(matrix=FURTHEST), state=state, training=training)
    with pytest.raises(RemoteProtocolError, match="has a norm"):
        check(1.5 * decayed + flat(matrix=FURTHEST), state=state, training=training)


@pytest.mark.parametrize("encoding", ["int8", "int4"])
def test_the_bound_gives_way_to_what_encoding_rounded(encoding: Encoding) -> None:
    data = encode_delta(flat(matrix=FURTHEST), encoding)
    found, room = decode_delta(data, encoding, sum(SIZES)), rounding(data, encoding, sum(SIZES))
    check(found, rounded=room)
    assert room is not None
    with pytest.raises(RemoteProtocolError, match="has a norm"):
        check(flat(matrix=1.5 * FURTHEST), rounded=room)


def test_without_a_step_nothing_moves() -> None:
    check(flat(), steps=range(0))
    for moved in (flat(norm=1e-30), flat(matrix=1e-30), flat(head=1e-30)):
        with pytest.raises(RemoteProtocolError, match="in 0 steps"):
            check(moved, steps=range(0))


def test_honest_steps_of_any_gradients_pass() -> None:
    """Fed with matrices of rank 1 that never turn, which go furthest in one element."""
    draw = np.random.default_rng(1)
    for rank in (1, 3, 8):
        turned, weight = np.zeros((24, 8)), draw.normal(size=(24, 8))
        start = weight.copy()
        constant = draw.normal(size=(24, rank)) @ draw.normal(size=(rank, 8))
        for step in STEPS:
            turned = 0.95 * turned + 0.05 * constant
            left, values, right = np.linalg.svd(turned / np.linalg.norm(turned), False)
            for _ in range(5):
                values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
            lr = learning_rate(TRAINING, step)
            weight = weight * (1 - lr * 0.1) - lr * SCALE * (left * values) @ right
        decayed = replace(TRAINING, inner=replace(INNER, weight_decay=0.1))
        check(flat(matrix=start - weight), state=flat(matrix=start), training=decayed)
