"""Evaluations of the ledger as the API tells them."""

from dipaco.node.api.values import EvaluationView
from dipaco.node.status.document import HeldOut
from dipaco.protocol.work.kinds import Evaluation
from dipaco.protocol.work.losses import bits_per_byte, perplexity, stated_bytes, sum_if_known
from dipaco.protocol.work.rounds import Rounds


def held_out(rounds: Rounds, vocabulary: int) -> HeldOut | None:
    """Return the held-out loss of the newest version that every live path was evaluated at.

    None before there is such a version.
    """
    entries = rounds.last_evaluated()
    if not entries:
        return None
    found = [entry.evaluation for entry in entries]
    tokens, nll = sum(each.tokens for each in found), sum(each.nll for each in found)
    return HeldOut(
        version=entries[0].version,
        tokens=tokens,
        perplexity=perplexity(nll, tokens),
        vocabulary=vocabulary,
        bits_per_byte=bits_per_byte(nll, sum_if_known(map(stated_bytes, found))),
    )


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
