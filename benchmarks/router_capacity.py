"""Size of the largest shard under capacity rules in documents and in tokens.

`DIPACO_BENCH_DATA=FOLDER python -m benchmarks.router_capacity` prints the second table of
docs/method.md, 4.13: routers of 32 tokens and 256 dimensions, fitted on the first 8,000 documents
and applied to all. Every figure is the mean of two routers, whose seeds come from two beacons.
"""

from dataclasses import dataclass, replace
from statistics import mean

import numpy as np
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from numpy.typing import NDArray

from benchmarks.corpus import corpus_files
from benchmarks.router_quality import BEACONS, PREFIXES, SAMPLE, mutual_information
from benchmarks.runs import sixteen_paths, synthetic
from dipaco.node.data.embedded_tokenizer import embedded_tokenizer, embedded_tokenizer_path
from dipaco.node.data.tokenizers import checked_tokenizer
from dipaco.protocol.routing.assign import Router
from dipaco.protocol.routing.documents import cut, estimated_tokens, prefix_of
from dipaco.protocol.routing.integers import Int64
from dipaco.protocol.routing.recipe import recipe_of
from dipaco.protocol.routing.sample import Sample

PATHS, CAPACITY, PREFIX = (4, 8, 16), (5, 4), 32
UNITS = ("none", "documents", "tokens", "estimated tokens")


@dataclass(frozen=True)
class Corpus:
    """The documents that are long enough to be routed."""

    prefixes: Int64
    """(n, F)"""
    domains: Int64
    """(n,)"""
    tokens: Int64
    """(n,), of the whole text, with an end of text."""
    estimated: Int64
    """(n,), the same from the head alone, as `counts = sample` has it."""


def table() -> str:
    """Return the measurement as Markdown."""
    corpus = _corpus()
    head = "| P | 5/4 of | NMI | largest/mean, documents | largest/mean, tokens |"
    rows = [head, "|" + "---|" * 5]
    for paths in PATHS:
        for unit in UNITS:
            found = [_routed(corpus, paths, unit, beacon) for beacon in BEACONS]
            value = mean(mutual_information(corpus.domains, each) for each in found)
            documents = mean(_largest(each, np.ones(len(each)), paths) for each in found)
            tokens = mean(_largest(each, corpus.tokens, paths) for each in found)
            rows.append(f"| {paths} | {unit} | {value:.3f} | {documents:.2f} | {tokens:.2f} |")
    return "\n".join(rows)


def _largest(routed: Int64, weights: NDArray[np.generic], paths: int) -> float:
    sizes = np.bincount(routed, weights=weights, minlength=paths)
    return float(sizes.max() / sizes.mean())


def _routed(corpus: Corpus, paths: int, unit: str, beacon: bytes) -> Int64:
    """Fit a router on the first documents; returns the path of every document, (n,)."""
    count = min(SAMPLE, len(corpus.tokens))
    recipe = recipe_of(
        sixteen_paths(synthetic(len(corpus.tokens), len(corpus.tokens)), sample=count)
    )
    params = replace(
        recipe.params,
        paths=paths,
        capacity=None if unit == "none" else CAPACITY,
        capacity_in_tokens="tokens" in unit,
    )
    sample = Sample(replace(recipe, params=params, beacon=beacon))
    sizes = corpus.estimated if unit == "estimated tokens" else corpus.tokens
    documents = np.arange(len(corpus.tokens))
    sample.add(documents[:count], corpus.prefixes[:count], sizes[:count])
    return Router(sample.fitted().spec).route(corpus.prefixes, documents)[:, 0]


def _corpus() -> Corpus:
    pinned = embedded_tokenizer()
    path = embedded_tokenizer_path(pinned.sha256)
    assert path is not None
    encoder = checked_tokenizer(path.read_bytes(), pinned)
    params = recipe_of(sixteen_paths(synthetic(SAMPLE, SAMPLE), sample=SAMPLE)).params
    prefixes, domains, tokens, estimated = [], [], [], []
    for file in corpus_files():
        columns = pq.read_table(file, columns=["text", "domain"])
        for start in range(0, len(columns), 256):
            part = columns.slice(start, 256)
            texts = [text.encode() for text in part["text"].to_pylist()]
            heads = encoder.encode([cut(text, PREFIXES[PREFIX]).decode() for text in texts])
            wholes = encoder.encode([cut(text, params.max_bytes).decode() for text in texts])
            named = part["domain"].to_pylist()
            for text, head, whole, domain in zip(texts, heads, wholes, named, strict=True):
                if len(head) < PREFIX + 8:
                    continue
                read = len(cut(text, PREFIXES[PREFIX])), len(cut(text, params.max_bytes))
                prefixes.append(prefix_of(head, PREFIX))
                domains.append(domain)
                tokens.append(len(whole[: params.max_tokens]) + 1)
                estimated.append(estimated_tokens(len(head), *read, params.max_tokens) + 1)
    _, labels = np.unique(np.array(domains), return_inverse=True)
    return Corpus(np.array(prefixes), labels, np.array(tokens), np.array(estimated))


if __name__ == "__main__":
    print(table())
