"""Rules of this file: a recipe follows from the manifest, field by field."""

import cbor2
from msgspec.structs import replace

from dipaco.protocol.routing.params import RouterParams
from dipaco.protocol.routing.recipe import recipe_of
from dipaco.protocol.routing.seeds import Split, source_digest
from dipaco.protocol.run.manifest import Capacity, Routing, run_id
from dipaco.protocol.run.source import Source, SourceFile
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import Digest, sha256
from tests import values

ROUTING = Routing(
    featurizer="bag-sign-v1",
    sample=128,
    prefix=16,
    dimension=64,
    norm_bits=9,
    scale_bits=7,
    max_updates=33,
    restarts=5,
    prefix_bytes=300,
    max_bytes=4096,
    min_tokens=30,
    max_tokens=777,
    validation_bp=700,
    router_bp=50,
    overlap=2,
    capacity=Capacity(num=3, den=2, unit="tokens"),
    counts="sample",
    beacon=b"beacon",
)


def test_every_number_of_the_manifest_reaches_the_recipe() -> None:
    manifest = values.manifest(routing=ROUTING)
    recipe = recipe_of(manifest, epoch=3)
    assert recipe.params == RouterParams(
        paths=4,
        sample=128,
        prefix=16,
        dimension=64,
        norm_bits=9,
        scale_bits=7,
        max_updates=33,
        restarts=5,
        prefix_bytes=300,
        max_bytes=4096,
        min_tokens=30,
        max_tokens=777,
        validation_bp=700,
        router_bp=50,
        overlap=2,
        capacity=(3, 2),
        capacity_in_tokens=True,
        epoch=3,
    )
    assert (recipe.kind, recipe.params.featurizer, recipe.beacon) == (
        "kmeans",
        "bag-sign-v1",
        b"beacon",
    )
    assert (recipe.counts, recipe.documents) == ("sample", manifest.source.documents)
    assert (recipe.manifest, recipe.vocabulary) == (run_id(manifest), 4096)
    assert recipe.tokenizer == manifest.tokenizer.sha256


def test_a_capacity_without_a_unit_is_encoded_as_before_and_measures_documents() -> None:
    capacity = Capacity(num=3, den=2)
    recipe = recipe_of(values.manifest(routing=replace(ROUTING, capacity=capacity)))
    assert not recipe.params.capacity_in_tokens
    assert encode(capacity) == cbor2.dumps({"type": "Capacity", "num": 3, "den": 2}, canonical=True)


def test_the_source_is_pinned_by_its_files() -> None:
    files = (
        SourceFile(name="a", size=5, sha256=sha256(b"a"), rows=4),
        SourceFile(name="b", size=6, sha256=sha256(b"b"), rows=5),
    )
    source = Source(kind="files", revision="r", files=files, documents=9, window=9)
    pinned = source_digest("files", "r", [("a", 5, sha256(b"a")), ("b", 6, sha256(b"b"))])
    assert recipe_of(values.manifest(source=source)).source == pinned


def test_free_text_and_initial_seed_do_not_move_the_router() -> None:
    plain, renamed = values.manifest(), values.manifest(name="other", seed=7)
    first, second = recipe_of(plain), recipe_of(renamed)
    assert first.manifest != second.manifest
    assert (first.root, first.feat_seed) == (second.root, second.feat_seed)
    assert first.restart_seeds == second.restart_seeds
    assert len(set(first.restart_seeds)) == plain.routing.restarts


def test_an_epoch_moves_the_restarts_but_not_the_features() -> None:
    first, second = recipe_of(values.manifest()), recipe_of(values.manifest(), epoch=1)
    assert first.feat_seed == second.feat_seed
    assert not set(first.restart_seeds) & set(second.restart_seeds)


def test_documents_split_by_the_manifest_s_shares() -> None:
    recipe = recipe_of(values.manifest(routing=replace(ROUTING, validation_bp=5000)))
    splits = [recipe.split(document) for document in range(200)]
    assert 70 < splits.count(Split.VALIDATION) < 130
    assert isinstance(recipe.root, bytes) and recipe.root != Digest(bytes(32))
