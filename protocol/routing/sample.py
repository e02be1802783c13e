"""The sample that a router is fitted on: its features, and the clustering over them.

Holds at most N x D int32, never a text. Source: docs/method.md, 4.3 to 4.9.
"""

import hashlib
from dataclasses import dataclass

import msgspec
import numpy as np
from msgspec import UNSET

from dipaco.protocol.routing.assign import round_robin
from dipaco.protocol.routing.basis import Basis, basis_digest, idf_digest
from dipaco.protocol.routing.features import mean_of, normalise_in_place
from dipaco.protocol.routing.featurize import sample_features
from dipaco.protocol.routing.integers import Int32, Int64
from dipaco.protocol.routing.kmeans import (
    Clustering,
    Points,
    capacity_bias,
    has_distinct_rows,
    inertia_of,
    run_restarts,
)
from dipaco.protocol.routing.params import BASIS_DOCUMENTS
from dipaco.protocol.routing.recipe import RouterRecipe, unfitted_spec
from dipaco.protocol.routing.reshard import Resharded
from dipaco.protocol.routing.scores import PRODUCTS, Product, checked_product, lowest
from dipaco.protocol.routing.spec import (
    CLASS_MEANS,
    INERTIA_BYTES,
    KMEANS,
    Fit,
    RouterSpec,
    SpecBasis,
    int32_bytes,
    int64_bytes,
)
from dipaco.protocol.wire.digest import Digest, tagged, u32, u64

NOT_YET = Digest(bytes(32))  # stands for the digest of bytes that are still being read


@dataclass(frozen=True)
class Fitted:
    """A fitted router, and the paths that it gives its own sample."""

    spec: RouterSpec
    """Complete except for the digest of the source's bytes and the counts per path."""
    paths: Int64
    """The paths of the sampled documents, (n_fit, overlap), best first."""


class Sample:
    """The sampled documents so far: `add` them in batches, in order, then `fitted`, once."""

    def __init__(
        self,
        recipe: RouterRecipe,
        resharded: Resharded | None = None,
        products: tuple[Product, ...] = PRODUCTS,
    ) -> None:
        """resharded: the centroids from labels, used in the place of k-means."""
        self._recipe = recipe
        self._resharded = resharded
        self._products = products
        self._hash = hashlib.sha256()
        self._features = sample_features(recipe, products)
        self._documents = np.empty(recipe.params.sample, dtype=np.int64)
        self._sizes = np.empty(recipe.params.sample, dtype=np.int64)
        self._size = 0

    def add(self, documents: Int64, prefixes: Int64, sizes: Int64) -> None:
        """Take n more documents: indices, (n,), ids of their prefixes, (n, F), tokens, (n,)."""
        end = self._size + len(documents)
        self._hash.update(_rows_bytes(documents, prefixes))
        self._documents[self._size : end] = documents
        self._sizes[self._size : end] = sizes
        self._features.add(prefixes)
        self._size = end

    @property
    def sizes(self) -> Int64:
        """The tokens of the documents so far, (n,)."""
        return self._sizes[: self._size]

    def fitted(self) -> Fitted:
        """Return the router; round_robin where fewer rows are distinct than there are paths."""
        x, basis = self._features.finish()
        mean = mean_of(x)
        normalise_in_place(x, mean, self._recipe.params.norm_bits)
        if has_distinct_rows(x, self._recipe.params.paths):
            return self._clustered(x, mean, basis)
        params = self._recipe.params
        documents = self._documents[: self._size]
        paths = round_robin(documents, paths=params.paths, top=params.overlap)
        fit = self._fit(x, mean, basis, centroids=b"")
        return Fitted(msgspec.structs.replace(unfitted_spec(self._recipe), fit=fit), paths)

    def _clustered(self, x: Int32, mean: Int32, basis: Basis | None) -> Fitted:
        params = self._recipe.params
        product = checked_product(x, params.scale * x[: params.paths], self._products)
        points = Points.of(x, scale=params.scale, product=product)
        kind, found = self._centres(points)
        bias = [0] * params.paths
        if params.capacity is not None:
            bias = capacity_bias(
                points,
                found,
                params.capacity,
                weights=self.sizes if params.capacity_in_tokens else None,
                max_bias=params.max_bias,
            )
        paths, _ = lowest(
            x,
            found.centroids,
            np.array(bias, dtype=np.int64),
            scale=params.scale,
            top=params.overlap,
            product=product,
        )
        fit = msgspec.structs.replace(
            self._fit(x, mean, basis, centroids=int32_bytes(found.centroids)),
            restart=found.restart,
            updates=found.updates,
            inertia=found.inertia.to_bytes(INERTIA_BYTES, "little"),
        )
        spec = msgspec.structs.replace(
            unfitted_spec(self._recipe),
            kind=kind,
            basis=UNSET if basis is None else SpecBasis.of(basis),
            mean=int32_bytes(mean),
            centroids=int32_bytes(found.centroids),
            bias=int64_bytes(bias),
            fit=fit,
        )
        return Fitted(spec, paths)

    def _centres(self, points: Points) -> tuple[str, Clustering]:
        """Return the kind of router and its centroids, from k-means or from labels."""
        params, given = self._recipe.params, self._resharded
        if given is not None:
            inertia = inertia_of(points, given.centroids)
            return CLASS_MEANS, Clustering(given.centroids, restart=0, updates=0, inertia=inertia)
        seeds = self._recipe.restart_seeds
        return KMEANS, run_restarts(points, params.paths, seeds, max_updates=params.max_updates)

    def _fit(self, x: Int32, mean: Int32, basis: Basis | None, *, centroids: bytes) -> Fit:
        paths, dimension = self._recipe.params.paths, self._recipe.params.dimension
        return Fit(
            n_fit=self._size,
            restart=0,
            updates=0,
            inertia=bytes(INERTIA_BYTES),
            source_bytes=NOT_YET,
            tokens=tagged("dipaco/1/tokens", u64(self._size), self._hash.digest()),
            idf=UNSET if basis is None else idf_digest(basis, min(self._size, BASIS_DOCUMENTS)),
            basis=UNSET if basis is None else basis_digest(basis),
            features=features_digest(x, mean),
            centroids=tagged("dipaco/1/centroids", u32(paths), u32(dimension), centroids),
            labels=None if self._resharded is None else self._resharded.labels,
        )


def features_digest(x: Int32, mean: Int32) -> Digest:
    """Return the stage digest of the features: x (n_fit, D) and the mean, (D,)."""
    return tagged(
        "dipaco/1/features",
        u64(len(x)),
        u32(x.shape[1]),
        int32_bytes(mean),
        np.ascontiguousarray(x, dtype="<i4").data.cast("B") if x.size else b"",
    )


def _rows_bytes(documents: Int64, prefixes: Int64) -> bytes:
    """Return per document its index as u64 and its ids as u32, little-endian."""
    rows = np.empty(len(documents), dtype=[("document", "<u8"), ("ids", "<u4", prefixes.shape[1])])
    rows["document"], rows["ids"] = documents, prefixes
    return rows.tobytes()
