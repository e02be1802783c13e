"""Rules of this file: class means against fractions; the next epoch's fit from labels alone."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest

from dipaco.protocol.routing.features import normalise, raw_features
from dipaco.protocol.routing.featurize import featurizer_of
from dipaco.protocol.routing.integers import rdiv
from dipaco.protocol.routing.labels import NO_LABEL
from dipaco.protocol.routing.reshard import MIN_LABELLED, ClassMeans, Resharded
from dipaco.protocol.routing.spec import CLASS_MEANS, ROUND_ROBIN, int32_bytes, misfit
from dipaco.protocol.wire.digest import sha256
from tests.protocol.routing.doubles import ToySource, fitted, recipe

RECIPE = recipe(capacity=(11, 10))
FIRST, _, PREFIXES = fitted(RECIPE, ToySource())
LABELS = np.array([i % 5 if i % 5 < 4 else NO_LABEL for i in range(len(PREFIXES))], dtype=np.uint16)


def means(labels: np.ndarray, *parts: slice) -> ClassMeans:
    total = ClassMeans(FIRST)
    for part in parts or (slice(None),):
        one = ClassMeans(FIRST)
        one.add(PREFIXES[part], labels[part])
        total.absorb(one)
    return total


def test_a_centroid_is_the_mean_of_what_is_labelled_rounded_as_rdiv_does() -> None:
    y = raw_features(PREFIXES, FIRST.feat_seed, FIRST.dimension)
    x = normalise(y, FIRST.mean_array(), FIRST.norm_bits).tolist()
    expected = []
    for path in range(4):
        rows = [x[i] for i in range(len(x)) if LABELS[i] == path]
        assert len(rows) >= MIN_LABELLED
        half = Fraction(1, 2)
        columns = zip(*rows, strict=True)
        expected.append([floor(Fraction(256 * sum(c), len(rows)) + half) for c in columns])
    assert means(LABELS).centroids().tolist() == expected


def test_the_order_and_the_parts_in_which_documents_come_change_nothing() -> None:
    whole = means(LABELS).centroids()
    parted = means(LABELS, slice(40, None), slice(0, 7), slice(7, 40)).centroids()
    assert (parted == whole).all()


def test_a_path_with_fewer_than_eight_labels_keeps_its_centroid() -> None:
    labels = np.full(len(PREFIXES), NO_LABEL, dtype=np.uint16)
    labels[: MIN_LABELLED - 1], labels[20 : 20 + MIN_LABELLED] = 2, 3
    found, old = means(labels).centroids(), FIRST.centroid_array()
    assert (found[:3] == old[:3]).all() and (found[3] != old[3]).any()


def resharded(labels: np.ndarray, rows: int = 0) -> Resharded:
    return Resharded(sha256(labels.tobytes()), means(labels).centroids(), rows)


def test_the_next_epoch_has_terms_and_basis_of_the_first() -> None:
    asked = recipe(featurizer="idf-svd-v1")
    first, _, prefixes = fitted(asked, ToySource())
    means = ClassMeans(first)
    means.add(prefixes, LABELS)
    later = Resharded(sha256(b"labels"), means.centroids(), rows=0)
    second = fitted(recipe(featurizer="idf-svd-v1", epoch=1), ToySource(), resharded=later)[0]
    assert second.kind == CLASS_MEANS and misfit(second) is None
    assert (second.basis, second.mean) == (first.basis, first.mean)
    assert second.centroids == int32_bytes(later.centroids) != first.centroids
    y = featurizer_of(first)(prefixes[LABELS == 1])
    x = normalise(y, first.mean_array(), first.norm_bits).tolist()
    expected = [rdiv(256 * sum(column), len(x)) for column in zip(*x, strict=True)]
    assert means.centroids()[1].tolist() == expected


@pytest.mark.parametrize("capacity", [None, (11, 10)])
def test_the_next_epoch_has_the_features_of_the_first_and_other_centroids(
    capacity: tuple[int, int] | None,
) -> None:
    asked = recipe(capacity=capacity)
    first = fitted(asked, ToySource())[0]
    second = fitted(asked, ToySource(), resharded=resharded(LABELS))[0]
    assert first.fit and second.fit and misfit(second) is None
    assert second.kind == CLASS_MEANS and second.fit.labels == sha256(LABELS.tobytes())
    assert (second.fit.tokens, second.fit.features) == (first.fit.tokens, first.fit.features)
    assert second.centroids == means(LABELS).centroids().astype("<i4").tobytes()
    assert sum(second.documents) == sum(first.documents)
    assert (second.bias != bytes(32)) == (capacity is not None)
    assert (second.fit.restart, second.fit.updates) == (0, 0)


def test_rows_that_were_read_for_labels_are_part_of_what_the_spec_says_it_read() -> None:
    short = fitted(RECIPE, ToySource(), resharded=resharded(LABELS))[0]
    long = fitted(RECIPE, ToySource(), resharded=resharded(LABELS, rows=300))[0]
    assert short.fit and long.fit
    assert short.fit.source_bytes != long.fit.source_bytes
    assert short.centroids == long.centroids and short.documents == long.documents


def test_a_sample_that_falls_back_to_round_robin_does_so_again() -> None:
    spec = fitted(RECIPE, ToySource(alike=True), resharded=resharded(LABELS))[0]
    assert spec.kind == ROUND_ROBIN and spec.fit and spec.fit.labels is not None
