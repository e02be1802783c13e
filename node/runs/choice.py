"""The choice of the run that a volunteer works for, from the runs on offer: pure decisions.

Anybody can put a manifest on the network, so a run that a seed itself schedules goes before those
that are only handed on. Of several that are equally good none is chosen: a person names one.
A run whose scheduler has been away for long goes behind all others. A run whose name is pinned to
another signer is not chosen without a person's word (`signers.py`).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from dipaco.node.runs.files import MAX_OFFERS, choose_run
from dipaco.protocol.run.invitation import Invitation
from dipaco.protocol.wire.digest import Digest, short
from dipaco.protocol.wire.faults import nearest
from dipaco.protocol.wire.identity import PeerId, fingerprint, short_peer


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
    """Whether its scheduler is connected and offers it."""
    dead: bool = False
    """Whether its scheduler has not answered for long."""
    pinned: PeerId | None = None
    """The signer that this node knows the name by; None: it never worked for a run of it."""
    over: bool = False


@dataclass(frozen=True)
class Choice:
    """The run to work for, or what a person may choose from."""

    run: Digest | None = None
    among: tuple[RunOffer, ...] = ()
    """Several that would do; empty if there is one or none."""
    missing: str = ""
    """What was named and is not on offer."""
    of_others: tuple[RunOffer, ...] = ()
    """Those that would do, but that another signer than the pinned one signed."""


def choose(
    offers: Sequence[RunOffer],
    *,
    wanted: Sequence[str] = (),
    signers: Collection[PeerId] = (),
    last: Digest | None = None,
    invited: Invitation | None = None,
) -> Choice:
    """Choose a run; one that is over is chosen only if no other may be.

    wanted    names or ids, the most wanted first; empty: `last`, else the only run that a seed
              schedules, else the only one on offer.
    signers   the owners whose runs may be chosen, whatever is pinned; empty: any.
    last      the run that this node worked for last.
    invited   an invitation, whose run alone may be chosen; then nothing else is wanted.
    """
    if invited is not None:
        offers = [each for each in offers if invited.is_for(each.run, each.signer)]
        wanted = (invited.run.hex(),)
    usable = [each for each in offers if is_named(each, wanted) or _allowed(each, signers)]
    of_others = tuple(each for each in usable if _of_other(each, wanted, signers))
    usable = [each for each in usable if each not in of_others]
    if wanted:
        return _named(usable, of_others, wanted, last)
    found = _unnamed(usable, last, signers)
    return found if found.run or found.among else replace(found, of_others=of_others)


def is_named(offer: RunOffer, wanted: Sequence[str]) -> bool:
    """Return whether a person named this very run, by its whole id."""
    return offer.run.hex() in wanted


def _allowed(offer: RunOffer, signers: Collection[PeerId]) -> bool:
    return not signers or offer.signer in signers


def _of_other(offer: RunOffer, wanted: Sequence[str], signers: Collection[PeerId]) -> bool:
    vouched = offer.signer in signers or is_named(offer, wanted)
    return offer.pinned not in (None, offer.signer) and not vouched


def _unnamed(
    offers: Sequence[RunOffer], last: Digest | None, signers: Collection[PeerId]
) -> Choice:
    open_ones = _living([offer for offer in offers if not offer.over])
    of_seed = [offer for offer in open_ones if offer.of_seed]
    before = next((offer for offer in offers if offer.run == last), None)
    if before is not None:
        # No stranger's run may take a node from its own, however long that one's scheduler is away.
        better = [offer for offer in open_ones if offer.of_seed or offer.signer in signers]
        better = [offer for offer in better if offer.answers and offer.run != last]
        if not before.dead or not better:
            return Choice(last)
        open_ones, of_seed = better, better
    found = of_seed or open_ones or sorted(offers, key=lambda offer: not offer.of_seed)[:1]
    if len(found) == 1:
        return Choice(found[0].run)
    return Choice(among=tuple(open_ones))


def _living(offers: Sequence[RunOffer]) -> list[RunOffer]:
    """Return the runs whose schedulers have answered lately; if there is none, all."""
    return [offer for offer in offers if not offer.dead] or list(offers)


def _named(
    offers: Sequence[RunOffer],
    of_others: Sequence[RunOffer],
    wanted: Sequence[str],
    last: Digest | None,
) -> Choice:
    """Choose the first of `wanted` that is on offer and not over."""
    by_run = {offer.run: offer for offer in (*offers, *of_others)}
    names = {run: offer.name for run, offer in by_run.items()}
    over: Digest | None = None
    missing = ""
    others: tuple[RunOffer, ...] = ()
    for text in wanted:
        meant = [by_run[run] for run in choose_run(text, names).found]
        found = _living([offer for offer in meant if offer not in of_others])
        if any(offer.run == last for offer in found):
            found = [offer for offer in found if offer.run == last]
        if len(found) > 1:
            return Choice(among=tuple(found))
        if not found:
            missing, others = missing or text, others or tuple(meant)
        elif not found[0].over:
            return Choice(found[0].run)
        else:
            over = over or found[0].run
    return Choice(over, missing=missing, of_others=others)


def others_text(offers: Sequence[RunOffer]) -> str:
    """Return the text for a run whose name is pinned to another signer, and what to do."""
    offer = offers[0]
    assert offer.pinned is not None
    return (
        f"run {offer.name} {short(offer.run)} is signed by {fingerprint(offer.signer)}, and this "
        f"node knows that name by {fingerprint(offer.pinned)}: if you trust the new signer, give "
        f"--signer {offer.signer}, or remove the name from signers.toml in the home"
    )


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
    signer = f" of {short_peer(offer.signer)} ({fingerprint(offer.signer)})" if alike else ""
    if offer.over:
        state = "over"
    else:
        state = "its scheduler is connected" if offer.answers else "its scheduler is away"
    return f"{offer.name} {short(offer.run)}{signer} ({state})"
