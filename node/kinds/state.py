"""What the scheduler of one run decides from: the ledger's fold, and what is not in it yet."""

from dataclasses import dataclass

from dipaco.node.kinds.changes import TrainingAccepted
from dipaco.node.kinds.pending_moments import PendingMoments, Place
from dipaco.node.kinds.scoring import Scoring
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleDigest, ModuleId
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.rounds import Rounds
from dipaco.protocol.work.run_state import RunState


@dataclass(frozen=True)
class LedgerSource:
    """What the leases of a run name, as its ledger tells it (`base.LeaseSource`)."""

    run: Digest
    ledger: RunState

    @property
    def manifest(self) -> Manifest:
        """The run's manifest."""
        return self.ledger.manifest

    def spec_at(self, round_: int) -> Digest:
        """Return the router spec of a round."""
        return self.ledger.specs[self.manifest.epoch_of(round_)]

    def states_at(self, path: int, version: int) -> tuple[ModuleDigest, ...]:
        """Return the states of a path's modules at a version, in the topology's order."""
        return named(self.ledger.path_states(path, version))

    def moments_before(self, path: int, round_: int) -> tuple[ModuleDigest, ...]:
        """Return the moments that a path goes on from in a round; none where it begins anew."""
        return named(self.ledger.path_moments(path, round_))

    def steps_before(self, path: int, round_: int) -> int:
        """Return the inner steps that these moments have seen."""
        return self.ledger.steps_before(path, round_)


class SchedulingState(LedgerSource):
    """The state of one run's schedule; `Schedule` alone changes it."""

    def __init__(self, run: Digest, rounds: Rounds, ledger: RunState) -> None:
        super().__init__(run, ledger)
        self.rounds = rounds
        reshard = ledger.manifest.routing.reshard
        self.scoring = None if reshard is None else Scoring(reshard, ledger)
        self.accepted: dict[Place, TrainingAccepted] = {}
        """By (path, round), until the path's modules have taken it in."""
        self.pending = PendingMoments()
        self.granted_to: dict[int, PeerId] = {}
        """Who was granted a path last."""

    @property
    def scores(self) -> Scoring | None:
        """The scoring phase while it lasts: no training goes on meanwhile."""
        reshard = self.manifest.routing.reshard
        if reshard is None or self.ledger.epoch != 0 or self.rounds.done < reshard.after_round:
            return None
        return self.scoring

    def last_at(self, path: int) -> PeerId | None:
        """Return who worked on a path last: it has its shard, states and moments at hand."""
        return self.granted_to.get(path, self.ledger.contributors.get(path))

    def preference(self, peer: PeerId, path: int, round_: int) -> tuple[int, bool, bool, bool, int]:
        """Return the key by which `peer`'s work is sorted.

        The oldest round goes first; in it a path that missed the round before, so that no path
        misses all; then one that `peer` has at hand, then one that nobody else has at hand.
        """
        last, late = self.last_at(path), self.ledger.missed.get(round_ - 1, ())
        return round_, path not in late, last != peer, last is not None, path


def named(pairs: tuple[tuple[ModuleId, Digest], ...]) -> tuple[ModuleDigest, ...]:
    """Return modules and their blobs as the wire has them."""
    return tuple(ModuleDigest(module=module, digest=digest) for module, digest in pairs)
