"""Each peer's breaches of the protocol, and the temporary bans that follow from them.

Owns strikes and bans. A strike is one breach of the protocol (garbage, an oversized frame, a false
signature, a false outline); each also ends the connection. Silence and slowness are no breaches.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import trio

from dipaco.node.network.transport import Transport
from dipaco.protocol.wire.identity import PeerId, short_peer

log = logging.getLogger(__name__)

STRIKES = 3  # breaches that lead to a ban: one may be a bug of the peer's version
MEMORY = 3600.0  # s for which a breach counts
BAN = 600.0  # s; new identities are free, so a longer ban would not keep a peer out
MAX_PEERS = 4096  # peers remembered, the latest to breach; bounded since identities are free


@dataclass(frozen=True)
class _Offence:
    times: tuple[float, ...]
    reason: str


class Reputation:
    """Strikes per peer, on the clock `now` (seconds)."""

    def __init__(self, transport: Transport, *, now: Callable[[], float] = trio.current_time):
        self._transport = transport
        self._now = now
        self._offences: dict[PeerId, _Offence] = {}
        self._vouchers: list[Callable[[PeerId], bool]] = []
        transport.gate(self.banned)
        transport.favour(self.known)

    def vouch(self, knows: Callable[[PeerId], bool]) -> None:
        """Have every peer for which `knows` is true count as known."""
        self._vouchers.append(knows)

    def known(self, peer: PeerId) -> bool:
        """Return whether `peer` has seats of its own: a seed, a scheduler, a peer that worked."""
        return any(knows(peer) for knows in self._vouchers)

    async def blame(self, peer: PeerId, reason: str) -> None:
        """Give `peer` a strike for `reason` and end its connections."""
        now = self._now()
        before = self._offences.pop(peer, _Offence((), ""))
        recent = tuple(time for time in before.times if now - time < MEMORY)
        self._offences[peer] = _Offence((*recent, now)[-STRIKES:], reason)
        if len(self._offences) > MAX_PEERS:
            del self._offences[next(iter(self._offences))]
        verdict = f"banned for {BAN:g} s" if self.banned(peer) else "hung up"
        log.warning("peer=%s %s: %s", short_peer(peer), verdict, reason)
        await self._transport.hang_up(peer, verdict)

    def banned(self, peer: PeerId) -> bool:
        """Return whether `peer` is banned: nothing is sent to it or taken from it."""
        offence = self._offences.get(peer)
        if offence is None or len(offence.times) < STRIKES:
            return False
        return self._now() - offence.times[-1] < BAN

    def strikes(self, peer: PeerId) -> int:
        """Return the number of breaches of `peer` that still count."""
        offence = self._offences.get(peer)
        now = self._now()
        return sum(now - time < MEMORY for time in offence.times) if offence else 0
