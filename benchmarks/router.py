"""Deriving a router, with reading, compared with scikit-learn's pipeline on the same texts.

Both read 4,000 documents, cut them to the routing prefix's bytes and find 16 clusters in 256
dimensions, with one start of k-means. Ours also hashes files, rows and features, tokenises, and
computes in integers, so that every node gets the same result; theirs hashes words and computes in
float32. Each sample has a new process and times its second derivation, which excludes imports and
first calls.
"""

import importlib
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq  # type: ignore[import-untyped]
from msgspec.structs import replace

from benchmarks.corpus import corpus_files
from benchmarks.measure import Result, in_turns, versus
from benchmarks.runs import derived, sixteen_paths
from dipaco.node.data.sources.files import pin_files
from dipaco.node.data.sources.interface import Access
from dipaco.node.routing.derive import SourceDeps
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.run.manifest import Manifest, Routing

SAMPLES, DOCUMENTS, PATHS, DIMENSION = 5, 4000, 16, 256
PREDECESSOR = 950  # documents/s of the first program of this kind
TIMES = 10
HASHED = 1 << 12  # features of the vectorizer: as many as the tokenizer has tokens


def run() -> list[Result]:
    """Measure both, in turns."""
    both: dict[str, list[list[float]]] = in_turns(
        "router",
        SAMPLES,
        {
            "ours": ("router", "our_rates", 1),
            "theirs": ("router", "their_rates"),
            "four": ("router", "our_rates", 4),
        },
    )
    ours, theirs, four = ([wall for wall, _ in both[side]] for side in both)
    first = versus("router derivation, one start", ours, theirs, "documents/s")
    first["mark"] = 1.0
    first["note"] = "the peer is scikit-learn on the same bytes of every document"
    second = versus("router derivation, four starts", four, theirs, "documents/s")
    second["note"] = "the default; the peer still has one start"
    third = versus(
        "router derivation, the predecessor", ours, [float(PREDECESSOR)] * SAMPLES, "documents/s"
    )
    third["mark"], third["note"] = float(TIMES), "its figure was measured on another machine"
    busy, their_busy, _ = ([processor for _, processor in both[side]] for side in both)
    fourth = versus("router derivation, processor time", busy, their_busy, "documents/s")
    fourth["note"] = "per second of all threads: a busy machine changes this figure least"
    return [first, second, third, fourth]


def our_rates(restarts: int) -> list[float]:
    """Return documents per second of a derivation, and per second of processor time."""
    with tempfile.TemporaryDirectory(prefix="dipaco-bench-") as home:
        deps = SourceDeps(BlobStore(Path(home) / "blobs"), Access(local_sources=True))
        run = _manifest(restarts)
        return _second_time(partial(derived, run, deps))


def their_rates() -> list[float]:
    """Return the same figures of scikit-learn's pipeline."""
    return _second_time(_their_clusters)


def _second_time(do: Callable[[], object]) -> list[float]:
    do()
    wall, processor = time.perf_counter(), time.process_time()
    do()
    return [
        DOCUMENTS / (time.perf_counter() - wall),
        DOCUMENTS / (time.process_time() - processor),
    ]


def _manifest(restarts: int) -> Manifest:
    run = sixteen_paths(pin_files(_some_files()), sample=DOCUMENTS)
    routing = replace(
        run.routing,
        dimension=DIMENSION,
        restarts=restarts,
        validation_bp=0,  # so that both take the same documents
        counts="sample",
    )
    return replace(run, routing=routing)


def _their_clusters() -> Any:
    text = importlib.import_module("sklearn.feature_extraction.text")
    projection = importlib.import_module("sklearn.random_projection")
    cluster = importlib.import_module("sklearn.cluster")
    size = Routing(sample=DOCUMENTS).prefix_bytes
    heads = [row.encode()[:size].decode(errors="ignore") for row in islice(_texts(), DOCUMENTS)]
    hashed = text.HashingVectorizer(n_features=HASHED).fit_transform(heads)
    dense = projection.GaussianRandomProjection(DIMENSION, random_state=0).fit_transform(hashed)
    return cluster.KMeans(PATHS, n_init=1, random_state=0).fit(dense)


def _texts() -> Any:
    for path in _some_files():
        for batch in pq.ParquetFile(path).iter_batches(256, columns=["text"]):
            yield from batch.column(0).to_pylist()


def _some_files() -> list[Path]:
    """Return the first files that have enough documents."""
    files: list[Path] = []
    rows = 0
    for path in corpus_files():
        files.append(path)
        rows += pq.ParquetFile(path).metadata.num_rows
        if rows >= 2 * DOCUMENTS:  # some may be too short to take part
            break
    return files
