"""What the operator may choose changes a result by no more than is stated in docs/fit.md."""

import importlib.util
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from dipaco.node.config import ComputeSection
from dipaco.node.jobs import options
from dipaco.node.jobs.options import check_moment_bits
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.training.adamw import AdamW
from dipaco.node.training.compiled import compile_blocks, compiling_in_words
from dipaco.node.training.model import PathModel, load
from dipaco.node.training.trainer import Trainer
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.training import Adam
from tests.node.training.small import (
    Reports,
    initial_states,
    seed_lease,
    shard,
    small_manifest,
)

CPU = torch.device("cpu")
COMPILERS_WARN = pytest.mark.filterwarnings("ignore")  # torch's own, within torch
EIGHT = ComputeSection(device="cpu", threads=1, moment_bits=8)


def resetting() -> Manifest:
    value = small_manifest()
    return small_manifest(training=replace(value.training, inner_state="reset"))


def loss_and_gradients(model: PathModel) -> tuple[float, dict[str, Tensor]]:
    load(model, small_manifest(), initial_states(small_manifest()))
    model.zero_grad()
    loss = model.loss(torch.from_numpy(shard(2).data[:3]))
    torch.autograd.backward(loss)
    return loss.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@COMPILERS_WARN
def test_compiled_blocks_compute_the_same_up_to_rounding_with_checkpointing_too() -> None:
    # Not inductor, which is the default: it takes half a minute. benchmarks/train.py has it.
    expected, gradients = loss_and_gradients(PathModel(small_manifest(), CPU))
    for checkpointing in (False, True):
        model = PathModel(small_manifest(), CPU)
        model.model.checkpointing = checkpointing
        compile_blocks(model, backend="aot_eager")
        with compiling_in_words():
            found, compiled = loss_and_gradients(model)
        assert found == pytest.approx(expected, rel=1e-5)
        assert compiled.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(compiled[name], gradient, rtol=1e-4, atol=1e-5)


@COMPILERS_WARN
def test_a_machine_that_cannot_compile_is_told_what_to_set() -> None:
    def broken(graph: object, inputs: object) -> None:
        raise OSError("no compiler here")

    torch._dynamo.reset()  # else the blocks are those compiled above
    model = PathModel(small_manifest(), CPU)
    compile_blocks(model, backend=broken)
    refused = pytest.raises(ConfigError, match=r"compute.compile = true.*no compiler here")
    with refused as caught, compiling_in_words():
        loss_and_gradients(model)
    assert "\n" not in str(caught.value)


def test_8_bits_are_refused_where_moments_are_carried_and_without_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carrying = small_manifest()
    assert carrying.training.inner_state == "carry"
    check_moment_bits(32, carrying)
    with pytest.raises(ConfigError, match=r"moment_bits = 8 does not suit run .* \(inner_state\)"):
        check_moment_bits(8, carrying)
    trainer = Trainer(BlobStore(tmp_path), EIGHT)
    with pytest.raises(ConfigError, match="does not suit"):
        trainer.seed(carrying, seed_lease(), shard(0), Reports())
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'dipaco-node\[8bit\]'"):
        check_moment_bits(8, resetting())


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="the extra 8bit is not installed"
)
def test_moments_of_8_bits_stay_near_exact_ones() -> None:
    from dipaco.node.training.adamw8 import AdamW8bit

    generator = torch.Generator().manual_seed(0)
    start = {
        name: torch.randn(shape, generator=generator)
        for name, shape in {"large": (96, 64), "small": (8, 8), "vector": (5000,)}.items()
    }
    exact, near = ({n: p.clone() for n, p in start.items()} for _ in range(2))
    settings = Adam(lr=0.01, warmup=1)
    steps = AdamW(exact, settings).step, AdamW8bit(near, settings).step
    for _ in range(20):
        gradients = {n: torch.randn(p.shape, generator=generator) for n, p in start.items()}
        for parameters, step in zip((exact, near), steps, strict=True):
            for name, parameter in parameters.items():
                parameter.grad = gradients[name].clone()
            step(0.01)
            assert all(parameter.grad is None for parameter in parameters.values())
    moved = {n: (exact[n] - start[n]).norm() for n in start}
    apart = {n: ((exact[n] - near[n]).norm() / moved[n]).item() for n in start}
    assert apart["small"] < 1e-5 and apart["vector"] < 1e-5
    assert 1e-4 < apart["large"] < 0.1
