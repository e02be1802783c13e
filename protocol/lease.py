"""Leases: the right to do one piece of work, and what is handed in for it.

A lease names everything the work depends on by digest, so that whoever does it, and however
often, gets the same result. `token` is the fence: a submission under a token that no longer
stands is refused, whatever it holds.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import Meta

from dipaco.protocol.canonical import Wire
from dipaco.protocol.digest import Digest, DigestField

MAX_MODULES = 64  # of one path: stem, one per level (at most 8), its own; room for finer cuts
TOKEN_BYTES = 16

ModuleName = Annotated[str, Meta(min_length=1, max_length=16, pattern=r"^[a-zA-Z0-9.]+\Z")]
Token = Annotated[bytes, Meta(min_length=TOKEN_BYTES, max_length=TOKEN_BYTES)]
Size = Annotated[int, Meta(ge=0, le=1 << 40)]
Nats = Annotated[float, Meta(ge=0, le=1e12)]
LeaseKind = Literal["seed", "train", "evaluate", "score"]


class ModuleDigest(Wire, frozen=True, kw_only=True):
    """One module and the blob that stands for it: a state, a pseudo-gradient, or moments."""

    module: ModuleName
    digest: DigestField


def digest_of(module: str, named: Iterable[ModuleDigest]) -> Digest:
    """Return the blob that stands for `module`; raises LookupError if it is not named."""
    for each in named:
        if each.module == module:
            return each.digest
    raise LookupError(module)


class Lease(Wire, frozen=True, kw_only=True):
    """One peer's right to do one piece of work."""

    run: DigestField
    token: Token
    """Random, single use: it names the lease and fences its result."""
    kind: LeaseKind
    """`seed`: k0 dense steps; `train`: tau steps of a path; `evaluate`: its held-out loss;
    `score`: its likelihoods of the router documents."""
    path: Annotated[int, Meta(ge=0, le=1023)]
    """0 for `seed`."""
    round: Annotated[int, Meta(ge=0, le=1 << 20)]
    """`train`: t, from 1; `evaluate`, `score`: the version t of the modules; `seed`: 0."""
    window: Annotated[int, Meta(ge=0, le=1 << 40)]
    """Of the source; `evaluate` and `score` look at the held-out or router documents of it."""
    spec: DigestField
    """The router spec by which documents find their path."""
    modules: Annotated[tuple[ModuleDigest, ...], Meta(max_length=MAX_MODULES)]
    """The states to start from, in the topology's order; for `seed` the manifest's `start`."""
    moments: Annotated[tuple[ModuleDigest, ...], Meta(max_length=MAX_MODULES)] = ()
    """`train`: the path's AdamW moments to go on from, of the same modules in the same order;
    empty: they are zero (docs/method.md 2.3)."""
    ttl: Annotated[int, Meta(ge=1, le=3600)]
    """Seconds without a heartbeat after which the lease ends, on the scheduler's clock."""


class Evaluation(Wire, frozen=True, kw_only=True):
    """Held-out loss of one path: not exact across hardware, so never compared by digest."""

    documents: Size
    tokens: Size
    """Scored positions: prefix to end of every document (docs/method.md 2.5)."""
    nll: Nats
    """Their negative log-likelihood, summed, in nats."""


class Sheet(Wire, frozen=True, kw_only=True):
    """One path's scores of the router documents of one window: a blob of int32 (method.md 5)."""

    digest: DigestField
    documents: Size
    """The blob has 4 bytes for each."""


class Submission(Wire, frozen=True, kw_only=True):
    """What is handed in for a lease."""

    token: Token
    blobs: Annotated[tuple[ModuleDigest, ...], Meta(max_length=MAX_MODULES)]
    """`seed`: the states of path 0's modules; `train`: the pseudo-gradients; else empty."""
    moments: Annotated[tuple[ModuleDigest, ...], Meta(max_length=MAX_MODULES)] = ()
    """`train`, where the manifest carries them: AdamW's moments after the last step; else empty."""
    tokens: Size
    """Trained on."""
    seconds: Annotated[float, Meta(ge=0, le=1e9)]
    """Of the inner steps alone."""
    loss_first: Nats
    """Mean training loss of the first step, nats per token."""
    loss_last: Nats
    evaluation: Evaluation | None = None
    """For `evaluate`."""
    sheet: Sheet | None = None
    """For `score`."""

    def digests(self) -> set[Digest]:
        """Return every blob that is handed in."""
        return {each.digest for each in (*self.blobs, *self.moments)}
