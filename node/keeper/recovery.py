"""A keeper that has no record of what it signed: it asks the others before it votes.

At the first start of a run no other keeper has a record of it: then this one has signed nothing,
and votes. Otherwise it has forgotten, and waits until the others have gone on without it in a term
above all that it can have signed or promised (`protocol/work/relearning.py`).
"""

import logging

import trio

from dipaco.node.keeper.service import KeptRun
from dipaco.node.network.rpc import Rpc
from dipaco.node.scheduler.heads import heads_of
from dipaco.protocol.errors import Refusal, RemoteProtocolError, Unavailable
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.wire.signed import Signed, open_signed
from dipaco.protocol.work.calls import Acceptance, ReadTail, TailPart
from dipaco.protocol.work.keeping import Place
from dipaco.protocol.work.relearning import Forgotten, can_relearn, newest_of, others_needed

log = logging.getLogger(__name__)

ASK_SECONDS = 10.0  # for another keeper to answer
LOOK_SECONDS = 1.0  # between two attempts
# For which a keeper of a new run stays silent, so that all others see that it has no record either.
# One that misses it waits for the others to go on without it, as if it had forgotten.
SEEN_SECONDS = 3 * LOOK_SECONDS


async def recover(kept: KeptRun, control: Rpc, keepers: Rpc) -> None:
    """Return once the keeper may vote; does nothing if it remembers.

    keepers   the stream of what only keepers and schedulers ask.
    """
    empty = set[PeerId]()
    others = set(kept.record.keepers) - {kept.machine.me}
    while kept.forgot:
        heads = await heads_of(others, kept.record.run, control, timeout=ASK_SECONDS)
        empty |= {peer for peer, answer in heads.items() if not answer.head.length}
        if empty >= others and not kept.record.length:
            await trio.sleep(SEEN_SECONDS)
            kept.remember(0)
            return
        if not can_relearn(kept.record.manifest.schedule):
            kept.waits = "has lost what it signed, and no quorum exists without it: it never votes"
        elif kept.forgotten is None:
            kept.forgotten = Forgotten.told(kept.record.manifest, heads)
            kept.waits = (
                f"waits for {others_needed(kept.record.manifest.schedule)} other keepers that vote"
            )
        elif kept.forgotten.may_vote(kept.record.final):
            await _take_up(kept, [peer for peer in heads if heads[peer].votes], keepers)
        else:
            kept.waits = f"waits for the others to go on in term {kept.forgotten.term} or later"
        if kept.forgot:
            await trio.sleep(LOOK_SECONDS)


async def _take_up(kept: KeptRun, voting: list[PeerId], keepers: Rpc) -> None:
    """Take up the acceptances that other keepers keep, of enough of them, and vote."""
    record, acceptances, answered = kept.record, list[Signed](), 0
    for peer in voting:
        try:
            acceptances += await _acceptances(kept, peer, keepers)
            answered += 1
        except (Unavailable, Refusal, RemoteProtocolError) as error:
            log.debug("%s does not say what it keeps: %s", short_peer(peer), error)
    if answered >= others_needed(record.manifest.schedule):
        final = record.final
        newest = newest_of(record.manifest, record.run, final, acceptances)
        kept.remember(final.head.term, newest)


async def _acceptances(kept: KeptRun, peer: PeerId, keepers: Rpc) -> list[Signed]:
    found: list[Signed] = []
    after: Place = (0, 0)
    while True:
        path, round_ = after
        question = ReadTail(run=kept.record.run, first=kept.record.length, path=path, round=round_)
        part = await keepers.call(peer, question, TailPart, timeout=ASK_SECONDS)
        found += part.acceptances
        if not part.more or not part.acceptances:
            return found
        after = open_signed(part.acceptances[-1], Acceptance).place
