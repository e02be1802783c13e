"""An evaluation of the ledger as the API tells it."""

from dipaco.node.api.values import EvaluationView
from dipaco.protocol.work.kinds import Evaluation
from dipaco.protocol.work.losses import stated_bytes


def evaluation_view(path: int, version: int, peer: str, found: Evaluation) -> EvaluationView:
    """Return the view of an evaluation."""
    return EvaluationView(
        path=path,
        version=version,
        documents=found.documents,
        tokens=found.tokens,
        nll=found.nll,
        bytes=stated_bytes(found),
        peer=peer,
    )
