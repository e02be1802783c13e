"""Rules of this file: lengths are refused before anything of that length exists; every field
counts in the digest; what `misfit` lets through can route."""

import tracemalloc
from contextlib import suppress
from typing import Any

import cbor2
import msgspec
import numpy as np
import pytest
from msgspec import UNSET
from msgspec.structs import replace
from numpy.typing import NDArray

from dipaco.protocol.errors import Refusal, RemoteProtocolError
from dipaco.protocol.routing.assign import Router
from dipaco.protocol.routing.params import MAX_DIMENSION, MAX_TERMS, max_projection
from dipaco.protocol.routing.recipe import unfitted_spec
from dipaco.protocol.routing.spec import (
    Fit,
    RouterSpec,
    SpecBasis,
    int32_bytes,
    int64_bytes,
    misfit,
    spec_digest,
)
from dipaco.protocol.run.exactness import MAX_COLUMNS
from dipaco.protocol.run.model_shape import MAX_PATHS
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.digest import tagged
from dipaco.protocol.wire.signed import MAX_BODY
from tests.protocol.routing.doubles import ToySource, fitted, recipe
from tests.protocol.routing.mutations import mutations

KMEANS_SPEC = fitted(recipe(capacity=(11, 10)), ToySource())[0]
FALLBACK = fitted(recipe(), ToySource(alike=True))[0]
BARE = unfitted_spec(recipe("round_robin"))
BASIS_SPEC = fitted(recipe(featurizer="idf-svd-v1"), ToySource())[0]
SPECS = {"kmeans": KMEANS_SPEC, "basis": BASIS_SPEC, "fallback": FALLBACK, "bare": BARE}


def plain(spec: RouterSpec) -> dict[str, Any]:
    """Return what a peer would send, as maps that can hold anything."""
    built: dict[str, Any] = msgspec.to_builtins(spec, builtin_types=(bytes,))
    return built


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_spec_survives_the_wire(spec: RouterSpec) -> None:
    assert decode(encode(spec), RouterSpec, limit=MAX_BODY) == spec
    assert spec_digest(spec) == tagged("dipaco/1/spec", encode(spec))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_field_counts_in_the_digest(spec: RouterSpec) -> None:
    donor = KMEANS_SPEC if spec is not KMEANS_SPEC else FALLBACK
    changed = [*mutations(spec, donor)]
    different = {encode(value): spec_digest(value) for _, value in changed}
    assert len({*different.values(), spec_digest(spec)}) == len(different) + 1 > 50


def test_the_mutations_reach_every_field_of_spec_and_fit() -> None:
    reached = {where for where, _ in mutations(KMEANS_SPEC)}
    assert {field.name for field in msgspec.structs.fields(RouterSpec)} <= reached
    assert {f"fit.{field.name}" for field in msgspec.structs.fields(Fit)} <= reached


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 0),
        ("kind", ""),
        ("kind", "Not a kind"),
        ("featurizer", "x" * 33),
        ("manifest", bytes(31)),
        ("epoch", -1),
        ("epoch", 1 << 32),
        ("paths", 0),
        ("paths", 10**9),
        ("vocabulary", 1 << 40),
        ("prefix", 10**9),
        ("dimension", 10**9),
        ("dimension", 12),
        ("norm_bits", 60),
        ("scale_bits", 60),
        ("feat_seed", bytes(33)),
        ("mean", bytes(4 * MAX_DIMENSION + 1)),
        ("centroids", bytes(4 * MAX_DIMENSION * MAX_PATHS + 1)),
        ("bias", bytes(8 * MAX_PATHS + 1)),
        ("documents", (1,) * (MAX_PATHS + 1)),
        ("documents", (-1,) * 4),
        ("documents", ((1 << 40) + 1,) * 4),
        ("tokens", (1 << 63,) * 4),
        ("tokens", (1 << 80,) * 4),
    ],
)
def test_a_field_out_of_its_bounds_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        replace(KMEANS_SPEC, **{field: value})
    data = cbor2.dumps(plain(KMEANS_SPEC) | {field: value}, canonical=True)
    with pytest.raises(RemoteProtocolError, match=f"{field}|bytes where|more than|a tag"):
        decode(data, RouterSpec, limit=MAX_BODY)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_fit", (1 << 20) + 1),
        ("n_fit", -1),
        ("restart", 64),
        ("updates", 1025),
        ("inertia", bytes(15)),
        ("inertia", bytes(17)),
        ("tokens", bytes(31)),
    ],
)
def test_a_field_of_the_fit_out_of_its_bounds_is_refused_by_name(field: str, value: object) -> None:
    assert KMEANS_SPEC.fit is not None
    with pytest.raises(ValueError, match=field):
        replace(KMEANS_SPEC.fit, **{field: value})


def test_a_claim_of_a_thousand_million_dimensions_allocates_nothing() -> None:
    claims = ({"dimension": 10**9}, {"paths": 10**9}, {"dimension": 256, "paths": 1024})
    tracemalloc.start()
    for claim in claims:
        data = cbor2.dumps(plain(KMEANS_SPEC) | claim, canonical=True)
        with suppress(RemoteProtocolError):
            assert misfit(decode(data, RouterSpec, limit=MAX_BODY)) is not None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_the_largest_spec_with_a_basis_fits_the_envelope_and_has_no_misfit() -> None:
    assert BASIS_SPEC.fit is not None
    columns = np.full((MAX_TERMS, MAX_COLUMNS), 256, dtype=np.int16)  # 2^14 long
    largest = replace(
        BASIS_SPEC,
        paths=MAX_PATHS,
        dimension=MAX_COLUMNS,
        vocabulary=MAX_TERMS,
        basis=based(np.arange(MAX_TERMS), bytes([9]) * MAX_TERMS, columns),
        mean=bytes(4 * MAX_COLUMNS),
        centroids=bytes(4 * MAX_COLUMNS * MAX_PATHS),
        bias=bytes(8 * MAX_PATHS),
        fit=replace(BASIS_SPEC.fit, n_fit=1 << 20),
        documents=(1 << 23,) * MAX_PATHS,
        tokens=(1 << 48,) * MAX_PATHS,
    )
    assert misfit(largest) is None
    assert len(encode(largest)) < MAX_BODY
    assert decode(encode(largest), RouterSpec, limit=MAX_BODY) == largest


def based(terms: NDArray[np.integer], idf: bytes, columns: NDArray[np.integer]) -> SpecBasis:
    """Return a basis, which may be any."""
    return SpecBasis(
        terms=terms.astype("<i4").tobytes(), idf=idf, columns=columns.astype("<i2").tobytes()
    )


ONE = np.full((3, 32), 9000)
BASIS_OF_THREE: dict[str, Any] = {
    "terms": np.array([0, 7, 255]),
    "idf": bytes([1, 2, 3]),
    "columns": ONE,
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"idf": bytes([1, 3, 3])}, None),  # of 60 documents: 6 bits less 3
        ({"idf": bytes([1, 4, 3])}, "basis.idf: not from 1 to 3"),
        ({"idf": bytes([1, 0, 3])}, "basis.idf: not from 1 to 3"),
        ({"idf": bytes([1, 2])}, "basis.terms: 12 bytes where 8 are due for 2 terms"),
        ({"idf": b"", "terms": ONE[:0], "columns": ONE[:0]}, "due for 0 terms"),
        ({"columns": ONE[:2]}, "basis.columns: 128 bytes where 192 are due"),
        ({"columns": ONE[:, :-1]}, "basis.columns: 186 bytes where 192 are due"),
        ({"terms": np.array([0, 7, 256])}, "basis.terms: not ascending from 0 to below 256"),
        ({"terms": np.array([-1, 7, 255])}, "basis.terms: not ascending"),
        ({"terms": np.array([0, 7, 7])}, "basis.terms: not ascending"),
        ({"terms": np.array([7, 0, 255])}, "basis.terms: not ascending"),
        ({"columns": np.where(np.eye(3, 32) > 0, 16384, 0)}, None),
        ({"columns": np.where(np.eye(3, 32) > 0, 16385, 0)}, "basis.columns: beyond 16384"),
        ({"columns": np.where(np.eye(3, 32) > 0, -32768, 0)}, "basis.columns: beyond 16384"),
        ({"columns": np.full((3, 32), 9750)}, None),
        ({"columns": np.full((3, 32), 9751)}, "the squares of one 285212672"),
    ],
)
def test_a_basis_out_of_range_is_found_before_anything_is_built(
    changes: dict[str, Any], words: str | None
) -> None:
    spec = replace(BASIS_SPEC, basis=based(**BASIS_OF_THREE | changes), mean=bytes(128))
    found = misfit(spec)
    assert found is None if words is None else words in (found or "")
    if words is not None:
        with pytest.raises(Refusal, match="malformed spec"):
            Router(spec)


@pytest.mark.parametrize(
    ("spec", "changes", "words"),
    [
        (BASIS_SPEC, {"basis": UNSET}, "basis: due with featurizer idf-svd-v1"),
        (KMEANS_SPEC, {"basis": BASIS_SPEC.basis}, "basis: due with featurizer idf-svd-v1"),
        (KMEANS_SPEC, {"fit": BASIS_SPEC.fit}, "fit.idf, fit.basis: due with featurizer"),
        (BASIS_SPEC, {"fit": KMEANS_SPEC.fit}, "fit.idf, fit.basis: due with featurizer"),
        (BASIS_SPEC, {"dimension": 72}, "dimension: above 64"),
        (FALLBACK, {"basis": BASIS_SPEC.basis}, "a round_robin router has none"),
    ],
)
def test_a_basis_is_due_with_its_featurizer_alone(
    spec: RouterSpec, changes: dict[str, Any], words: str
) -> None:
    changed = replace(spec, **changes)
    if "dimension" in changes:
        changed = replace(changed, mean=bytes(4 * 72), centroids=bytes(4 * 72 * 4))
    assert words in (misfit(changed) or "")


@pytest.mark.parametrize("name", ["idf", "basis"])
def test_one_digest_of_a_basis_without_the_other_is_found(name: str) -> None:
    assert BASIS_SPEC.fit is not None
    spec = replace(BASIS_SPEC, fit=replace(BASIS_SPEC.fit, **{name: UNSET}))
    assert "fit.idf, fit.basis" in (misfit(spec) or "")


def test_a_mean_that_no_basis_can_give_is_found() -> None:
    most = max_projection(6, 60)
    mean = np.full(32, most, dtype=np.int32)
    assert misfit(replace(BASIS_SPEC, mean=int32_bytes(mean))) is None
    assert f"mean: beyond {most}" in (misfit(replace(BASIS_SPEC, mean=int32_bytes(mean + 1))) or "")


def test_unknown_fields_are_refused() -> None:
    data = cbor2.dumps(plain(KMEANS_SPEC) | {"shards": 1}, canonical=True)
    with pytest.raises(RemoteProtocolError, match="shards"):
        decode(data, RouterSpec, limit=MAX_BODY)


def test_the_largest_spec_fits_the_envelope() -> None:
    assert KMEANS_SPEC.fit is not None
    largest = replace(
        KMEANS_SPEC,
        paths=MAX_PATHS,
        dimension=MAX_DIMENSION,
        mean=bytes(4 * MAX_DIMENSION),
        centroids=bytes(4 * MAX_DIMENSION * MAX_PATHS),
        bias=bytes(8 * MAX_PATHS),
        fit=replace(KMEANS_SPEC.fit, n_fit=1 << 20),
        documents=(1 << 23,) * MAX_PATHS,
        tokens=(1 << 48,) * MAX_PATHS,
    )
    assert misfit(largest) is None
    assert len(encode(largest)) < MAX_BODY


def test_arrays_come_back_as_they_went_in() -> None:
    mean = np.array([-480, 480] * 16, dtype=np.int32)
    spec = replace(KMEANS_SPEC, mean=int32_bytes(mean), bias=int64_bytes([0, 1, 2, 1 << 40]))
    assert spec.mean[:4] == (-480).to_bytes(4, "little", signed=True)
    assert spec.mean_array().tolist() == mean.tolist()
    assert spec.bias_array().tolist() == [0, 1, 2, 1 << 40]
    assert spec.centroid_array().shape == (4, 32)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_honest_specs_fit_themselves(spec: RouterSpec) -> None:
    assert misfit(spec) is None


EXTREME = np.full((4, 32), 1 << 18, dtype=np.int32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"documents": (1, 1, 1)}, "4 counts are due"),
        ({"tokens": ()}, "4 counts are due"),
        ({"mean": b""}, "mean: 0 bytes where 128"),
        ({"centroids": bytes(4)}, "centroids: 4 bytes where 512"),
        ({"bias": bytes(31)}, "bias: 31 bytes where 32"),
        ({"mean": int32_bytes(np.full(32, 97, np.int32))}, "mean: beyond 96"),
        ({"mean": int32_bytes(np.full(32, -97, np.int32))}, "mean: beyond 96"),
        ({"centroids": int32_bytes(EXTREME + 1)}, "centroids: beyond 262144"),
        ({"centroids": int32_bytes(-EXTREME - 1)}, "centroids: beyond 262144"),
        ({"bias": int64_bytes([0, -1, 0, 0])}, "bias: not from 0"),
        ({"bias": int64_bytes([1, 1, 1, 1])}, "bias: not from 0"),
        ({"bias": int64_bytes([0, 0, 0, 1 << 53])}, "bias: not from 0"),
        ({"capacity": "none"}, "bias: not zero without"),
        (
            {
                "norm_bits": 12,
                "scale_bits": 10,
                "dimension": 256,
                "mean": bytes(1024),
                "centroids": bytes(4096),
            },
            "leave exact arithmetic",
        ),
    ],
)
def test_fields_that_contradict_each_other_are_found(changes: dict[str, Any], words: str) -> None:
    assert words in (misfit(replace(KMEANS_SPEC, **changes)) or "")


def test_values_at_their_bounds_are_no_misfit() -> None:
    mean = np.full(32, -96, dtype=np.int32)
    bounds = replace(KMEANS_SPEC, mean=int32_bytes(mean), centroids=int32_bytes(-EXTREME))
    assert misfit(bounds) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean": bytes(128)}, "has none"),
        ({"centroids": bytes(4)}, "has none"),
        ({"bias": bytes(32)}, "has none"),
        ({"documents": ()}, "4 counts are due"),
    ],
)
@pytest.mark.parametrize("spec", [FALLBACK, BARE])
def test_a_round_robin_spec_with_a_router_in_it_is_found(
    spec: RouterSpec, changes: dict[str, Any], words: str
) -> None:
    assert words in (misfit(replace(spec, **changes)) or "")


@pytest.mark.parametrize(
    "changes", [{"restart": 1}, {"updates": 1}, {"inertia": bytes(15) + b"\1"}]
)
def test_a_fallback_that_claims_a_clustering_is_found(changes: dict[str, Any]) -> None:
    assert FALLBACK.fit is not None
    spec = replace(FALLBACK, fit=replace(FALLBACK.fit, **changes))
    assert "restart, updates or inertia" in (misfit(spec) or "")


def test_more_clusters_than_documents_are_found() -> None:
    assert KMEANS_SPEC.fit is not None
    spec = replace(KMEANS_SPEC, fit=replace(KMEANS_SPEC.fit, n_fit=3))
    assert "3 documents cannot make 4 clusters" in (misfit(spec) or "")
