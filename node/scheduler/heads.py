"""Where peers say that a run's ledger ends, and who schedules it."""

import logging
import math
from collections.abc import Iterable, Sequence

import trio

from dipaco.node.network.rpc import Rpc
from dipaco.protocol.errors import Refusal, RemoteProtocolError, Unavailable
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.work.calls import AskHead, HeadIs

log = logging.getLogger(__name__)


async def heads_of(
    peers: Iterable[PeerId],
    run: Digest,
    rpc: Rpc,
    *,
    timeout: float,
    enough: float = math.inf,
) -> dict[PeerId, HeadIs]:
    """Return the answers of those of `peers` that answer within `timeout` seconds.

    enough   the number of answers after which the others are not waited for.
    """
    answers: dict[PeerId, HeadIs] = {}

    async def ask(peer: PeerId) -> None:
        try:
            answers[peer] = await rpc.call(peer, AskHead(run=run), HeadIs, timeout=timeout)
        except (Unavailable, Refusal, RemoteProtocolError) as error:
            log.debug("%s does not say where it stands: %s", short_peer(peer), error)
        if len(answers) >= enough:
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(ask, peer)
    return answers


def no_quorum(quorum: int, keepers: Sequence[PeerId], away: Iterable[PeerId]) -> str:
    """Say which keepers are away, and how many of all are needed."""
    names = ", ".join(map(short_peer, sorted(away)))
    return f"no quorum: {quorum} of {len(keepers)} keepers must answer; away: {names}"
