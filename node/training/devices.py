"""The device that this machine trains on: its choice, its memory, and its description.

`auto` takes a CUDA device (in torch also an AMD card under ROCm), else Apple's GPU, else the CPU. A
device that is chosen by name and missing is an error: a node never falls back to the CPU silently.
"""

import os
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from dipaco.node.jobs.values import Described
from dipaco.node.limits.memory import memory
from dipaco.node.quantities import MemoryBound
from dipaco.protocol.errors import NoDevice

WHOLE = MemoryBound(percent=100)
SHARE = 0.9  # of a device's memory that training may take: other programs need some of it
CPU_NAMES = Path("/proc/cpuinfo")
STATUS = Path("/proc/self/status")
NO_MEMORY = (  # torch, as old as we allow it, has no class for these, nor for the next
    "can't allocate memory",
    "MPS backend out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
FAILED = ("CUDA error", "CUDA driver", "HIP error", "CUDNN_STATUS", "CUBLAS_STATUS", "NVML")


def choose_device(wish: str) -> torch.device:
    """Return the torch device for `auto`, `cpu`, `cuda`, `cuda:N` or `mps`; raises NoDevice."""
    if wish == "auto":
        return torch.device(_best())
    kind, _, number = wish.partition(":")
    if kind == "cuda":
        _need_cuda(wish, int(number or 0))
    elif kind == "mps" and not torch.backends.mps.is_available():
        raise NoDevice(f"device {wish}: this torch sees no Apple GPU; use --device cpu or auto")
    return torch.device(wish)


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _need_cuda(wish: str, number: int) -> None:
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        why = "is the driver loaded?" if built else "it is built for the CPU alone: install another"
        raise NoDevice(
            f"device {wish}: this torch sees no CUDA device ({why}); use --device cpu or auto"
        )
    if number >= torch.cuda.device_count():
        raise NoDevice(
            f"device {wish}: this machine has {torch.cuda.device_count()} CUDA devices, counted "
            "from cuda:0"
        )


def describe(device: torch.device, max_ram: MemoryBound = WHOLE) -> Described:
    """Return name, driver and memory of a device that exists.

    max_ram   bounds what is usable of the machine's own memory, that of a CPU.
    Memory that this process holds already counts as usable.
    """
    if device.type == "cuda":
        index = device.index or 0
        free, total = torch.cuda.mem_get_info(index)
        hip = torch.version.hip  # type: ignore[attr-defined, unused-ignore]
        return _words(
            f"cuda:{index}",
            torch.cuda.get_device_name(index),
            f"ROCm {hip}" if hip else f"CUDA {torch.version.cuda}",
            total,
            free + torch.cuda.memory_reserved(index),
        )
    if device.type == "mps":
        most = int(torch.mps.recommended_max_memory())
        return _words("mps", platform.processor() or "Apple GPU", "Metal", most, most)
    machine = memory(worker=0)
    usable = min(max_ram.of(machine.total), machine.free + (_status("VmRSS") or 0))
    return _words("cpu", cpu_name(), "", machine.total, usable)


def _words(device: str, name: str, driver: str, total: int, free: int) -> Described:
    usable = min(int(SHARE * total), free)
    return Described(device=device, name=name, driver=driver, memory=total, usable=usable)


def cpu_name() -> str:
    """Return the processor's name and its number of cores, as far as the system knows them."""
    name = platform.processor() or platform.machine()
    try:
        lines = CPU_NAMES.read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores"


def ran_out(error: MemoryError | RuntimeError) -> bool:
    """Return whether `error` means that the device, of any kind, ran out of memory."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in str(error) for words in NO_MEMORY
    )


def was_lost(error: RuntimeError) -> bool:
    """Return whether `error` means that the device failed: it was lost, or never worked."""
    return any(words in str(error) for words in FAILED)


def try_out(device: torch.device) -> None:
    """Compute something: a device that is listed may still be lost, or too old for this torch.

    Raises torch's RuntimeError.
    """
    torch.ones(8, device=device).add(1).sum().item()


def release_memory(device: torch.device) -> None:
    """Free the device memory that torch keeps for reuse: its pieces may be too small."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def peak_memory(device: torch.device) -> int:
    """Return the most memory used so far, bytes: on the device, or by this whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return int(torch.mps.driver_allocated_memory())  # the current figure: no peak is recorded
    if (peak := _status("VmHWM")) is not None:
        return peak
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


@contextmanager
def bounded(device: torch.device, usable: int) -> Iterator[None]:
    """Limit this process to `usable` bytes of the device in this block: larger allocations fail.

    On a GPU this leaves the rest to other programs. On the CPU the kernel would otherwise kill a
    process when memory runs out, and not always the one that took it. Only Linux has such a limit.
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, usable / total), device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return
    held, resident = _status("VmData"), _status("VmRSS")
    if device.type != "cpu" or held is None or resident is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = held + max(0, usable - resident)
    limits = [most, *(each for each in (soft, hard) if each != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _status(name: str) -> int | None:
    """Return a size of this process in bytes from Linux's record; None on other systems."""
    try:
        with STATUS.open(encoding="ascii") as lines:
            found = (line.split() for line in lines)
            return next(int(words[1]) << 10 for words in found if words[0] == f"{name}:")
    except (OSError, StopIteration):
        return None


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished all its work, so that a clock can be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
