"""A node's decision on a verdict (train, wait, or stop), by its policy and the receipts of others.

Receipts are statements, and identities are free: a quorum of strangers proves little. Only the
policy `receipts:Q` uses them. Source: docs/method.md, 4.10; docs/data.md.
"""

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from dipaco.protocol.routing.policy import Policy
from dipaco.protocol.routing.verdict import (
    Derivation,
    LocalFailure,
    Outcome,
    SourceFailure,
    Verdict,
)
from dipaco.protocol.wire.identity import PeerId


@dataclass(frozen=True, kw_only=True)
class ReceiptTally:
    """The numbers of peers whose receipts verify or refute a spec: statements, not proofs."""

    verified: int = 0
    refuted: int = 0


def tally_receipts(
    said: Mapping[PeerId, Outcome], *, apart: Collection[PeerId], members: Collection[PeerId]
) -> ReceiptTally:
    """Count the receipts of one spec.

    said      per peer the outcome in its receipt.
    apart     peers that do not count, since they are no second opinion: the author and this node.
    members   the manifest's members; if it lists any, only they count, since identities are free.
    """
    outcomes = [
        outcome
        for peer, outcome in said.items()
        if peer not in apart and (not members or peer in members)
    ]
    return ReceiptTally(
        verified=outcomes.count(Outcome.VERIFIED), refuted=outcomes.count(Outcome.REFUTED)
    )


class Decision(enum.Enum):
    """A node's decision on a verdict."""

    TRAIN = enum.auto()
    WAIT = enum.auto()
    """Derive again later, or wait for the receipts of others."""
    STOP = enum.auto()
    """Never train by this spec, and do not derive again."""


NEVER_VERIFIED: Final = frozenset({"unknown-kind", "no-fit"})
"""Stages at which no honest node of this software can come to VERIFIED."""


def decide(verdict: Verdict, policy: Policy, tally: ReceiptTally, *, passing: bool) -> Decision:
    """Return the decision of a node with this policy on a verdict.

    tally     the receipts of others for the spec.
    passing   whether our own derivation failed and may succeed at the next try.
    """
    if verdict.outcome is Outcome.VERIFIED:
        return Decision.TRAIN
    if verdict.outcome is Outcome.REFUTED or verdict.stage == "unknown-kind":
        return Decision.STOP  # of an unknown kind not even shards can be made
    if policy.kind == "warn":
        return Decision.TRAIN
    if policy.kind == "receipts" and verdict.stage not in NEVER_VERIFIED and not tally.refuted:
        return Decision.TRAIN if tally.verified >= policy.quorum else Decision.WAIT
    return Decision.WAIT if passing else Decision.STOP


def may_pass(derivation: Derivation) -> bool:
    """Return whether a derivation that failed may succeed at the next try."""
    if isinstance(derivation, SourceFailure):
        return not derivation.lasting
    return isinstance(derivation, LocalFailure)
