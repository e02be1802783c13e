"""The document rule: from rows of the source to documents with a split and token ids.

One place for fitting, sharding and evaluation alike. A row's text is cut to the manifest's
`max_bytes` at a character boundary and tokenised whole; a document takes part if it then has
`min_tokens`. Batches are bounded by bytes, so that memory does not depend on the corpus, nor on
how large its documents are. Source: docs/method.md, 2.4 and 4.3.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from dipaco.node.data.sources import SourceRow
from dipaco.node.data.tokenizers import TextEncoder
from dipaco.protocol.routing.documents import cut, is_eligible
from dipaco.protocol.routing.recipe import RouterRecipe
from dipaco.protocol.routing.seeds import Split

BATCH_BYTES = 128 << 10  # of text tokenised at once; a batch has at least one document
BATCH_DOCUMENTS = 256


@dataclass(frozen=True, slots=True)
class Document:
    """One row of the source."""

    index: int
    """Counted over every row of the source."""
    split: Split
    text: bytes
    """All of the row's text, as UTF-8."""
    tokens: list[int] | None
    """Ids of the text after the cut; None where nobody asked for this split's."""
    eligible: bool
    """Whether it has tokens, and enough of them to take part."""


@dataclass(frozen=True, slots=True)
class _Row:
    index: int
    split: Split
    text: bytes


def document_batches(
    rows: Iterable[SourceRow],
    recipe: RouterRecipe,
    encoder: TextEncoder,
    *,
    splits: Collection[Split],
) -> Iterator[list[Document]]:
    """Yield every row in order as a document, a batch at a time.

    rows     as `sources.rows` gives them.
    splits   documents of these splits get tokens; the others are not tokenised.
    """
    batch: list[_Row] = []
    waiting = 0
    for row in rows:
        index = row["index"]
        text = row["text"].encode("utf-8")
        batch.append(_Row(index, recipe.split(index), text))
        waiting += len(text)
        if waiting >= BATCH_BYTES or len(batch) == BATCH_DOCUMENTS:
            yield _tokenised(batch, recipe, encoder, splits)
            batch, waiting = [], 0
    if batch:
        yield _tokenised(batch, recipe, encoder, splits)


def _tokenised(
    batch: list[_Row], recipe: RouterRecipe, encoder: TextEncoder, splits: Collection[Split]
) -> list[Document]:
    params = recipe.params
    texts = [
        cut(row.text, params.max_bytes).decode("utf-8") for row in batch if row.split in splits
    ]
    ids = iter(encoder.encode(texts))
    documents = []
    for row in batch:
        tokens = next(ids) if row.split in splits else None
        eligible = tokens is not None and is_eligible(tokens, params.min_tokens)
        documents.append(Document(row.index, row.split, row.text, tokens, eligible))
    return documents
