"""Each peer's breaches of the protocol, and the temporary bans that follow from them.

Owns strikes and bans. A strike is one breach of the protocol (garbage, an oversized frame, a false
signature, a false outline); each also ends the connection. Silence and slowness are no breaches.

Identities are free, so strikes of peers that this node does not know count for their IP prefix,
too: after three of them the prefix is closed to unknown peers for a while, each time for longer.
Known peers come and go as before, and so do peers that are connected already.
"""

import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from dipaco.node.network.paced import Paced
from dipaco.node.network.seats import Network, prefix_of
from dipaco.node.network.transport import Transport
from dipaco.protocol.wire.identity import PeerId, short_peer

log = logging.getLogger(__name__)

STRIKES = 3  # breaches that lead to a ban: one may be a bug of the peer's version
MEMORY = 3600.0  # s for which a breach counts
BAN = 600.0  # s; new identities are free, so a longer ban would not keep a peer out
MAX_PEERS = 4096  # peers and prefixes remembered, the latest to breach; identities are free
FIRST_CLOSURE = 60.0  # s; an honest newcomer who shares the prefix waits no longer
GROUPS = 16  # of prefixes, for the pace of log lines: prefixes are nearly free, too
LONGEST_CLOSURE = 3600.0  # s; each closure is twice as long as the one before


@dataclass(frozen=True)
class _Offence:
    times: tuple[float, ...]
    reason: str


@dataclass(frozen=True)
class Closure:
    """What the strikes of a prefix have led to; pure."""

    strikes: int = 0
    """Since the last closure."""
    last: float = 0.0
    """The time of the latest strike."""
    ends: float = 0.0
    seconds: float = 0.0
    """Of the latest closure."""

    def struck(self, now: float) -> "Closure":
        """Return what another strike makes of it; an hour without one forgets all."""
        quiet = now - max(self.last, self.ends) >= MEMORY
        strikes, seconds = (1, 0.0) if quiet else (self.strikes + 1, self.seconds)
        if strikes < STRIKES:
            return Closure(strikes, now, self.ends, seconds)
        seconds = min(LONGEST_CLOSURE, seconds * 2 or FIRST_CLOSURE)
        return Closure(0, now, now + seconds, seconds)


class Reputation:
    """Strikes per peer and prefix, on the clock `now` (seconds).

    exempt   networks whose peers are not counted together.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        exempt: Sequence[Network] = (),
        now: Callable[[], float] = trio.current_time,
    ) -> None:
        self._exempt = exempt
        self._closures: dict[str, Closure] = {}
        self._transport = transport
        self._now = now
        self._offences: dict[PeerId, _Offence] = {}
        self._paced = Paced(log, now=now)
        self._vouchers: list[Callable[[PeerId], bool]] = []
        transport.gate(self.refuses)
        transport.favour(self.known)

    def vouch(self, knows: Callable[[PeerId], bool]) -> None:
        """Have every peer for which `knows` is true count as known."""
        self._vouchers.append(knows)

    def known(self, peer: PeerId) -> bool:
        """Return whether `peer` has seats of its own: a seed, a scheduler, a peer that worked."""
        return any(knows(peer) for knows in self._vouchers)

    def prefix(self, peer: PeerId) -> str:
        """Return the IP prefix by which a connected peer is counted; empty: it is not counted."""
        return prefix_of(self._transport.remote_ip(peer), self._exempt)

    async def blame(self, peer: PeerId, reason: str) -> None:
        """Give `peer` a strike for `reason`, a breach on its own connection, and hang up on it."""
        now = self._now()
        before = self._offences.pop(peer, _Offence((), ""))
        recent = tuple(time for time in before.times if now - time < MEMORY)
        self._offences[peer] = _Offence((*recent, now)[-STRIKES:], reason)
        if len(self._offences) > MAX_PEERS:
            del self._offences[next(iter(self._offences))]
        if not self.known(peer):
            self._count_for_prefix(peer, reason, now)
        await self._end(peer, f"banned for {BAN:g} s" if self.banned(peer) else "hung up", reason)

    async def blame_signer(self, peer: PeerId, reason: str) -> None:
        """Blame `peer` for a value that it made; a peer that this node knows gets no strike."""
        if self.known(peer):
            await self._end(peer, "hung up", reason)
        else:
            await self.blame(peer, reason)

    async def _end(self, peer: PeerId, verdict: str, reason: str) -> None:
        # Identities are free: one line about a group of prefixes, and then ever fewer.
        group = zlib.crc32(self.prefix(peer).encode()) % GROUPS
        whom = peer if self.known(peer) else f"strangers {group}"
        self._paced.say(f"{whom} {verdict}", f"peer={short_peer(peer)} {verdict}: {reason}")
        await self._transport.hang_up(peer, verdict)

    def _count_for_prefix(self, peer: PeerId, reason: str, now: float) -> None:
        if not (prefix := self.prefix(peer)):
            return
        closure = self._closures.pop(prefix, Closure()).struck(now)
        self._closures[prefix] = closure
        if len(self._closures) > MAX_PEERS:
            del self._closures[next(iter(self._closures))]
        if closure.ends > now:
            self._paced.say(
                "closed",
                f"no unknown peer of prefix={prefix} is let in for {closure.ends - now:g} s: "
                f"{STRIKES} breaches, the last: {reason}",
            )

    def refuses(self, peer: PeerId) -> bool:
        """Return whether a connection of `peer` that is new must end."""
        if self.banned(peer):
            return True
        prefix = self.prefix(peer)
        closure = self._closures.get(prefix)
        return closure is not None and self._now() < closure.ends and not self.known(peer)

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
