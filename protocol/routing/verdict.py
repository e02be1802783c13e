"""The verdict on a router spec: VERIFIED, REFUTED or UNVERIFIABLE, with the stage and a reason.

A verdict is a value, not an exception. `judge` makes the whole verdict from two arguments, the
claimed spec and the result of our own derivation, and reads nothing else. The digest of the whole
spec decides; the stages only say where two specs differ. `decision` says whether a node then
trains. Source: docs/method.md, 4.10; the comments name the rows of its table.
"""

import enum
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct

from dipaco.protocol.routing.assign import unknown_kind
from dipaco.protocol.routing.recipe import RouterRecipe, unfitted_spec
from dipaco.protocol.routing.spec import (
    CLASS_MEANS,
    COUNT_SAMPLE,
    KMEANS,
    ROUND_ROBIN,
    Fit,
    RouterSpec,
    SpecBasis,
    misfit,
    spec_digest,
)
from dipaco.protocol.wire.canonical import Wire
from dipaco.protocol.wire.digest import DigestField
from dipaco.protocol.wire.text import ASCII_PATTERN, one_line

MAX_REASON = 400  # characters

Stage = Literal[
    "unknown-kind",
    "no-fit",
    "static",
    "source",
    "tokenizer",
    "too-few-documents",
    "source-bytes",
    "source-differs",
    "tokens",
    "labels",
    "idf",
    "basis",
    "features",
    "kind",
    "centroids",
    "bias",
    "counts",
    "spec",
    "local",
]
"""The check that decided; `spec` is the comparison of the whole spec."""


class Outcome(enum.StrEnum):
    """The result of verifying a spec."""

    VERIFIED = "verified"
    REFUTED = "refuted"
    UNVERIFIABLE = "unverifiable"


class Verdict(Wire, frozen=True, kw_only=True):
    """The result of verifying a spec, the check that decided, and the reason, for people."""

    outcome: Outcome
    stage: Stage
    reason: Annotated[
        str,
        Meta(
            max_length=MAX_REASON,
            pattern=ASCII_PATTERN,
            description=f"a line of at most {MAX_REASON} printable ASCII characters",
        ),
    ]
    """One line of printable ASCII: receipts carry it to other people's terminals."""

    @property
    def final(self) -> bool:
        """Whether another try cannot change it; after UNVERIFIABLE a node tries again later."""
        return self.outcome is not Outcome.UNVERIFIABLE

    def __str__(self) -> str:
        return f"{self.outcome.upper()} ({self.stage}): {self.reason}"


class Receipt(Wire, frozen=True, kw_only=True):
    """A node's statement about a spec; travels in a `Signed`."""

    manifest: DigestField
    """The run id."""
    spec: DigestField
    """`spec_digest` of the spec."""
    verdict: Verdict
    software: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=64,
            pattern=ASCII_PATTERN,
            description="a line of 1 to 64 printable ASCII characters",
        ),
    ]
    """Name and version of the program that judged."""


class _Derivation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """The base of a derivation's results, which a worker sends to its node, never to a peer."""


class Derived(_Derivation, frozen=True, kw_only=True):
    """Our own derivation succeeded."""

    spec: RouterSpec
    authenticated: bool
    """Whether every file that we read rows of matched its pinned SHA-256; where the source ended
    before the sample was full, whether all its files did."""


class SourceFailure(_Derivation, frozen=True, kw_only=True):
    """The derivation lacks its inputs, which is nobody's fault."""

    stage: Literal["source", "tokenizer", "labels"]
    reason: str
    lasting: bool = False
    """Whether another try must fail too: the data found cannot be the data in the manifest."""


class LocalFailure(_Derivation, frozen=True, kw_only=True):
    """The derivation failed on this machine, by our bug or for lack of memory; blames no peer."""

    reason: str


class FalseLabels(_Derivation, frozen=True, kw_only=True):
    """The score sheets that the ledger names give no labels, whatever the source holds."""

    reason: str


Derivation = Derived | SourceFailure | LocalFailure | FalseLabels


def judge(recipe: RouterRecipe, claimed: RouterSpec, derivation: Derivation) -> Verdict:
    """Return the verdict on a claimed spec; the first row of the table that holds decides."""
    static = static_check(recipe, claimed)
    if static is not None:
        return static
    if isinstance(derivation, SourceFailure):  # row 5
        return _unverifiable(derivation.stage, derivation.reason)
    if isinstance(derivation, LocalFailure):  # row 12
        return _unverifiable("local", derivation.reason)
    if isinstance(derivation, FalseLabels):  # row 9
        return _refuted("labels", derivation.reason)
    own = static_check(recipe, derivation.spec)
    if own is not None:  # row 12
        return _unverifiable("local", f"our own derivation is malformed: {own.reason}")
    return _compare(claimed, derivation)


def static_check(recipe: RouterRecipe, claimed: RouterSpec) -> Verdict | None:
    """Return the verdict if it needs no document (rows 1 to 4), None if it needs the source."""
    unknown = unknown_kind(claimed)
    if unknown is not None:  # row 1
        return _unverifiable("unknown-kind", f"this software does not know {unknown}")
    if recipe.kind == KMEANS and claimed.fit is None:  # row 2
        return _unverifiable("no-fit", "the spec does not say how it was fitted")
    fault = _static_fault(recipe, claimed)
    if fault is not None:  # row 3
        return _refuted("static", fault)
    if recipe.kind != ROUND_ROBIN:
        return None
    due = unfitted_spec(recipe)
    if spec_digest(due) != spec_digest(claimed):
        return _refuted("static", f"{_first_difference(due, claimed)} differs from the manifest's")
    return _verified("the manifest asks for round_robin")  # row 4


_IMPLIED = (
    "manifest",
    "epoch",
    "featurizer",
    "capacity",
    "counts",
    "paths",
    "vocabulary",
    "prefix",
    "prefix_bytes",
    "dimension",
    "norm_bits",
    "scale_bits",
    "tokenizer",
    "feat_seed",
)
"""Fields that follow from the manifest alone, whatever the documents are."""


def _static_fault(recipe: RouterRecipe, claimed: RouterSpec) -> str | None:
    if recipe.kind == ROUND_ROBIN and claimed.kind != ROUND_ROBIN:
        return f"kind {claimed.kind} where the manifest asks for round_robin"
    due = unfitted_spec(recipe)
    for name in _IMPLIED:
        if getattr(claimed, name) != getattr(due, name):
            return f"{name} differs from the manifest's"
    fault = misfit(claimed)
    if fault is not None or claimed.fit is None:
        return fault
    fitted = KMEANS if claimed.epoch == 0 else CLASS_MEANS
    if claimed.kind not in (fitted, ROUND_ROBIN):
        return f"kind {claimed.kind} at epoch {claimed.epoch}"
    if (claimed.fit.labels is None) != (claimed.epoch == 0):
        return "fit.labels: due at every epoch but the first"
    return _fit_fault(recipe, claimed, claimed.fit)


def _fit_fault(recipe: RouterRecipe, claimed: RouterSpec, fit: Fit) -> str | None:
    params = recipe.params
    if fit.n_fit > params.sample:
        return f"fit.n_fit {fit.n_fit} is above the manifest's sample of {params.sample}"
    if fit.restart >= params.restarts:
        return f"fit.restart {fit.restart} is not below the manifest's {params.restarts}"
    if fit.updates > params.max_updates:
        return f"fit.updates {fit.updates} is above the manifest's {params.max_updates}"
    return _counts_fault(recipe, claimed, fit)


def _counts_fault(recipe: RouterRecipe, claimed: RouterSpec, fit: Fit) -> str | None:
    overlap, counted = recipe.params.overlap, sum(claimed.documents)
    if claimed.counts == COUNT_SAMPLE:
        return None if counted == fit.n_fit * overlap else "documents do not add up to the sample"
    if counted % overlap or not fit.n_fit * overlap <= counted <= recipe.documents * overlap:
        return f"documents do not add up to {fit.n_fit} to {recipe.documents}, {overlap} times"
    return None


def _compare(claimed: RouterSpec, derived: Derived) -> Verdict:
    ours, theirs = derived.spec, claimed
    assert ours.fit is not None and theirs.fit is not None  # rows 2 to 4
    if spec_digest(ours) == spec_digest(theirs):  # rows 10 and 13
        return _verified(
            "the source has fewer distinct documents than paths: round_robin, as claimed"
            if ours.kind == ROUND_ROBIN
            else f"derived again from {ours.fit.n_fit} documents, equal in every byte"
        )
    same_bytes = ours.fit.source_bytes == theirs.fit.source_bytes
    if not same_bytes and not derived.authenticated:
        few = ours.fit.n_fit < theirs.fit.n_fit  # which is at least P, by row 3
        if theirs.kind != ROUND_ROBIN and few:  # row 6
            return _unverifiable(
                "too-few-documents",
                f"our source gave {ours.fit.n_fit} eligible documents, theirs {theirs.fit.n_fit}",
            )
        return _unverifiable(  # row 8
            "source-differs", "our source has other bytes, and nothing says whose are right"
        )
    if not same_bytes:  # row 7
        return _refuted("source-bytes", "fitted on other bytes than the pinned files have")
    return _refuted(*_first_stage(ours, ours.fit, theirs, theirs.fit))


def _first_stage(
    ours: RouterSpec, our_fit: Fit, theirs: RouterSpec, their_fit: Fit
) -> tuple[Stage, str]:
    """Return the first stage that differs where the inputs agree (rows 9 and 11), and a reason."""
    if (our_fit.n_fit, our_fit.tokens) != (their_fit.n_fit, their_fit.tokens):
        return "tokens", "other documents or token ids were sampled"
    if our_fit.labels != their_fit.labels:
        return "labels", "the score sheets that the ledger names give other labels"
    if our_fit.idf != their_fit.idf:
        return "idf", "the terms of the same tokens, or their weights, differ"
    if our_fit.basis != their_fit.basis:
        return "basis", "the basis of the same terms differs"
    if our_fit.features != their_fit.features:
        return "features", "the features of the same tokens differ"
    if ours.kind != theirs.kind:  # row 11; before centroids, which one of the two lacks
        return "kind", f"claimed {theirs.kind}, the source gives {ours.kind}"
    difference = _first_difference(ours, theirs)
    if difference == "basis" and ours.basis is not UNSET and theirs.basis is not UNSET:
        difference += f".{_first_difference(ours.basis, theirs.basis)}"
    stages: dict[str, Stage] = {
        "basis.terms": "idf",
        "basis.idf": "idf",
        "basis.columns": "basis",
        "mean": "features",
        "fit": "centroids",
        "centroids": "centroids",
        "bias": "bias",
        "documents": "counts",
        "tokens": "counts",
    }
    return stages.get(difference, "spec"), f"{difference} differs, though the inputs agree"


def _first_difference(ours: RouterSpec | SpecBasis, theirs: RouterSpec | SpecBasis) -> str:
    """Return the first field that differs, in the order in which they are derived."""
    for name in ours.__struct_fields__:
        if getattr(ours, name) != getattr(theirs, name):
            return name
    return "spec"


def contradicted(reason: str) -> Verdict:
    """Return the verdict on a spec whose labels come from scores that our own scores contradict."""
    return _refuted("labels", reason)


def labels_hold(reason: str) -> Verdict:
    """Return the verdict on scores of which a sample was computed again, with the same result."""
    return Verdict(outcome=Outcome.VERIFIED, stage="labels", reason=one_line(reason, MAX_REASON))


def labels_untold(reason: str) -> Verdict:
    """Return the verdict on scores that cannot be computed again here."""
    return _unverifiable("labels", reason)


def _verified(reason: str) -> Verdict:
    return Verdict(outcome=Outcome.VERIFIED, stage="spec", reason=reason)


def _refuted(stage: Stage, reason: str) -> Verdict:
    return Verdict(outcome=Outcome.REFUTED, stage=stage, reason=one_line(reason, MAX_REASON))


def _unverifiable(stage: Stage, reason: str) -> Verdict:
    return Verdict(outcome=Outcome.UNVERIFIABLE, stage=stage, reason=one_line(reason, MAX_REASON))
