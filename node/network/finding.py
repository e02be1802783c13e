"""Several blobs of one run, each from whoever has it: other volunteers first, its source last.

Peers are asked at once which of the blobs they hold, are fetching or are about to fetch. What
nobody has and nobody fetches, one of those who want it takes from the source, and the others wait a
little and take it from that one: so the source sends a blob about once, not once for each of them.
The order in which peers go is that of a hash of blob and peer, which all of them know. Whoever
says that a blob is coming is believed for a while only, and binds nobody.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from dipaco.node.network.exchange import Exchange
from dipaco.node.network.guard import Guard
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.rpc import Rpc
from dipaco.protocol.errors import DipacoError, RemoteProtocolError
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.wire.messages import MAX_ASKED, AskPresence, Presence, PresenceIs
from dipaco.protocol.work.placement import order, rank

MOST_ASKED = 16  # peers: a newcomer finds its blobs among them, and 1,000 nodes cost no more
ASK_SECONDS = 3.0  # for their answers; who is slower is too busy to send
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # s between two questions; it doubles
STRANGERS_PATIENCE = 2.0  # s for what peers promise that this node does not know: a lease waits
PATIENCE = 2.0  # s for what a known peer promises, and besides
LEAST_SPEED = 256 * 1024  # bytes per s at which that peer is thought to fetch the blob

OnBytes = Callable[[int, int], None]
"""Called with the bytes that are here, and with those of all."""


@dataclass(frozen=True)
class Wanted:
    """A blob that is needed here."""

    digest: Digest
    length: int
    kind: str
    """For the counts of bytes: `state`, `update`, `moments`."""


Said = Mapping[PeerId, Presence]
"""What the peers say of one blob."""


def waits_for(
    want: Wanted, said: Said, me: PeerId, known: Callable[[PeerId], bool], waited: float
) -> bool:
    """Return whether to wait for a peer that fetches the blob, after `waited` seconds."""
    mine = rank(want.digest, me)
    before = [
        peer
        for peer, presence in said.items()
        if presence == "coming" or (presence == "wanted" and rank(want.digest, peer) < mine)
    ]
    if any(known(peer) for peer in before):
        return waited < PATIENCE + want.length / LEAST_SPEED
    return bool(before) and waited < STRANGERS_PATIENCE


class Finder:
    """Brings blobs into the store from the peers that have them."""

    def __init__(
        self,
        exchange: Exchange,
        rpc: Rpc,
        reputation: Reputation,
        guard: Guard,
        *,
        me: PeerId,
    ) -> None:
        self._exchange, self._rpc, self._guard = exchange, rpc, guard
        self._reputation, self._me = reputation, me

    async def bring(
        self,
        wanted: Sequence[Wanted],
        peers: Iterable[PeerId],
        on_bytes: OnBytes,
        *,
        keepers: Sequence[PeerId] = (),
        last: Sequence[PeerId] = (),
    ) -> None:
        """Have all of `wanted` in the store; raises Unavailable, DiskFull.

        peers     may hold them; the first `MOST_ASKED` that can be called are asked.
        keepers   of the run, for what no peer has: those of a blob's order come first.
        last      the source, for what they do not have either.
        """
        here = dict.fromkeys((each.digest for each in wanted), 0)
        total = sum(each.length for each in wanted)
        failures: list[DipacoError] = []

        async def fetch(each: Wanted, holders: list[PeerId]) -> None:
            def got(received: int, _length: int = 0) -> None:
                here[each.digest] = received
                on_bytes(sum(here.values()), total)

            others = (*order(each.digest, keepers), *last)
            try:
                await self._exchange.fetch(
                    each.digest,
                    length=each.length,
                    holders=holders,
                    last=others,
                    progress=got,
                    kind=each.kind,
                )
                got(each.length)
            except DipacoError as error:  # bare here, a group outside
                failures.append(error)
                nursery.cancel_scope.cancel()

        asked = self._callable(peers, (*keepers, *last))
        with self._exchange.wanting(tuple(here)):
            async with trio.open_nursery() as nursery:
                await self._assign(wanted, asked, partial(nursery.start_soon, fetch))
        if failures:
            raise failures[0]

    def _callable(self, peers: Iterable[PeerId], last: Sequence[PeerId]) -> list[PeerId]:
        ready = self._rpc.ready() - set(last) - {self._me}
        return [peer for peer in dict.fromkeys(peers) if peer in ready][:MOST_ASKED]

    async def _assign(
        self,
        wanted: Sequence[Wanted],
        peers: Sequence[PeerId],
        start: Callable[[Wanted, list[PeerId]], None],
    ) -> None:
        """Call `start` for each blob with those that hold it, once that is known."""
        began, pause = trio.current_time(), FIRST_PAUSE
        missing = [each for each in wanted if not self._exchange.holds(each.digest)]
        while missing:
            said = await self._ask(peers, [each.digest for each in missing])
            waited, later = trio.current_time() - began, []
            for each in missing:
                answers = said[each.digest]
                holders = [peer for peer, presence in answers.items() if presence == "held"]
                if not holders and waits_for(
                    each, answers, self._me, self._reputation.known, waited
                ):
                    later.append(each)
                else:
                    random.shuffle(holders)
                    start(each, holders)
            missing = later
            if missing:
                await trio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _ask(
        self, peers: Sequence[PeerId], blobs: Sequence[Digest]
    ) -> dict[Digest, dict[PeerId, Presence]]:
        """Return what each of the peers says of each blob; one that says nothing is left out."""
        said: dict[Digest, dict[PeerId, Presence]] = {blob: {} for blob in blobs}

        async def ask(peer: PeerId, part: Sequence[Digest]) -> None:
            for blob, presence in zip(part, await self._presence(peer, part), strict=True):
                said[blob][peer] = presence

        async with trio.open_nursery() as nursery:
            for start in range(0, len(blobs), MAX_ASKED):
                for peer in peers:
                    part = blobs[start : start + MAX_ASKED]
                    doing = "asking for blobs"
                    nursery.start_soon(self._guard.run, doing, peer, ask, peer, part)
        return said

    async def _presence(self, peer: PeerId, blobs: Sequence[Digest]) -> tuple[Presence, ...]:
        request = AskPresence(blobs=tuple(blobs))
        answer = await self._rpc.call(peer, request, PresenceIs, timeout=ASK_SECONDS)
        if len(answer.blobs) != len(blobs):
            told = f"{short_peer(peer)} told of {len(answer.blobs)} blobs, asked for {len(blobs)}"
            await self._reputation.blame(peer, told)
            raise RemoteProtocolError(told)
        return answer.blobs
