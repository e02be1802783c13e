"""The time of a second request for a shard that is open already."""

import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.measure import Result
from benchmarks.runs import derived, quiet, sixteen_paths, synthetic
from dipaco.node.routing.derive import SourceDeps
from dipaco.node.routing.shards import Shards
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.shard_cache import ShardCache

DOCUMENTS, OPEN, TURNS = 2000, 4, 200
LIMIT_MS = 1.0


def run() -> Result:
    """Time hits among `--max-shards` open shards."""
    with tempfile.TemporaryDirectory(prefix="dipaco-bench-") as folder:
        deps = SourceDeps(BlobStore(Path(folder) / "blobs"))
        manifest = sixteen_paths(synthetic(DOCUMENTS, DOCUMENTS), sample=1000)
        spec = derived(manifest, deps)
        cache = ShardCache(Path(folder) / "cache", 1 << 30)
        shards = Shards(cache, deps, max_shards=OPEN)
        taken = []
        for turn in range(OPEN + TURNS):
            start = time.perf_counter()
            shards.training(manifest, spec, 0, turn % OPEN, quiet)
            taken.append(1000 * (time.perf_counter() - start))
    hits = taken[OPEN:]
    return Result(
        name="a shard that is open (--max-shards)",
        ours=median(hits),
        peer=LIMIT_MS,
        ratio=median(hits) / LIMIT_MS,
        unit="ms",
        samples={"ours": hits},
        mark=1.0,
        better="lower",
    )
