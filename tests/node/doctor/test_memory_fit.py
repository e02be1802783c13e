"""Which micro-batches are measured, and what follows; the device is made of numbers here."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import trio
from msgspec.structs import replace

from dipaco.node.config import ComputeSection, MomentBits
from dipaco.node.doctor.memory_fit import FitReport, find_fit, least_bytes, next_try
from dipaco.node.jobs.runner import describe_death
from dipaco.node.jobs.values import (
    Answer,
    Described,
    Failed,
    Job,
    MemoryProbed,
    ProbeMemory,
    Progress,
)
from dipaco.protocol.errors import DipacoError
from dipaco.protocol.run.training import Muon
from tests.node.training.small import small_manifest

GB = 10**9


@dataclass
class MadeUpDevice:
    """Needs `model` bytes and as many for each sequence, a fifth of that with checkpointing."""

    model: int
    sequence: int
    memory: int = 8 * GB
    kills: bool = False
    """Whether the kernel kills who takes too much, instead of an error."""
    seconds: float = 0.1
    asked: list[tuple[int, bool]] = field(default_factory=list)
    pids: tuple[int, ...] = ()

    async def run(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
        assert isinstance(job, ProbeMemory) and job.usable == self.memory
        self.asked.append((job.micro_batch, job.checkpointing))
        each = self.sequence // 5 if job.checkpointing else self.sequence
        peak = self.model + each * job.micro_batch
        if peak <= self.memory:
            took = self.seconds * job.micro_batch
            return MemoryProbed(fits=True, peak=peak, micro_seconds=took, step_seconds=0.2)
        if self.kills:
            return Failed(kind="local", reason=describe_death(-9, ""))
        return MemoryProbed(fits=False)

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()


async def fit(device: MadeUpDevice, *, batch: int = 16, max_batch: int = 0) -> FitReport:
    manifest = small_manifest(training=replace(small_manifest().training, batch=batch))
    return await find_fit(
        manifest,
        device,
        Described(device="cuda:0", name="made up", driver="", memory=9 * GB, usable=device.memory),
        compute=ComputeSection(max_batch=max_batch),
        on_try=lambda tried: None,
    )


async def test_sizes_double_up_to_the_whole_batch() -> None:
    device = MadeUpDevice(model=GB, sequence=GB // 10)
    report = await fit(device, batch=12)
    assert device.asked == [(1, False), (2, False), (4, False), (8, False), (12, False)]
    assert report.chosen is not None and report.chosen.micro_batch == 12
    per_step = 0.1 * 12 + 0.2
    assert report.lease_seconds == pytest.approx(report.inner_steps * per_step)
    assert report.tokens_per_second == pytest.approx(12 * report.context / per_step)
    assert report.settings == {}


async def test_a_size_that_cannot_fit_by_the_last_two_is_not_tried() -> None:
    device = MadeUpDevice(model=GB, sequence=GB)
    report = await fit(device)
    assert device.asked == [(1, False), (2, False), (4, False)]  # 8 would take 9 GB
    assert report.chosen is not None and report.chosen.micro_batch == 4


async def test_a_micro_batch_that_is_clearly_slower_is_not_chosen() -> None:
    class Slows(MadeUpDevice):
        """Takes 4 at once as fast as 1 at a time, and 8 no longer."""

        async def run(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
            assert isinstance(job, ProbeMemory)
            self.seconds = 0.1 if job.micro_batch <= 4 else 0.15
            return await super().run(job, on_progress)

    report = await fit(Slows(model=GB, sequence=GB // 10), batch=8)
    assert [each.micro_batch for each in report.tries] == [1, 2, 4, 8]
    assert report.chosen is not None and report.settings == {"compute.max_batch": 4}


@pytest.mark.parametrize("kills", [True, False])
async def test_checkpointing_comes_when_one_sequence_does_not_fit_without(kills: bool) -> None:
    device = MadeUpDevice(model=4 * GB, sequence=5 * GB, kills=kills)
    report = await fit(device)
    assert device.asked == [(1, False), (1, True), (2, True), (4, True)]
    assert report.chosen is not None
    assert (report.chosen.micro_batch, report.chosen.checkpointing) == (4, True)
    assert report.settings == {"compute.max_batch": 4, "compute.checkpointing": "on"}


async def test_a_path_that_does_not_fit_at_all_has_no_choice() -> None:
    report = await fit(MadeUpDevice(model=9 * GB, sequence=GB))
    assert report.chosen is None
    assert (report.lease_seconds, report.tokens_per_second) == (0.0, 0.0)
    assert report.settings == {}


async def test_nothing_is_measured_where_the_weights_alone_do_not_fit() -> None:
    device = MadeUpDevice(model=GB, sequence=GB, memory=1000)
    report = await fit(device)
    assert report.least == 16 * report.parameters > 1000
    assert report.chosen is None and device.asked == []


def test_muon_has_one_moment_of_a_hidden_matrix() -> None:
    plain = small_manifest()
    value = replace(plain, training=replace(plain.training, inner=Muon()))
    tensors = value.topology.path_tensors(0)
    hidden = sum(t.size for t in tensors if "proj" in t.name)
    rest = sum(t.size for t in tensors if "proj" not in t.name)
    figures: tuple[tuple[MomentBits, int, int], ...] = ((32, 16, 12), (8, 10, 9))
    for bits, adamw, muon in figures:
        assert least_bytes(plain, bits) == adamw * (hidden + rest)
        assert least_bytes(value, bits) == muon * hidden + adamw * rest


async def test_the_operators_limit_and_a_slow_micro_batch_end_the_search() -> None:
    device = MadeUpDevice(model=GB, sequence=GB // 10)
    await fit(device, max_batch=3)
    assert device.asked == [(1, False), (2, False), (3, False)]
    slow = MadeUpDevice(model=GB, sequence=GB // 10, seconds=3.0)
    await fit(slow)
    assert slow.asked == [(1, False), (2, False)]


def test_the_operator_decides_on_checkpointing() -> None:
    assert next_try([], most=4, usable=GB, checkpointing="on") == (1, True)
    assert next_try([], most=4, usable=GB, checkpointing="off") == (1, False)


async def test_what_fails_for_another_reason_is_told() -> None:
    class Broken(MadeUpDevice):
        async def run(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
            return Failed(kind="local", reason="the worker process exited with code 1")

    with pytest.raises(DipacoError, match=r"could not be measured: .* exited with code 1"):
        await fit(Broken(model=GB, sequence=GB))
