"""The kinds of work: the lease, the result and the ledger entry of each.

A lease is the right to do one piece of work. It names everything that the work depends on by
digest, so the work can be repeated by any peer, with the same result. `token` is a fencing token:
a result whose token is no longer valid is refused, whatever it holds.

To add a kind, add its lease, result and entry here, and name them in the three unions. The
decisions of a node about each kind are in `dipaco.node.kinds`.
"""

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from dipaco.protocol.run.model_shape import MAX_PATHS
from dipaco.protocol.run.modules import MAX_MODULES, MAX_RUN_MODULES, ModuleDigest, ModuleDigests
from dipaco.protocol.wire.canonical import Wire, decode
from dipaco.protocol.wire.digest import Digest, DigestField
from dipaco.protocol.wire.identity import PeerIdField

MAX_ROUNDS = 1 << 20
TOKEN_BYTES = 16

Token = Annotated[bytes, Meta(min_length=TOKEN_BYTES, max_length=TOKEN_BYTES)]
Size = Annotated[int, Meta(ge=0, le=1 << 40)]
Nats = Annotated[float, Meta(ge=0, le=1e12)]
Path = Annotated[int, Meta(ge=0, lt=MAX_PATHS)]
Round = Annotated[int, Meta(ge=1, le=MAX_ROUNDS)]
Version = Annotated[int, Meta(ge=0, le=MAX_ROUNDS)]


class _Lease(Wire, frozen=True, kw_only=True):
    """The fields and properties that all leases share."""

    run: DigestField
    token: Token
    """Random and of single use: it names the lease, and the result must carry it."""
    spec: DigestField
    """The router spec that routes the documents."""
    window: Size
    """The window of the source that the documents come from."""
    modules: ModuleDigests
    """The states to start from; for a seed lease the manifest's `start`."""
    ttl: Annotated[int, Meta(ge=1, le=3600)]
    """Seconds without a heartbeat after which the lease ends, on the scheduler's clock."""

    @property
    def carried(self) -> tuple[ModuleDigest, ...]:
        """The inner moments to start from."""
        return ()

    @property
    def inputs(self) -> set[Digest]:
        """Every blob that the work starts from."""
        return {each.digest for each in (*self.modules, *self.carried)}


class _Result(Wire, frozen=True, kw_only=True):
    """The fields and properties that all results share."""

    token: Token
    """The lease's token."""

    @property
    def handed_over_later(self) -> tuple[ModuleDigest, ...]:
        """Blobs that the scheduler fetches after it has accepted the result."""
        return ()

    @property
    def digests(self) -> set[Digest]:
        """Every blob that is handed in."""
        return set()

    @property
    def trained(self) -> tuple[int, float]:
        """Tokens trained on, and the seconds of the inner steps."""
        return 0, 0.0


class _InnerStepsResult(_Result, frozen=True, kw_only=True):
    """The figures of inner steps."""

    tokens: Size
    """Tokens trained on."""
    seconds: Annotated[float, Meta(ge=0, le=1e9)]
    """Duration of the inner steps alone."""
    loss_first: Nats
    """Mean training loss of the first step, nats per token."""
    loss_last: Nats

    @property
    def trained(self) -> tuple[int, float]:
        """Tokens trained on, and the seconds of the inner steps."""
        return self.tokens, self.seconds


# --------------------------------------------------------------------------- seed


class SeedLease(_Lease, frozen=True, kw_only=True):
    """Train the seed model: k0 dense steps of path 0's modules."""

    @property
    def base_version(self) -> int:
        """-1: there is no version before the seed model, which becomes version 0."""
        return -1


class SeedResult(_InnerStepsResult, frozen=True, kw_only=True):
    """The seed model."""

    states: ModuleDigests
    """The states of path 0's modules."""

    @property
    def digests(self) -> set[Digest]:
        """Every blob that is handed in."""
        return {each.digest for each in self.states}


class Seeded(Wire, frozen=True, kw_only=True):
    """The seed model became version 0 of every module."""

    peer: PeerIdField
    """The peer that trained it."""
    states: Annotated[tuple[ModuleDigest, ...], Meta(max_length=MAX_RUN_MODULES)]
    """The states of all modules, in the topology's order."""


# --------------------------------------------------------------------------- train


class TrainLease(_Lease, frozen=True, kw_only=True):
    """Train a path: tau inner steps of one round."""

    path: Path
    round: Round
    """t: it starts from version t - 1 and contributes to version t."""
    moments: ModuleDigests
    """The path's inner moments to start from; empty: they are zero (docs/method.md 2.3)."""
    steps: Size = 0
    """Inner steps that these moments have seen: bias correction counts on from there."""

    @property
    def base_version(self) -> int:
        """The version of the modules that the work starts from."""
        return self.round - 1

    @property
    def carried(self) -> tuple[ModuleDigest, ...]:
        """The inner moments to start from."""
        return self.moments


class TrainResult(_InnerStepsResult, frozen=True, kw_only=True):
    """A path's pseudo-gradients."""

    deltas: ModuleDigests
    """The pseudo-gradients of the path's modules."""
    moments: ModuleDigests
    """The moments after the last step, where the manifest carries them; else empty."""

    @property
    def handed_over_later(self) -> tuple[ModuleDigest, ...]:
        """Blobs that the scheduler fetches after it has accepted the result."""
        return self.moments

    @property
    def digests(self) -> set[Digest]:
        """Every blob that is handed in."""
        return {each.digest for each in (*self.deltas, *self.moments)}

    def steps_taken(self, inner_steps: int) -> int:
        """Return how many of the round's `inner_steps` were taken: none without a document."""
        return inner_steps if self.tokens else 0


class MomentsReplaced(Wire, frozen=True, kw_only=True):
    """A path's moments after a round, as a second peer made them: the first left with its own.

    On equal hardware both have the same digests, and then there is no such entry.
    """

    path: Path
    round: Round
    peer: PeerIdField
    moments: Annotated[tuple[ModuleDigest, ...], Meta(min_length=1, max_length=MAX_MODULES)]
    """The moments of all the path's modules, in the topology's order."""


# --------------------------------------------------------------------------- evaluate


class Evaluation(Wire, frozen=True, kw_only=True):
    """Held-out loss of one path: not exact across hardware, so never compared by digest.

    Documents, tokens and bytes are exact: they follow from the data and the tokenizer.
    """

    documents: Size
    tokens: Size
    """Scored positions: from the run's first one to the end of every document (docs/method.md
    2.5)."""
    nll: Nats
    """Their negative log-likelihood, summed, in nats."""
    bytes: Size | UnsetType = UNSET
    """UTF-8 bytes of text that they stand for; left out by nodes of before this field."""


class EvaluateLease(_Lease, frozen=True, kw_only=True):
    """Compute the held-out loss of a path at a version."""

    path: Path
    version: Version

    @property
    def base_version(self) -> int:
        """The version of the modules that the work starts from."""
        return self.version


class EvaluateResult(_Result, frozen=True, kw_only=True):
    """A path's held-out loss."""

    evaluation: Evaluation


class Evaluated(Wire, frozen=True, kw_only=True):
    """The held-out loss of one path at one version, as the peer that computed it reports it."""

    path: Path
    version: Version
    peer: PeerIdField
    evaluation: Evaluation


# --------------------------------------------------------------------------- score


class Sheet(Wire, frozen=True, kw_only=True):
    """One path's scores of the router documents of one window: a blob of int32 (method.md 5)."""

    digest: DigestField
    documents: Size
    """Number of router documents; the blob has 4 bytes for each."""


class ScoreLease(_Lease, frozen=True, kw_only=True):
    """Compute a path's likelihoods of the router documents of a window, for a re-sharding."""

    path: Path
    version: Version

    @property
    def base_version(self) -> int:
        """The version of the modules that the work starts from."""
        return self.version


class ScoreResult(_Result, frozen=True, kw_only=True):
    """A path's score sheet."""

    sheet: Sheet

    @property
    def digests(self) -> set[Digest]:
        """Every blob that is handed in."""
        return {self.sheet.digest}


class Scored(Wire, frozen=True, kw_only=True):
    """A peer's scores of the router documents of one window by one path, at the re-sharding.

    Where peers gave several sheets of one path and window, their contents and order decide which
    ones count (`labels.standing`).
    """

    path: Path
    window: Size
    peer: PeerIdField
    sheet: Sheet


Lease = SeedLease | TrainLease | EvaluateLease | ScoreLease
Result = SeedResult | TrainResult | EvaluateResult | ScoreResult
WorkEntry = Seeded | MomentsReplaced | Evaluated | Scored
"""The ledger entries that leased work makes."""


def decode_lease(data: bytes) -> Lease:
    """Read a lease of any kind; raises RemoteProtocolError."""
    return decode(data, Lease)  # type: ignore[arg-type]
