"""Deriving the router from the source: documents go in, in order, and the whole spec comes out.

`RouterFit` holds the sample's features (at most N x D int32), never its text. Author and verifier
run the same code; only the digest of the result is compared. Source: docs/method.md, 4.3 to 4.9.
"""

import hashlib
from collections.abc import Sequence

import msgspec
import numpy as np

from dipaco.protocol.digest import Digest, tagged, u32, u64
from dipaco.protocol.errors import Refusal
from dipaco.protocol.routing.assign import round_robin
from dipaco.protocol.routing.documents import is_eligible, prefix_of
from dipaco.protocol.routing.features import mean_of, normalise_in_place, raw_features
from dipaco.protocol.routing.integers import Int32, Int64
from dipaco.protocol.routing.kmeans import (
    Points,
    capacity_bias,
    has_distinct_rows,
    run_restarts,
)
from dipaco.protocol.routing.recipe import RouterRecipe, unfitted_spec
from dipaco.protocol.routing.scores import PRODUCTS, Product, checked_product, lowest
from dipaco.protocol.routing.seeds import Split
from dipaco.protocol.spec import (
    INERTIA_BYTES,
    KMEANS,
    Fit,
    RouterSpec,
    int32_bytes,
    int64_bytes,
)

_BATCH = 1024  # prefixes featurised at once


class RouterFit:
    """The derivation of one router: `feed` every row until `full` or the end, then `finish`."""

    def __init__(self, recipe: RouterRecipe, *, products: tuple[Product, ...] = PRODUCTS) -> None:
        params = recipe.params
        self._recipe = recipe
        self._products = products
        self._feat_seed = recipe.feat_seed
        self._source_hash = hashlib.sha256()
        self._token_hash = hashlib.sha256()
        self._rows = 0
        self._y: Int32 = np.empty((params.sample, params.dimension), dtype=np.int32)
        self._featurised = 0
        self._batch: list[Sequence[int]] = []
        self._documents: list[int] = []
        self._tokens: list[int] = []
        self._finished = False

    @property
    def full(self) -> bool:
        """Whether the sample is complete: no further row may be fed."""
        return len(self._documents) == self._recipe.params.sample

    @property
    def sampled(self) -> int:
        """Documents in the sample so far."""
        return len(self._documents)

    @property
    def rows(self) -> int:
        """Rows fed so far; the next one's document index."""
        return self._rows

    def feed(self, document: int, text: bytes, tokens: Sequence[int] | None) -> None:
        """Take the source's next row.

        document  its index, counted from 0 over every row.
        text      all of the row's text as UTF-8, not cut.
        tokens    ids of the text after `documents.cut`, without special tokens; may be None for
                  a document whose `recipe.split` is not training.

        Raises Refusal for a token id outside the manifest's vocabulary, ValueError for a row out
        of order, after the sample was full, or a training document without tokens.
        """
        if self.full or document != self._rows:
            raise ValueError(f"row {document} fed where {self._rows} was due, full: {self.full}")
        self._rows += 1
        self._source_hash.update(u64(len(text)))
        self._source_hash.update(text)
        if self._recipe.split(document) is not Split.TRAINING:
            return
        if tokens is None:
            raise ValueError(f"training document {document} was fed without tokens")
        if is_eligible(tokens, self._recipe.params.min_tokens):
            self._sample(document, tokens)

    def finish(self) -> RouterSpec:
        """Return the spec, whether the sample is full or the source ended before; only once."""
        if self._finished:
            raise ValueError("this fit was finished before")
        self._finished = True
        self._featurise()
        x = self._y[: self.sampled]
        mean = mean_of(x)
        normalise_in_place(x, mean, self._recipe.params.norm_bits)
        if has_distinct_rows(x, self._recipe.params.paths):
            return self._kmeans(x, mean)
        return self._fallback(x, mean)

    def _sample(self, document: int, tokens: Sequence[int]) -> None:
        prefix = prefix_of(tokens, self._recipe.params.prefix)
        if not 0 <= min(prefix) <= max(prefix) < self._recipe.vocabulary:
            raise Refusal(
                f"document {document} has a token outside the manifest's vocabulary of "
                f"{self._recipe.vocabulary}: its tokenizer does not fit it"
            )
        self._token_hash.update(u64(document))
        self._token_hash.update(np.array(prefix, dtype="<u4").tobytes())
        self._documents.append(document)
        self._tokens.append(len(tokens) + 1)
        self._batch.append(prefix)
        if len(self._batch) == _BATCH:
            self._featurise()

    def _featurise(self) -> None:
        if not self._batch:
            return
        prefixes = np.array(self._batch, dtype=np.int64)
        end = self._featurised + len(self._batch)
        dimension = self._recipe.params.dimension
        self._y[self._featurised : end] = raw_features(prefixes, self._feat_seed, dimension)
        self._featurised = end
        self._batch.clear()

    def _kmeans(self, x: Int32, mean: Int32) -> RouterSpec:
        params, seeds = self._recipe.params, self._recipe.restart_seeds
        product = checked_product(x, params.scale * x[: params.paths], self._products)
        points = Points.of(x, scale=params.scale, product=product)
        found = run_restarts(points, params.paths, seeds, max_updates=params.max_updates)
        bias = [0] * params.paths
        if params.capacity is not None:
            bias = capacity_bias(points, found, params.capacity, max_bias=params.max_bias)
        paths, _ = lowest(
            x,
            found.centroids,
            np.array(bias, dtype=np.int64),
            scale=params.scale,
            top=params.overlap,
            product=product,
        )
        fit = self._fit(x, mean, centroids=int32_bytes(found.centroids))
        fit = msgspec.structs.replace(
            fit,
            restart=found.restart,
            updates=found.updates,
            inertia=found.inertia.to_bytes(INERTIA_BYTES, "little"),
        )
        return msgspec.structs.replace(
            self._counted(paths, fit),
            kind=KMEANS,
            mean=int32_bytes(mean),
            centroids=int32_bytes(found.centroids),
            bias=int64_bytes(bias),
        )

    def _fallback(self, x: Int32, mean: Int32) -> RouterSpec:
        """Fewer distinct rows than paths: round_robin, recorded with its digests."""
        params = self._recipe.params
        documents = np.array(self._documents, dtype=np.int64)
        paths = round_robin(documents, paths=params.paths, top=params.overlap)
        return self._counted(paths, self._fit(x, mean, centroids=b""))

    def _fit(self, x: Int32, mean: Int32, *, centroids: bytes) -> Fit:
        paths, dimension = self._recipe.params.paths, self._recipe.params.dimension
        n_fit = u64(self.sampled)
        return Fit(
            n_fit=self.sampled,
            restart=0,
            updates=0,
            inertia=bytes(INERTIA_BYTES),
            source_bytes=tagged("dipaco/1/source-bytes", self._source_hash.digest()),
            tokens=tagged("dipaco/1/tokens", n_fit, self._token_hash.digest()),
            features=features_digest(x, mean),
            centroids=tagged("dipaco/1/centroids", u32(paths), u32(dimension), centroids),
        )

    def _counted(self, paths: Int64, fit: Fit) -> RouterSpec:
        """The spec but for centroids: documents and tokens counted on each of their paths."""
        count = self._recipe.params.paths
        documents, tokens = [0] * count, [0] * count
        for row, size in zip(paths.tolist(), self._tokens, strict=True):
            for path in row:
                documents[path] += 1
                tokens[path] += size
        return msgspec.structs.replace(
            unfitted_spec(self._recipe),
            fit=fit,
            documents=tuple(documents),
            tokens=tuple(tokens),
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
