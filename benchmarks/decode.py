"""The worst input of every place that takes bytes of a peer: time and peak memory of refusing it.

Inputs are as large as the type that is due allows (`worst.py`): full lists, faults at the very end,
items of one byte, deep nesting, long texts, tags. Time is CPU time of `decode`, the best of some;
memory is the peak that Python allocates, in multiples of the type's largest value.
"""

import tracemalloc
from contextlib import suppress
from time import process_time
from typing import Any

from benchmarks.measure import Result
from benchmarks.worst import worst_inputs
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.routing.verdict import Receipt
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.canonical import decode
from dipaco.protocol.wire.largest import largest
from dipaco.protocol.wire.messages import (
    Announcement,
    AskChunk,
    AskOutline,
    Outline,
    PeerRecord,
    Reply,
    Request,
)
from dipaco.protocol.wire.signed import Signed
from dipaco.protocol.work.ledger import LedgerRecord
from dipaco.protocol.work.streams import CONTROL_CALLS, SYNC_CALLS

MILLISECONDS, TIMES = 50.0, 20.0  # the bounds of docs/protocol.md
FREE = 8 << 10  # bytes that a refusal may take in any case: the error and its text
SHOWN = 5000  # bytes of a place from which on it has lines of its own
REPEATS = 5


def run() -> list[Result]:
    """Measure every place; small ones share two lines."""
    results: list[Result] = []
    small: list[tuple[float, float, str]] = []
    for kind in places():
        seconds, peaks = {}, {}
        for name, data in worst_inputs(kind).items():
            seconds[name], peaks[name] = _cost(data, kind)
        slow, big = max(seconds, key=seconds.__getitem__), max(peaks, key=peaks.__getitem__)
        size = largest(kind).size
        times = max(0, peaks[big] - FREE) / size
        if size < SHOWN:
            small.append((seconds[slow], times, kind.__name__))
            continue
        name = f"{kind.__name__}, {size:,.0f} B"
        results.append(_result(f"{name}: {slow}", 1000 * seconds[slow], MILLISECONDS, "ms"))
        results.append(_result(f"{name}: memory, {big}", times, TIMES, "of its bytes"))
    slowest, largest_ = max(small), max(small, key=lambda each: each[1])
    text = f"{len(small)} smaller places"
    results.append(_result(f"{text}: {slowest[2]}", 1000 * slowest[0], MILLISECONDS, "ms"))
    results.append(_result(f"{text}: memory, {largest_[2]}", largest_[1], TIMES, "of its bytes"))
    return results


def places() -> list[Any]:
    """Return the types that `decode` is asked for with bytes of a peer."""
    calls = [
        kind
        for each in (CONTROL_CALLS, SYNC_CALLS)
        for request, answers in each.items()
        for kind in (request, *answers)
    ]
    signed = [Signed, Manifest, RouterSpec, Receipt, LedgerRecord, PeerRecord]
    rest = [Request, Reply, Announcement, AskOutline, AskChunk, Outline]
    return list(dict.fromkeys([*calls, *signed, *rest]))


def _cost(data: bytes, kind: Any) -> tuple[float, int]:
    """Return seconds and peak bytes of decoding `data`, or of refusing it."""
    best = float("inf")
    for _ in range(REPEATS):
        began = process_time()
        with suppress(RemoteProtocolError):
            decode(data, kind)
        best = min(best, process_time() - began)
    tracemalloc.start()
    with suppress(RemoteProtocolError):
        decode(data, kind)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return best, peak


def _result(name: str, ours: float, limit: float, unit: str) -> Result:
    return Result(
        name=name,
        ours=ours,
        peer=limit,
        ratio=ours / limit,
        unit=unit,
        samples={"ours": [ours]},
        mark=1.0,
        better="lower",
    )
