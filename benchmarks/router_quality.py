"""The agreement of shards with topics: mutual information with the column `domain`, and balance.

It is measured over the whole corpus, for 4, 8 and 16 paths and prefixes of 32 and 256 tokens,
without a capacity rule and with 3/2 and 5/4. Every figure is the mean of two routers,
whose seeds come from two beacons. Normalised mutual information is 2 I(X; Y) / (H(X) + H(Y)), in
nats. `python -m benchmarks.router_quality [FEATURIZER]` prints a table of docs/method.md, 4.13; the
one of `idf-svd-v1` also has routers that see all tokens of the first 256 bytes.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import mean

import numpy as np
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from numpy.typing import NDArray

from benchmarks.corpus import corpus_files
from benchmarks.measure import Result, versus
from benchmarks.runs import sixteen_paths, synthetic
from dipaco.node.data.embedded_tokenizer import embedded_tokenizer, embedded_tokenizer_path
from dipaco.node.data.tokenizers import TextEncoder, checked_tokenizer
from dipaco.protocol.routing.assign import Router
from dipaco.protocol.routing.documents import cut, prefix_of
from dipaco.protocol.routing.integers import Int64
from dipaco.protocol.routing.recipe import recipe_of
from dipaco.protocol.routing.sample import Sample
from dipaco.protocol.run.exactness import BAG_SIGN, IDF_SVD

PATHS, SAMPLE, BEACONS = (4, 8, 16), 8000, (b"", b"second")
CAPACITIES = (None, (3, 2), (5, 4))
PREFIXES = {32: 256, 256: 2048}  # tokens: bytes of the text that they are taken from
FEATURES = {BAG_SIGN: 256, IDF_SVD: 64}  # their number, by featurizer
HEAD = 256  # tokens at most, of as many bytes; a shorter head is filled up with an id of its own
MARKS = {32: (0.44, 0.53, 0.58), 256: (0.40, 0.60, 0.68)}


def run() -> list[Result]:
    """Measure mutual information without a capacity rule against its marks."""
    results: list[Result] = []
    if any("domain" not in pq.read_schema(path).names for path in corpus_files()):
        print("router_quality: not measured, since the corpus has no column `domain`")
        return results
    for prefix, marks in MARKS.items():
        prefixes, labels = _prefixes(prefix)
        for paths, mark in zip(PATHS, marks, strict=True):
            found = [_routed(prefixes, paths, None, beacon) for beacon in BEACONS]
            values = [mutual_information(labels, each) for each in found]
            name = f"topics in {paths} shards, prefix {prefix}"
            result = versus(name, values, [mark] * len(values), "NMI")
            result["ours"] = mean(values)
            result["ratio"] = result["ours"] / mark
            result["mark"] = 1.0
            results.append(result)
    return results


def table(featurizer: str) -> str:
    """Return the whole measurement of a featurizer as Markdown."""
    rows = ["| F | P | capacity | NMI | largest/mean | smallest/mean |", "|" + "---|" * 6]
    seen: dict[str, Callable[[], tuple[Int64, Int64]]] = {
        str(prefix): partial(_prefixes, prefix) for prefix in PREFIXES
    }
    if featurizer == IDF_SVD:
        seen["head"] = _heads
    for prefix, read in seen.items():
        prefixes, labels = read()
        for paths in PATHS:
            for capacity in CAPACITIES:
                found = [_routed(prefixes, paths, capacity, b, featurizer) for b in BEACONS]
                value = mean(mutual_information(labels, each) for each in found)
                sizes = [np.bincount(each, minlength=paths) * paths / len(each) for each in found]
                rule = "none" if capacity is None else f"{capacity[0]}/{capacity[1]}"
                largest, smallest = mean(s.max() for s in sizes), mean(s.min() for s in sizes)
                cells = (prefix, paths, rule, f"{value:.3f}", f"{largest:.2f}", f"{smallest:.2f}")
                rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def mutual_information(a: Int64, b: Int64) -> float:
    """Return the normalised mutual information of two labellings, (n,) each."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1 / len(a))
    both = _entropy(joint.sum(axis=1)) + _entropy(joint.sum(axis=0))
    return 2 * (both - _entropy(joint.ravel())) / both


def _entropy(shares: NDArray[np.float64]) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum())


def _routed(
    prefixes: Int64,
    paths: int,
    capacity: tuple[int, int] | None,
    beacon: bytes,
    featurizer: str = BAG_SIGN,
) -> Int64:
    """Fit a router on the first documents; returns the path of every document, (n,)."""
    count = min(SAMPLE, len(prefixes))
    recipe = recipe_of(sixteen_paths(synthetic(len(prefixes), len(prefixes)), sample=count))
    params = replace(
        recipe.params,
        paths=paths,
        capacity=capacity,
        prefix=prefixes.shape[1],
        prefix_bytes=PREFIXES[prefixes.shape[1]],
        dimension=FEATURES[featurizer],
        featurizer=featurizer,
        min_tokens=prefixes.shape[1] + 8,
    )
    vocabulary = max(recipe.vocabulary, int(prefixes.max()) + 1)
    sample = Sample(replace(recipe, params=params, beacon=beacon, vocabulary=vocabulary))
    documents = np.arange(len(prefixes))
    sample.add(documents[:count], prefixes[:count], np.ones(count, dtype=np.int64))
    return Router(sample.fitted().spec).route(prefixes, documents)[:, 0]


def _prefixes(length: int) -> tuple[Int64, Int64]:
    """Return the prefixes of all documents that are long enough, (n, F), and domains, (n,)."""
    heads, labels = _encoded(PREFIXES[length], length + 8)
    return np.array([prefix_of(head, length) for head in heads], dtype=np.int64), labels


def _heads() -> tuple[Int64, Int64]:
    """Return all tokens of the heads of the same documents as with a prefix of 32, and domains."""
    heads, labels = _encoded(PREFIXES[32], 32 + 8)
    filler = embedded_tokenizer().vocabulary
    rows = [[*head, *[filler] * (HEAD - len(head))] for head in heads]
    return np.array(rows, dtype=np.int64), labels


def _encoded(size: int, least: int) -> tuple[list[Sequence[int]], Int64]:
    """Return the ids of heads of `size` bytes that have at least so many, and domains."""
    encoder = _encoder()
    kept: list[Sequence[int]] = []
    domains: list[str] = []
    for path in corpus_files():
        table = pq.read_table(path, columns=["text", "domain"])
        heads = encoder.encode([cut(t.encode(), size).decode() for t in table["text"].to_pylist()])
        for head, domain in zip(heads, table["domain"].to_pylist(), strict=True):
            if len(head) >= least:
                kept.append(head)
                domains.append(domain)
    _, labels = np.unique(np.array(domains), return_inverse=True)
    return kept, labels.astype(np.int64)


def _encoder() -> TextEncoder:
    pinned = embedded_tokenizer()
    path = embedded_tokenizer_path(pinned.sha256)
    assert path is not None
    return checked_tokenizer(path.read_bytes(), pinned)


if __name__ == "__main__":
    print(table(*sys.argv[1:] or [BAG_SIGN]))
