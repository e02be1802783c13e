"""The board of a run: each peer's work, from the entries of the ledger alone.

Nothing else goes into it, so whoever holds the manifest and the ledger computes the same board.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.kinds import Evaluated, Evaluation, MomentsReplaced, Scored, Seeded
from dipaco.protocol.work.ledger import Entry, ModuleUpdated


@dataclass(frozen=True, kw_only=True)
class Credit:
    """The accepted work of one peer that outer steps and other entries name."""

    peer: PeerId
    rounds: int
    """Rounds of a path that it trained and an outer step used."""
    steps: int
    """Inner steps of these rounds, and of the seed model."""
    tokens: int
    """The most tokens that these steps can have seen: steps x batch x context. The ledger does not
    tell how full the sequences were."""
    evaluations: int
    scores: int
    """Score sheets for a re-sharding."""
    again: int
    """Rounds that it trained as a second peer, for the moments that the first left with."""
    improvement: float
    """Nats per token by which the held-out loss of its paths fell in its rounds, summed; rounds
    without both losses of the same text count nothing. Others' work on shared modules is in it."""


@dataclass
class _Work:
    rounds: int = 0
    steps: int = 0
    evaluations: int = 0
    scores: int = 0
    again: int = 0


def credits_of(manifest: Manifest, entries: Iterable[Entry]) -> tuple[Credit, ...]:
    """Return the board: the most inner steps first, of equal ones the lesser PeerID."""
    work: dict[PeerId, _Work] = defaultdict(_Work)
    trained: dict[tuple[int, int], PeerId] = {}
    losses: dict[tuple[int, int], Evaluation] = {}
    training = manifest.training
    for entry in entries:
        match entry:
            case Seeded():
                work[entry.peer].steps += training.seed_steps
            case ModuleUpdated():
                for part in entry.contributions:
                    if (part.path, entry.version) not in trained:  # one for each of its modules
                        trained[part.path, entry.version] = part.peer
                        work[part.peer].rounds += 1
                        work[part.peer].steps += training.inner_steps if part.weight else 0
            case MomentsReplaced():
                work[entry.peer].again += 1
            case Evaluated():
                work[entry.peer].evaluations += 1
                losses[entry.path, entry.version] = entry.evaluation
            case Scored():
                work[entry.peer].scores += 1
    falls: dict[PeerId, list[float]] = defaultdict(list)
    for (path, version), peer in trained.items():
        falls[peer].append(loss_fall(losses.get((path, version - 1)), losses.get((path, version))))
    per_step = training.batch * manifest.model.context
    found = [_credit(peer, each, falls[peer], per_step) for peer, each in work.items()]
    return tuple(sorted(found, key=lambda each: (-each.steps, each.peer)))


def _credit(peer: PeerId, work: _Work, falls: list[float], per_step: int) -> Credit:
    return Credit(
        peer=peer,
        rounds=work.rounds,
        steps=work.steps,
        tokens=work.steps * per_step,
        evaluations=work.evaluations,
        scores=work.scores,
        again=work.again,
        improvement=math.fsum(falls),
    )


def loss_fall(before: Evaluation | None, after: Evaluation | None) -> float:
    """Return by how much a loss fell, in nats per token; 0 where both are not of the same text."""
    if before is None or after is None or not after.tokens:
        return 0.0
    if (before.documents, before.tokens) != (after.documents, after.tokens):  # another router
        return 0.0
    return (before.nll - after.nll) / after.tokens
