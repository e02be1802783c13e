"""Out of memory: the step is begun again with less at once, and what it leads to is the same.

Once with a real limit on this process's memory; else with a model that raises torch's own error
for more sequences than its made-up device holds.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from dipaco.node.storage.blobs import BlobStore
from dipaco.node.training import trainer as trainer_module
from dipaco.node.training.devices import STATUS, bounded
from dipaco.node.training.inner_loop import PathState, Steps, make_deterministic, run_steps
from dipaco.node.training.micro_batches import MicroBatches, Shrink, halve
from dipaco.node.training.model import Float32, PathModel
from dipaco.node.training.trainer import Trainer
from dipaco.protocol.errors import NoDevice
from dipaco.protocol.run.batches import RowOrder
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.model_shape import Model
from dipaco.protocol.run.modules import ModuleId
from tests.node.training.small import (
    VOCABULARY,
    ArrayShard,
    Reports,
    initial_states,
    seed_lease,
    shard,
    small_manifest,
)
from tests.settings import ONE_THREAD
from tests.values import digest

CPU = torch.device("cpu")
MB = 1 << 20


class SmallDevice(PathModel):
    """A path's model on a device that holds few sequences, and more with checkpointing."""

    holds, holds_checkpointed = 2, 2

    def __init__(self, manifest: Manifest, device: torch.device) -> None:
        super().__init__(manifest, device)
        self.sizes: list[int] = []

    def loss(self, rows: Tensor) -> Tensor:
        self.sizes.append(len(rows))
        if len(rows) > (self.holds_checkpointed if self.model.checkpointing else self.holds):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().loss(rows)


def trained(
    model: PathModel,
    value: Manifest,
    rows: ArrayShard,
    *,
    steps: int = 3,
    max_batch: int = 0,
    shrink: Shrink = halve,
) -> dict[ModuleId, Float32]:
    """Take `steps` steps; returns what they lead to."""
    result = run_steps(
        model,
        value,
        PathState(weights=initial_states(value)),
        rows,
        RowOrder(digest("order"), rows.rows),
        Steps(count=steps, first_batch=0, first_rate=0),
        max_batch=max_batch,
        on_step=lambda report: None,
        shrink=shrink,
    )
    return dict(result.end.weights)


def equal(one: dict[ModuleId, Float32], other: dict[ModuleId, Float32]) -> bool:
    return all(one[m].tobytes() == other[m].tobytes() for m in one)


@pytest.mark.skipif(not STATUS.exists(), reason="only Linux bounds a process's own memory")
def test_a_real_lack_of_memory_changes_no_bit_against_the_smaller_micro_batch() -> None:
    plain = small_manifest()
    value = small_manifest(
        model=Model(d_model=32, heads=2, kv_heads=2, d_ff=512, context=512),
        training=replace(plain.training, batch=32),
    )
    numbers = np.random.default_rng(0).integers(0, VOCABULARY, (32, 513))
    rows, took = ArrayShard(numbers), [0]
    make_deterministic(threads=1)

    def smaller(tried: int) -> int:
        took[0] = halve(tried)
        return took[0]

    model = PathModel(value, CPU)
    with bounded(CPU, resident() + 60 * MB):
        squeezed = trained(model, value, rows, steps=1, shrink=smaller)
    assert 1 <= took[0] < 32
    fitting = trained(PathModel(value, CPU), value, rows, steps=1, max_batch=took[0])
    assert equal(squeezed, fitting)


def resident() -> int:
    with STATUS.open(encoding="ascii") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


def test_sizes_halve_until_they_fit_and_stay() -> None:
    value, model = small_manifest(), SmallDevice(small_manifest(), CPU)
    found = trained(model, value, shard(2))
    assert model.sizes == [4, *[2, 2] * 3]
    assert equal(found, trained(PathModel(value, CPU), value, shard(2), max_batch=2))


def test_what_a_step_had_summed_before_memory_ran_out_is_dropped() -> None:
    class Fills(SmallDevice):
        """Has room for two sequences, but not twice."""

        def loss(self, rows: Tensor) -> Tensor:
            self.holds = 1 if self.sizes else 2
            return super().loss(rows)

    value, model = small_manifest(), Fills(small_manifest(), CPU)
    found = trained(model, value, shard(2), max_batch=2)
    assert model.sizes == [2, 2, *[1] * 4 * 3]
    assert equal(found, trained(PathModel(value, CPU), value, shard(2), max_batch=1))


def test_checkpointing_comes_when_one_sequence_is_too_many_and_changes_no_bit() -> None:
    class NeedsCheckpointing(SmallDevice):
        holds = 0

    value, model = small_manifest(), NeedsCheckpointing(small_manifest(), CPU)
    sizes = MicroBatches(most=0, checkpointing="auto", tell=lambda line: None)
    found = trained(model, value, shard(2), shrink=sizes.shrink(model, 4))
    assert model.sizes == [4, 2, 1, 4, *[2, 2] * 3]
    assert (sizes.most, sizes.checkpointing) == (2, True)
    assert equal(found, trained(PathModel(value, CPU), value, shard(2), max_batch=2))


@pytest.mark.parametrize("checkpointing", ["off", "on"])
def test_a_path_of_which_not_one_sequence_fits_has_no_device(checkpointing: str) -> None:
    class TooSmall(SmallDevice):
        holds = holds_checkpointed = 0

    model = TooSmall(small_manifest(), CPU)
    sizes = MicroBatches(most=3, checkpointing=checkpointing, tell=print)  # type: ignore[arg-type]
    with pytest.raises(NoDevice, match="one sequence at a time"):
        trained(model, small_manifest(), shard(2), max_batch=3, shrink=sizes.shrink(model, 4))
    assert model.sizes == [3, 1]


def test_another_error_is_raised_as_it_is() -> None:
    class Broken(SmallDevice):
        def loss(self, rows: Tensor) -> Tensor:
            return rows[:, :-1] @ rows[:, :-1]

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        trained(Broken(small_manifest(), CPU), small_manifest(), shard(2))


def test_what_a_lease_learnt_holds_for_the_next_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[SmallDevice] = []

    def make(manifest: Manifest, device: torch.device) -> SmallDevice:
        made.append(SmallDevice(manifest, device))
        return made[-1]

    monkeypatch.setattr(trainer_module, "PathModel", make)
    told: list[str] = []
    blobs = BlobStore(tmp_path)
    short = Trainer(blobs, ONE_THREAD, tell=told.append)
    plenty = Trainer(blobs, replace(ONE_THREAD, max_batch=2))
    assert seed(short) == seed(plenty)
    assert told == [
        "cpu ran out of memory; the step was started again with micro-batches of 2: "
        "set compute.max_batch = 2 to begin with it"
    ]
    seed(short)
    assert len(told) == 1 and made[-1].sizes[0] == 2


def test_a_lease_that_does_not_fit_at_all_names_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TooSmall(SmallDevice):
        holds = holds_checkpointed = 0

    monkeypatch.setattr(trainer_module, "PathModel", TooSmall)
    trainer = Trainer(BlobStore(tmp_path), ONE_THREAD)
    with pytest.raises(NoDevice, match=r"^cpu has too little memory .*doctor --fit RUN`$"):
        seed(trainer)


def seed(trainer: Trainer) -> tuple[object, ...]:
    value = small_manifest()
    return trainer.seed(value, seed_lease(), shard(0, 40), Reports()).states
