"""Rules of this file: real sources, tokenizer and fit; what is golden was derived once, here.
The name of a local file decides splits, and a test's folder has another name every time: where a
test counts documents of such files, none is held out."""

import re
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from msgspec.structs import replace

from dipaco.node.data.sources.embedded import embedded_source
from dipaco.node.data.sources.files import pin_files
from dipaco.node.data.sources.interface import Access
from dipaco.node.data.tokenizers import load_tokenizer, pin_tokenizer
from dipaco.node.jobs.values import Progress
from dipaco.node.routing import documents
from dipaco.node.routing.derive import SourceDeps, derive
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.routing.assign import Router
from dipaco.protocol.routing.recipe import recipe_of, unfitted_spec
from dipaco.protocol.routing.seeds import Split
from dipaco.protocol.routing.spec import RouterSpec, spec_digest
from dipaco.protocol.routing.verdict import Derivation, Derived, SourceFailure
from dipaco.protocol.run.manifest import Manifest, Routing
from dipaco.protocol.run.source import Source
from dipaco.protocol.wire.digest import sha256
from tests.node.data.corpora import (
    no_progress,
    small_manifest,
    synthetic,
    texts,
    write_jsonl,
    write_parquet,
)
from tests.node.data.test_tokenizers import slow_pattern

GOLDEN = ["c6f14559cf4135e6", "d15df931d41473d2", "da74e7bbd6ba9a80"]
READ = {"documents": "fe5cb2bbbbd974d8", "sample": "c628f54ad748d9c7"}
COUNTED = {"documents": (338, 365, 597, 423), "sample": (53, 69, 109, 69)}


@pytest.fixture
def tools(tmp_path: Path) -> SourceDeps:
    return SourceDeps(BlobStore(tmp_path / "blobs"), Access(local_sources=True))


def spec_of(manifest: Manifest, tools: SourceDeps) -> RouterSpec:
    derived = derive(manifest, tools, no_progress)
    assert isinstance(derived, Derived) and derived.authenticated
    return derived.spec


def lasting(found: Derivation, words: str) -> bool:
    """Return whether the source failed for good, with such a reason."""
    return (
        isinstance(found, SourceFailure)
        and (found.stage, found.lasting) == ("source", True)
        and re.search(words, found.reason) is not None
    )


def with_routing(source: Source, **changes: object) -> Manifest:
    manifest = small_manifest(source)
    return replace(manifest, routing=replace(manifest.routing, **changes))


@pytest.mark.parametrize("counts", ["documents", "sample"])
def test_the_router_of_the_embedded_corpus_is_the_same_everywhere(
    counts: Literal["documents", "sample"], tools: SourceDeps
) -> None:
    routing = Routing(sample=300, featurizer="bag-sign-v1", dimension=256, counts=counts)
    spec = spec_of(small_manifest(embedded_source(), routing=routing), tools)
    assert spec.fit is not None
    assert (spec.kind, spec.fit.n_fit, spec.documents) == ("kmeans", 300, COUNTED[counts])
    stages = (spec.fit.tokens, spec.fit.features, spec.fit.centroids)
    assert [stage.hex()[:16] for stage in stages] == GOLDEN
    assert spec.fit.source_bytes.hex()[:16] == READ[counts]


def test_deriving_twice_gives_the_same_spec_whatever_the_batches(
    tools: SourceDeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = small_manifest(synthetic(200))
    first = spec_of(manifest, tools)
    monkeypatch.setattr(documents, "BATCH_BYTES", 1)
    assert spec_digest(spec_of(manifest, tools)) == spec_digest(first)


def test_rows_after_a_full_sample_decide_nothing(tools: SourceDeps) -> None:
    manifests = [with_routing(synthetic(documents), counts="sample") for documents in (120, 400)]
    specs = [spec_of(manifest, tools) for manifest in manifests]
    assert specs[0].fit is not None and specs[0].fit.n_fit == sum(specs[0].documents) == 64
    assert replace(specs[0], manifest=specs[1].manifest) == specs[1]


def test_counts_are_of_every_training_document_and_their_whole_length(tools: SourceDeps) -> None:
    manifest = with_routing(synthetic(400), overlap=2)
    spec, recipe = spec_of(manifest, tools), recipe_of(manifest)
    encoder, router = load_tokenizer(manifest.tokenizer, tools.blobs), Router(spec)
    documents, tokens = Counter[int](), Counter[int]()
    for index, text in enumerate(texts(400)):
        if recipe.split(index) is not Split.TRAINING:
            continue
        head, whole = encoder.encode([text.encode()[:256].decode(), text])
        for path in router.route(np.array([head[:32]]), np.array([index]), top=2)[0].tolist():
            documents[path] += 1
            tokens[path] += len(whole) + 1
    assert spec.documents == tuple(documents[path] for path in range(4))
    assert spec.tokens == tuple(tokens[path] for path in range(4))
    assert sum(spec.documents) > 600


def test_the_router_is_the_same_whatever_is_counted(tools: SourceDeps) -> None:
    """A source that ends within the sample is counted alike too, but for estimated lengths."""
    for rows in (60, 400):
        manifests = [with_routing(synthetic(rows), counts=c) for c in ("documents", "sample")]
        every, sample = (spec_of(manifest, tools) for manifest in manifests)
        assert every.centroids == sample.centroids and every.mean == sample.mean
        assert every.fit is not None and sample.fit is not None
        assert every.fit.tokens == sample.fit.tokens
        same = rows == 60
        assert (every.fit.source_bytes == sample.fit.source_bytes) == same
        assert (every.documents == sample.documents) == same


def test_one_changed_row_changes_the_first_stage(tools: SourceDeps, tmp_path: Path) -> None:
    corpus = texts(100)
    fits = []
    for name, text in (("a", corpus[0]), ("b", corpus[0] + ".")):
        path = write_parquet(tmp_path / f"{name}.parquet", [text, *corpus[1:]])
        manifest = with_routing(pin_files([path]), validation_bp=0, router_bp=0)
        fits.append(spec_of(manifest, tools).fit)
    assert fits[0] is not None and fits[1] is not None
    assert fits[0].source_bytes != fits[1].source_bytes


def test_a_sample_that_the_source_cannot_fill_is_fitted_on_what_there_is(tools: SourceDeps) -> None:
    spec = spec_of(with_routing(synthetic(100), sample=1000), tools)
    assert spec.fit is not None
    assert spec.kind == "kmeans" and 70 < spec.fit.n_fit < 100


def test_fewer_documents_than_paths_fall_back_to_round_robin_on_record(
    tools: SourceDeps, tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", texts(3))
    spec = spec_of(with_routing(pin_files([path]), validation_bp=0, router_bp=0), tools)
    assert spec.fit is not None
    assert (spec.kind, spec.fit.n_fit) == ("round_robin", 3)


def test_a_source_without_a_document_to_train_on_is_refused(
    tools: SourceDeps, tmp_path: Path
) -> None:
    path = tmp_path / "short.txt"
    path.write_text("too short\n" * 50)
    found = derive(small_manifest(pin_files([path])), tools, no_progress)
    assert lasting(found, r"source: none of its 50 documents can .*min_tokens = 40")


def test_a_manifest_that_asks_for_round_robin_needs_no_source(tools: SourceDeps) -> None:
    manifest = with_routing(replace(synthetic(400), revision="unknown"), kind="round_robin")
    assert spec_of(manifest, tools) == unfitted_spec(recipe_of(manifest))


def test_a_source_that_is_away_is_said_and_nobody_blamed(tools: SourceDeps, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", texts(100))
    manifest = small_manifest(pin_files([path]))
    denied = derive(manifest, SourceDeps(tools.blobs, Access(local_sources=False)), no_progress)
    assert lasting(denied, r"run\.local_sources")
    path.write_text(path.read_text().replace("a", "e", 1))
    changed = derive(manifest, tools, no_progress)
    assert isinstance(changed, SourceFailure)
    assert (changed.stage, changed.lasting) == ("source", False)
    assert "not the file that the run pins" in changed.reason


def test_a_tokenizer_that_is_away_is_said_before_a_row_is_read(tools: SourceDeps) -> None:
    manifest = small_manifest(replace(synthetic(400), revision="unknown"))
    other = replace(manifest.tokenizer, sha256=sha256(b"another"))
    derived = derive(replace(manifest, tokenizer=other), tools, no_progress)
    assert isinstance(derived, SourceFailure)
    assert (derived.stage, derived.lasting) == ("tokenizer", False)


def test_a_row_that_the_tokenizer_fails_on_is_named_and_final(
    tools: SourceDeps, tmp_path: Path
) -> None:
    column = ["good " * 50] * 12
    paths = [
        write_jsonl(tmp_path / "a.jsonl", column),
        write_jsonl(tmp_path / "b.jsonl", [*column, "a" * 40 + "b", *column]),
    ]
    (tmp_path / "t.json").write_bytes(slow_pattern())
    pinned, data = pin_tokenizer(tmp_path / "t.json")
    tools.blobs.write(data)
    routing = Routing(sample=20, dimension=64, validation_bp=0)
    manifest = small_manifest(pin_files(paths), tokenizer=pinned, routing=routing)
    found = derive(manifest, tools, no_progress)
    assert lasting(found, r"b\.jsonl: row 12: tokenizer: no ids for a text")


def test_pinned_content_that_is_no_corpus_is_refused(tools: SourceDeps, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", texts(50))
    source = pin_files([path])
    data = path.read_bytes()[:-50]
    path.write_bytes(data)
    cut = replace(source.files[0], size=len(data), sha256=sha256(data))
    found = derive(small_manifest(replace(source, files=(cut,))), tools, no_progress)
    assert lasting(found, r"source\.files: .*a\.parquet")
    intact = write_parquet(path, texts(50))
    named = replace(pin_files([intact]), text_field="body")
    assert lasting(derive(small_manifest(named), tools, no_progress), r"source\.text_field")


def test_progress_ends_with_the_whole_sample(tools: SourceDeps) -> None:
    told: list[Progress] = []
    derive(small_manifest(synthetic(200)), tools, told.append)
    assert (told[-1].stage, told[-1].done, told[-1].total) == ("read", 200, 200)
    derive(with_routing(synthetic(200), counts="sample"), tools, told.append)
    assert (told[-1].stage, told[-1].done, told[-1].total) == ("read", 64, 64)
