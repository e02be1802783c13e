"""What a node does about a verdict: train, wait, or stop; by its policy and what others say.

Receipts are statements, and identities are free: a quorum of strangers proves little. They decide
nothing but what the policy `receipts:Q` asks them for. Source: docs/method.md, 4.10; docs/data.md.
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
    """How many peers said what of a spec in their receipts: statements, not proofs."""

    verified: int = 0
    refuted: int = 0


def tally_receipts(
    said: Mapping[PeerId, Outcome], *, apart: Collection[PeerId], members: Collection[PeerId]
) -> ReceiptTally:
    """Count what peers said of one spec.

    apart     whose word is no second opinion: the spec's author, and this node.
    members   where the manifest lists them, nobody else counts: identities are free.
    """
    heard = [
        outcome
        for peer, outcome in said.items()
        if peer not in apart and (not members or peer in members)
    ]
    return ReceiptTally(
        verified=heard.count(Outcome.VERIFIED), refuted=heard.count(Outcome.REFUTED)
    )


class Decision(enum.Enum):
    """What a node does about a verdict."""

    TRAIN = enum.auto()
    WAIT = enum.auto()
    """Derive again later, or hear what others say."""
    STOP = enum.auto()
    """Never train by this spec, never ask again."""


HOPELESS: Final = frozenset({"unknown-kind", "no-fit"})
"""Stages at which no honest node of this software can come to VERIFIED."""


def decide(verdict: Verdict, policy: Policy, heard: ReceiptTally, *, passing: bool) -> Decision:
    """Decide what a node of this policy does about a verdict.

    passing   whether what stood in the way of our own derivation may be gone at the next try.
    """
    if verdict.outcome is Outcome.VERIFIED:
        return Decision.TRAIN
    if verdict.outcome is Outcome.REFUTED or verdict.stage == "unknown-kind":
        return Decision.STOP  # the latter cannot even be materialised
    if policy.kind == "warn":
        return Decision.TRAIN
    if policy.kind == "receipts" and verdict.stage not in HOPELESS and not heard.refuted:
        return Decision.TRAIN if heard.verified >= policy.quorum else Decision.WAIT
    return Decision.WAIT if passing else Decision.STOP


def may_pass(derivation: Derivation) -> bool:
    """Return whether a derivation that failed may succeed at the next try."""
    if isinstance(derivation, SourceFailure):
        return not derivation.lasting
    return isinstance(derivation, LocalFailure)
