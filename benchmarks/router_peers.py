"""Routers by scikit-learn, for `router`: clusters of documents by its own pipelines.

scikit-learn is no dependency of the project: `make bench` installs it. The peers find token ids by
the library `tokenizers` alone, in batches as large as ours.
"""

import importlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from numpy.typing import NDArray

from benchmarks.corpus import corpus_files
from dipaco.node.data.embedded_tokenizer import embedded_tokenizer, embedded_tokenizer_path
from dipaco.protocol.routing.documents import cut
from dipaco.protocol.run.manifest import Routing

PATHS = 16
HASHED = 1 << 12  # features of the vectorizer: as many as the tokenizer has tokens
BATCH = 1024  # heads that are tokenised at once
ROWS = 256  # that are read at once
RULES = Routing(sample=1)


def from_files(documents: int, columns: int) -> Any:
    """Read the first documents that are long enough, and cluster them by their token counts."""
    return from_counts(np.array(prefixes_of(documents)), columns)


def from_counts(prefixes: NDArray[np.int64], columns: int) -> Any:
    """Cluster documents by the counts of their first token ids, (n, F): TF-IDF, SVD, k-means."""
    sparse = importlib.import_module("scipy.sparse")
    text = importlib.import_module("sklearn.feature_extraction.text")
    decomposition = importlib.import_module("sklearn.decomposition")
    rows, length = prefixes.shape
    ends = np.arange(0, rows * length + 1, length)
    shape = (rows, embedded_tokenizer().vocabulary)
    counts = sparse.csr_matrix((np.ones(prefixes.size), prefixes.ravel(), ends), shape=shape)
    counts.sum_duplicates()
    weighted = text.TfidfTransformer().fit_transform(counts)
    dense = decomposition.TruncatedSVD(columns, random_state=0).fit_transform(weighted)
    return _clusters(dense)


def from_words(documents: int, dimension: int) -> Any:
    """Read the first documents, and cluster them by hashes of their words, projected at random."""
    text = importlib.import_module("sklearn.feature_extraction.text")
    projection = importlib.import_module("sklearn.random_projection")
    hashed = text.HashingVectorizer(n_features=HASHED).fit_transform(islice(_heads(), documents))
    dense = projection.GaussianRandomProjection(dimension, random_state=0).fit_transform(hashed)
    return _clusters(dense)


def prefixes_of(documents: int) -> list[list[int]]:
    """Return the first ids of the first documents that a router can be fitted on, (n, F)."""
    tokenizers = importlib.import_module("tokenizers")
    path = embedded_tokenizer_path(embedded_tokenizer().sha256)
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    heads = _heads()
    found: list[list[int]] = []
    while len(found) < documents and (batch := list(islice(heads, BATCH))):
        encoded = tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        long = (each.ids for each in encoded if len(each) >= RULES.min_tokens)
        found += [ids[: RULES.prefix] for ids in long]
    return found[:documents]


def some_files(documents: int) -> list[Path]:
    """Return the first files that have so many documents."""
    files: list[Path] = []
    rows = 0
    for path in corpus_files():
        files.append(path)
        rows += pq.ParquetFile(path).metadata.num_rows
        if rows >= documents:
            break
    return files


def _heads() -> Iterator[str]:
    for path in corpus_files():
        for batch in pq.ParquetFile(path).iter_batches(ROWS, columns=["text"]):
            for text in batch.column(0).to_pylist():
                yield cut(text.encode(), RULES.prefix_bytes).decode()


def _clusters(dense: Any) -> Any:
    cluster = importlib.import_module("sklearn.cluster")
    return cluster.KMeans(PATHS, n_init=1, random_state=0).fit(dense)
