"""Golden vectors of the router: `python -m tests.golden.router_vectors` writes them again.

They are the protocol: a change here means that old and new nodes no longer agree.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dipaco.protocol.routing.basis import basis_digest, basis_featurizer, fit_basis, idf_digest
from dipaco.protocol.routing.features import (
    mean_of,
    normalise,
    raw_features,
    sign_bits,
    sign_rows,
)
from dipaco.protocol.routing.integers import Draw, Int32, Int64, isqrt, rdiv
from dipaco.protocol.routing.kmeans import Points, capacity_bias, run_once
from dipaco.protocol.routing.sample import features_digest
from dipaco.protocol.routing.scores import Product, float64_product, lowest
from dipaco.protocol.routing.seeds import featurizer_seed, kmeans_seed, split_residue
from dipaco.protocol.routing.spec import int32_bytes, spec_digest
from dipaco.protocol.run.exactness import EXACT_FLOAT64, IDF_SVD
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import Digest, tagged, u32
from tests.protocol.routing.doubles import ToySource, fitted, recipe

FOLDER = Path(__file__).parent
A, B = bytes(range(32)), bytes(range(32, 64))
NORM_BITS, SCALE, MAX_UPDATES = 10, 256, 64
TOY = np.array(
    [[1, 1, 2, 3], [1, 2, 2, 3], [7, 8, 9, 9], [7, 7, 8, 9], [4, 5, 6, 4], [4, 5, 6, 6]],
    dtype=np.int64,
)


def vectors() -> dict[str, dict[str, Any]]:
    """Return the content of every file, by file name."""
    return {
        "router_primitives.json": primitives(),
        "router_toy.json": toy(),
        "router_large.json": large(),
        "router_basis.json": basis(),
        "router_spec.json": spec(),
    }


def primitives() -> dict[str, Any]:
    """Rounding, roots, draws, signs and seeds; A is bytes 0 to 31."""
    word, drawn = Draw(A).word(), Draw(A)
    return {
        "rdiv": [[a, b, rdiv(a, b)] for a, b in ((-1, 2), (-3, 2), (-5, 3), (1, 2), (7, 2))],
        "weights": [isqrt(256 * m) for m in range(1, 6)],
        "draw_word": word,
        "draw_below_1000": [drawn.below(1000) for _ in range(8)],
        "sign_bits_token_0": sign_bits(A, 0).hex(),
        "signs_tokens_0_1": sign_rows(A, np.array([0, 1]), 8).tolist(),
        "featurizer_seed_root_zero": featurizer_seed(Digest(bytes(32))).hex(),
        "kmeans_seeds_root_zero": [
            kmeans_seed(Digest(bytes(32)), epoch, restart).hex()
            for epoch, restart in ((0, 0), (0, 1), (1, 0))
        ],
        "split_residues": [split_residue(Digest(A), document) for document in range(6)],
    }


def toy() -> dict[str, Any]:
    """Six prefixes of four tokens, three clusters, one run with the draws of B."""
    y, mean, x = featurised(TOY, dimension=8)
    points = Points.of(x, scale=SCALE, product=float64_product)
    found = run_once(points, 3, B, max_updates=MAX_UPDATES)
    paths, _ = lowest(
        x, found.centroids, np.zeros(3, np.int64), scale=SCALE, top=1, product=float64_product
    )
    return {
        "prefixes": TOY.tolist(),
        "y": y.tolist(),
        "mean": mean.tolist(),
        "x": x.tolist(),
        "features": features_digest(x, mean).hex(),
        "assignment": paths[:, 0].tolist(),
        "c_0": found.centroids[0].tolist(),
        "centroids": centroids_digest(found.centroids),
    }


def large(product: Product = float64_product) -> dict[str, Any]:
    """2,000 prefixes of 32 tokens, 16 clusters, four restarts, and capacity rules of 5/4."""
    y, mean, x = featurised(large_prefixes(), dimension=256)
    points = Points.of(x, scale=SCALE, product=product)
    seeds = [kmeans_seed(Digest(A), 0, restart) for restart in range(4)]
    runs = [run_once(points, 16, seed, max_updates=MAX_UPDATES) for seed in seeds]
    restart = min(range(4), key=lambda r: (runs[r].inertia, r))
    best = runs[restart]
    bias = capacity_bias(points, best, (5, 4), max_bias=EXACT_FLOAT64)
    weights = large_weights()
    by_tokens = capacity_bias(points, best, (5, 4), weights=weights, max_bias=EXACT_FLOAT64)
    return {
        "y_0": y[0, :4].tolist(),
        "mean": mean[:4].tolist(),
        "x_0": x[0, :4].tolist(),
        "features": features_digest(x, mean).hex(),
        "updates": [run.updates for run in runs],
        "inertias": [run.inertia for run in runs],
        "restart": restart,
        "c_0": best.centroids[0, :4].tolist(),
        "documents": counted(x, best.centroids, [0] * 16, product),
        "centroids": centroids_digest(best.centroids),
        "capacity_mean_distance": best.inertia // len(x),
        "capacity_bias": bias,
        "capacity_documents": counted(x, best.centroids, bias, product),
        "weights": weights[:4].tolist(),
        "capacity_tokens_bias": by_tokens,
        "capacity_tokens": counted(x, best.centroids, by_tokens, product, weights),
    }


def basis(product: Product = float64_product) -> dict[str, Any]:
    """Bases of the six toy prefixes twice over, and of 2,000 prefixes of 512 ids."""
    toy = np.concatenate([TOY, TOY])
    small = fit_basis(toy, vocabulary=10, feat_seed=A, dimension=8, products=(product,))
    many = large_prefixes() % 512
    fitted = fit_basis(many, vocabulary=512, feat_seed=A, dimension=64, products=(product,))
    y = basis_featurizer(fitted, 512)(many)
    mean = mean_of(y)
    return {
        "toy_terms": small.terms.tolist(),
        "toy_idf": small.idf.tolist(),
        "toy_columns": small.columns.tolist(),
        "toy_y": basis_featurizer(small, 10)(TOY).tolist(),
        "terms": len(fitted.terms),
        "idf_0": fitted.idf[:8].tolist(),
        "columns_0": fitted.columns[0, :8].tolist(),
        "idf": idf_digest(fitted, len(many)).hex(),
        "basis": basis_digest(fitted).hex(),
        "y_0": y[0, :8].tolist(),
        "features": features_digest(normalise(y, mean, NORM_BITS), mean).hex(),
    }


def spec() -> dict[str, Any]:
    """Whole specs of the toy source: fitted, fitted under a capacity rule, fallen back."""
    cases = {
        "kmeans": fitted(recipe(), ToySource())[0],
        "capacity": fitted(recipe(overlap=2, capacity=(11, 10)), ToySource())[0],
        "capacity-tokens": fitted(
            recipe(overlap=2, capacity=(11, 10), capacity_in_tokens=True), ToySource()
        )[0],
        "fallback": fitted(recipe(), ToySource(alike=True))[0],
        "basis": fitted(recipe(featurizer=IDF_SVD), ToySource())[0],
    }
    return {
        name: {"digest": spec_digest(value).hex(), "encoding": encode(value).hex()}
        for name, value in cases.items()
    }


def featurised(prefixes: Int64, *, dimension: int) -> tuple[Int32, Int32, Int32]:
    """Return y, the mean and x of prefixes, with the seed A."""
    y = raw_features(prefixes, A, dimension)
    mean = mean_of(y)
    return y, mean, normalise(y, mean, NORM_BITS)


@cache
def large_prefixes() -> Int64:
    """Return 2,000 prefixes of 16 topics: odd places from the topic's 64 ids, even from all."""
    rows = [[_large_token(i, k) for k in range(32)] for i in range(2000)]
    return np.array(rows, dtype=np.int64)


def large_weights() -> Int64:
    """Return the tokens of the 2,000 documents: 1 to 1,024, and eight times that in two topics."""
    words = [int.from_bytes(tagged("dipaco/1/golden", u32(i))[:8], "little") for i in range(2000)]
    sizes = [(word % 1024 + 1) * (8 if i % 16 < 2 else 1) for i, word in enumerate(words)]
    return np.array(sizes, dtype=np.int64)


def _large_token(i: int, k: int) -> int:
    word = int.from_bytes(tagged("dipaco/1/golden", u32(i), u32(k))[:8], "little")
    return (i % 16) * 64 + word % 64 if k % 2 else word % 4096


def counted(
    x: Int32, centroids: Int32, bias: list[int], product: Product, weights: Int64 | None = None
) -> list[int]:
    """Return the documents per path, or the sums of their weights."""
    wide = np.array(bias, dtype=np.int64)
    paths, _ = lowest(x, centroids, wide, scale=SCALE, top=1, product=product)
    each = [1] * len(x) if weights is None else weights.tolist()
    counts = [0] * len(centroids)
    for path, weight in zip(paths[:, 0].tolist(), each, strict=True):
        counts[path] += weight
    return counts


def centroids_digest(centroids: Int32) -> str:
    """Return the stage digest of centroids, (P, D), in hex."""
    paths, dimension = centroids.shape
    parts = (u32(paths), u32(dimension), int32_bytes(centroids))
    return tagged("dipaco/1/centroids", *parts).hex()


def write() -> None:
    """Write every file."""
    for name, content in vectors().items():
        (FOLDER / name).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    write()
