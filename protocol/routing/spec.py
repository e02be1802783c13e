"""The router spec: the rule that routes documents to paths, and how that rule was derived.

Every field is a function of the manifest and the public source. A verifier builds the whole value
itself and compares one digest, so no field can be forgotten. Construction bounds every length and
range. Whether they fit *each other* depends on the spec's kind, which may be unknown, so the
verdict checks that, with `misfit`. Source: docs/method.md, 4.7.
"""

from typing import Annotated, ClassVar, Final

import numpy as np
import numpy.typing as npt
from msgspec import UNSET, Meta, UnsetType

from dipaco.protocol.routing.basis import Basis
from dipaco.protocol.routing.integers import Int32, Int64
from dipaco.protocol.routing.params import (
    BASIS_BITS,
    COLUMN_SQUARES,
    MAX_DIMENSION,
    MAX_EPOCH,
    MAX_NORM_BITS,
    MAX_PREFIX,
    MAX_PREFIX_BYTES,
    MAX_RESTARTS,
    MAX_SAMPLE,
    MAX_SCALE_BITS,
    MAX_TERMS,
    MAX_UPDATES,
    MAX_VOCABULARY,
    MIN_PREFIX_BYTES,
    max_idf,
    max_projection,
)
from dipaco.protocol.run.exactness import EXACT_FLOAT64, IDF_SVD, MAX_COLUMNS, max_score
from dipaco.protocol.run.model_shape import MAX_PATHS
from dipaco.protocol.run.source import MAX_DOCUMENTS
from dipaco.protocol.wire.canonical import Wire, encode
from dipaco.protocol.wire.digest import Digest, DigestField, tagged
from dipaco.protocol.wire.signed import MAX_BODY

SPEC_FORMAT: Final = 1
KMEANS: Final = "kmeans"
CLASS_MEANS: Final = "class_means"
ROUND_ROBIN: Final = "round_robin"
NO_CAPACITY: Final = "none"
CAPACITY_BIAS: Final = "bias-v1"  # shards measured in documents
CAPACITY_TOKENS: Final = "bias-tokens-v1"  # and in tokens
COUNT_DOCUMENTS: Final = "documents"
COUNT_SAMPLE: Final = "sample"
INERTIA_BYTES: Final = 16  # an inertia may exceed 64 bits
MAX_PATH_TOKENS = 1 << 53  # on one path; no corpus comes near

KindField = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=32,
        pattern=r"^[a-z0-9][a-z0-9_.-]*\Z",
        description="the name of a kind: at most 32 lower-case letters, digits, '_', '.' and '-'",
    ),
]
"""The name of a kind. Unknown names can be read too, so that a verdict can state them."""
DocumentCount = Annotated[int, Meta(ge=0, le=MAX_DOCUMENTS)]
TokenCount = Annotated[int, Meta(ge=0, le=MAX_PATH_TOKENS)]


class Fit(Wire, frozen=True, kw_only=True):
    """How the router was fitted; a verifier repeats this stage by stage."""

    n_fit: Annotated[int, Meta(ge=0, le=MAX_SAMPLE)]
    """Documents of the sample."""
    restart: Annotated[int, Meta(ge=0, lt=MAX_RESTARTS)]
    """The number, from 0, of the run of k-means that was kept."""
    updates: Annotated[int, Meta(ge=0, le=MAX_UPDATES)]
    """The number of updates of that run."""
    inertia: Annotated[bytes, Meta(min_length=INERTIA_BYTES, max_length=INERTIA_BYTES)]
    """Its sum of squared distances times S^2, unsigned, little-endian."""
    source_bytes: DigestField
    """Digest of every row read: up to the one that filled the sample, or all of the run where all
    documents are counted."""
    tokens: DigestField
    """Digest of the sampled documents' indices and prefixes."""
    idf: DigestField | UnsetType = UNSET
    """Digest of the terms and their weights; `idf-svd-v1` alone has it, and the next one."""
    basis: DigestField | UnsetType = UNSET
    """Digest of the basis."""
    features: DigestField
    """Digest of the mean and the features."""
    centroids: DigestField
    """Digest of the centroids."""
    labels: DigestField | None = None
    """SHA-256 of the label sheet that gave the class means; null at epoch 0."""


class SpecBasis(Wire, frozen=True, kw_only=True):
    """The fitted part of the featurizer `idf-svd-v1`: K terms and D columns."""

    terms: Annotated[bytes, Meta(max_length=4 * MAX_TERMS)]
    """(K,), token ids, ascending, int32 little-endian."""
    idf: Annotated[bytes, Meta(max_length=MAX_TERMS)]
    """(K,), the terms' weights, a byte each."""
    columns: Annotated[bytes, Meta(max_length=2 * MAX_TERMS * MAX_COLUMNS)]
    """Q, (K, D), int16 little-endian, row-major."""

    @classmethod
    def of(cls, basis: Basis) -> "SpecBasis":
        """Return the form that specs hold."""
        return cls(
            terms=int32_bytes(basis.terms),
            idf=basis.idf.tobytes(),
            columns=basis.columns.astype("<i2").tobytes(),
        )

    def arrays(self, dimension: int) -> Basis:
        """Return the arrays; the lengths must fit."""
        columns = np.frombuffer(self.columns, dtype="<i2").astype(np.int16)
        return Basis(
            terms=np.frombuffer(self.terms, dtype="<i4").astype(np.int32),
            idf=np.frombuffer(self.idf, dtype=np.uint8),
            columns=columns.reshape(-1, dimension),
        )


class RouterSpec(Wire, frozen=True, kw_only=True):
    """The router of one run and epoch. Symbols as in docs/method.md, section 4."""

    MOST_BYTES: ClassVar = MAX_BODY  # a full basis goes with 64 columns: 0.9 MB, not 1.6

    format: Annotated[int, Meta(ge=1, le=65535)] = SPEC_FORMAT
    kind: KindField
    """`kmeans`, `class_means`, or `round_robin`: path = document index mod P."""
    featurizer: KindField
    capacity: KindField
    """The capacity rule: `none`, `bias-v1` or `bias-tokens-v1`."""
    counts: KindField
    """The documents that the last two fields count: all of the run (`documents`), or `sample`."""
    manifest: DigestField
    """The run id."""
    epoch: Annotated[int, Meta(ge=0, le=MAX_EPOCH)]
    """How often the run's router was replaced."""
    paths: Annotated[int, Meta(ge=1, le=MAX_PATHS)]
    """P: number of paths."""
    vocabulary: Annotated[int, Meta(ge=2, le=MAX_VOCABULARY)]
    """V: token ids are below it."""
    prefix: Annotated[int, Meta(ge=1, le=MAX_PREFIX)]
    """F: number of tokens that routing reads."""
    prefix_bytes: Annotated[int, Meta(ge=MIN_PREFIX_BYTES, le=MAX_PREFIX_BYTES)]
    """Bytes of a document's text that these tokens are taken from."""
    dimension: Annotated[int, Meta(ge=8, le=MAX_DIMENSION, multiple_of=8)]
    """D: number of features."""
    norm_bits: Annotated[int, Meta(ge=1, le=MAX_NORM_BITS)]
    """nu: features are at most X = 2^nu."""
    scale_bits: Annotated[int, Meta(ge=0, le=MAX_SCALE_BITS)]
    """s: centroids are multiplied by S = 2^s."""
    tokenizer: DigestField
    feat_seed: DigestField
    """Seed of the sign rows."""
    basis: SpecBasis | UnsetType = UNSET
    """Terms and basis of `idf-svd-v1`; absent with another featurizer, and for round_robin."""
    mean: Annotated[bytes, Meta(max_length=4 * MAX_DIMENSION)]
    """mu, (D,), int32 little-endian; empty for round_robin, as are the next two."""
    centroids: Annotated[bytes, Meta(max_length=4 * MAX_DIMENSION * MAX_PATHS)]
    """(P, D), int32 little-endian, row-major."""
    bias: Annotated[bytes, Meta(max_length=8 * MAX_PATHS)]
    """(P,), int64 little-endian, the least is 0; added to the scores."""
    fit: Fit | None
    """None only where the manifest itself asks for round_robin."""
    documents: Annotated[tuple[DocumentCount, ...], Meta(max_length=MAX_PATHS)]
    """Per path, training documents, of the run or of the sample; 1 each without a fit."""
    tokens: Annotated[tuple[TokenCount, ...], Meta(max_length=MAX_PATHS)]
    """n_p: per path, tokens of these documents and an end of text each; 1 each without a fit."""

    def mean_array(self) -> Int32:
        """Return mu, (D,)."""
        return np.frombuffer(self.mean, dtype="<i4").astype(np.int32)

    def centroid_array(self) -> Int32:
        """Return the centroids, (P, D)."""
        flat = np.frombuffer(self.centroids, dtype="<i4").astype(np.int32)
        return flat.reshape(self.paths, self.dimension)

    def bias_array(self) -> Int64:
        """Return the bias, (P,)."""
        return np.frombuffer(self.bias, dtype="<i8").astype(np.int64)


def spec_digest(spec: RouterSpec) -> Digest:
    """Return the identity of a spec, over the whole of it."""
    return tagged("dipaco/1/spec", encode(spec))


def int32_bytes(array: Int32) -> bytes:
    """Return the row-major little-endian int32 form that specs and digests hold."""
    return array.astype("<i4").tobytes()


def int64_bytes(values: list[int]) -> bytes:
    """Return the little-endian int64 form that specs hold."""
    return np.array(values, dtype="<i8").tobytes()


def misfit(spec: RouterSpec) -> str | None:
    """Return why a spec of known kinds contradicts itself, or None.

    It allocates no more memory than the spec has. A spec without a misfit can route: all its
    scores are exact.
    """
    if len(spec.documents) != spec.paths or len(spec.tokens) != spec.paths:
        return f"documents, tokens: {spec.paths} counts are due"
    if spec.fit is not None and _has_basis_digests(spec.fit) != (spec.featurizer == IDF_SVD):
        return f"fit.idf, fit.basis: due with featurizer {IDF_SVD}, and no other"
    if spec.kind == ROUND_ROBIN:
        return _round_robin_misfit(spec)
    return _length_misfit(spec) or _basis_misfit(spec) or _range_misfit(spec)


def _has_basis_digests(fit: Fit) -> bool | None:
    """Return whether a fit has both digests, None if one alone."""
    return None if (fit.idf is UNSET) != (fit.basis is UNSET) else fit.basis is not UNSET


def _round_robin_misfit(spec: RouterSpec) -> str | None:
    if spec.mean or spec.centroids or spec.bias or spec.basis is not UNSET:
        return "basis, mean, centroids, bias: a round_robin router has none"
    if spec.fit is not None and (spec.fit.restart or spec.fit.updates or any(spec.fit.inertia)):
        return "fit: a round_robin router has no restart, updates or inertia"
    return None


def _length_misfit(spec: RouterSpec) -> str | None:
    due = {
        "mean": 4 * spec.dimension,
        "centroids": 4 * spec.dimension * spec.paths,
        "bias": 8 * spec.paths,
    }
    for name, length in due.items():
        given = len(getattr(spec, name))
        if given != length:
            return f"{name}: {given} bytes where {length} are due"
    if spec.fit is not None and spec.fit.n_fit < spec.paths:
        return f"fit.n_fit: {spec.fit.n_fit} documents cannot make {spec.paths} clusters"
    return None


def _basis_misfit(spec: RouterSpec) -> str | None:
    """Look at a basis without a copy that is larger than it."""
    if (spec.basis is not UNSET) != (spec.featurizer == IDF_SVD):
        return f"basis: due with featurizer {IDF_SVD}, and no other"
    if spec.basis is UNSET:
        return None
    if spec.dimension > MAX_COLUMNS:
        return f"dimension: above {MAX_COLUMNS}"
    terms = len(spec.basis.idf)
    due = {"terms": 4 * terms, "columns": 2 * terms * spec.dimension}
    for name, length in due.items():
        given = len(getattr(spec.basis, name))
        if given != length or not terms:
            return f"basis.{name}: {given} bytes where {length} are due for {terms} terms"
    basis, most = spec.basis.arrays(spec.dimension), max_idf(_sampled(spec))
    if (
        basis.terms[0] < 0
        or basis.terms[-1] >= spec.vocabulary
        or (np.diff(basis.terms) <= 0).any()
    ):
        return f"basis.terms: not ascending from 0 to below {spec.vocabulary}"
    if basis.idf.min() < 1 or basis.idf.max() > most:
        return f"basis.idf: not from 1 to {most}"
    columns = basis.columns
    squares = np.einsum("kd,kd->d", columns, columns, dtype=np.int64)
    if _beyond(columns, 1 << BASIS_BITS) or squares.max() > COLUMN_SQUARES:
        return f"basis.columns: beyond {1 << BASIS_BITS}, or the squares of one {COLUMN_SQUARES}"
    return None


def _sampled(spec: RouterSpec) -> int:
    """Return the documents of the sample; as many as there may be, if the spec does not say."""
    return MAX_SAMPLE if spec.fit is None else spec.fit.n_fit


def _range_misfit(spec: RouterSpec) -> str | None:
    max_bias = EXACT_FLOAT64 - 1 - max_score(spec.dimension, spec.norm_bits, spec.scale_bits)
    if max_bias < 0:
        return "dimension, norm_bits, scale_bits: together they leave exact arithmetic"
    most = 16 * spec.prefix
    if spec.featurizer == IDF_SVD:
        most = max_projection(spec.prefix, _sampled(spec))
    if _beyond(spec.mean_array(), most):
        return f"mean: beyond {most}"
    largest = 1 << (spec.norm_bits + spec.scale_bits)
    if _beyond(spec.centroid_array(), largest):
        return f"centroids: beyond {largest}"
    bias = spec.bias_array()
    if bias.min() != 0 or bias.max() > max_bias:
        return f"bias: not from 0 to {max_bias} with a least of 0"
    if spec.capacity == NO_CAPACITY and bias.any():
        return "bias: not zero without a capacity rule"
    return None


def _beyond(values: npt.NDArray[np.integer], limit: int) -> bool:
    return bool(values.min() < -limit or values.max() > limit)
