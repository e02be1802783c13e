"""Measuring on the real CPU: what is measured depends on the machine, what follows does not."""

import torch

from dipaco.node.config import ComputeSection
from dipaco.node.jobs.values import ProbeMemory
from dipaco.node.training.memory_probe import made_up_rows, measure
from dipaco.protocol.run.model_shape import Model
from tests.node.training.small import CONTEXT, VOCABULARY, small_manifest

CPU = torch.device("cpu")


def test_real_steps_are_taken_and_timed() -> None:
    job = ProbeMemory(manifest=small_manifest(), micro_batch=2, checkpointing=False, usable=1 << 40)
    found = measure(job, CPU, ComputeSection())
    assert found.fits and found.micro_seconds > 0 and found.step_seconds > 0
    assert found.peak > 50 << 20  # torch alone has that


def test_what_does_not_fit_is_an_answer_and_kills_nobody() -> None:
    huge = Model(d_model=8192, heads=64, kv_heads=64, d_ff=65536, context=CONTEXT)
    job = ProbeMemory(
        manifest=small_manifest(model=huge), micro_batch=1, checkpointing=False, usable=1 << 30
    )
    assert not measure(job, CPU, ComputeSection()).fits
    torch.empty(2 << 30, dtype=torch.uint8)  # the limit ends with the measurement


def test_made_up_rows_are_real_tokens_and_the_same_every_time() -> None:
    rows = made_up_rows(small_manifest(), 3, CPU)
    assert rows.shape == (3, CONTEXT + 1) and rows.dtype == torch.int64
    assert (
        rows.min() >= 0
        and rows.max() < VOCABULARY
        and len(set(rows.flatten().tolist())) > VOCABULARY // 2
    )
    assert rows.equal(made_up_rows(small_manifest(), 3, CPU))
