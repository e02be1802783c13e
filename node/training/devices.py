"""The device that this machine trains on: chosen by name or by itself, and put in words.

`auto` takes a CUDA device (in torch that is an AMD card under ROCm too), else Apple's GPU, else the
CPU. What was asked for by name and is missing is an error: a node never falls to the CPU in
silence.
"""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from dipaco.protocol.errors import NoDevice

SHARE = 0.9  # of a device's memory that training may take: what else runs there needs some
CGROUP = Path("/sys/fs/cgroup/memory.max")  # a container's own limit, where there is one
CPU_NAMES = Path("/proc/cpuinfo")
NO_MEMORY = ("can't allocate memory", "MPS backend out of memory")  # torch has no class for these


@dataclass(frozen=True, kw_only=True)
class DeviceWords:
    """A device as a person knows it."""

    device: str
    """As in the configuration: `cuda:0`, `mps`, `cpu`."""
    name: str
    driver: str
    """`CUDA 12.8`, `ROCm 6.4`, `Metal`; empty for the CPU."""
    memory: int
    """Bytes it has in all; for the CPU those of the machine, or of the container."""
    usable: int
    """Bytes that training may take: SHARE of all, and no more than is free."""

    def __str__(self) -> str:
        driver = f", {self.driver}" if self.driver else ""
        return f"{self.device}: {self.name}{driver}, {self.memory / 1e9:.1f} GB"


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
        raise NoDevice(f"device {wish}: there are {torch.cuda.device_count()}, counted from 0")


def describe(device: torch.device) -> DeviceWords:
    """Return name, driver and memory of a device that is there."""
    if device.type == "cuda":
        index = device.index or 0
        free, total = torch.cuda.mem_get_info(index)
        hip = torch.version.hip  # type: ignore[attr-defined, unused-ignore]
        return _words(
            f"cuda:{index}",
            torch.cuda.get_device_name(index),
            f"ROCm {hip}" if hip else f"CUDA {torch.version.cuda}",
            total,
            free,
        )
    if device.type == "mps":
        most = int(torch.mps.recommended_max_memory())
        return _words("mps", platform.processor() or "Apple GPU", "Metal", most, most)
    machine = psutil.virtual_memory()
    return _words("cpu", cpu_name(), "", *_contained(machine.total, machine.available))


def _words(device: str, name: str, driver: str, total: int, free: int) -> DeviceWords:
    usable = min(int(SHARE * total), free)
    return DeviceWords(device=device, name=name, driver=driver, memory=total, usable=usable)


def _contained(total: int, free: int) -> tuple[int, int]:
    """Bound the machine's memory by that of the container."""
    try:
        limit = int(CGROUP.read_text())
    except (OSError, ValueError):  # no such file; or `max`
        return total, free
    return min(total, limit), min(free, limit)


def cpu_name() -> str:
    """Return the processor's name and its cores, as far as the system tells."""
    name = platform.processor() or platform.machine()
    try:
        lines = CPU_NAMES.read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores"


def ran_out(error: RuntimeError) -> bool:
    """Return whether torch raised `error` for want of memory on any kind of device."""
    return isinstance(error, torch.OutOfMemoryError) or any(w in str(error) for w in NO_MEMORY)
