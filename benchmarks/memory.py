"""Peak memory of the data plane for a corpus ten times as large, with the same window.

Each sample has a new process: it derives the router, which counts the sample's documents, and
materialises the first and the last window. The peak is that of the whole process (VmHWM).
"""

import tempfile
from pathlib import Path
from statistics import median

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from benchmarks.measure import Result, in_turns, peak_rss
from benchmarks.runs import derived, quiet, sixteen_paths, synthetic
from dipaco.node.data.sources.files import pin_files
from dipaco.node.data.sources.interface import Access
from dipaco.node.data.sources.synthetic import synthetic_text
from dipaco.node.routing.derive import SourceDeps
from dipaco.node.routing.shards import Shards
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.shard_cache import ShardCache
from dipaco.protocol.run.source import Source

SAMPLES, DOCUMENTS, WINDOW, TIMES = 3, 2000, 1000, 10
ROW_GROUP = 1000  # rows of a parquet file that are compressed together
MARK = 1.10


def run() -> list[Result]:
    """Measure both sources at both sizes."""
    results = []
    with tempfile.TemporaryDirectory(prefix="dipaco-bench-") as folder:
        for times in (1, TIMES):
            write_corpus(Path(folder) / f"{times}.parquet", times * DOCUMENTS)
        for kind in ("files", "synthetic"):
            calls = {times: ("memory", "sample", kind, folder, times) for times in (1, TIMES)}
            found = in_turns(f"memory, {kind}, times the corpus", SAMPLES, calls)
            peaks = {times: [peak / 1e6 for peak in each] for times, each in found.items()}
            results.append(
                Result(
                    name=f"peak memory, {kind}, {TIMES} times the corpus",
                    ours=median(peaks[TIMES]),
                    peer=median(peaks[1]),
                    ratio=median(peaks[TIMES]) / median(peaks[1]),
                    unit="MB",
                    samples={"ours": peaks[TIMES], "peer": peaks[1]},
                    mark=MARK,
                    better="lower",
                    note=f"the peer is ours with {DOCUMENTS:,} documents; windows of {WINDOW:,}",
                )
            )
    return results


def write_corpus(path: Path, documents: int) -> None:
    """Write synthetic documents into a parquet file."""
    with pq.ParquetWriter(path, pa.schema({"text": pa.string()})) as writer:
        for start in range(0, documents, ROW_GROUP):
            stop = min(start + ROW_GROUP, documents)
            writer.write_table(pa.table({"text": [synthetic_text(i) for i in range(start, stop)]}))


def sample(kind: str, folder: str, times: int) -> int:
    """Return the peak of a process that derives, counts and materialises, bytes."""
    source = _source(kind, Path(folder), times)
    with tempfile.TemporaryDirectory(prefix="dipaco-bench-") as home:
        deps = SourceDeps(BlobStore(Path(home) / "blobs"), Access(local_sources=True))
        manifest = sixteen_paths(source, sample=500)
        spec = derived(manifest, deps)
        shards = Shards(ShardCache(Path(home) / "cache", 1 << 33), deps, max_shards=4)
        for window in (0, source.windows - 1):
            shards.materialise(manifest, spec, window, quiet)
    return peak_rss()


def _source(kind: str, folder: Path, times: int) -> Source:
    if kind == "synthetic":
        return synthetic(times * DOCUMENTS, WINDOW)
    return pin_files([folder / f"{times}.parquet"], window=WINDOW)
