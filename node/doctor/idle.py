"""The proof that a paused node leaves its machine alone: the kernel's own figures of its processes.

They stand in /proc: the time on the CPU of every thread, in nanoseconds; how often one woke up; the
bytes that went to and from disks; the open device files. What the daemon says of itself is used for
its state and its network alone.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dipaco.node.doctor.check import Check
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.numbers import count, size, span

PROC = Path("/proc")
SPAN_SECONDS = 30.0  # of a proof: two pings of each peer and half a minute of everything else
TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
PAUSED_PERCENT = 0.1  # of one core: most that a paused node may take
IDLE_PERCENT = 0.5  # the same for one that waits
HARMLESS = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/pts/")
"""Beginnings of the names of device files that stand for no device."""


@dataclass(frozen=True)
class Snapshot:
    """What the threads and processes of a node used since each of them began."""

    threads: Mapping[Path, tuple[float, int]]
    """By folder: seconds on the CPU, and voluntary context switches."""
    processes: Mapping[Path, tuple[float, int, int]]
    """By folder: seconds on the CPU in whole ticks, bytes from disks, bytes to disks.

    The ticks count threads that have ended, too.
    """
    devices: tuple[str, ...]
    """Device files that are open."""


@dataclass(frozen=True)
class Usage:
    """What processes used in a span, all together."""

    processes: int
    cpu_seconds: float
    wakes: int
    """Times that a thread which slept was woken."""
    read: int
    written: int
    """Bytes from and to disks."""
    devices: tuple[str, ...]
    """Device files that were open."""


def snapshot(pid: int, proc: Path = PROC) -> Snapshot:
    """Return what a process and all that it started used so far.

    Raises ConfigError where the system does not tell, or the process is another user's.
    """
    if not (proc / str(pid) / "task").is_dir():
        raise ConfigError(f"{proc}/{pid} does not tell what the daemon uses: this needs Linux")
    folders = [proc / str(each) for each in (pid, *_children(pid, proc))]
    return Snapshot(
        threads={
            thread: (_cpu_seconds(thread), _number(thread / "status", "voluntary_ctxt_switches:"))
            for folder in folders
            for thread in _listed(folder / "task")
        },
        processes={
            folder: (
                _ticks(folder) * TICK_SECONDS,
                _number(folder / "io", "read_bytes:"),
                _number(folder / "io", "write_bytes:"),
            )
            for folder in folders
        },
        devices=tuple(sorted({name for folder in folders for name in _devices(folder / "fd")})),
    )


def used_between(before: Snapshot, after: Snapshot) -> Usage:
    """Return what was used from `before` to `after`.

    Threads and processes are taken one by one, so one that has ended takes nothing away from the
    others. What a thread did before it ended is in its process' ticks, to a tick; what a process
    did before it ended is lost.
    """
    threads = list(_grown(before.threads, after.threads))
    processes = list(_grown(before.processes, after.processes))
    in_ticks = sum(max(0.0, ticks - TICK_SECONDS) for ticks, _, _ in processes)
    return Usage(
        processes=len(processes),
        cpu_seconds=max(sum(cpu for cpu, _ in threads), in_ticks),
        wakes=int(sum(wakes for _, wakes in threads)),
        read=int(sum(read for _, read, _ in processes)),
        written=int(sum(written for _, _, written in processes)),
        devices=tuple(sorted({*after.devices, *before.devices})),
    )


def _grown(
    before: Mapping[Path, tuple[float, ...]], after: Mapping[Path, tuple[float, ...]]
) -> Iterator[tuple[float, ...]]:
    """Yield by how much the figures of every folder have grown; those of a new one began at 0."""
    for folder, now in after.items():
        then = before.get(folder, (0,) * len(now))
        yield tuple(new - old for new, old in zip(now, then, strict=True))


def judged(used: Usage, seconds: float, *, state: str, reason: str, traffic: int) -> list[Check]:
    """Return the checks of an idle node.

    used      in a span of `seconds`.
    state     of the node, with its reason in words.
    traffic   bytes on the network in the span.
    """
    paused = state == "paused"
    most = PAUSED_PERCENT if paused else IDLE_PERCENT
    percent = 100 * used.cpu_seconds / seconds
    per_second = used.wakes / seconds
    return [
        _check("state", paused, f"{state}: {reason}", "pause it first: dipaco-node pause", "warn"),
        _check(
            "cpu",
            percent < most,
            f"{percent:.3f} % of a core in {span(seconds)}, in "
            f"{count(used.processes, 'process')}; mark: below {most:g} %",
            "report it with this output: an idle node should sleep",
        ),
        _check(
            "devices",
            not used.devices,
            ", ".join(used.devices) or "no device file is open",
            "report it with this output: a paused node holds no device",
            "fail" if paused else "warn",
        ),
        _check("wakes", True, f"{per_second:.1f} a second", ""),
        _check("disk", True, f"{size(used.read)} read, {size(used.written)} written", ""),
        _check("network", True, f"{size(traffic)} sent and received", ""),
    ]


def _check(
    name: str, good: bool, words: str, cure: str, otherwise: Literal["warn", "fail"] = "fail"
) -> Check:
    if good:
        return Check(name=name, verdict="ok", words=words)
    return Check(name=name, verdict=otherwise, words=words, cure=cure)


def _children(pid: int, proc: Path) -> list[int]:
    """Return the ids of all processes that a process started, and of those that they did."""
    parents = {}
    for folder in _listed(proc):
        if folder.name.isdigit():
            parents[int(folder.name)] = _number(folder / "status", "PPid:")
    found, waiting = list[int](), [pid]
    while waiting:
        above = waiting.pop()
        below = [each for each, parent in parents.items() if parent == above]
        found += below
        waiting += below
    return found


def _cpu_seconds(thread: Path) -> float:
    """Return the time on the CPU of a thread; 0: it has ended."""
    with suppress(OSError, ValueError, IndexError):
        return int((thread / "schedstat").read_text().split()[0]) / 1e9
    return 0.0


def _ticks(folder: Path) -> int:
    """Return the ticks on the CPU of a process (proc(5), utime and stime); 0: it has ended."""
    with suppress(OSError, ValueError, IndexError):
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    return 0


def _number(path: Path, name: str) -> int:
    """Return the number behind `name` at the beginning of a line; 0: it cannot be read."""
    with suppress(OSError, ValueError, UnicodeDecodeError):
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return int(line.removeprefix(name).split()[0])
    return 0


def _devices(folder: Path) -> Iterable[str]:
    for descriptor in _listed(folder):
        with suppress(OSError):
            target = str(descriptor.readlink())
            if target.startswith("/dev/") and not target.startswith(HARMLESS):
                yield target


def _listed(folder: Path) -> list[Path]:
    with suppress(OSError):
        return list(folder.iterdir())
    return []
