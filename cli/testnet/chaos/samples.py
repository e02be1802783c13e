"""Measurements of the nodes' processes and homes, and the judgement whether they grow."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Final

import psutil

from dipaco.cli.testnet.processes import LocalNode
from dipaco.cli.views.chaos import Growth, Sample

SETTLING: Final = 1 / 3
"""The first share of a process's time that is not judged: caches fill, libraries are loaded."""
LEAST_SAMPLES: Final = 12
"""Fewer give no slope that means anything."""
MOST_POINTS: Final = 200
"""Points that a slope is fitted through: all pairs of them are compared."""

MB: Final = 1e6
BOUNDS: Final[Mapping[str, float]] = {
    "daemon": 16 * MB,  # the allocator's arenas wander by some MB
    "worker": 64 * MB,  # torch keeps what its largest batch needed
    "descriptors": 8,  # a dial or a stream that is open at that moment
    "threads": 4,
    "blobs": 32 * MB,  # the deltas of open rounds and the states of the newest versions
    "cache": 16 * MB,  # a shard that is read again
}
"""The most by which each may grow over the settled part, whatever its length: more is a leak."""
JOURNAL_BYTES_PER_RECORD: Final = 8 << 10
"""The journal keeps every record of the ledger, so it may grow by so much for each new one."""
JOURNAL_SLACK: Final = 8 * MB
"""Beside that the write-ahead log grows to some MB before it is written back."""


def measure(node: LocalNode, time: float) -> Sample | None:
    """Measure one node now; None if it has ended."""
    try:
        daemon = psutil.Process(node.process.pid)
        workers = sum(_resident(each) for each in daemon.children(recursive=True))
        with daemon.oneshot():
            memory, threads, open_files = _resident(daemon), daemon.num_threads(), daemon.num_fds()
    except psutil.Error:
        return None
    status = node.last
    return Sample(
        time=round(time, 2),
        node=node.name,
        start=node.starts,
        daemon=memory,
        worker=workers,
        descriptors=open_files,
        threads=threads,
        journal=_size(node.home.glob("journal.sqlite*")),
        blobs=_size((node.home / "blobs").rglob("*")),
        cache=_size((node.home / "cache").rglob("*")),
        sent=status.network.sent if status else 0,
        received=status.network.received if status else 0,
    )


def _resident(process: psutil.Process) -> int:
    try:
        size: int = process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
    return size


def _size(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # removed meanwhile
            continue
    return total


def growths(samples: Sequence[Sample], *, least_seconds: float, records: int) -> Iterator[Growth]:
    """Yield a judgement of every quantity of every process that ran long enough.

    least_seconds   a process that ran for less is not judged.
    records         records that the ledger grew by.
    """
    series: dict[tuple[str, int], list[Sample]] = {}
    for each in samples:
        series.setdefault((each.node, each.start), []).append(each)
    journal = JOURNAL_SLACK + JOURNAL_BYTES_PER_RECORD * records
    for (node, start), own in series.items():
        if own[-1].time - own[0].time < least_seconds:
            continue
        settled = own[int(len(own) * SETTLING) :]
        if len(settled) < LEAST_SAMPLES:
            continue
        for what, bound in {**BOUNDS, "journal": journal}.items():
            points = [(each.time, float(getattr(each, what))) for each in settled]
            first, last = ends(points)
            yield Growth(
                node=node,
                start=start,
                what=what,
                first=first,
                last=last,
                bound=bound,
                flat=last - first <= bound,
            )


def ends(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the values of a robust line at the first and the last of `points` (time, value).

    Its slope is the median of the slopes of all pairs (Theil, Sen): a peak moves it by nothing.
    """
    step = -(-len(points) // MOST_POINTS)
    few = points[::step]
    slopes = [(b - a) / (t - s) for (s, a), (t, b) in combinations(few, 2) if t > s]
    slope = statistics.median(slopes) if slopes else 0.0
    middle = statistics.median(value - slope * time for time, value in few)
    return middle + slope * points[0][0], middle + slope * points[-1][0]
