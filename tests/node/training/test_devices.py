"""Devices by name: what is missing is an error, never another device.

A GPU is at hand on few machines that run this; what can be told without one is told.
"""

import psutil
import pytest
import torch

from dipaco.node.quantities import MemoryBound
from dipaco.node.training.devices import (
    SHARE,
    choose_device,
    describe,
    ran_out,
    try_out,
    was_lost,
)
from dipaco.protocol.errors import NoDevice

HAS_CUDA, HAS_MPS = torch.cuda.is_available(), torch.backends.mps.is_available()


def test_auto_takes_cuda_then_apple_then_the_cpu() -> None:
    assert choose_device("auto").type == ("cuda" if HAS_CUDA else "mps" if HAS_MPS else "cpu")
    assert choose_device("cpu").type == "cpu"


@pytest.mark.parametrize(
    ("wish", "there"),
    [("cuda", HAS_CUDA), ("cuda:0", HAS_CUDA), ("cuda:99", False), ("mps", HAS_MPS)],
)
def test_a_device_that_was_asked_for_and_is_missing_is_named(wish: str, there: bool) -> None:
    if there:
        assert choose_device(wish).type == wish.partition(":")[0]
        return
    with pytest.raises(NoDevice, match=f"^device {wish}: .*") as caught:
        choose_device(wish)
    assert "\n" not in str(caught.value)


def test_the_cpu_is_described_with_the_memory_of_the_machine() -> None:
    words = describe(torch.device("cpu"))
    assert words.device == "cpu" and words.driver == "" and " cores" in words.name
    assert 0 < words.usable <= SHARE * words.memory <= psutil.virtual_memory().total
    assert str(words).startswith("cpu: ") and str(words).endswith(" GB")


def test_the_operator_bounds_what_is_usable_of_the_cpus_memory() -> None:
    cpu = torch.device("cpu")
    assert describe(cpu, MemoryBound(size=1 << 20)).usable == 1 << 20
    assert describe(cpu, MemoryBound(percent=1)).usable <= psutil.virtual_memory().total // 100


def test_want_of_memory_is_known_on_every_kind_of_device() -> None:
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)  # what the CPU's allocator really says
    assert ran_out(caught.value)
    assert ran_out(RuntimeError("MPS backend out of memory (MPS allocated: 18.00 GB)"))
    assert not ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA",
        "CUDA error: no kernel image is available for execution on the device",
        "CUDA driver initialization failed, you might not have a CUDA gpu.",
        "HIP error: an illegal memory access was encountered",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
    ],
)
def test_a_device_that_failed_is_told_from_a_bug(words: str) -> None:
    assert was_lost(RuntimeError(words)) and not ran_out(RuntimeError(words))


def test_a_wrong_shape_is_no_loss_of_the_device() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not was_lost(caught.value)


def test_a_device_that_computes_is_usable_and_one_that_does_not_says_so() -> None:
    try_out(torch.device("cpu"))
    if not HAS_CUDA:
        with pytest.raises((RuntimeError, AssertionError)):
            try_out(torch.device("cuda"))
