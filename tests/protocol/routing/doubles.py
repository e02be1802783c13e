"""A source of documents for tests, that can shrink, lie or drop, and what a node makes of it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dipaco.protocol.errors import Unavailable
from dipaco.protocol.routing.fit import RouterFit
from dipaco.protocol.routing.integers import Int64
from dipaco.protocol.routing.params import RouterParams
from dipaco.protocol.routing.recipe import RouterRecipe
from dipaco.protocol.routing.seeds import Split
from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.routing.verdict import Derivation, Derived, SourceFailure
from dipaco.protocol.wire.digest import sha256, tagged, u32, u64

PARAMS = RouterParams(
    paths=4,
    sample=60,
    prefix=6,
    dimension=32,
    norm_bits=10,
    scale_bits=8,
    max_updates=20,
    restarts=3,
    prefix_bytes=100,
    max_bytes=1000,
    min_tokens=14,
    max_tokens=1000,
    validation_bp=1000,
    router_bp=500,
)


def recipe(
    kind: str = "kmeans", *, counts: str = "sample", documents: int = 400, **changes: Any
) -> RouterRecipe:
    """Return the recipe of a tiny run of four paths; `changes` replace its parameters."""
    return RouterRecipe(
        kind=kind,
        manifest=sha256(b"manifest"),
        source=sha256(b"source"),
        tokenizer=sha256(b"tokenizer"),
        vocabulary=256,
        beacon=b"",
        documents=documents,
        counts=counts,
        params=replace(PARAMS, **changes),
    )


@dataclass(frozen=True)
class ToySource:
    """Rows of four topics; the text says what the tokens are."""

    rows: int = 400
    lies_at: int | None = None
    """This row has other tokens than everybody else's."""
    drops_at: int | None = None
    """The connection breaks before this row."""
    alike: bool = False
    """All rows have the same tokens."""

    def __iter__(self) -> Iterator[tuple[bytes, list[int]]]:
        for row in range(self.rows):
            if row == self.drops_at:
                raise Unavailable("the connection was cut")
            tokens = self._tokens(0 if self.alike else row)
            if row == self.lies_at:
                tokens = [token + 1 for token in tokens]
            yield str(tokens).encode(), tokens

    def _tokens(self, row: int) -> list[int]:
        words = tagged("toy", u64(row))
        length = 10 + words[31] % 20  # some are too short to take part
        topic = words[30] % 8 % 5 % 4  # of unequal sizes
        picks = [tagged("toy", u64(row), u32(k))[0] for k in range(length)]
        return [pick % 64 if pick % 4 == 0 else 64 * topic + pick % 32 for pick in picks]


def fitted(
    recipe: RouterRecipe, source: ToySource, **options: Any
) -> tuple[RouterSpec, list[int], Int64]:
    """Return the spec with the sample it was fitted on: indices, and prefixes (n_fit, F)."""
    fit = RouterFit(recipe, **options)
    documents, prefixes = [], []
    for text, tokens in source:
        if fit.done:
            break
        before, document = fit.sampled, fit.rows
        training = recipe.split(document) is Split.TRAINING
        fit.feed(document, text, tokens if training else None, len(tokens))
        if fit.sampled > before:
            documents.append(document)
            prefixes.append(tokens[: recipe.params.prefix])
    shape = (len(prefixes), recipe.params.prefix)
    return fit.finish(), documents, np.array(prefixes, dtype=np.int64).reshape(shape)


def derive(recipe: RouterRecipe, source: ToySource, *, authenticated: bool = False) -> Derivation:
    """Return what a verifying node's derivation comes to on this source."""
    try:
        spec, _, _ = fitted(recipe, source)
    except Unavailable as error:
        return SourceFailure(stage="source", reason=str(error))
    return Derived(spec=spec, authenticated=authenticated)
