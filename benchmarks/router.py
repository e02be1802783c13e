"""Deriving a router, with reading, compared with scikit-learn's pipelines on the same documents.

Each featurizer that a manifest can name is measured, or the one that DIPACO_BENCH_FEATURIZER names.
Both sides find 16 clusters in 4,000 documents, with one start of k-means and one thread; the peers
are in `router_peers.py`. Like for like is the pipeline of TF-IDF, TruncatedSVD and KMeans, twice:

  with reading  Timed on both sides: the tokenizer's file parsed, the files' rows read, each text
                cut to the routing prefix's bytes and tokenised whole, documents with few tokens
                left out, and all of the next line. Ours also hashes rows and draws splits.
  fit alone     Timed on both sides: from one array of token ids, (4000, 32), to centroids: the
                counts of the ids, their weights, the projection, k-means. Ours also checks its
                arithmetic and hashes ids, features and centroids, and assigns the sample again.

The third peer hashes words instead of tokenising, and projects at random. Ours computes in
integers, so that every node gets the same result; the peers compute in float64 and float32. Each
sample has a new process and times its second derivation, which excludes imports and first calls.
"""

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import get_args, get_type_hints

import numpy as np
from msgspec.structs import replace

from benchmarks.measure import Result, in_turns, versus
from benchmarks.router_peers import from_counts, from_files, from_words, prefixes_of, some_files
from benchmarks.runs import derived, sixteen_paths
from dipaco.node.data.sources.files import pin_files
from dipaco.node.data.sources.interface import Access
from dipaco.node.jobs.settings import environment
from dipaco.node.routing.derive import SourceDeps
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.routing.recipe import recipe_of
from dipaco.protocol.routing.sample import Sample
from dipaco.protocol.run.manifest import Manifest, Routing

VARIABLE = "DIPACO_BENCH_FEATURIZER"
SAMPLES, DOCUMENTS = 5, 4000
DIMENSIONS = {"bag-sign-v1": 256}  # of random signs; of a fitted basis, as many as the peer's
COLUMNS = 64
PREDECESSOR = 950  # documents/s of the first program of this kind
TIMES = 10
BATCH = 1024  # prefixes that a derivation featurises at once


def run() -> list[Result]:
    """Measure all, in turns, each process with one thread."""
    os.environ.update(environment(1))
    named = os.environ.get(VARIABLE)
    chosen = [named] if named else get_args(get_type_hints(Routing)["featurizer"])
    sides: dict[str, tuple[object, ...]] = {
        "files": ("router", "their_rates", "files"),
        "counts": ("router", "their_rates", "counts"),
        "words": ("router", "their_rates", "words"),
    }
    for featurizer in chosen:
        sides[f"one {featurizer}"] = ("router", "our_rates", featurizer, 1)
        sides[f"four {featurizer}"] = ("router", "our_rates", featurizer, 4)
        sides[f"fit {featurizer}"] = ("router", "our_fits", featurizer)
    samples = in_turns("router", SAMPLES, sides)
    walls = {side: [wall for wall, _ in found] for side, found in samples.items()}
    busy = {side: [processor for _, processor in found] for side, found in samples.items()}
    return [each for name in chosen for each in _results(name, walls, busy)]


def _results(
    name: str, walls: dict[str, list[float]], busy: dict[str, list[float]]
) -> list[Result]:
    one, four, fit = f"one {name}", f"four {name}", f"fit {name}"
    before = [float(PREDECESSOR)] * SAMPLES
    rows = [
        ("with reading / TF-IDF, SVD, KMeans", walls[one], walls["files"], 1.0),
        ("fit alone / TF-IDF, SVD, KMeans", walls[fit], walls["counts"], 1.0),
        ("with reading / hashed words", walls[one], walls["words"], 1.0),
        ("with reading, per CPU second / TF-IDF, SVD, KMeans", busy[one], busy["files"], None),
        ("fit alone, per CPU second / TF-IDF, SVD, KMeans", busy[fit], busy["counts"], None),
        ("with reading, per CPU second / hashed words", busy[one], busy["words"], None),
        (
            "four starts, the default / TF-IDF, SVD, KMeans of one",
            walls[four],
            walls["files"],
            None,
        ),
        ("with reading / the predecessor, on another machine", walls[one], before, float(TIMES)),
    ]
    results = []
    for title, ours, peer, mark in rows:
        result = versus(f"{name}: {title}", ours, peer, "documents/s")
        result["ratio"] = median(a / b for a, b in zip(ours, peer, strict=True))
        if mark is not None:
            result["mark"] = mark
        results.append(result)
    results[0]["note"] = "ratios are medians of those of each turn; one thread on both sides"
    return results


def our_rates(featurizer: str, restarts: int) -> list[float]:
    """Return documents per second of a derivation, and per second of processor time."""
    with tempfile.TemporaryDirectory(prefix="dipaco-bench-") as home:
        deps = SourceDeps(BlobStore(Path(home) / "blobs"), Access(local_sources=True))
        return _second_time(partial(derived, _manifest(featurizer, restarts), deps))


def our_fits(featurizer: str) -> list[float]:
    """Return the same figures of the fit alone, from token ids."""
    recipe = recipe_of(_manifest(featurizer, 1))
    prefixes = np.array(prefixes_of(DOCUMENTS), dtype=np.int64)
    documents = np.arange(DOCUMENTS)

    def fit() -> None:
        sample = Sample(recipe)
        for start in range(0, DOCUMENTS, BATCH):
            block = slice(start, start + BATCH)
            sample.add(documents[block], prefixes[block], np.ones_like(documents[block]))
        sample.fitted()

    return _second_time(fit)


def their_rates(pipeline: str) -> list[float]:
    """Return the same figures of one of scikit-learn's pipelines."""
    if pipeline == "files":
        return _second_time(partial(from_files, DOCUMENTS, COLUMNS))
    if pipeline == "words":
        return _second_time(partial(from_words, DOCUMENTS, DIMENSIONS["bag-sign-v1"]))
    prefixes = np.array(prefixes_of(DOCUMENTS), dtype=np.int64)
    return _second_time(partial(from_counts, prefixes, COLUMNS))


def _second_time(do: Callable[[], object]) -> list[float]:
    do()
    wall, processor = time.perf_counter(), time.process_time()
    do()
    return [
        DOCUMENTS / (time.perf_counter() - wall),
        DOCUMENTS / (time.process_time() - processor),
    ]


def _manifest(featurizer: str, restarts: int) -> Manifest:
    run = sixteen_paths(pin_files(some_files(2 * DOCUMENTS)), sample=DOCUMENTS)
    routing = replace(
        run.routing,
        featurizer=featurizer,
        dimension=DIMENSIONS.get(featurizer, COLUMNS),
        restarts=restarts,
        validation_bp=0,  # so that both take the same documents
        counts="sample",
    )
    return replace(run, routing=routing)
