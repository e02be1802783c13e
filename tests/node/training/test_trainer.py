"""Leases on shards in memory: repeatable to the bit, and by the method's rules.

Bits of torch may differ between processors, so what is exact is compared within one process; the
golden losses have a tolerance of 1e-3, far below what another order, rate or start would change.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from dipaco.node.aggregation.outer import encoded_feedback, read_delta, read_moments
from dipaco.node.routing.shards import HeldOut, RouterDocuments, Validation
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.training.evaluation import evaluate
from dipaco.node.training.inner_loop import PathState, StepReport, Steps, run_steps
from dipaco.node.training.model import Float32, PathModel, load, store
from dipaco.node.training.trainer import Trainer
from dipaco.protocol.errors import DipacoError, Refusal
from dipaco.protocol.routing.labels import NOT_SCORED, quantised, read_sheet
from dipaco.protocol.run.batches import DENSE, RowOrder, batch_seed, first_step, learning_rate
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleDigest, ModuleId, digest_of
from dipaco.protocol.run.training import Adam, Muon, Nesterov, Training
from dipaco.protocol.tensors.feedback import decode_feedback, encode_feedback
from dipaco.protocol.tensors.moments import Moments, decode_moments, encode_moments, moments_bytes
from dipaco.protocol.tensors.top_k import kept
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.kinds import Evaluation, SeedResult, TrainResult
from tests.node.training.small import (
    CONTEXT,
    VOCABULARY,
    ArrayShard,
    Reports,
    evaluate_lease,
    initial_states,
    score_lease,
    seed_lease,
    shard,
    small_manifest,
    train_lease,
)
from tests.settings import ONE_THREAD
from tests.values import digest

CPU = torch.device("cpu")
SEED_SHARD, PATH_SHARD = shard(0, 40), shard(2)
ID_BYTES = np.random.default_rng(7).integers(1, 9, VOCABULARY)
"""By token id, the bytes of text that it stands for, made up."""
GOLDEN_LOSSES = [
    4.16232,
    4.14868,
    4.10616,
    4.05723,
    4.03078,
    3.97361,
    3.89110,
    3.84859,
    3.83682,
    3.79162,
    3.77561,
    3.75948,
]


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def trainer(blobs: BlobStore) -> Trainer:
    return Trainer(blobs, ONE_THREAD)


def seed_of(trainer: Trainer, value: Manifest) -> SeedResult:
    return trainer.seed(value, seed_lease(), SEED_SHARD, Reports())


def version_zero(trainer: Trainer, value: Manifest) -> dict[ModuleId, Digest]:
    seeds = {ModuleId(b.module): b.digest for b in seed_of(trainer, value).states}
    top = value.topology
    return {m: seeds[top.counterpart(m)] for m in top.modules}


def train(
    trainer: Trainer,
    value: Manifest,
    states: dict[ModuleId, Digest],
    path: int,
    round_: int = 1,
    moments: tuple[ModuleDigest, ...] = (),
) -> TrainResult:
    steps = first_step(value.training, round_) if moments else 0
    granted = replace(train_lease(value, path, round_, states), moments=moments, steps=steps)
    return trainer.train(value, granted, shard(path), Reports())


def run(
    value: Manifest, states: dict[ModuleId, Float32], steps: Steps, max_batch: int = 0
) -> tuple[dict[ModuleId, Float32], list[float]]:
    """Return the states after `steps` on PATH_SHARD, and the loss of every step."""
    reports: list[StepReport] = []
    result = run_steps(
        PathModel(value, CPU),
        value,
        PathState(weights=states),
        PATH_SHARD,
        RowOrder(batch_seed(digest("run"), 0), PATH_SHARD.rows),
        steps,
        max_batch=max_batch,
        on_step=reports.append,
    )
    return dict(result.end.weights), [report.loss for report in reports]


def test_the_golden_trajectory_of_a_seed_and_a_round() -> None:
    value = small_manifest()
    _, losses = run(value, initial_states(value), Steps(count=12, first_batch=0, first_rate=0))
    assert losses == pytest.approx(GOLDEN_LOSSES, rel=1e-3)


def test_the_same_lease_gives_the_same_digests_in_any_order_and_by_anybody(
    tmp_path: Path, trainer: Trainer
) -> None:
    value = small_manifest()
    states = version_zero(trainer, value)
    first = {path: train(trainer, value, states, path).deltas for path in (0, 1, 2, 3)}
    again = {path: train(trainer, value, states, path).deltas for path in (3, 1, 0, 2)}
    assert first == again
    elsewhere = Trainer(BlobStore(tmp_path / "b"), ONE_THREAD)
    assert version_zero(elsewhere, value) == states
    assert train(elsewhere, value, states, 2).deltas == first[2]
    assert len({blobs for blobs in first.values()}) == 4


def test_rests_change_no_digest(tmp_path: Path, trainer: Trainer) -> None:
    value = small_manifest()
    states = version_zero(trainer, value)
    rested = Trainer(BlobStore(tmp_path / "b"), replace(ONE_THREAD, duty=80))
    assert version_zero(rested, value) == states
    assert train(rested, value, states, 2).deltas == train(trainer, value, states, 2).deltas


def test_a_seed_lease_starts_from_the_initial_model_and_leaves_path_0s_states(
    blobs: BlobStore, trainer: Trainer
) -> None:
    value = small_manifest()
    trained = seed_of(trainer, value)
    order = RowOrder(batch_seed(digest("run"), DENSE), SEED_SHARD.rows)
    result = run_steps(
        PathModel(value, CPU),
        value,
        PathState(weights=initial_states(value)),
        SEED_SHARD,
        order,
        Steps(count=3, first_batch=0, first_rate=0),
        max_batch=0,
        on_step=lambda report: None,
    )
    assert [b.module for b in trained.states] == ["stem", "L1.E0", "L2.E0"]
    for blob in trained.states:
        state = result.end.weights[ModuleId(blob.module)]
        assert blobs.read_array(blob.digest, state.size).tobytes() == state.tobytes()
    assert trained.tokens == 3 * value.training.batch * CONTEXT


def test_without_a_seed_phase_the_seed_is_the_initial_model(
    blobs: BlobStore, trainer: Trainer
) -> None:
    plain = small_manifest()
    value = small_manifest(training=replace(plain.training, seed_steps=0))
    trained = seed_of(trainer, value)
    assert (trained.tokens, trained.loss_first, trained.loss_last) == (0, 0.0, 0.0)
    for blob, state in zip(trained.states, initial_states(value).values(), strict=True):
        assert blobs.read_array(blob.digest, state.size).tobytes() == state.tobytes()


def test_a_delta_is_where_the_path_started_minus_where_it_came_to(
    blobs: BlobStore, trainer: Trainer
) -> None:
    value = small_manifest()
    zero = version_zero(trainer, value)
    trained = train(trainer, value, zero, 1, round_=2)
    top = value.topology
    starts = {m: blobs.read_array(zero[m], top.elements(m)) for m in top.path_modules[1]}
    result = run_steps(
        PathModel(value, CPU),
        value,
        PathState(weights=starts),
        shard(1),
        RowOrder(batch_seed(digest("run"), 1), shard(1).rows),
        Steps(count=4, first_batch=4, first_rate=7),  # round 2: after 3 seed and 4 inner steps
        max_batch=0,
        on_step=lambda report: None,
    )
    for blob in trained.deltas:
        module = ModuleId(blob.module)
        delta = starts[module] - result.end.weights[module]
        assert read_delta(blobs, value, module, blob.digest).tobytes() == delta.tobytes()
        assert delta.any()


def test_bf16_deltas_are_half_as_long_and_the_nearest_values(
    blobs: BlobStore, trainer: Trainer
) -> None:
    full = small_manifest()
    half = small_manifest(training=replace(full.training, deltas="bf16"))
    states = version_zero(trainer, full)
    for wide, narrow in zip(
        train(trainer, full, states, 0).deltas, train(trainer, half, states, 0).deltas, strict=True
    ):
        module = ModuleId(wide.module)
        exact = read_delta(blobs, full, module, wide.digest)
        assert blobs.size(narrow.digest) * 2 == blobs.size(wide.digest)
        near = read_delta(blobs, half, module, narrow.digest)
        np.testing.assert_allclose(near, exact, rtol=2**-8)


def test_one_step_is_clipped_adamw_with_decay_on_matrices_only() -> None:
    inner = Adam(lr=0.01, warmup=0, clip=0.05, weight_decay=0.5)
    training = Training(
        seed_steps=0, rounds=1, inner_steps=1, batch=4, inner=inner, outer=Nesterov()
    )
    value = small_manifest(training=training)
    start = initial_states(value)
    ended, _ = run(value, start, Steps(count=1, first_batch=0, first_rate=0))
    model = PathModel(value, CPU)
    load(model, value, start)
    batch = RowOrder(batch_seed(digest("run"), 0), PATH_SHARD.rows).batch(0, 4)
    rows = torch.from_numpy(PATH_SHARD.data[batch])
    torch.autograd.backward(model.loss(rows) / (4 * CONTEXT))
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    norm = math.sqrt(sum((g.double() ** 2).sum().item() for g in gradients.values()))
    assert norm > 0.05  # so that there is something to clip
    lr = learning_rate(training, 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            g = gradients[name].double() * 0.05 / norm
            decayed = parameter * (1 - lr * 0.5) if parameter.dim() > 1 else parameter
            parameter.copy_(decayed - lr * g / (g.abs() + 1e-8))  # first step: m / sqrt(v) = sign
    for module, state in ended.items():
        np.testing.assert_allclose(state, store(model, value, module), rtol=1e-4, atol=1e-5)


def fresh(value: Manifest) -> Manifest:
    """Return the same run with an AdamW that begins anew in every round."""
    return replace(value, training=replace(value.training, inner_state="reset"))


def with_inner(inner: Adam | Muon) -> Manifest:
    value = small_manifest()
    return replace(value, training=replace(value.training, inner=inner))


INNER = pytest.mark.parametrize(
    "inner",
    [Adam(lr=0.01, warmup=2), Muon(lr=0.01, adamw_lr=0.01, warmup=2)],
    ids=["adamw", "muon"],
)


@INNER
def test_a_round_goes_on_from_the_moments_of_the_round_before(
    inner: Adam | Muon, tmp_path: Path, blobs: BlobStore, trainer: Trainer
) -> None:
    """As one optimizer over both rounds would, were moments not rounded to 8 bits between them."""
    value = with_inner(inner)
    zero = version_zero(trainer, value)
    first = train(trainer, value, zero, 1)
    top = value.topology
    assert [each.module for each in first.moments] == list(top.path_modules[1])
    for each in first.moments:
        module = ModuleId(each.module)
        size = moments_bytes(top.elements(module), value.by_muon(module))
        assert blobs.size(each.digest) == size
    second = train(trainer, value, zero, 1, 2, first.moments)
    assert second.moments != first.moments

    starts = {m: blobs.read_array(zero[m], top.elements(m)) for m in top.path_modules[1]}
    moments = {
        ModuleId(m.module): read_moments(blobs, value, ModuleId(m.module), m.digest)
        for m in first.moments
    }
    result = run_steps(
        PathModel(value, CPU),
        value,
        PathState(weights=starts, moments=moments),
        shard(1),
        RowOrder(batch_seed(digest("run"), 1), shard(1).rows),
        Steps(count=4, first_batch=4, first_rate=7, behind=4),
        max_batch=0,
        on_step=lambda report: None,
    )
    assert result.end.moments is not None
    for blob, carried in zip(second.deltas, second.moments, strict=True):
        module = ModuleId(blob.module)
        delta = starts[module] - result.end.weights[module]
        assert read_delta(blobs, value, module, blob.digest).tobytes() == delta.tobytes()
        data = encode_moments(result.end.moments[module], value.training.inner, 8)
        assert blobs.read(carried.digest, len(data)) == data

    other = BlobStore(tmp_path / "other")  # whoever takes the lease, from the blobs alone
    for digest_ in (*zero.values(), *(m.digest for m in first.moments)):
        other.write(blobs.read(digest_, 1 << 20))
    elsewhere = Trainer(other, ONE_THREAD)
    assert train(elsewhere, value, zero, 1, 2, first.moments).deltas == second.deltas


@INNER
def test_carried_moments_are_near_those_of_one_optimizer_over_both_rounds(
    inner: Adam | Muon,
) -> None:
    value = with_inner(inner)
    states = initial_states(value)
    zeros = {m: Moments.zeros(len(s), value.by_muon(m)) for m, s in states.items()}

    def steps(start: PathState, first: int, count: int, behind: int) -> PathState:
        return run_steps(
            PathModel(value, CPU),
            value,
            start,
            PATH_SHARD,
            RowOrder(batch_seed(digest("run"), 0), PATH_SHARD.rows),
            Steps(count=count, first_batch=first, first_rate=first, behind=behind),
            max_batch=0,
            on_step=lambda report: None,
        ).end

    whole = steps(PathState(weights=states, moments=zeros), 0, 8, 0)
    half = steps(PathState(weights=states, moments=zeros), 0, 4, 0)
    assert half.moments is not None
    exact = steps(half, 4, 4, 4)
    rounded = {
        m: decode_moments(encode_moments(each, inner, 4), len(states[m]), value.by_muon(m))
        for m, each in half.moments.items()
    }
    carried = steps(PathState(weights=half.weights, moments=rounded), 4, 4, 4)
    anew = steps(PathState(weights=half.weights), 4, 4, 0)
    for m in states:
        assert exact.weights[m].tobytes() == whole.weights[m].tobytes()
    error = {name: distance(end, whole) for name, end in (("8 bits", carried), ("reset", anew))}
    assert 0 < error["8 bits"] < 0.1 * error["reset"]


def distance(one: PathState, other: PathState) -> float:
    squares = [((one.weights[m] - other.weights[m]) ** 2).sum() for m in one.weights]
    return math.sqrt(sum(squares))


def test_reset_hands_on_no_moments(trainer: Trainer) -> None:
    value = fresh(small_manifest())
    assert train(trainer, value, version_zero(trainer, value), 1).moments == ()


def test_without_moments_every_lease_begins_at_zero() -> None:
    value = small_manifest()
    one, _ = run(value, initial_states(value), Steps(count=2, first_batch=0, first_rate=0))
    half, _ = run(value, initial_states(value), Steps(count=1, first_batch=0, first_rate=0))
    two, _ = run(value, half, Steps(count=1, first_batch=1, first_rate=1))
    assert any(one[m].tobytes() != two[m].tobytes() for m in one)
    longest = learning_rate(value.training, 1) * (1.001 + 0.1)  # a first step is +-lr
    assert all(np.abs(half[m] - two[m]).max() <= longest for m in two)


MICRO_BATCH_TOLERANCE = 1e-5  # of what the steps changed, by norm (docs/method.md 2.8)


@pytest.mark.parametrize("max_batch", [1, 2, 3])
def test_micro_batches_take_the_same_steps_up_to_rounding(max_batch: int) -> None:
    value, start = small_manifest(), initial_states(small_manifest())
    steps = Steps(count=12, first_batch=0, first_rate=0)
    whole, losses = run(value, start, steps)
    parts, part_losses = run(value, start, steps, max_batch)
    assert part_losses == pytest.approx(losses, rel=1e-5)
    assert apart(whole, parts, start) < MICRO_BATCH_TOLERANCE


def test_the_tolerance_of_micro_batches_is_one_that_two_percent_more_rate_fails() -> None:
    value, start = small_manifest(), initial_states(small_manifest())
    inner = replace(value.training.inner, lr=value.training.inner.lr * 1.02)
    other = replace(value, training=replace(value.training, inner=inner))
    steps = Steps(count=12, first_batch=0, first_rate=0)
    whole, _ = run(value, start, steps)
    changed, _ = run(other, start, steps)
    assert apart(whole, changed, start) > 100 * MICRO_BATCH_TOLERANCE


def apart(
    one: dict[ModuleId, Float32], other: dict[ModuleId, Float32], start: dict[ModuleId, Float32]
) -> float:
    """Return how far two ends are apart, in lengths of the way from the start."""
    gap = sum(float(((one[m] - other[m]).astype(np.float64) ** 2).sum()) for m in one)
    way = sum(float(((one[m] - start[m]).astype(np.float64) ** 2).sum()) for m in one)
    return math.sqrt(gap / way)


def test_bf16_products_are_repeatable_near_float32_and_leave_evaluation_alone() -> None:
    full = small_manifest()
    half = small_manifest(training=replace(full.training, precision="bf16"))
    start, steps = initial_states(full), Steps(count=12, first_batch=0, first_rate=0)
    ended, losses = run(half, start, steps)
    again, _ = run(half, start, steps)
    assert all(ended[m].tobytes() == again[m].tobytes() for m in ended)
    whole, full_losses = run(full, start, steps)
    assert losses != full_losses
    assert losses == pytest.approx(full_losses, rel=3e-3)
    assert all(state.dtype == np.float32 for state in ended.values())
    assert 0 < apart(whole, ended, start) < 0.2
    scores = []
    for value in (full, half):
        model = PathModel(value, CPU)
        load(model, value, start)
        documents = [PATH_SHARD.data[0, :CONTEXT]]
        scores.append(
            evaluate(
                model,
                documents,
                first=4,
                id_bytes=ID_BYTES,
                max_batch=0,
                on_batch=lambda done: None,
            )
        )
    assert scores[0] == scores[1]


def test_a_loss_that_is_not_finite_says_so_and_leaves_nothing(
    blobs: BlobStore, trainer: Trainer
) -> None:
    value = small_manifest()
    wild = {m: np.full_like(s, 1e30) for m, s in initial_states(value).items()}
    states = {m: blobs.write_array(s) for m, s in wild.items()}
    before = blobs.total_bytes()
    with pytest.raises(DipacoError, match="training loss is nan at step 1 of 4"):
        train(trainer, value, states, 0)
    assert blobs.total_bytes() == before


NO_ROWS = ArrayShard(np.zeros((0, CONTEXT + 1), dtype=np.int64))


def test_a_seed_without_a_row_is_refused(trainer: Trainer) -> None:
    value = small_manifest()
    with pytest.raises(Refusal, match="window 0 has no training document"):
        trainer.seed(value, seed_lease(), NO_ROWS, Reports())


def test_a_path_without_a_row_in_this_window_learns_nothing(
    blobs: BlobStore, trainer: Trainer
) -> None:
    value = small_manifest()
    states = {m: blobs.write_array(s) for m, s in initial_states(value).items()}
    trained = trainer.train(value, train_lease(value, 0, 1, states), NO_ROWS, Reports())
    assert trained.tokens == 0 and len(trained.deltas) == len(value.topology.path_modules[0])
    for blob in trained.deltas:
        assert not any(blobs.read(blob.digest, 1 << 20))
    for module, found in read_all_moments(blobs, value, trained.moments):
        assert not found.first.any() and not found.second.any(), module


def test_a_path_without_a_row_in_this_window_hands_on_the_moments_it_was_given(
    blobs: BlobStore, trainer: Trainer
) -> None:
    value = small_manifest()
    states = version_zero(trainer, value)
    moments = train(trainer, value, states, 1).moments
    granted = replace(train_lease(value, 1, 2, states), moments=moments)
    assert trainer.train(value, granted, NO_ROWS, Reports()).moments == moments


def test_what_topk_leaves_out_of_one_round_is_part_of_the_next(
    blobs: BlobStore, trainer: Trainer
) -> None:
    value = small_manifest()
    value = replace(value, training=replace(value.training, deltas="topk"))
    module = value.topology.path_modules[1][0]
    elements = value.topology.elements(module)
    states = version_zero(trainer, value)
    first = train(trainer, value, states, 1)
    left = feedback_of(blobs, value, first, module)
    whole = replace(value, training=replace(value.training, deltas="f32"))
    plain = digest_of(module, train(trainer, whole, states, 1).deltas)
    delta = read_delta(blobs, whole, module, plain)
    sent = read_delta(blobs, value, module, digest_of(module, first.deltas))
    assert 0 < np.count_nonzero(sent) <= kept(elements)
    assert encode_feedback(delta - sent) == encode_feedback(left)

    nothing = replace(train_lease(value, 1, 2, states), moments=first.moments)
    idle = trainer.train(value, nothing, NO_ROWS, Reports())
    assert idle.moments == first.moments
    assert not read_delta(blobs, value, module, digest_of(module, idle.deltas)).any()

    again = train(trainer, value, states, 1, round_=2, moments=first.moments)
    moments = tuple(without_feedback(blobs, value, each) for each in first.moments)
    forgot = train(trainer, value, states, 1, round_=2, moments=moments)
    assert digest_of(module, again.deltas) != digest_of(module, forgot.deltas)


def feedback_of(
    blobs: BlobStore, value: Manifest, trained: TrainResult, module: ModuleId
) -> Float32:
    found = encoded_feedback(blobs, value, module, digest_of(module, trained.moments))
    return decode_feedback(found, value.topology.elements(module))


def without_feedback(blobs: BlobStore, value: Manifest, each: ModuleDigest) -> ModuleDigest:
    elements = value.topology.elements(ModuleId(each.module))
    moments = blobs.read(each.digest, 1 << 20)[: moments_bytes(elements)]
    nothing = encode_feedback(np.zeros(elements, np.float32))
    return replace(each, digest=blobs.write(moments + nothing))


def test_bias_correction_counts_the_steps_that_were_taken_and_no_round_without_a_document(
    trainer: Trainer,
) -> None:
    value = small_manifest()
    states = version_zero(trainer, value)
    empty = trainer.train(value, train_lease(value, 0, 1, states), NO_ROWS, Reports())
    anew = train_lease(value, 0, 2, states)
    assert anew.moments == () and anew.steps == 0
    from_zeros = replace(anew, moments=empty.moments)
    first, second, wrong = (
        trainer.train(value, granted, shard(0), Reports())
        for granted in (anew, from_zeros, replace(from_zeros, steps=value.training.inner_steps))
    )
    assert first.deltas == second.deltas != wrong.deltas
    assert empty.steps_taken(7) == 0 and first.steps_taken(7) == 7


def read_all_moments(
    blobs: BlobStore, value: Manifest, named: tuple[ModuleDigest, ...]
) -> list[tuple[str, Moments]]:
    return [
        (each.module, read_moments(blobs, value, ModuleId(each.module), each.digest))
        for each in named
    ]


def test_progress_counts_steps_with_loss_and_rate(trainer: Trainer) -> None:
    value, reports = small_manifest(), Reports()
    trained = trainer.seed(value, seed_lease(), SEED_SHARD, reports)
    assert [(p.stage, p.done, p.total, p.unit) for p in reports.all] == [
        ("train", done, 3, "steps") for done in (1, 2, 3)
    ]
    assert [reports.all[0].loss, reports.all[-1].loss] == [trained.loss_first, trained.loss_last]
    tokens_per_step = value.training.batch * value.model.context
    for each in reports.all:
        assert each.per_second > 0
        assert each.tokens_per_second == pytest.approx(tokens_per_step * each.per_second)


def test_a_step_of_many_micro_batches_is_reported_while_it_lasts(blobs: BlobStore) -> None:
    value, reports = small_manifest(), Reports()
    trainer = Trainer(blobs, replace(ONE_THREAD, max_batch=1))
    trainer.seed(value, seed_lease(), SEED_SHARD, reports)
    each = [done for done in range(3) for _ in range(value.training.batch - 1)]
    assert [p.done for p in reports.all] == sorted([*each, 1, 2, 3])
    assert {(p.stage, p.total, p.unit) for p in reports.all} == {("train", 3, "steps")}


def test_training_lowers_the_held_out_loss(blobs: BlobStore, trainer: Trainer) -> None:
    plain = small_manifest()
    training = replace(plain.training, seed_steps=60)
    value = small_manifest(training=training)
    rows = SEED_SHARD.data[:5, :40]
    documents = Validation(rows.ravel(), np.full(5, 40), indices=np.arange(5), id_bytes=ID_BYTES)
    losses = []
    for manifest in (plain, value):
        states = version_zero(trainer, manifest)
        granted = evaluate_lease(manifest, 3, 0, states)
        found = trainer.evaluate(manifest, granted, documents, Reports()).evaluation
        assert (found.documents, found.tokens) == (5, 5 * (40 - 32))
        assert found.bytes == ID_BYTES[rows[:, 32:]].sum()
        losses.append(found.nll / found.tokens)
    assert losses[1] < 0.5 * losses[0]


def test_evaluation_scores_each_document_from_the_prefix_on_whatever_its_company() -> None:
    value = small_manifest()
    model = PathModel(value, CPU)
    load(model, value, initial_states(value))
    lengths = [48, 33, 40, 32, 5, 47, 40]
    documents = [SEED_SHARD.data[i, :n] for i, n in enumerate(lengths)]
    expected = 0.0
    for document in documents:
        if len(document) > 32:
            row = torch.from_numpy(document)[None]
            with torch.inference_mode():
                logs = (model(row[:, :-1]) @ model.head.T).log_softmax(-1)[0]
            picked = logs[torch.arange(len(document) - 1), row[0, 1:]]
            expected -= picked[31:].sum(dtype=torch.float64).item()
    for max_batch in (0, 1, 2):
        done: list[int] = []
        found = evaluate(
            model,
            documents,
            first=32,
            id_bytes=ID_BYTES,
            max_batch=max_batch,
            on_batch=done.append,
        )
        assert (found.documents, found.tokens) == (5, 16 + 1 + 8 + 15 + 8)
        assert found.bytes == sum(ID_BYTES[document[32:]].sum() for document in documents)
        assert found.nll == pytest.approx(expected, rel=1e-5)
        assert done[-1] == 5
    nothing = evaluate(model, [], first=32, id_bytes=ID_BYTES, max_batch=0, on_batch=done.append)
    assert nothing == Evaluation(documents=0, tokens=0, nll=0.0, bytes=0)


def test_a_sheet_scores_documents_from_the_first_scored_position_on(
    blobs: BlobStore, trainer: Trainer
) -> None:
    plain = small_manifest()
    value = small_manifest(routing=replace(plain.routing, prefix=8, scored_from=20))
    lengths = np.array([48, 20, 21, 40])
    stream = np.concatenate([SEED_SHARD.data[i, :n] for i, n in enumerate(lengths)])
    due = RouterDocuments(HeldOut(stream, lengths), np.zeros((4, 1), dtype=np.int64))
    states = version_zero(trainer, value)
    sheet = trainer.score(value, score_lease(value, 0, 0, states), due, Reports()).sheet
    evaluated = evaluate_lease(value, 0, 0, states)
    expected = []
    for document in (due.documents[i] for i in (0, 2, 3)):
        single = Validation(
            document, np.array([len(document)]), indices=np.arange(1), id_bytes=ID_BYTES
        )
        alone = trainer.evaluate(value, evaluated, single, Reports()).evaluation
        assert alone.tokens == len(document) - 20
        expected.append(quantised(alone.nll, alone.tokens))
    scores = read_sheet(blobs.read(sheet.digest, 1 << 10), 4).tolist()
    assert scores == [expected[0], NOT_SCORED, *expected[1:]]
