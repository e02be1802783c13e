"""Rules of this file: a fit is what the recipe says of the rows it was fed, nothing else."""

import hashlib
import struct
from collections import Counter

import numpy as np
import pytest
from msgspec import UNSET

from dipaco.protocol.errors import LocalProtocolError, Refusal
from dipaco.protocol.routing.assign import Router
from dipaco.protocol.routing.fit import RouterFit
from dipaco.protocol.routing.integers import Int32, Int64
from dipaco.protocol.routing.recipe import unfitted_spec
from dipaco.protocol.routing.scores import float64_product, int64_product
from dipaco.protocol.routing.seeds import Split
from dipaco.protocol.routing.spec import KMEANS, ROUND_ROBIN, misfit, spec_digest
from tests.protocol.routing import reference
from tests.protocol.routing.doubles import ToySource, fitted, recipe


@pytest.mark.parametrize("featurizer", ["bag-sign-v1", "idf-svd-v1"])
@pytest.mark.parametrize("capacity", [None, (11, 10)])
@pytest.mark.parametrize("overlap", [1, 2])
def test_fit_and_routing_agree_on_the_sample(
    capacity: tuple[int, int] | None, overlap: int, featurizer: str
) -> None:
    made = recipe(capacity=capacity, overlap=overlap, featurizer=featurizer)
    source = ToySource()
    source = ToySource()
    spec, documents, prefixes = fitted(made, source)
    paths = Router(spec).route(prefixes, np.array(documents), top=overlap)
    counts = Counter(paths.ravel().tolist())
    assert spec.kind == KMEANS and misfit(spec) is None
    assert spec.documents == tuple(counts[path] for path in range(4))
    assert spec.bias_array().any() == (capacity is not None)


@pytest.mark.parametrize("in_tokens", [False, True])
@pytest.mark.parametrize("featurizer", ["bag-sign-v1", "idf-svd-v1"])
def test_the_whole_fit_equals_the_oracle_s(featurizer: str, in_tokens: bool) -> None:
    made = recipe(capacity=(11, 10), capacity_in_tokens=in_tokens, featurizer=featurizer)
    source = ToySource()
    spec, documents, prefixes = fitted(made, source)
    y = [reference.raw(row, made.feat_seed, 32) for row in prefixes.tolist()]
    if spec.basis is not UNSET:
        idf, columns = reference.basis(prefixes.tolist(), made.feat_seed, 32)
        y = [reference.projected(row, idf, columns) for row in prefixes.tolist()]
        assert spec.basis.arrays(32).columns.T.tolist() == columns
        assert [*spec.basis.idf] == [*idf.values()]
    assert (spec.basis is UNSET) == (featurizer == "bag-sign-v1")
    mean = reference.mean(y)
    x = [reference.normalised(row, mean, 10) for row in y]
    runs = [reference.kmeans(x, 4, seed, scale=256, max_updates=20) for seed in made.restart_seeds]
    inertias = [run[2] for run in runs]
    restart = inertias.index(min(inertias))
    centroids, updates, inertia = runs[restart]
    rows = list(source)
    weights = [len(rows[i][1]) + 1 if in_tokens else 1 for i in documents]
    bias = reference.capacity_bias(x, centroids, inertia, (11, 10), 256, weights)
    assert spec.fit is not None
    assert (spec.fit.restart, spec.fit.updates) == (restart, updates)
    assert int.from_bytes(spec.fit.inertia, "little") == inertia
    assert spec.mean_array().tolist() == mean
    assert spec.centroid_array().tolist() == centroids
    assert spec.bias_array().tolist() == bias


def test_a_capacity_in_tokens_weighs_what_is_counted() -> None:
    """Long documents of one topic: their shard is within the ratio in documents, not in tokens."""
    found = {}
    for in_tokens in (False, True):
        made = recipe(capacity=(5, 4), capacity_in_tokens=in_tokens)
        fit = RouterFit(made)
        for row, (text, tokens) in enumerate(ToySource()):
            if fit.done:
                break
            fit.feed(row, text, tokens, 50 if max(tokens) >= 192 else 10)
        found[in_tokens] = fit.finish()
    largest = {unit: max(spec.tokens) * 4 / sum(spec.tokens) for unit, spec in found.items()}
    assert largest[False] > 1.25 >= largest[True]
    assert [found[unit].capacity for unit in (False, True)] == ["bias-v1", "bias-tokens-v1"]


def test_the_sample_is_the_first_eligible_training_documents() -> None:
    made, source = recipe(), ToySource()
    spec, documents, _ = fitted(made, source)
    rows = list(source)
    eligible = [
        i
        for i, (_, tokens) in enumerate(rows)
        if made.split(i) is Split.TRAINING and len(tokens) >= 14
    ]
    assert documents == eligible[:60]
    assert sum(spec.tokens) == sum(len(rows[i][1]) + 1 for i in documents)


def test_the_stage_digests_of_terms_and_basis_are_as_laid_down() -> None:
    spec, _, _ = fitted(recipe(featurizer="idf-svd-v1"), ToySource())
    assert spec.fit is not None and spec.basis is not UNSET
    terms, basis = struct.pack("<I", len(spec.basis.idf)), spec.basis
    parts = (struct.pack("<Q", 60), terms, basis.terms, basis.idf)
    assert spec.fit.idf == reference.h("dipaco/1/idf", *parts)
    shape = (terms, struct.pack("<I", 32))
    assert spec.fit.basis == reference.h("dipaco/1/basis", *shape, basis.columns)


def test_the_stage_digests_of_bytes_and_tokens_are_as_laid_down() -> None:
    source = ToySource()
    spec, documents, prefixes = fitted(recipe(), source)
    texts, tokens = hashlib.sha256(), hashlib.sha256()
    for text, _ in list(source)[: documents[-1] + 1]:  # up to the row that filled the sample
        texts.update(struct.pack("<Q", len(text)) + text)
    for document, prefix in zip(documents, prefixes.tolist(), strict=True):
        tokens.update(struct.pack("<Q6I", document, *prefix))
    n = struct.pack("<Q", 60)
    assert spec.fit is not None and spec.fit.n_fit == 60
    assert spec.fit.source_bytes == reference.h("dipaco/1/source-bytes", texts.digest())
    assert spec.fit.tokens == reference.h("dipaco/1/tokens", n, tokens.digest())
    shape = struct.pack("<II", 4, 32)
    assert spec.fit.centroids == reference.h(
        "dipaco/1/centroids", shape[:4], shape[4:], spec.centroids
    )


def test_a_source_that_ends_early_is_fitted_on_what_it_had() -> None:
    spec, documents, _ = fitted(recipe(), ToySource(rows=30))
    assert spec.kind == KMEANS
    assert spec.fit is not None and spec.fit.n_fit == len(documents) < 30


@pytest.mark.parametrize("featurizer", ["bag-sign-v1", "idf-svd-v1"])
@pytest.mark.parametrize("source", [ToySource(alike=True), ToySource(rows=3), ToySource(rows=0)])
def test_fewer_distinct_documents_than_paths_fall_back_and_say_so(
    source: ToySource, featurizer: str
) -> None:
    made = recipe(overlap=2, featurizer=featurizer)
    spec, documents, prefixes = fitted(made, source)
    assert spec.kind == ROUND_ROBIN and misfit(spec) is None
    assert spec.fit is not None and spec.fit.n_fit == len(documents)
    counts = Counter((document + k) % 4 for document in documents for k in (0, 1))
    assert spec.documents == tuple(counts[path] for path in range(4))
    routed = Router(spec).route(prefixes, np.array(documents, dtype=np.int64), top=2)
    assert Counter(routed.ravel().tolist()) == counts


def test_as_many_distinct_documents_as_paths_are_enough() -> None:
    made = recipe(paths=3)
    kinds = set()
    for rows in range(16):
        spec, documents, prefixes = fitted(made, ToySource(rows=rows))
        distinct = len({tuple(sorted(row)) for row in prefixes.tolist()})
        assert spec.kind == (KMEANS if distinct >= 3 else ROUND_ROBIN)
        if spec.kind == KMEANS and len(documents) == 3:
            assert spec.documents == (1, 1, 1)
        kinds.add(spec.kind)
    assert kinds == {KMEANS, ROUND_ROBIN}


def test_a_fit_does_not_depend_on_which_product_is_trusted() -> None:
    def wrong(x: Int32, c: Int32) -> Int64:
        return float64_product(x, c) + 1

    made, source = recipe(capacity=(11, 10)), ToySource()
    digests = {
        spec_digest(fitted(made, source, products=products)[0])
        for products in ((float64_product,), (int64_product,), (wrong, int64_product))
    }
    assert len(digests) == 1
    with pytest.raises(LocalProtocolError, match="disagree with plain integers"):
        fitted(made, source, products=(wrong,))


def test_texts_of_other_splits_count_but_their_tokens_do_not() -> None:
    made = recipe()
    held_out = next(i for i in range(80) if made.split(i) is not Split.TRAINING)
    fits = [RouterFit(made) for _ in range(3)]
    for row, (text, tokens) in enumerate(ToySource(rows=80)):
        other = row == held_out
        fits[0].feed(row, text, tokens, len(tokens))
        fits[1].feed(row, text, None if other else tokens, len(tokens))
        fits[2].feed(row, b"other" if other else text, tokens, len(tokens))
    first, second, third = (fit.finish() for fit in fits)
    assert first == second
    assert first.centroids == third.centroids
    assert first.fit is not None and third.fit is not None
    assert first.fit.source_bytes != third.fit.source_bytes


def test_rows_come_in_order_once_and_never_after_the_sample_is_full() -> None:
    made = recipe(sample=4, restarts=1)
    fit, rows = RouterFit(made), list(ToySource())
    with pytest.raises(ValueError, match="row 1 fed where 0 was due"):
        fit.feed(1, *rows[1], 1)
    while not fit.full:
        fit.feed(fit.rows, *rows[fit.rows], 1)
    with pytest.raises(ValueError, match="done: True"):
        fit.feed(fit.rows, *rows[fit.rows], 1)
    assert fit.sampled == 4
    fit.finish()
    with pytest.raises(ValueError, match="finished before"):
        fit.finish()


def test_a_training_document_without_tokens_is_a_bug() -> None:
    made = recipe()
    training = next(i for i in range(80) if made.split(i) is Split.TRAINING)
    fit = RouterFit(made)
    for row in range(training):
        fit.feed(row, b"", None, None)
    with pytest.raises(ValueError, match="without tokens"):
        fit.feed(training, b"", None, None)


@pytest.mark.parametrize("token", [256, -1])
def test_tokens_outside_the_vocabulary_refuse_the_manifest(token: int) -> None:
    fit = RouterFit(recipe(validation_bp=0, router_bp=0))
    fit.feed(0, b"text", [0] * 23, 23)
    fit.feed(1, b"text", [1, 2, token] + [0] * 20, 23)
    with pytest.raises(Refusal, match=r"vocabulary: document 1 has .* vocabulary of 256"):
        fit.finish()


def test_an_unfitted_router_weighs_all_paths_the_same() -> None:
    spec = unfitted_spec(recipe("round_robin", capacity=(5, 4)))
    assert misfit(spec) is None
    assert spec.documents == spec.tokens == (1, 1, 1, 1)
    assert spec.capacity == "bias-v1" and spec.fit is None
