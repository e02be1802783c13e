"""What the kernel grants this process: a container may have less than its machine."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from dipaco.node.doctor.check import Check
from dipaco.node.limits.memory import CGROUP, CGROUPS, control_groups
from dipaco.protocol.numbers import count, size

SHARED = Path("/dev/shm")
LEAST_MEMORY = 2 << 30  # bytes for daemon, worker and a small path
LEAST_SHARED = 64 << 20  # bytes: what Docker gives, which torch finds enough for one worker


@dataclass(frozen=True, kw_only=True)
class Granted:
    """The limits of the control groups that this process is in; None: there is none."""

    memory: int | None = None
    """Bytes."""
    cores: float | None = None


def granted(root: Path = CGROUPS, own: Path = CGROUP) -> Granted:
    """Return the narrowest limits of this process's control group and of those above it.

    Without control groups of version 2, none are known.
    """
    groups = control_groups(own, root)
    memory = [most for each in groups if (most := _memory(each / "memory.max")) is not None]
    cores = [share for each in groups if (share := _cores(each / "cpu.max")) is not None]
    return Granted(memory=min(memory, default=None), cores=min(cores, default=None))


def _memory(file: Path) -> int | None:
    words = _words(file)
    return int(words[0]) if words and words[0].isdigit() else None


def _cores(file: Path) -> float | None:
    words = _words(file)
    if len(words) != 2 or not words[0].isdigit() or not words[1].isdigit():  # `max 100000`
        return None
    return int(words[0]) / int(words[1]) if int(words[1]) else None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:  # the group above all others has none
        return []


def cpu(threads: int, cores: int, limit: Granted) -> Check:
    """Compare the worker's threads with the cores that may be used."""
    usable = _affinity(cores)
    if limit.cores is not None and limit.cores < usable:
        words = f"{limit.cores:g} of {count(cores, 'core')} granted"
        if threads > max(1, limit.cores):
            cure = f"set compute.threads to {max(1, int(limit.cores))}: more only wait"
            return Check(name="cpu", verdict="warn", words=words, cure=cure)
        return Check(name="cpu", verdict="ok", words=words)
    words = f"{count(usable, 'core')}, {count(threads, 'thread')} of the worker"
    if threads > usable:
        cure = f"set compute.threads to {usable}: more only wait"
        return Check(name="cpu", verdict="warn", words=words, cure=cure)
    return Check(name="cpu", verdict="ok", words=words)


def _affinity(cores: int) -> int:
    """Return the cores that this process may run on."""
    if not hasattr(os, "sched_getaffinity"):  # macOS
        return cores
    return len(os.sched_getaffinity(0))


def memory(total: int, limit: Granted) -> Check:
    """Check the memory that the kernel grants."""
    if limit.memory is None or limit.memory >= total:
        return Check(name="granted", verdict="ok", words=f"all {size(total)} of memory")
    words = f"{size(limit.memory)} of {size(total)} of memory"
    if limit.memory < LEAST_MEMORY:
        cure = "give the container 2 GB or more, or the kernel will end the worker"
        return Check(name="granted", verdict="warn", words=words, cure=cure)
    return Check(name="granted", verdict="ok", words=words)


def shared_memory(folder: Path) -> Check:
    """Check the memory that processes share, which torch uses."""
    if not folder.is_dir():
        cure = "mount it: `mount -t tmpfs tmpfs /dev/shm`"
        return Check(name="shm", verdict="warn", words=f"there is no {folder}", cure=cure)
    free = shutil.disk_usage(folder).free
    words = f"{size(free)} free in {folder}"
    if free < LEAST_SHARED:
        cure = "give a container more: `--shm-size 256m`"
        return Check(name="shm", verdict="warn", words=words, cure=cure)
    return Check(name="shm", verdict="ok", words=words)
