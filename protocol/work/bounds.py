"""The bounds on the figures that volunteers hand in: they follow from the manifest alone. Pure.

A scheduler holds them against every result, and every node against every ledger entry, so that a
scheduler that writes an impossible figure is noticed. Each function returns the fault in words, or
an empty string. A lie within the bounds is not found here: only repeating the work finds it.
"""

import math

from msgspec import UNSET

from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.work.kinds import Evaluation, Seeded, SeedResult, TrainResult

MOST_GUESSES = 100.0  # loss in that of a uniform guess: a model above it has diverged for good
LEAST_NATS = 1e-6  # mean loss per held-out token: float32 has no lower one that is not rounding
ASLEEP_SECONDS = 3600.0  # a scheduler's clock may stand still so long while its machine sleeps


def most_nats(manifest: Manifest) -> float:
    """Return the largest loss per token, in nats: so many times that of a uniform guess."""
    return MOST_GUESSES * math.log(manifest.tokenizer.vocabulary)


def wrong_evaluation(manifest: Manifest, found: Evaluation) -> str:
    """Say why the held-out documents of a path cannot have this loss (docs/method.md 2.5)."""
    if found.documents > manifest.most_held_out:
        return (
            f"the evaluation is of {found.documents} documents, a window holds out at most "
            f"{manifest.most_held_out}"
        )
    longest = manifest.model.context - manifest.routing.first_scored
    if not found.documents <= found.tokens <= found.documents * longest:
        return (
            f"the evaluation scores {found.tokens} tokens of {found.documents} documents, which "
            f"have 1 to {longest} each"
        )
    least, most = LEAST_NATS * found.tokens, most_nats(manifest) * found.tokens
    if not least <= found.nll <= most:
        return (
            f"the evaluation's loss of {found.nll:.3g} nats is none that {found.tokens} tokens can "
            "have"
        )
    return _wrong_bytes(manifest, found)


def _wrong_bytes(manifest: Manifest, found: Evaluation) -> str:
    """Say why so many tokens cannot stand for so much text.

    The tokenizer's file spells every token, in at least the bytes that it stands for (2.5).
    """
    if found.bytes is UNSET or found.bytes <= found.tokens * manifest.tokenizer.size:
        return ""
    return f"the evaluation's {found.bytes} bytes are more than {found.tokens} tokens stand for"


def wrong_figures(
    manifest: Manifest, result: SeedResult | TrainResult, *, steps: int, idle: bool
) -> str:
    """Say why so many inner steps cannot have these figures.

    idle   whether there may have been no document to train on: then all figures are 0.
    """
    due = steps * manifest.training.batch * manifest.model.context
    figures = (result.tokens, result.seconds, result.loss_first, result.loss_last)
    if idle and not any(figures):
        return ""
    if result.tokens != due:
        return f"{steps} inner steps train on {due} tokens, and not on {result.tokens}"
    worst, most = max(result.loss_first, result.loss_last), most_nats(manifest)
    if worst > most:
        return f"a training loss of {worst:.3g} nats per token is above {most:.3g}"
    return ""


def wrong_seconds(result: SeedResult | TrainResult, elapsed: float) -> str:
    """Say why inner steps cannot have taken so long, `elapsed` seconds after their lease began."""
    if result.seconds > elapsed + ASLEEP_SECONDS:
        return f"the inner steps took {result.seconds:.0f} s, their lease is {elapsed:.0f} s old"
    return ""


def wrong_seed(manifest: Manifest, entry: Seeded) -> str:
    """Say why these cannot be the states of version 0; they name all modules in order."""
    top = manifest.topology
    found = {each.module: each.digest for each in entry.states}
    for module in top.modules:
        if found[module] != found[top.counterpart(module)]:
            return f"version 0 of {module} is not that of its counterpart of path 0"
    if not manifest.training.seed_steps and any(
        found[each.module] != each.digest for each in manifest.start
    ):
        return "version 0 is not the manifest's start, from which no step is taken"
    return ""
