"""Deriving the router from the source: it reads the documents in order and returns the whole spec.

One pass: the first eligible training documents are the sample; once it is full the router is
fitted, and the documents that follow are routed and counted. Neither these documents nor any text
is kept. Author and verifier run the same code; only the digest of the result is compared. Source:
docs/method.md, 4.3 to 4.9.
"""

import hashlib
from collections.abc import Sequence

import msgspec
import numpy as np

from dipaco.protocol.errors import Refusal
from dipaco.protocol.routing.assign import Router
from dipaco.protocol.routing.counts import PathCounts
from dipaco.protocol.routing.documents import is_eligible, prefix_of
from dipaco.protocol.routing.integers import Int64
from dipaco.protocol.routing.recipe import RouterRecipe
from dipaco.protocol.routing.reshard import Resharded
from dipaco.protocol.routing.sample import Fitted, Sample
from dipaco.protocol.routing.scores import PRODUCTS, Product
from dipaco.protocol.routing.seeds import Split
from dipaco.protocol.routing.spec import COUNT_DOCUMENTS, RouterSpec
from dipaco.protocol.wire.digest import tagged, u64

_BATCH = 1024  # prefixes featurised at once


class RouterFit:
    """The derivation of one router: `feed` every row until `done` or the end, then `finish`."""

    def __init__(
        self,
        recipe: RouterRecipe,
        *,
        resharded: Resharded | None = None,
        products: tuple[Product, ...] = PRODUCTS,
    ) -> None:
        """resharded: the centroids from labels; None at epoch 0, which runs k-means."""
        self._recipe = recipe
        self._least_rows = 0 if resharded is None else resharded.rows
        self._products = products
        self._all = recipe.counts == COUNT_DOCUMENTS
        self._source_hash = hashlib.sha256()
        self._rows = self._sampled = 0
        self._sample: Sample | None = Sample(recipe, resharded, products)
        self._router: tuple[RouterSpec, Router] | None = None
        self._counts = PathCounts(recipe.params.paths)
        self._documents: list[int] = []
        self._prefixes: list[Sequence[int]] = []
        self._sizes: list[int] = []
        self._finished = False

    @property
    def full(self) -> bool:
        """Whether the sample is complete."""
        return self._sampled == self._recipe.params.sample

    @property
    def done(self) -> bool:
        """Whether no further row is needed; `feed` then raises ValueError."""
        return self.full and not self._all and self._rows >= self._least_rows

    @property
    def sampled(self) -> int:
        """Documents in the sample so far."""
        return self._sampled

    @property
    def rows(self) -> int:
        """Rows fed so far; the next one's document index."""
        return self._rows

    def feed(
        self,
        document: int,
        text: bytes,
        head: Sequence[int] | None,
        tokens: int | None,
        *,
        split: Split | None = None,
    ) -> None:
        """Take the source's next row.

        document  its index, counted from 0 over every row.
        text      all of the row's text as UTF-8, not cut.
        head      ids of the text's first `prefix_bytes` bytes, without special tokens; may be
                  None for a document whose `recipe.split` is not training.
        tokens    how many ids the document counts as; may be None where it takes no part.
        split     its `recipe.split`, if that is known already.

        Raises Refusal for a token id outside the manifest's vocabulary, ValueError for a row out
        of order, after the last that was due, or a training document without tokens.
        """
        if self.done or document != self._rows:
            raise ValueError(f"row {document} fed where {self._rows} was due, done: {self.done}")
        self._rows += 1
        self._source_hash.update(u64(len(text)) + text)
        split = self._recipe.split(document) if split is None else split
        if split is not Split.TRAINING or (self.full and not self._all):
            return
        if head is None:
            raise ValueError(f"training document {document} was fed without tokens")
        if not is_eligible(head, self._recipe.params.min_tokens):
            return
        if tokens is None:
            raise ValueError(f"training document {document} was fed without its number of tokens")
        self._take(document, prefix_of(head, self._recipe.params.prefix), tokens)

    def finish(self) -> RouterSpec:
        """Return the spec of the rows that were fed; raises ValueError at a second call."""
        if self._finished:
            raise ValueError("this fit was finished before")
        self._finished = True
        self._flush()
        spec = self._fitted() if self._router is None else self._router[0]
        assert spec.fit is not None
        read = tagged("dipaco/1/source-bytes", self._source_hash.digest())
        return msgspec.structs.replace(
            spec,
            fit=msgspec.structs.replace(spec.fit, source_bytes=read),
            documents=self._counts.documents,
            tokens=self._counts.tokens,
        )

    def _take(self, document: int, prefix: Sequence[int], tokens: int) -> None:
        if self.full and self._router is None:
            self._flush()  # the last of the sample; the documents that follow are routed
            spec = self._fitted()
            self._router = spec, Router(spec, products=self._products)
        self._sampled += not self.full
        self._documents.append(document)
        self._prefixes.append(prefix)
        self._sizes.append(tokens + 1)  # and an end of text
        if len(self._documents) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        if not self._documents:
            return
        documents = np.array(self._documents, dtype=np.int64)
        prefixes = np.array(self._prefixes, dtype=np.int64)
        self._check_ids(documents, prefixes)
        if self._router is not None:
            top = self._recipe.params.overlap
            self._counts.add(self._router[1].route(prefixes, documents, top=top), self._sizes)
        else:
            assert self._sample is not None
            self._sample.add(documents, prefixes, np.array(self._sizes, dtype=np.int64))
        for each in (self._documents, self._prefixes, self._sizes):
            each.clear()

    def _check_ids(self, documents: Int64, prefixes: Int64) -> None:
        wrong = (prefixes < 0) | (prefixes >= self._recipe.vocabulary)
        if wrong.any():
            raise Refusal(
                f"tokenizer.vocabulary: document {documents[wrong.any(axis=1)][0]} has a token "
                f"outside the manifest's vocabulary of {self._recipe.vocabulary}"
            )

    def _fitted(self) -> RouterSpec:
        """Fit the router on the sample, count the sample, and drop it."""
        assert self._sample is not None
        fitted: Fitted = self._sample.fitted()
        self._counts.add(fitted.paths, self._sample.sizes)
        self._sample = None
        return fitted.spec
