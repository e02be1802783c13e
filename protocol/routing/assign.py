"""Routing: the one function that gives documents their paths, from a spec alone.

Sharding, evaluation and serving all call `Router.route`; fitting counts its sample with the same
scores (`scores.lowest`), so fit and prediction agree.
"""

import numpy as np
import numpy.typing as npt

from dipaco.protocol.errors import Refusal
from dipaco.protocol.routing.features import normalise
from dipaco.protocol.routing.featurize import featurizer_of
from dipaco.protocol.routing.integers import Int64, rdiv_array
from dipaco.protocol.routing.scores import PRODUCTS, Product, checked_product, lowest
from dipaco.protocol.routing.spec import (
    CAPACITY_BIAS,
    CAPACITY_TOKENS,
    CLASS_MEANS,
    COUNT_DOCUMENTS,
    COUNT_SAMPLE,
    KMEANS,
    NO_CAPACITY,
    ROUND_ROBIN,
    SPEC_FORMAT,
    RouterSpec,
    misfit,
)
from dipaco.protocol.run.exactness import BAG_SIGN, IDF_SVD


def unknown_kind(spec: RouterSpec) -> str | None:
    """Return the kind in the spec that this software does not know, or None."""
    known: dict[str, tuple[object, ...]] = {
        "format": (SPEC_FORMAT,),
        "kind": (KMEANS, CLASS_MEANS, ROUND_ROBIN),
        "featurizer": (BAG_SIGN, IDF_SVD),
        "capacity": (NO_CAPACITY, CAPACITY_BIAS, CAPACITY_TOKENS),
        "counts": (COUNT_DOCUMENTS, COUNT_SAMPLE),
    }
    for name, values in known.items():
        if getattr(spec, name) not in values:
            return f"{name} {getattr(spec, name)}"
    return None


class Router:
    """A spec made ready to route."""

    def __init__(self, spec: RouterSpec, *, products: tuple[Product, ...] = PRODUCTS) -> None:
        """Raise Refusal for a spec of unknown kind, or one that contradicts itself."""
        unknown = unknown_kind(spec)
        if unknown is not None:
            raise Refusal(f"cannot route by {unknown}: this software does not know it")
        fault = misfit(spec)
        if fault is not None:
            raise Refusal(f"cannot route by a malformed spec: {fault}")
        self.spec = spec
        if spec.kind != ROUND_ROBIN:
            self._featurize = featurizer_of(spec)
            self._mean, self._bias = spec.mean_array(), spec.bias_array()
            self._centroids = spec.centroid_array()
            rows = rdiv_array(self._centroids.astype(np.int64), 1 << spec.scale_bits)
            self._product = checked_product(rows.astype(np.int32), self._centroids, products)

    def route(self, prefixes: npt.NDArray[np.integer], documents: Int64, *, top: int = 1) -> Int64:
        """Return the paths of n documents, (n, top), best first; ties go to the lowest path.

        prefixes   (n, F), the first F token ids of each, as `documents.prefix_of` gives them.
        documents  (n,), their indices in the source, which round_robin uses.
        top        paths per document: the manifest's overlap in training, else 1.

        Raises ValueError for other shapes, or ids outside the vocabulary.
        """
        spec = self.spec
        if prefixes.shape != (len(documents), spec.prefix):
            raise ValueError(f"prefixes {prefixes.shape} are not ({len(documents)}, {spec.prefix})")
        if not 1 <= top <= spec.paths:
            raise ValueError(f"top {top} is not in 1 to {spec.paths}")
        if prefixes.size and not (prefixes.min() >= 0 and prefixes.max() < spec.vocabulary):
            raise ValueError(f"a token id is outside the vocabulary of {spec.vocabulary}")
        if spec.kind == ROUND_ROBIN:
            return round_robin(documents, paths=spec.paths, top=top)
        x = normalise(self._featurize(prefixes), self._mean, spec.norm_bits)
        scale = 1 << spec.scale_bits
        paths, _ = lowest(
            x, self._centroids, self._bias, scale=scale, top=top, product=self._product
        )
        return paths


def round_robin(documents: Int64, *, paths: int, top: int) -> Int64:
    """Return the paths of n document indices without a fit, (n, top), from index mod P upwards."""
    return (documents[:, None] + np.arange(top, dtype=np.int64)) % paths
