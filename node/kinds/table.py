"""The kinds of work, in the order in which a scheduler hands them out: the one dispatcher."""

from typing import Any, Final

from dipaco.node.kinds.base import Kind, Work
from dipaco.node.kinds.evaluate import EvaluateKind
from dipaco.node.kinds.score import ScoreKind
from dipaco.node.kinds.seed import SeedKind
from dipaco.node.kinds.train import TrainKind
from dipaco.protocol.work.kinds import Lease

SEED: Final = SeedKind()
TRAIN: Final = TrainKind()
SCORE: Final = ScoreKind()
EVALUATE: Final = EvaluateKind()

KINDS: Final[tuple[Kind[Any, Any], ...]] = (SEED, TRAIN, SCORE, EVALUATE)

_BY_LEASE: Final[dict[type, Kind[Any, Any]]] = {kind.lease_type: kind for kind in KINDS}


def kind_of(lease: Lease) -> Kind[Any, Any]:
    """Return the kind of work that a lease is for."""
    return _BY_LEASE[type(lease)]


def work_of(lease: Lease) -> Work:
    """Return the work that a lease is for."""
    return kind_of(lease).work_of(lease)
