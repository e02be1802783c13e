"""Rules of this file: routing is held against the oracle; malformed specs never route."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from dipaco.protocol.errors import Refusal
from dipaco.protocol.routing.assign import Router, round_robin
from dipaco.protocol.routing.recipe import unfitted_spec
from dipaco.protocol.routing.spec import RouterSpec, int32_bytes, int64_bytes
from tests.protocol.routing import reference
from tests.protocol.routing.doubles import ToySource, fitted, recipe

SPEC = fitted(recipe(capacity=(11, 10)), ToySource())[0]
BASIS = fitted(recipe(capacity=(11, 10), featurizer="idf-svd-v1"), ToySource())[0]


def expected_paths(spec: RouterSpec, prefix: list[int], top: int) -> list[int]:
    y = reference.raw(prefix, spec.feat_seed, spec.dimension)
    if spec.basis is not UNSET:
        basis = spec.basis.arrays(spec.dimension)
        idf = dict(zip(basis.terms.tolist(), basis.idf.tolist(), strict=True))
        y = reference.projected(prefix, idf, basis.columns.T.tolist())
    x = reference.normalised(y, spec.mean_array().tolist(), spec.norm_bits)
    centroids, bias = spec.centroid_array().tolist(), spec.bias_array().tolist()
    return reference.route(x, centroids, 1 << spec.scale_bits, bias, top)


PREFIX = st.lists(st.integers(0, 255), min_size=SPEC.prefix, max_size=SPEC.prefix)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(PREFIX, min_size=1, max_size=5), st.integers(1, 4), st.sampled_from([SPEC, BASIS]))
def test_routing_equals_the_oracle_s(prefixes: list[list[int]], top: int, spec: RouterSpec) -> None:
    documents = np.arange(len(prefixes))
    found = Router(spec).route(np.array(prefixes), documents, top=top)
    assert found.tolist() == [expected_paths(spec, prefix, top) for prefix in prefixes]


def test_equal_centroids_route_to_the_lowest_path() -> None:
    same = np.tile(SPEC.centroid_array()[2], (4, 1))
    spec = replace(SPEC, centroids=int32_bytes(same), bias=int64_bytes([0] * 4))
    found = Router(spec).route(np.zeros((3, SPEC.prefix), np.int64), np.arange(3), top=3)
    assert found.tolist() == [[0, 1, 2]] * 3


def test_round_robin_goes_by_document_index_alone() -> None:
    router = Router(unfitted_spec(recipe("round_robin")))
    documents = np.array([0, 5, 6, 10**9 + 3])
    prefixes = np.zeros((4, SPEC.prefix), dtype=np.int64)
    assert router.route(prefixes, documents).tolist() == [[0], [1], [2], [3]]
    assert round_robin(documents, paths=4, top=2).tolist() == [[0, 1], [1, 2], [2, 3], [3, 0]]


def test_no_documents_have_no_paths() -> None:
    none = np.empty((0, SPEC.prefix), dtype=np.int64)
    assert Router(SPEC).route(none, np.empty(0, dtype=np.int64)).shape == (0, 1)


@pytest.mark.parametrize(
    ("shape", "token", "top", "words"),
    [
        ((2, 5), 0, 1, "prefixes"),
        ((3, 6), 0, 1, "prefixes"),
        ((2, 6), 256, 1, "vocabulary of 256"),
        ((2, 6), -1, 1, "vocabulary of 256"),
        ((2, 6), 0, 0, "top 0"),
        ((2, 6), 0, 5, "top 5"),
    ],
)
@pytest.mark.parametrize("spec", [SPEC, unfitted_spec(recipe("round_robin"))])
def test_what_cannot_be_routed_is_refused(
    shape: tuple[int, int], token: int, top: int, words: str, spec: RouterSpec
) -> None:
    with pytest.raises(ValueError, match=words):
        Router(spec).route(np.full(shape, token), np.arange(2), top=top)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "format 2"),
        ({"kind": "product"}, "kind product"),
        ({"featurizer": "bag-sign-v2"}, "featurizer bag-sign-v2"),
        ({"capacity": "auction"}, "capacity auction"),
        ({"bias": b""}, "bias: 0 bytes where 32"),
        ({"paths": 5}, "5 counts are due"),
    ],
)
def test_a_spec_of_unknown_kind_or_shape_does_not_route(
    changes: dict[str, object], words: str
) -> None:
    with pytest.raises(Refusal, match=words):
        Router(replace(SPEC, **changes))
