"""Outer steps and inspections on a real blob store: what is taken, and what is turned away."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from dipaco.node.aggregation.inspection import wrong_deltas, wrong_moments, wrong_states
from dipaco.node.aggregation.outer import advance_state, take_outer_step
from dipaco.node.jobs.values import Advance, OuterStep
from dipaco.node.storage.blobs import BlobMissing, BlobStore
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.run.batches import learning_rate
from dipaco.protocol.run.initial import initial_module
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.run.modules import ModuleDigest
from dipaco.protocol.run.topology import STEM
from dipaco.protocol.run.training import Adam, Muon
from dipaco.protocol.tensors.block_float import Bits
from dipaco.protocol.tensors.delta import (
    Encoding,
    Float32,
    decode_delta,
    encode_delta,
    largest_update,
)
from dipaco.protocol.tensors.feedback import encode_feedback
from dipaco.protocol.tensors.moments import Moments, encode_moments, moments_bytes
from dipaco.protocol.tensors.outer_step import advance, outer_step, outer_update, quantise
from dipaco.protocol.wire.digest import Digest, sha256
from dipaco.protocol.work.kinds import SeedLease
from dipaco.protocol.work.ledger import Contribution
from tests.node.training.small import seed_lease, small_manifest, train_lease
from tests.values import digest, peer

VALUE = small_manifest()
STATE = initial_module(VALUE, STEM)
LIMIT = 4 * learning_rate(VALUE.training, 3)  # an honest round's worth, about


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path)


def delta_fault(
    blobs: BlobStore, blob: Digest, value: Manifest = VALUE, *, steps: int | None = None
) -> str:
    """Return what is wrong with `blob` as the pseudo-gradient of path 0's stem."""
    steps = value.training.inner_steps if steps is None else steps
    state = blobs.write_array(STATE)
    states = dict.fromkeys(value.topology.path_modules[0], state)
    deltas = (ModuleDigest(module=STEM, digest=blob),)
    return wrong_deltas(blobs, value, train_lease(value, 0, 1, states), deltas, steps=steps)


def state_fault(
    blobs: BlobStore, blob: Digest, value: Manifest = VALUE, start: Digest | None = None
) -> str:
    """Return what is wrong with `blob` as the seed model's stem.

    start   the stem that the seed phase starts from; None: the initial one.
    """
    lease = SeedLease(
        run=run_id(value),
        token=bytes(16),
        spec=sha256(b"spec"),
        window=0,
        modules=() if start is None else (ModuleDigest(module=STEM, digest=start),),
        ttl=20,
    )
    return wrong_states(blobs, value, lease, (ModuleDigest(module=STEM, digest=blob),))


@pytest.mark.parametrize("encoding", ["f32", "bf16", "int8", "int4", "int2"])
def test_two_outer_steps_in_a_row_equal_the_plain_function(
    blobs: BlobStore, encoding: Encoding
) -> None:
    training = msgspec.structs.replace(VALUE.training, deltas=encoding)
    value = msgspec.structs.replace(VALUE, training=training)
    sizes = np.tile(np.array([1, 3], np.float32), STATE.size)[: STATE.size]
    deltas = [np.sign(STATE) * sizes * np.float32(2.0**-k) for k in (6, 7)]  # exact in all
    contributions = tuple(
        Contribution(
            path=path,
            peer=peer("anna"),
            delta=blobs.write(encode_delta(delta, encoding)),
            weight=weight,
        )
        for path, delta, weight in zip((0, 2), deltas, (10, 30), strict=True)
    )
    state, momentum = STATE, None
    digests: tuple[Digest, Digest | None] = blobs.write_array(STATE), None
    for _ in range(2):
        job = OuterStep(
            manifest=value,
            module=STEM,
            state=digests[0],
            momentum=digests[1],
            contributions=contributions,
        )
        stepped = take_outer_step(blobs, job)
        digests = stepped.state, stepped.momentum
        state, momentum = outer_step(state, momentum, [10, 30], deltas, VALUE.training.outer)
        assert blobs.read_array(stepped.state, state.size).tobytes() == state.tobytes()
        assert blobs.read_array(stepped.momentum, state.size).tobytes() == momentum.tobytes()


@pytest.mark.parametrize(("updates", "bits"), [("int8", 8), ("int4", 4)])
def test_packed_updates_lead_whoever_holds_an_earlier_version_to_the_same_bytes(
    blobs: BlobStore, updates: str, bits: Bits
) -> None:
    value = msgspec.structs.replace(
        VALUE, training=msgspec.structs.replace(VALUE.training, updates=updates)
    )
    draw = np.random.default_rng(1)
    state, first = STATE, blobs.write_array(STATE)
    momentum = residual = np.zeros_like(STATE)
    made, momentum_digest, residual_digest, packed = first, None, None, []
    for _ in range(2):
        delta = (0.01 * draw.normal(size=STATE.size)).astype(np.float32)
        contribution = Contribution(
            path=0, peer=peer("anna"), delta=blobs.write_array(delta), weight=10
        )
        stepped = take_outer_step(
            blobs,
            OuterStep(
                manifest=value,
                module=STEM,
                state=made,
                momentum=momentum_digest,
                residual=residual_digest,
                contributions=(contribution,),
            ),
        )
        update, momentum = outer_update(momentum, [10], [delta], VALUE.training.outer)
        data, residual = quantise(update, residual, bits)
        state = advance(state, data, bits)
        assert stepped.quantised is not None
        made, momentum_digest = stepped.state, stepped.momentum
        residual_digest = stepped.quantised.residual
        packed.append(stepped.quantised.update)
        assert blobs.read(packed[-1], len(data)) == data
        assert blobs.read_array(made, STATE.size).tobytes() == state.tobytes()
        assert blobs.read_array(residual_digest, STATE.size).tobytes() == residual.tobytes()
    blobs.remove(made)
    job = Advance(manifest=value, module=STEM, state=first, updates=tuple(packed))
    assert advance_state(blobs, job).state == made
    assert blobs.read_array(made, STATE.size).tobytes() == state.tobytes()


def test_an_honest_delta_passes(blobs: BlobStore) -> None:
    assert delta_fault(blobs, blobs.write_array(np.full_like(STATE, 0.5 * LIMIT))) == ""


def test_a_delta_beyond_what_adamw_can_do_is_named(blobs: BlobStore) -> None:
    wrong = delta_fault(blobs, blobs.write_array(np.full_like(STATE, 3 * LIMIT)))
    assert wrong.startswith("module stem: element ") and wrong.endswith(
        f"in {VALUE.training.inner_steps} steps"
    )


def test_an_honest_delta_that_was_rounded_beyond_the_bound_passes(blobs: BlobStore) -> None:
    # With this rate the furthest of AdamW is 5.6 steps of 2^-7, so it is encoded as 6.
    training = msgspec.structs.replace(VALUE.training, inner=Adam(lr=0.0133, warmup=2))
    plain = msgspec.structs.replace(VALUE, training=training)
    packed = msgspec.structs.replace(
        plain, training=msgspec.structs.replace(training, deltas="int4")
    )
    reach = sum(learning_rate(training, 3 + step) for step in range(4))
    delta = np.full_like(STATE, 1.05 * reach * largest_update(0.9, 0.95))
    data = encode_delta(delta, "int4")
    assert delta_fault(blobs, blobs.write_array(delta), value=plain) == ""
    assert delta_fault(blobs, blobs.write(data), value=packed) == ""
    near = decode_delta(data, "int4", delta.size)
    assert "AdamW can move it by" in delta_fault(blobs, blobs.write_array(near), value=plain)


@pytest.mark.parametrize(("fault", "good"), [(delta_fault, STATE * 0), (state_fault, STATE)])
def test_what_is_not_finite_or_has_another_length_is_named(
    blobs: BlobStore, fault: Callable[[BlobStore, Digest], str], good: Float32
) -> None:
    bad = good.copy()
    assert fault(blobs, blobs.write_array(bad)) == ""
    bad[7] = np.nan
    assert "holds NaN or infinity" in fault(blobs, blobs.write_array(bad))
    assert "bytes" in fault(blobs, blobs.write_array(STATE[:-1]))
    assert "bytes" in fault(blobs, blobs.write(bytes(STATE.nbytes + 1)))


def test_a_seed_model_that_dense_steps_cannot_lead_to_is_named(blobs: BlobStore) -> None:
    moved = np.float32(VALUE.training.seed_steps * VALUE.training.inner.lr * 0.5)
    assert state_fault(blobs, blobs.write_array(STATE + moved)) == ""
    for wrong in (np.full_like(STATE, 1e30), STATE + np.float32(10), np.zeros_like(STATE) - 3):
        assert "AdamW can move it by" in state_fault(blobs, blobs.write_array(wrong))


def test_a_warm_start_is_what_the_seed_model_is_measured_from(blobs: BlobStore) -> None:
    warm = STATE + np.float32(5)
    start = blobs.write_array(warm)
    assert state_fault(blobs, blobs.write_array(warm + np.float32(1e-5)), start=start) == ""
    assert "AdamW" in state_fault(blobs, blobs.write_array(STATE), start=start)


def test_without_a_seed_step_the_seed_model_is_the_initial_one_to_the_bit(
    blobs: BlobStore,
) -> None:
    training = msgspec.structs.replace(VALUE.training, seed_steps=0)
    value = msgspec.structs.replace(VALUE, training=training)
    other = STATE.copy()
    other[3] = np.nextafter(other[3], np.float32(1))
    assert state_fault(blobs, blobs.write_array(STATE), value) == ""
    assert "in 0 steps" in state_fault(blobs, blobs.write_array(other), value)


def test_without_a_step_a_delta_is_zero(blobs: BlobStore) -> None:
    still, moved = np.zeros_like(STATE), np.full_like(STATE, 1e-9)
    assert delta_fault(blobs, blobs.write_array(still), steps=0) == ""
    assert "in 0 steps" in delta_fault(blobs, blobs.write_array(moved), steps=0)


def test_a_missing_blob_is_nobodys_fault(blobs: BlobStore) -> None:
    with pytest.raises(BlobMissing):
        delta_fault(blobs, digest("nowhere"))


def test_an_outer_step_takes_no_delta_that_is_not_finite(blobs: BlobStore) -> None:
    bad = STATE * np.float32(np.inf)
    job = OuterStep(
        manifest=VALUE,
        module=STEM,
        state=blobs.write_array(STATE),
        momentum=None,
        contributions=(
            Contribution(path=0, peer=peer("a"), delta=blobs.write_array(bad), weight=1),
        ),
    )
    with pytest.raises(RemoteProtocolError, match="NaN or infinity"):
        take_outer_step(blobs, job)


def moments_fault(blobs: BlobStore, data: bytes, round_: int = 1) -> str:
    """Return what is wrong with `data` as the moments of path 0's stem."""
    states = dict.fromkeys(VALUE.topology.path_modules[0], blobs.write_array(STATE))
    moments = (ModuleDigest(module=STEM, digest=blobs.write(data)),)
    return wrong_moments(blobs, VALUE, train_lease(VALUE, 0, round_, states), moments)


def test_moments_are_inspected_beside_the_deltas(blobs: BlobStore) -> None:
    adam = VALUE.training.inner
    first, second = np.full_like(STATE, 1e-3), np.full_like(STATE, 1e-6)
    assert moments_fault(blobs, encode_moments(Moments(first, second), adam, 4)) == ""
    loose = msgspec.structs.replace(adam, beta2=0.5)  # bounds nothing, so nothing is drawn down
    wrong = moments_fault(blobs, encode_moments(Moments(first * 2, second), loose, 4))
    assert wrong.startswith("moments of module stem: element 0 of the first moment is 0.00")
    wrong = moments_fault(blobs, encode_moments(Moments(first, second * 2e6), adam, 4))
    assert "the second moment is 2" in wrong
    assert "bytes" in moments_fault(blobs, b"short")
    longer = bytes(moments_bytes(STATE.size) + 1)
    assert "bytes" in moments_fault(blobs, longer)
    assert moments_fault(blobs, longer[:-1]) == ""  # zeros


MUON = msgspec.structs.replace(
    VALUE,
    training=msgspec.structs.replace(VALUE.training, inner=Muon(lr=0.01, adamw_lr=0.001, warmup=2)),
)
EXPERT = MUON.topology.path_modules[0][1]  # its blocks


def muon_fault(blobs: BlobStore, delta: Float32) -> str:
    """Return what is wrong with `delta` as that of path 0's first expert in a run of Muon."""
    start = blobs.write_array(np.zeros(MUON.topology.elements(EXPERT), np.float32))
    lease = train_lease(MUON, 0, 1, dict.fromkeys(MUON.topology.path_modules[0], start))
    deltas = (ModuleDigest(module=EXPERT, digest=blobs.write_array(delta)),)
    return wrong_deltas(blobs, MUON, lease, deltas, steps=MUON.training.inner_steps)


def test_a_delta_beyond_what_muon_can_do_is_named(blobs: BlobStore) -> None:
    layout = MUON.topology.layouts[EXPERT]
    honest = np.concatenate(
        [np.full(t.size, 0.002 if t.hidden else 0.0005, np.float32) for t in layout]
    )
    assert muon_fault(blobs, honest) == ""
    assert muon_fault(blobs, 5 * honest).startswith(f"module {EXPERT}: ")
    norm = honest.copy()
    norm[: layout[0].size] *= 20
    assert "AdamW can move it by" in muon_fault(blobs, norm)
    place = sum(t.size for t in layout[:1])  # the first matrix stands behind a norm
    hidden = honest.copy()
    hidden[place : place + layout[1].size] *= 10
    assert f"the delta of {layout[1].name} has a norm of" in muon_fault(blobs, hidden)
    hidden = honest.copy()
    hidden[place] = 1.0
    assert "Muon can move it by" in muon_fault(blobs, hidden) + muon_fault(blobs, -hidden)


def test_a_seed_model_beyond_what_muon_can_do_is_named(blobs: BlobStore) -> None:
    start = initial_module(MUON, EXPERT)

    def fault(state: Float32) -> str:
        states = (ModuleDigest(module=EXPERT, digest=blobs.write_array(state)),)
        return wrong_states(blobs, MUON, seed_lease(), states)

    assert fault(start + np.float32(1e-4)) == ""
    assert "AdamW can move it by" in fault(start * np.float32(1.5))
    first = MUON.topology.layouts[EXPERT][0].size
    far = np.concatenate([start[:first], start[first:] * np.float32(1.5)])
    assert "has a norm of" in fault(far)


def test_momenta_are_inspected_beside_the_deltas(blobs: BlobStore) -> None:
    elements, hidden = MUON.topology.elements(EXPERT), MUON.by_muon(EXPERT)
    assert 0 < hidden < elements
    zeros = Moments.zeros(elements, hidden)

    def fault(data: bytes) -> str:
        lease = train_lease(
            MUON, 0, 1, dict.fromkeys(MUON.topology.path_modules[0], digest("state"))
        )
        named = (ModuleDigest(module=EXPERT, digest=blobs.write(data)),)
        return wrong_moments(blobs, MUON, lease, named)

    def encoded(size: float, clip: float) -> bytes:
        value = dataclasses.replace(zeros, momentum=np.full(hidden, size, np.float32))
        return encode_moments(value, msgspec.structs.replace(MUON.training.inner, clip=clip), 4)

    assert fault(encoded(0.9 / hidden**0.5, 1.0)) == ""
    wrong = fault(encoded(1.1 / hidden**0.5, 1e3))
    assert wrong.startswith(f"moments of module {EXPERT}: the momentum has a norm of 1.1")
    due = moments_bytes(elements, hidden)
    assert due < 0.6 * moments_bytes(elements)
    for wrong_length in (moments_bytes(elements), due + 1, due - 1):
        assert "bytes" in fault(bytes(wrong_length))
    assert fault(bytes(due)) == ""  # zeros


TOPK = msgspec.structs.replace(
    VALUE, training=msgspec.structs.replace(VALUE.training, deltas="topk")
)


def feedback_fault(blobs: BlobStore, feedback: bytes) -> str:
    """Return what is wrong with what top-k left out of path 0's stem in round 1."""
    states = dict.fromkeys(TOPK.topology.path_modules[0], blobs.write_array(STATE))
    data = bytes(moments_bytes(STATE.size)) + feedback
    moments = (ModuleDigest(module=STEM, digest=blobs.write(data)),)
    return wrong_moments(blobs, TOPK, train_lease(TOPK, 0, 1, states), moments)


def test_what_topk_leaves_out_is_inspected_with_the_moments(blobs: BlobStore) -> None:
    small = np.full_like(STATE, 2.0**-12)
    assert feedback_fault(blobs, encode_feedback(small)) == ""
    wrong = feedback_fault(blobs, encode_feedback(np.full_like(STATE, 8)))
    assert wrong.startswith("moments of module stem: element ")
    wrong = feedback_fault(blobs, b"\xff" * len(encode_feedback(small)))
    assert wrong.startswith("moments of module stem: the delta holds NaN")
    assert "bytes" in feedback_fault(blobs, b"")


def test_a_sparse_delta_may_hold_the_moves_of_all_rounds_and_no_more(blobs: BlobStore) -> None:
    def fault(round_: int, size: float, steps: int = TOPK.training.inner_steps) -> str:
        state = blobs.write_array(STATE)
        states = dict.fromkeys(TOPK.topology.path_modules[0], state)
        sent = blobs.write(encode_delta(np.full_like(STATE, size), "topk"))
        deltas = (ModuleDigest(module=STEM, digest=sent),)
        return wrong_deltas(blobs, TOPK, train_lease(TOPK, 0, round_, states), deltas, steps=steps)

    steps = TOPK.training.seed_steps + np.arange(2 * TOPK.training.inner_steps)
    both = sum(learning_rate(TOPK.training, int(step)) for step in steps)
    assert fault(2, both) == ""
    assert "of the delta is" in fault(1, 2 * both)
    assert "of the delta is" in fault(2, 4 * both)
    assert "in 0 steps" in fault(2, both, steps=0)
