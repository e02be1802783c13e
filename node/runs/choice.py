"""The choice of the run that a volunteer works for, from the runs on offer: pure decisions.

Anybody can put a manifest on the network, so a run that a seed itself schedules goes before those
that are only handed on. Of several that are equally good none is chosen: a person names one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dipaco.node.runs.files import MAX_OFFERS, choose_run
from dipaco.protocol.wire.digest import Digest, short
from dipaco.protocol.wire.faults import nearest
from dipaco.protocol.wire.identity import PeerId, short_peer


@dataclass(frozen=True, kw_only=True)
class RunOffer:
    """A run on offer, as this node sees it now."""

    run: Digest
    name: str
    signer: PeerId
    """The run's owner."""
    of_seed: bool = False
    """Whether a seed of this node offers it and schedules it."""
    answers: bool = False
    """Whether this node is connected to its scheduler."""
    over: bool = False


@dataclass(frozen=True)
class Choice:
    """The run to work for, or what a person may choose from."""

    run: Digest | None = None
    among: tuple[RunOffer, ...] = ()
    """Several that would do; empty if there is one or none."""
    missing: str = ""
    """What was named and is not on offer."""


def choose(
    offers: Sequence[RunOffer], *, wanted: Sequence[str] = (), last: Digest | None = None
) -> Choice:
    """Choose a run; one that is over is chosen only if no other may be.

    wanted   names or ids, the most wanted first; empty: `last`, else the only run that a seed
             schedules, else the only one on offer.
    last     the run that this node worked for last.
    """
    if wanted:
        return _named(offers, wanted, last)
    if any(offer.run == last for offer in offers):
        return Choice(last)
    open_ones = [offer for offer in offers if not offer.over]
    of_seed = [offer for offer in open_ones if offer.of_seed]
    found = of_seed or open_ones or sorted(offers, key=lambda offer: not offer.of_seed)[:1]
    if len(found) == 1:
        return Choice(found[0].run)
    return Choice(among=tuple(open_ones))


def _named(offers: Sequence[RunOffer], wanted: Sequence[str], last: Digest | None) -> Choice:
    """Choose the first of `wanted` that is on offer and not over."""
    by_run = {offer.run: offer for offer in offers}
    names = {offer.run: offer.name for offer in offers}
    over: Digest | None = None
    missing = ""
    for text in wanted:
        found = choose_run(text, names).found
        if last is not None and last in found:
            found = (last,)
        if len(found) > 1:
            return Choice(among=tuple(by_run[run] for run in found))
        if not found:
            missing = missing or text
        elif not by_run[found[0]].over:
            return Choice(found[0])
        else:
            over = over or found[0]
    return Choice(over, missing=missing)


def offers_text(offers: Sequence[RunOffer]) -> str:
    """Return runs on offer as text: id and scheduler of each, the signer of namesakes."""
    names = [offer.name for offer in offers]
    texts = [_text(offer, alike=names.count(offer.name) > 1) for offer in offers]
    more = len(texts) - MAX_OFFERS
    return ", ".join([*texts[:MAX_OFFERS], *([f"{more} more"] if more > 0 else [])])


def missing_text(missing: str, offers: Sequence[RunOffer]) -> str:
    """Return the text for a run that is named and not on offer."""
    hint = nearest(missing, [offer.name for offer in offers])
    return f"no run {missing}{hint}; on offer: {offers_text(offers) or 'none'}"


def next_text(run: Digest, offers: Sequence[RunOffer]) -> str:
    """Return the advice for a node whose run is over, from all runs on offer."""
    others = [offer for offer in offers if offer.run != run and not offer.over]
    if not others:
        return "no other run is on offer"
    return f"others on offer: {offers_text(others)}: restart with --run to join one"


def _text(offer: RunOffer, *, alike: bool) -> str:
    signer = f" of {short_peer(offer.signer)}" if alike else ""
    if offer.over:
        state = "over"
    else:
        state = "its scheduler is connected" if offer.answers else "its scheduler is away"
    return f"{offer.name} {short(offer.run)}{signer} ({state})"
