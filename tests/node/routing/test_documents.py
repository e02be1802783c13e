"""Rules of this file: rows come from memory, tokens from the embedded tokenizer."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from dipaco.node.data.embedded_tokenizer import embedded_tokenizer
from dipaco.node.data.sources.interface import SourceRow
from dipaco.node.data.tokenizers import TextEncoder, load_tokenizer
from dipaco.node.routing import documents as module
from dipaco.node.routing.documents import Document, document_batches, token_count
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.errors import Refusal
from dipaco.protocol.routing.recipe import RouterRecipe, recipe_of
from dipaco.protocol.routing.seeds import Split, split_residue
from tests.node.data.corpora import small_manifest, synthetic, texts
from tests.node.data.test_tokenizers import pinned_from, slow_pattern

ALL = frozenset(Split)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return load_tokenizer(embedded_tokenizer(), BlobStore(tmp_path_factory.mktemp("blobs")))


def recipe(**changes: object) -> RouterRecipe:
    plain = small_manifest(synthetic(400))
    return recipe_of(replace(plain, routing=replace(plain.routing, **changes)))


def numbered(corpus: list[str]) -> list[SourceRow]:
    return [{"index": index, "text": text} for index, text in enumerate(corpus)]


def flat(batches: Iterator[list[Document]]) -> list[Document]:
    return [document for batch in batches for document in batch]


def test_every_row_becomes_one_document_in_order(encoder: TextEncoder) -> None:
    corpus = texts(300)
    found = flat(document_batches(numbered(corpus), recipe(), encoder, splits=ALL))
    assert [document.index for document in found] == list(range(300))
    assert [document.text for document in found] == [text.encode() for text in corpus]
    assert [document.tokens for document in found] == encoder.encode(corpus)


def test_how_rows_fall_into_batches_changes_no_document(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = numbered(texts(60))
    whole = flat(document_batches(rows, recipe(), encoder, splits=ALL))
    for size in (1, 3000):
        monkeypatch.setattr(module, "BATCH_BYTES", size)
        assert flat(document_batches(rows, recipe(), encoder, splits=ALL)) == whole


def test_the_split_hangs_on_source_and_index_alone(encoder: TextEncoder) -> None:
    rules = recipe()
    found = flat(document_batches(numbered(["x"] * 400), rules, encoder, splits=()))
    for document in found:
        residue = split_residue(rules.source, document.index)
        expected = (
            Split.VALIDATION
            if residue < 1000
            else Split.ROUTER
            if residue < 1500
            else Split.TRAINING
        )
        assert document.split is expected
    assert {document.split for document in found} == ALL


def test_only_wanted_splits_are_tokenised(encoder: TextEncoder) -> None:
    rows = numbered(texts(100))
    for document in flat(document_batches(rows, recipe(), encoder, splits={Split.TRAINING})):
        assert (document.tokens is not None) == (document.split is Split.TRAINING)
        assert document.eligible == (document.split is Split.TRAINING)


def test_a_document_takes_part_with_prefix_plus_eight_tokens(encoder: TextEncoder) -> None:
    rows = numbered(["a" + " a" * (tokens - 1) for tokens in (39, 40, 41)] + [""])
    found = flat(document_batches(rows, recipe(), encoder, splits=ALL))
    assert [len(document.head or []) for document in found] == [39, 40, 41, 0]
    assert [len(document.tokens or []) for document in found] == [0, 40, 41, 0]
    assert [document.eligible for document in found] == [False, True, True, False]


def test_text_is_cut_at_a_character_before_it_is_tokenised_and_kept_whole(
    encoder: TextEncoder,
) -> None:
    kept = "a " * 99 + "a"
    rules = recipe(max_bytes=200, prefix_bytes=100)
    for more in ("日", "日日" * 100):
        (found,) = flat(document_batches(numbered([kept + more]), rules, encoder, splits=ALL))
        assert found.text == (kept + more).encode()
        assert found.tokens == encoder.encode([kept])[0]
        assert found.head == encoder.encode([kept[:100]])[0]


def test_no_more_than_the_stated_tokens_of_a_document_are_kept(encoder: TextEncoder) -> None:
    corpus = ["a" + " a" * 50, "a" + " a" * 900]
    found = flat(document_batches(numbered(corpus), recipe(max_tokens=45), encoder, splits=ALL))
    assert [document.tokens for document in found] == [ids[:45] for ids in encoder.encode(corpus)]


def test_the_router_sees_the_first_bytes_and_nothing_of_what_follows(
    encoder: TextEncoder,
) -> None:
    """Not even where the cut goes through a word that the tokenizer knows whole."""
    kept = "the sea and the wind " * 24 + "then int"
    rules = recipe(prefix_bytes=len(kept))
    corpus = [kept, kept + "ernational affairs", kept + " " + "日" * 50]
    found = flat(document_batches(numbered(corpus), rules, encoder, splits=ALL))
    assert [document.head for document in found] == [encoder.encode([kept])[0]] * 3
    assert len({tuple(document.tokens or []) for document in found}) == 3


def test_a_document_without_enough_tokens_in_its_first_bytes_takes_no_part(
    encoder: TextEncoder,
) -> None:
    rules = recipe(prefix_bytes=100)
    corpus = ["international " * 40, "a " * 50]
    found = flat(document_batches(numbered(corpus), rules, encoder, splits=ALL))
    assert [document.eligible for document in found] == [False, True]
    assert [document.tokens is None for document in found] == [True, False]


def test_heads_alone_are_the_same_heads_and_give_estimated_counts(encoder: TextEncoder) -> None:
    rows, rules = numbered([*texts(60), "short", "a " * 3000]), recipe()
    whole = flat(document_batches(rows, rules, encoder, splits=ALL))
    heads = flat(document_batches(rows, rules, encoder, splits=ALL, heads_only=True))
    assert [each.head for each in heads] == [each.head for each in whole]
    assert all(each.tokens is None for each in heads)
    for full, head in zip(whole, heads, strict=True):
        exact, guess = token_count(full, rules.params), token_count(head, rules.params)
        if not full.eligible:
            assert exact is guess is None
            continue
        assert full.tokens is not None and exact == len(full.tokens) and guess is not None
        assert abs(guess - exact) <= (0 if len(full.text) <= 256 else exact // 4)


def test_no_more_than_a_batch_is_read_ahead(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 5000)
    taken = 0

    def endless() -> Iterator[SourceRow]:
        nonlocal taken
        while True:
            taken += 1
            yield {"index": taken - 1, "text": "word " * (taken % 7) * 100}

    seen = 0
    for batch in document_batches(endless(), recipe(), encoder, splits=ALL):
        seen += len(batch)
        assert seen == taken
        assert sum(len(document.text) for document in batch[:-1]) < 5000
        if seen > 1000:
            break


def test_many_short_rows_are_bounded_by_their_number(encoder: TextEncoder) -> None:
    sizes = map(len, document_batches(numbered([""] * 600), recipe(), encoder, splits=ALL))
    assert list(sizes) == [256, 256, 88]


def test_heads_are_made_of_no_more_rows_than_are_due_but_a_few_at_a_time(
    encoder: TextEncoder,
) -> None:
    left = iter((100, 40, 3, 3))
    batches = document_batches(
        numbered(texts(240)),
        recipe(),
        encoder,
        splits=ALL,
        heads_only=True,
        due=lambda: next(left, 3000),
    )
    assert [len(batch) for batch in batches] == [100, 40, 32, 32, 36]


@pytest.mark.parametrize("start", ["", "good " * 100], ids=["in its head", "behind its head"])
def test_a_row_that_the_tokenizer_fails_on_is_named(tmp_path: Path, start: str) -> None:
    bad = start + "a" * 40 + "b"
    rows = numbered(["good " * 100, "good " * 100, bad])
    with pytest.raises(Refusal, match=r"rows\.txt: row 2: tokenizer: no ids for a text.*: Onig"):
        flat(
            document_batches(
                rows,
                recipe(),
                pinned_from(tmp_path, slow_pattern()),
                splits=ALL,
                place=lambda index: f"rows.txt: row {index}",
            )
        )
