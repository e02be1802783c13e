"""The featurizer of a spec, and the features of the sample while it is read.

Routing and re-sharding take the first, fitting takes the second. Source: docs/method.md, 4.4.
"""

from functools import partial
from typing import Protocol

import numpy as np
from msgspec import UNSET

from dipaco.protocol.routing.basis import Basis, basis_featurizer, fit_basis
from dipaco.protocol.routing.features import Featurizer, raw_features
from dipaco.protocol.routing.integers import Int32, Int64
from dipaco.protocol.routing.params import BASIS_DOCUMENTS
from dipaco.protocol.routing.recipe import RouterRecipe
from dipaco.protocol.routing.scores import Product
from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.run.exactness import IDF_SVD


def featurizer_of(spec: RouterSpec) -> Featurizer:
    """Return the featurizer of a spec that has a router, and no misfit."""
    if spec.basis is UNSET:
        return partial(raw_features, feat_seed=spec.feat_seed, dimension=spec.dimension)
    return basis_featurizer(spec.basis.arrays(spec.dimension), spec.vocabulary)


class SampleFeatures(Protocol):
    """The features y of the sample so far."""

    def add(self, prefixes: Int64) -> None:
        """Take the prefixes, (n, F), of the next documents."""

    def finish(self) -> tuple[Int32, Basis | None]:
        """Return y, (n_fit, D), and the basis if the featurizer has one."""


def sample_features(recipe: RouterRecipe, products: tuple[Product, ...]) -> SampleFeatures:
    """Return the features of a recipe's sample, none yet."""
    kind = _BasisFeatures if recipe.params.featurizer == IDF_SVD else _SignFeatures
    return kind(recipe, products)


class _Rows:
    """Rows of features, filled from the first on."""

    def __init__(self, recipe: RouterRecipe) -> None:
        params = recipe.params
        self._y: Int32 = np.empty((params.sample, params.dimension), dtype=np.int32)
        self._size = 0

    def put(self, y: Int32) -> None:
        self._y[self._size : self._size + len(y)] = y
        self._size += len(y)

    def filled(self) -> Int32:
        return self._y[: self._size]


class _SignFeatures:
    def __init__(self, recipe: RouterRecipe, products: tuple[Product, ...]) -> None:
        self._rows = _Rows(recipe)
        self._seed, self._dimension = recipe.feat_seed, recipe.params.dimension

    def add(self, prefixes: Int64) -> None:
        self._rows.put(raw_features(prefixes, self._seed, self._dimension))

    def finish(self) -> tuple[Int32, None]:
        return self._rows.filled(), None


class _BasisFeatures:
    """Keeps the prefixes of the first documents until there are enough to fit the basis on."""

    def __init__(self, recipe: RouterRecipe, products: tuple[Product, ...]) -> None:
        self._recipe, self._products = recipe, products
        self._rows = _Rows(recipe)
        self._kept: list[Int64] = []
        self._due = min(recipe.params.sample, BASIS_DOCUMENTS)
        self._fitted: tuple[Basis, Featurizer] | None = None

    def add(self, prefixes: Int64) -> None:
        if self._fitted is None:
            first, prefixes = prefixes[: self._due], prefixes[self._due :]
            self._kept.append(first)
            self._due -= len(first)
            if not self._due:
                self._fit()
        if self._fitted is not None and len(prefixes):
            self._rows.put(self._fitted[1](prefixes))

    def finish(self) -> tuple[Int32, Basis]:
        fitted = self._fit() if self._fitted is None else self._fitted  # a shorter source
        return self._rows.filled(), fitted[0]

    def _fit(self) -> tuple[Basis, Featurizer]:
        recipe = self._recipe
        shape = (0, recipe.params.prefix)
        prefixes = np.concatenate([np.empty(shape, dtype=np.int64), *self._kept])
        basis = fit_basis(
            prefixes,
            vocabulary=recipe.vocabulary,
            feat_seed=recipe.feat_seed,
            dimension=recipe.params.dimension,
            products=self._products,
        )
        self._kept = []
        self._fitted = basis, basis_featurizer(basis, recipe.vocabulary)
        self._rows.put(self._fitted[1](prefixes))
        return self._fitted
