"""The golden trajectories are kept, and their tolerance is one that a wrong method fails."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from dipaco.protocol.manifest import Manifest
from tests.golden.trajectories import TOLERANCE, Trajectory, runs, saved, tiny, trajectory


def worst(ours: Trajectory, theirs: Trajectory) -> float:
    """Return the largest relative difference of any loss or norm."""
    assert ours.keys() == theirs.keys()
    return max(
        abs(a / b - 1)
        for what, values in ours.items()
        for a, b in zip(values, theirs[what], strict=True)
    )


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_tiny_run_comes_to_where_it_always_came(precision: str) -> None:
    assert worst(trajectory(runs()[precision]), saved()[precision]) < TOLERANCE


def warmer(value: Manifest) -> Manifest:
    inner = replace(value.training.inner, warmup=3)
    return replace(value, training=replace(value.training, inner=inner))


@pytest.mark.parametrize(
    "change",
    [
        warmer,
        lambda value: tiny(inner_state="reset"),
        lambda value: tiny(outer=replace(value.training.outer, rescale="none")),
        lambda value: tiny(outer=replace(value.training.outer, weights="uniform")),
        lambda value: tiny(precision="bf16"),
        lambda value: replace(value, seed=value.seed + 1),
        lambda value: replace(value, routing=replace(value.routing, overlap=1)),
    ],
    ids=["warmup", "inner_state", "rescale", "weights", "precision", "seed", "overlap"],
)
def test_another_method_comes_elsewhere(change: Callable[[Manifest], Manifest]) -> None:
    assert worst(trajectory(change(tiny())), saved()["f32"]) > 2 * TOLERANCE
