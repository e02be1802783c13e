"""The golden trajectories are kept, and their tolerance is one that a wrong method fails."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from dipaco.node.reference import run as reference
from dipaco.protocol.run.manifest import Manifest, run_id
from tests.golden.trajectories import TOLERANCES, Trajectory, runs, saved, tiny, trajectory


def worst(ours: Trajectory, theirs: Trajectory) -> float:
    """Return the largest relative difference of any loss or norm."""
    assert ours.keys() == theirs.keys()
    return max(
        abs(a / b - 1)
        for what, values in ours.items()
        for a, b in zip(values, theirs[what], strict=True)
    )


@pytest.fixture
def same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every run have the batches of `tiny()`: a run's id orders them, any field changes it.

    Without that, a change of no effect at all would come elsewhere too.
    """
    monkeypatch.setattr(reference, "run_id", lambda value: run_id(tiny()))


@pytest.mark.parametrize("name", ["f32", "bf16", "muon", "int4"])
def test_a_tiny_run_comes_to_where_it_always_came(name: str) -> None:
    assert worst(trajectory(runs()[name]), saved()[name]) < TOLERANCES[name]


@pytest.mark.usefixtures("same_batches")
def test_what_does_not_touch_training_comes_to_the_same_place() -> None:
    value = replace(tiny(early_stopping=False), name="other")
    assert worst(trajectory(value), saved()["f32"]) < TOLERANCES["f32"]


def rate(value: Manifest) -> Manifest:
    inner = replace(value.training.inner, lr=value.training.inner.lr * 1.02)
    return replace(value, training=replace(value.training, inner=inner))


def warmer(value: Manifest) -> Manifest:
    inner = replace(value.training.inner, warmup=3)
    return replace(value, training=replace(value.training, inner=inner))


@pytest.mark.usefixtures("same_batches")
@pytest.mark.parametrize(
    "change",
    [
        rate,
        warmer,
        lambda value: tiny(inner_state="reset"),
        lambda value: tiny(outer=replace(value.training.outer, rescale="none")),
        lambda value: tiny(outer=replace(value.training.outer, weights="uniform")),
        lambda value: tiny(precision="bf16"),
        lambda value: replace(value, seed=value.seed + 1),
        lambda value: replace(value, routing=replace(value.routing, overlap=1)),
    ],
    ids=["rate", "warmup", "inner_state", "rescale", "weights", "precision", "seed", "overlap"],
)
def test_another_method_comes_elsewhere(change: Callable[[Manifest], Manifest]) -> None:
    assert worst(trajectory(change(tiny())), saved()["f32"]) > 20 * TOLERANCES["f32"]


def test_another_order_of_batches_comes_elsewhere() -> None:
    value = replace(tiny(), name="other")
    assert worst(trajectory(value), saved()["f32"]) > 20 * TOLERANCES["f32"]
