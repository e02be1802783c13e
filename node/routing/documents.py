"""The document rule: turns rows of the source into documents with a split and token ids.

Fitting, sharding and evaluation all use it. A document's head alone decides its path, and whether
it takes part at all: the first `prefix_bytes` bytes of its text, tokenised by themselves. Training
uses the whole text, cut to `max_bytes` at a character boundary, tokenised, and cut to `max_tokens`.
Batches are bounded by bytes, so memory depends neither on the size of the corpus nor on that of its
documents. Source: docs/method.md, 2.4 and 4.3.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from dipaco.node.data.sources.interface import SourceRow
from dipaco.node.data.tokenizers import BadText, TextEncoder
from dipaco.protocol.errors import Refusal
from dipaco.protocol.routing.documents import cut, estimated_tokens, is_eligible
from dipaco.protocol.routing.params import RouterParams
from dipaco.protocol.routing.recipe import RouterRecipe
from dipaco.protocol.routing.seeds import Split

BATCH_BYTES = 128 << 10  # of text tokenised at once; a batch has at least one document
BATCH_DOCUMENTS = 256
HEADS_BYTES = 2 << 20  # of text in a batch of which the heads alone are tokenised
HEADS_DOCUMENTS = 1024
FEWEST_DOCUMENTS = 32  # of a batch, even if fewer are due: most may be too short to take part


@dataclass(frozen=True, slots=True)
class Document:
    """One row of the source."""

    index: int
    """Counted over every row of the source."""
    split: Split
    text: bytes
    """All of the row's text, as UTF-8."""
    head: list[int] | None
    """Ids of the first `prefix_bytes` bytes; None for a split that was not asked for."""
    tokens: list[int] | None
    """Ids of the whole text after the cuts; None unless asked for and eligible."""
    eligible: bool
    """Whether the document has a head with enough ids to take part."""


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
    heads_only: bool = False,
    due: Callable[[], int] = lambda: HEADS_DOCUMENTS,
    place: Callable[[int], str] = "row {}".format,
) -> Iterator[list[Document]]:
    """Yield every row in order as a document, a batch at a time.

    rows         the rows of `sources.dispatch.rows`.
    splits       documents of these splits get a head, and tokens if they are eligible.
    heads_only   make no tokens.
    due          returns how many more documents the caller may use; it is called before each batch
                 and bounds it, since documents beyond that number are tokenised in vain.
    place        names the row of an index in an error.

    Raises Refusal for a row that the run's tokenizer fails on.
    """
    tokenise = _Tokenise(recipe.params, encoder, splits, heads_only, place)
    most_bytes, most_documents = (
        (HEADS_BYTES, HEADS_DOCUMENTS) if heads_only else (BATCH_BYTES, BATCH_DOCUMENTS)
    )
    size = _batch_size(most_documents, due())
    batch: list[_Row] = []
    waiting = 0
    for row in rows:
        index = row["index"]
        text = row["text"].encode("utf-8")
        batch.append(_Row(index, recipe.split(index), text))
        waiting += len(text)
        if waiting >= most_bytes or len(batch) == size:
            yield tokenise(batch)
            size = _batch_size(most_documents, due())
            batch, waiting = [], 0
    if batch:
        yield tokenise(batch)


def _batch_size(most: int, due: int) -> int:
    return min(most, max(due, FEWEST_DOCUMENTS))


def token_count(document: Document, params: RouterParams) -> int | None:
    """Return the number of a document's ids: of its tokens, else estimated from its head.

    None for a document that takes no part. Source: docs/method.md, 4.7.
    """
    if not document.eligible:
        return None
    if document.tokens is not None:
        return len(document.tokens)
    assert document.head is not None
    head = len(cut(document.text, params.prefix_bytes))
    whole = len(cut(document.text, params.max_bytes))
    return estimated_tokens(len(document.head), head, whole, params.max_tokens)


@dataclass(frozen=True)
class _Tokenise:
    """Turns a batch of rows into documents."""

    params: RouterParams
    encoder: TextEncoder
    splits: Collection[Split]
    heads_only: bool
    place: Callable[[int], str]

    def __call__(self, batch: list[_Row]) -> list[Document]:
        wanted = [row for row in batch if row.split in self.splits]
        heads = self._ids(wanted, self.params.prefix_bytes)
        eligible = {i for i, head in heads.items() if is_eligible(head, self.params.min_tokens)}
        chosen = [row for row in wanted if row.index in eligible]
        tokens = {} if self.heads_only else self._whole(chosen, heads)
        return [
            Document(
                index=row.index,
                split=row.split,
                text=row.text,
                head=heads.get(row.index),
                tokens=tokens.get(row.index),
                eligible=row.index in eligible,
            )
            for row in batch
        ]

    def _whole(self, rows: list[_Row], heads: dict[int, list[int]]) -> dict[int, list[int]]:
        """Return the ids of the cut texts, by index; a text as short as its head has the head's."""
        longer = [row for row in rows if len(row.text) > self.params.prefix_bytes]
        tokens = {row.index: heads[row.index] for row in rows}
        tokens |= self._ids(longer, self.params.max_bytes)
        return {index: ids[: self.params.max_tokens] for index, ids in tokens.items()}

    def _ids(self, rows: list[_Row], most: int) -> dict[int, list[int]]:
        """Return the ids of the first `most` bytes of each row, by index."""
        try:
            found = self.encoder.encode([cut(row.text, most).decode("utf-8") for row in rows])
        except BadText as error:
            raise Refusal(f"{self.place(rows[error.place].index)}: {error}") from error
        return dict(zip((row.index for row in rows), found, strict=True))
