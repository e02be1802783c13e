"""A keeper that has forgotten what it signed: it learns from the others before it votes.

It needs as many others as make a quorum, or all where there are fewer. Of any quorum that it signed
with, one is among them: so it comes to a chain that has all that is final, and to a term as high as
any that a quorum promised. A promise that it gave to a candidate that has not heard of a quorum yet
is known to nobody else; so it waits until that candidate has given up (`replication.TAKE_SECONDS`).

At the first start of a run no keeper has signed anything, and none waits.
"""

import logging

import trio
from msgspec import UNSET

from dipaco.node.keeper.service import KeptRun
from dipaco.node.network.rpc import Rpc
from dipaco.node.runs.store import RunStore
from dipaco.node.scheduler.replication import TAKE_SECONDS
from dipaco.protocol.errors import Refusal, RemoteProtocolError, Unavailable
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.wire.messages import LedgerPart, ReadLedger
from dipaco.protocol.work.calls import AskHead, HeadIs, ReadTail, TailPart
from dipaco.protocol.work.tail import Chain

log = logging.getLogger(__name__)

ASK_SECONDS = 10.0  # for another keeper to answer
LOOK_SECONDS = 1.0  # between two attempts
QUARANTINE_SECONDS = 2 * TAKE_SECONDS  # for candidates to give up that have an old promise


async def recover(kept: KeptRun, control: Rpc, sync: Rpc, run_store: RunStore) -> None:
    """Return once the keeper knows as much as it may have signed; does nothing if it remembers."""
    began = trio.current_time()
    while kept.forgot:
        heads = await _heads(kept, control)
        signed = any(answer.term or answer.head.length for answer in heads.values())
        due = began + (QUARANTINE_SECONDS if signed else 0.0)
        if len(heads) >= _needed(kept) and trio.current_time() >= due:
            best = max(heads, key=lambda peer: heads[peer].head.rank)
            try:
                await _learn(kept, best, sync, run_store)
            except (Unavailable, Refusal, RemoteProtocolError) as error:
                log.debug("%s does not say what it signed: %s", short_peer(best), error)
            if kept.head.rank >= heads[best].head.rank:
                kept.remember(max(answer.term for answer in heads.values()))
                return
        kept.waits = f"waits for {_needed(kept)} other keepers, {len(heads)} answer"
        await trio.sleep(LOOK_SECONDS)


def _needed(kept: KeptRun) -> int:
    schedule = kept.record.manifest.schedule
    return min(schedule.keeper_quorum, len(schedule.named_keepers) - 1)


async def _heads(kept: KeptRun, control: Rpc) -> dict[PeerId, HeadIs]:
    """Return where the other keepers stand that answer."""
    answers: dict[PeerId, HeadIs] = {}

    async def ask(peer: PeerId) -> None:
        request = AskHead(run=kept.record.run)
        try:
            answers[peer] = await control.call(peer, request, HeadIs, timeout=ASK_SECONDS)
        except (Unavailable, Refusal, RemoteProtocolError) as error:
            log.debug("%s does not say where it stands: %s", short_peer(peer), error)

    async with trio.open_nursery() as nursery:
        for peer in set(kept.record.keepers) - {kept.machine.me}:
            nursery.start_soon(ask, peer)
    return answers


async def _learn(kept: KeptRun, peer: PeerId, sync: Rpc, run_store: RunStore) -> None:
    """Take in what `peer` has: its final records, and those that it signed after them."""
    run, record = kept.record.run, kept.record
    while True:
        first = record.length
        ask = ReadLedger(run=run, first=first)
        part = await sync.call(peer, ask, LedgerPart, timeout=ASK_SECONDS)
        if not part.records:
            break
        certificate = () if part.certificate is UNSET else part.certificate
        run_store.offer_ledger(run, part.records, first=first, certificate=certificate)
    chain = Chain(run, record.manifest, record.final)
    while True:
        question = ReadTail(run=run, first=chain.head.length, path=0, round=0)
        tail = await sync.call(peer, question, TailPart, timeout=ASK_SECONDS)
        if not tail.records:
            break
        chain = chain.adding(tail.records)
    kept.learn(chain)
