"""Rules of this file: a row of the table of docs/method.md, 4.10, has a test that bears its number.
The claimed spec is derived from an honest source; ours from one that may shrink, lie or drop."""

from typing import Any

import pytest
from msgspec.structs import replace

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.routing.decision import Decision, ReceiptTally, decide
from dipaco.protocol.routing.policy import Policy
from dipaco.protocol.routing.recipe import RouterRecipe, unfitted_spec
from dipaco.protocol.routing.reshard import Resharded
from dipaco.protocol.routing.spec import RouterSpec, int32_bytes, int64_bytes, spec_digest
from dipaco.protocol.routing.verdict import (
    MAX_REASON,
    Derived,
    FalseLabels,
    LocalFailure,
    Outcome,
    Receipt,
    SourceFailure,
    Verdict,
    contradicted,
    judge,
    static_check,
)
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.digest import Digest, sha256
from dipaco.protocol.wire.signed import open_signed, sign
from tests import values
from tests.golden import tamper_matrix
from tests.protocol.routing.doubles import ToySource, derive, fitted, recipe
from tests.protocol.routing.mutations import mutations

RECIPE = recipe(capacity=(11, 10))
HONEST = ToySource()
CLAIMED, DOCUMENTS, _ = fitted(RECIPE, HONEST)
SCARCE = ToySource(alike=True)
FALLBACK = fitted(RECIPE, SCARCE)[0]
PINNED = Derived(spec=CLAIMED, authenticated=True)
UNPINNED = Derived(spec=CLAIMED, authenticated=False)
ROUND_ROBIN = recipe("round_robin")
WARN = Policy.parse("warn")

BASED = recipe(capacity=(11, 10), featurizer="idf-svd-v1")
BASIS, BASIS_FALLBACK = fitted(BASED, HONEST)[0], fitted(BASED, SCARCE)[0]

LATER = recipe(capacity=(11, 10), epoch=1)
MOVED = Resharded(sha256(b"labels"), CLAIMED.centroid_array() // 2, rows=0)
SECOND = fitted(LATER, HONEST, resharded=MOVED)[0]
SECOND_FALLBACK = fitted(LATER, SCARCE, resharded=MOVED)[0]

V, R, U = Outcome.VERIFIED, Outcome.REFUTED, Outcome.UNVERIFIABLE


def verdict_on(claimed: RouterSpec, source: ToySource, *, authenticated: bool) -> tuple[Any, ...]:
    """Return outcome and stage for a node that derives from `source`."""
    found = judge(RECIPE, claimed, derive(RECIPE, source, authenticated=authenticated))
    return found.outcome, found.stage


def refit(spec: RouterSpec, **changes: Any) -> RouterSpec:
    """Return the spec with changed fields of its fit."""
    assert spec.fit is not None
    return replace(spec, fit=replace(spec.fit, **changes))


@pytest.mark.parametrize(
    "changes",
    [{"format": 2}, {"kind": "product"}, {"featurizer": "bag-sign-v2"}, {"capacity": "auction"}],
)
def test_row_1_unknown_kinds_wait_for_new_software(changes: dict[str, Any]) -> None:
    for claimed in (CLAIMED, replace(CLAIMED, fit=None)):  # before row 2
        found = judge(RECIPE, replace(claimed, **changes), PINNED)
        assert (found.outcome, found.stage) == (U, "unknown-kind")
        assert str(next(iter(changes.values()))) in found.reason
        assert decide(found, WARN, ReceiptTally(), passing=False) is Decision.STOP


@pytest.mark.parametrize(
    "claimed",
    [replace(CLAIMED, fit=None), unfitted_spec(RECIPE), replace(CLAIMED, fit=None, bias=b"")],
)
def test_row_2_a_spec_without_a_fit_cannot_be_verified(claimed: RouterSpec) -> None:
    found = judge(RECIPE, claimed, PINNED)
    assert (found.outcome, found.stage) == (U, "no-fit")


@pytest.mark.parametrize(
    "changes",
    [
        {"manifest": sha256(b"other")},
        {"epoch": 1},
        {"paths": 5},
        {"vocabulary": 255},
        {"prefix": 7},
        {"dimension": 24},
        {"norm_bits": 9},
        {"scale_bits": 7},
        {"tokenizer": sha256(b"other")},
        {"feat_seed": sha256(b"chosen")},
        {"mean": b""},
        {"mean": int32_bytes(CLAIMED.mean_array() + 200)},
        {"centroids": CLAIMED.centroids[:-4]},
        {"centroids": int32_bytes(CLAIMED.centroid_array() * 5000)},
        {"bias": int64_bytes([0, 0, 0, -5])},
        {"documents": (15, 15, 15, 16)},
        {"tokens": (1, 1)},
        {"capacity": "none", "bias": bytes(32)},
        {"capacity": "bias-tokens-v1"},
        {"fit": 61},
        {"restart": 3},
        {"updates": 21},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_row_3_what_contradicts_the_manifest_is_refuted_without_streaming(
    changes: dict[str, Any],
) -> None:
    if "fit" in changes:
        claimed = replace(refit(CLAIMED, n_fit=61), documents=(16, 15, 15, 15))
    elif "restart" in changes or "updates" in changes:
        claimed = refit(CLAIMED, **changes)
    else:
        claimed = replace(CLAIMED, **changes)
    found = static_check(RECIPE, claimed)
    assert found is not None and (found.outcome, found.stage) == (R, "static")
    assert judge(RECIPE, claimed, SourceFailure(stage="source", reason="away")) == found


def test_row_3_a_known_but_other_kind_is_refuted_where_the_manifest_asks_round_robin() -> None:
    kmeans, _, _ = fitted(recipe(), HONEST)
    found = static_check(ROUND_ROBIN, kmeans)
    assert found is not None and (found.outcome, found.stage) == (R, "static")
    assert "kmeans" in found.reason


def test_row_4_a_round_robin_that_the_manifest_asks_for_needs_no_source() -> None:
    found = static_check(ROUND_ROBIN, unfitted_spec(ROUND_ROBIN))
    assert found is not None and found.outcome is V
    for where, changed in mutations(unfitted_spec(ROUND_ROBIN), FALLBACK):
        found = static_check(ROUND_ROBIN, changed)
        assert found is not None and found.outcome is not V, where


def test_row_4_a_round_robin_that_adds_a_fit_is_refuted() -> None:
    found = static_check(ROUND_ROBIN, fitted(ROUND_ROBIN, SCARCE)[0])
    assert found is not None and (found.outcome, found.stage) == (R, "static")


@pytest.mark.parametrize("claimed", [CLAIMED, FALLBACK])
def test_row_5_a_source_that_drops_is_nobody_s_fault(claimed: RouterSpec) -> None:
    found = judge(RECIPE, claimed, derive(RECIPE, ToySource(drops_at=40)))
    assert (found.outcome, found.stage) == (U, "source")
    assert found.reason == "the connection was cut"
    assert not found.final


def test_row_5_so_is_a_missing_tokenizer() -> None:
    failure = SourceFailure(stage="tokenizer", reason="tokenizer.json has another SHA-256")
    found = judge(RECIPE, CLAIMED, failure)
    assert (found.outcome, found.stage) == (U, "tokenizer")


@pytest.mark.parametrize("rows", [0, 3, 40, DOCUMENTS[-1]])
def test_row_6_a_source_that_shrank_unauthenticated_refutes_nobody(rows: int) -> None:
    found = verdict_on(CLAIMED, ToySource(rows=rows), authenticated=False)
    assert found == (U, "too-few-documents")


@pytest.mark.parametrize("rows", [0, 40])
def test_row_7_a_source_that_ends_earlier_by_its_pinned_digests_refutes(rows: int) -> None:
    found = verdict_on(CLAIMED, ToySource(rows=rows), authenticated=True)
    assert found == (R, "source-bytes")


@pytest.mark.parametrize("authenticated", [True, False])
def test_rows_7_and_8_other_bytes_refute_only_if_ours_are_the_pinned_ones(
    authenticated: bool,
) -> None:
    lying = ToySource(lies_at=DOCUMENTS[5])
    expected = (R, "source-bytes") if authenticated else (U, "source-differs")
    assert verdict_on(CLAIMED, lying, authenticated=authenticated) == expected
    ours = fitted(RECIPE, lying)[0]
    assert verdict_on(ours, HONEST, authenticated=authenticated) == expected
    assert verdict_on(FALLBACK, HONEST, authenticated=authenticated) == expected


def test_row_8_a_fallback_and_a_source_that_shrank_further_cannot_be_told_apart() -> None:
    found = verdict_on(FALLBACK, ToySource(rows=3), authenticated=False)
    assert found == (U, "source-differs")


@pytest.mark.parametrize("authenticated", [True, False])
@pytest.mark.parametrize(
    ("claimed", "stage"),
    [
        (refit(CLAIMED, tokens=sha256(b"x"), features=sha256(b"x")), "tokens"),
        (refit(CLAIMED, features=sha256(b"x"), centroids=sha256(b"x")), "features"),
        (replace(CLAIMED, mean=int32_bytes(CLAIMED.mean_array() ^ 1)), "features"),
        (refit(CLAIMED, centroids=sha256(b"x")), "centroids"),
        (replace(CLAIMED, centroids=int32_bytes(CLAIMED.centroid_array() ^ 1)), "centroids"),
        (refit(CLAIMED, restart=0), "centroids"),
        (refit(CLAIMED, updates=1), "centroids"),
        (refit(CLAIMED, inertia=bytes(16)), "centroids"),
        (replace(CLAIMED, bias=int64_bytes([0, 1, 2, 3])), "bias"),
        (replace(CLAIMED, bias=bytes(32), documents=(60, 0, 0, 0)), "bias"),
        (replace(CLAIMED, documents=(15, 15, 15, 15)), "counts"),
        (replace(CLAIMED, tokens=(1, 1, 1, 1)), "counts"),
    ],
)
def test_row_9_agreeing_inputs_refute_at_the_first_stage_that_differs(
    claimed: RouterSpec, stage: str, authenticated: bool
) -> None:
    assert spec_digest(claimed) != spec_digest(CLAIMED)
    assert verdict_on(claimed, HONEST, authenticated=authenticated) == (R, stage)


@pytest.mark.parametrize("authenticated", [True, False])
@pytest.mark.parametrize("source", [SCARCE, ToySource(rows=0), ToySource(rows=3)])
def test_row_10_a_fallback_is_verified_by_a_source_that_gives_it(
    source: ToySource, authenticated: bool
) -> None:
    claimed = fitted(RECIPE, source)[0]
    found = judge(RECIPE, claimed, derive(RECIPE, source, authenticated=authenticated))
    assert found.outcome is V
    assert "round_robin" in found.reason


@pytest.mark.parametrize("authenticated", [True, False])
def test_row_11_a_fallback_where_the_source_gives_k_means_is_refuted(authenticated: bool) -> None:
    assert CLAIMED.fit is not None and FALLBACK.fit is not None
    centroids = FALLBACK.fit.centroids
    lazy = replace(FALLBACK, fit=replace(CLAIMED.fit, centroids=centroids, restart=0, updates=0))
    lazy = replace(refit(lazy, inertia=bytes(16)), documents=(15, 15, 15, 15))
    assert verdict_on(lazy, HONEST, authenticated=authenticated) == (R, "kind")


@pytest.mark.parametrize("authenticated", [True, False])
def test_row_11_k_means_where_the_source_gives_a_fallback_is_refuted(authenticated: bool) -> None:
    assert FALLBACK.fit is not None
    invented = replace(CLAIMED, fit=FALLBACK.fit)
    assert verdict_on(invented, SCARCE, authenticated=authenticated) == (R, "kind")


def test_row_12_our_own_failure_blames_nobody() -> None:
    found = judge(RECIPE, CLAIMED, LocalFailure(reason="out of memory"))
    assert (found.outcome, found.stage, found.reason) == (U, "local", "out of memory")
    malformed = Derived(spec=replace(CLAIMED, bias=b""), authenticated=True)
    found = judge(RECIPE, CLAIMED, malformed)
    assert (found.outcome, found.stage) == (U, "local")


def test_row_12_static_lies_are_refuted_even_where_we_fail() -> None:
    lie = replace(CLAIMED, feat_seed=sha256(b"chosen"))
    assert judge(RECIPE, lie, LocalFailure(reason="out of memory")).outcome is R


@pytest.mark.parametrize("authenticated", [True, False])
def test_row_13_an_equal_spec_is_verified_even_from_an_unpinned_source(authenticated: bool) -> None:
    found = judge(RECIPE, CLAIMED, derive(RECIPE, HONEST, authenticated=authenticated))
    assert (found.outcome, found.stage) == (V, "spec")
    assert "60 documents" in found.reason


CASES = {
    "kmeans": (RECIPE, CLAIMED, FALLBACK),
    "fallback": (RECIPE, FALLBACK, CLAIMED),
    "bare": (ROUND_ROBIN, unfitted_spec(ROUND_ROBIN), CLAIMED),
    "basis": (BASED, BASIS, BASIS_FALLBACK),
    "basis fallback": (BASED, BASIS_FALLBACK, BASIS),
    "labelled": (LATER, SECOND, SECOND_FALLBACK),
    "labelled fallback": (LATER, SECOND_FALLBACK, SECOND),
}


@pytest.mark.parametrize("authenticated", [True, False])
@pytest.mark.parametrize(("made", "honest", "donor"), CASES.values(), ids=CASES)
def test_no_single_field_can_be_changed_and_still_be_verified(
    made: RouterRecipe, honest: RouterSpec, donor: RouterSpec, authenticated: bool
) -> None:
    ours = Derived(spec=honest, authenticated=authenticated)
    assert judge(made, honest, ours).outcome is V
    stages = set()
    for where, changed in mutations(honest, donor):
        found = judge(made, changed, ours)
        assert found.outcome is not V, where
        if authenticated and found.stage not in ("unknown-kind", "no-fit"):
            assert found.outcome is R, where
        stages.add(found.stage)
    assert "static" in stages


def test_the_page_shows_what_every_changed_field_is_answered() -> None:
    found = tamper_matrix.matrix()
    assert {*CLAIMED.__struct_fields__} <= found.keys()
    assert all(outcome != "VERIFIED" for each in found.values() for outcome, _ in each)
    assert tamper_matrix.written() == tamper_matrix.table()


def test_a_field_that_no_stage_names_is_refuted_all_the_same() -> None:
    """As a later format might add one: the comparison of the whole decides, not the stages."""

    class NextSpec(RouterSpec, frozen=True, kw_only=True):
        note: str = ""

    fields = {name: getattr(CLAIMED, name) for name in CLAIMED.__struct_fields__}
    found = judge(RECIPE, NextSpec(**fields, note="x"), PINNED)
    assert (found.outcome, found.stage) == (R, "spec")


# Of a later epoch


@pytest.mark.parametrize("authenticated", [True, False])
@pytest.mark.parametrize(
    ("claimed", "stage"),
    [
        (refit(SECOND, labels=sha256(b"other"), features=sha256(b"x")), "labels"),
        (refit(SECOND, labels=sha256(b"other"), tokens=sha256(b"x")), "tokens"),
        (replace(SECOND, centroids=int32_bytes(SECOND.centroid_array() ^ 1)), "centroids"),
        (replace(SECOND, bias=int64_bytes([0, 1, 2, 3])), "bias"),
        (replace(SECOND, tokens=(1, 1, 1, 1)), "counts"),
        (refit(SECOND, labels=None), "static"),
        (replace(SECOND, kind="kmeans"), "static"),
        (replace(SECOND, epoch=2), "static"),
        (replace(CLAIMED, epoch=1), "static"),
        (CLAIMED, "static"),
    ],
)
def test_a_resharded_spec_is_refuted_at_the_first_stage_that_differs(
    claimed: RouterSpec, stage: str, authenticated: bool
) -> None:
    found = judge(LATER, claimed, Derived(spec=SECOND, authenticated=authenticated))
    assert (found.outcome, found.stage) == (R, stage)


def test_a_first_spec_that_claims_labels_is_refuted_without_streaming() -> None:
    for claimed in (SECOND, replace(SECOND, epoch=0), refit(CLAIMED, labels=sha256(b"labels"))):
        found = static_check(RECIPE, claimed)
        assert found is not None and (found.outcome, found.stage) == (R, "static")


def test_score_sheets_that_are_away_refute_nobody_and_false_ones_do() -> None:
    away = judge(LATER, SECOND, SourceFailure(stage="labels", reason="blob is away"))
    assert (away.outcome, away.stage, away.final) == (U, "labels", False)
    false = judge(LATER, SECOND, FalseLabels(reason="no sheet"))
    assert (false.outcome, false.stage, false.final) == (R, "labels", True)
    assert contradicted("no sheet") == false


def test_unverifiable_alone_is_not_final() -> None:
    for outcome in Outcome:
        verdict = Verdict(outcome=outcome, stage="spec", reason="because")
        assert verdict.final is (outcome is not U)


def test_a_verdict_reads_as_a_sentence() -> None:
    found = judge(RECIPE, replace(CLAIMED, epoch=1), UNPINNED)
    assert str(found) == "REFUTED (static): epoch differs from the manifest's"


def test_foreign_words_in_a_reason_become_one_short_printable_line() -> None:
    reason = "file \x1b[31m\u202ered\n" + "x" * 1000
    found = judge(RECIPE, CLAIMED, SourceFailure(stage="source", reason=reason))
    assert found.reason.startswith("file [31m\\u202ered x") and len(found.reason) == MAX_REASON


def test_a_receipt_survives_the_wire_in_its_envelope() -> None:
    found = judge(RECIPE, CLAIMED, UNPINNED)
    receipt = Receipt(
        manifest=CLAIMED.manifest,
        spec=spec_digest(CLAIMED),
        verdict=found,
        software="dipaco-node 0.1.0",
    )
    assert open_signed(sign(receipt, values.key("node")), Receipt) == receipt
    assert decode(encode(found), Verdict, limit=1000) == found


@pytest.mark.parametrize(("old", "new"), [(b"verified", b"verifies"), (b"derived", b"der\x1bved")])
def test_a_verdict_with_unknown_words_or_control_characters_is_refused(
    old: bytes, new: bytes
) -> None:
    data = encode(judge(RECIPE, CLAIMED, UNPINNED))
    assert old in data
    with pytest.raises(RemoteProtocolError):
        decode(data.replace(old, new), Verdict, limit=1000)


def test_the_spec_digest_is_not_the_plain_digest_of_the_body() -> None:
    assert spec_digest(CLAIMED) != Digest(sha256(encode(CLAIMED)))
