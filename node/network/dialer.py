"""The loop that keeps a node connected, and the reason in words while it is not.

Owns the candidates (seeds from the operator, peers remembered from earlier, peers that directories
list) and their back-off. A seed is dialled whenever it is not connected; other candidates only
while there are fewer than `low` connections. No failure ends the loop: the commonest complaint
about networks like this one is a node that gave up.
"""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from dipaco.node.network.addresses import addresses_of
from dipaco.node.network.directory import PeerStore
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.rpc import Rpc
from dipaco.node.network.transport import Transport
from dipaco.protocol.errors import ConfigError, DipacoError, RemoteProtocolError, Unavailable
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.wire.messages import (
    MAX_LISTED,
    Listing,
    ListPeers,
    Register,
    Registered,
    open_record,
)
from dipaco.protocol.wire.signed import Signed
from dipaco.protocol.words import count, span

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

LOW_CONNECTIONS = 16  # dial more below this; tens, since hundreds overload home routers
HIGH_CONNECTIONS = 48  # close some above this
SHORTEST = 1.0  # s between two dials of a peer
LONGEST = 60.0
SHARE = 0.15  # of the time it has been away: after an outage of 30 s it is dialled every 4.5 s
DIALS = 4  # at once: home routers hold few half-open connections
CANDIDATES = 512  # the least promising are forgotten
CONSULT = 60.0  # s between two calls of a directory
ANSWER_TIMEOUT = 10.0  # s for its answers
REMEMBERED = 128  # peers kept on disk, of those that answered


@dataclass
class _Candidate:
    peer: PeerId
    addresses: tuple[Address, ...]
    seed: bool
    record: Signed | None = None
    away_since: float | None = None  # the first failure in a row
    next_try: float = 0.0
    cause: str = ""
    dialling: bool = False
    answered: bool = False  # at least once: worth remembering


class Dialer:
    """Keeps a node connected.

    seeds    from flags or bootstrap.toml; raises ConfigError for one that names no peer.
    records  returns the node's own signed records, as `addresses.sign_records` makes them.
    keep     whether a peer stays connected above `high` (a scheduler, a holder at work).
    """

    def __init__(
        self,
        transport: Transport,
        rpc: Rpc,
        reputation: Reputation,
        store: PeerStore,
        *,
        seeds: Sequence[Address],
        records: Callable[[], tuple[Signed, ...]],
        low: int = LOW_CONNECTIONS,
        high: int = HIGH_CONNECTIONS,
        keep: Callable[[PeerId], bool] = lambda peer: False,
        chance: random.Random | None = None,
    ) -> None:
        self._transport = transport
        self._rpc = rpc
        self._reputation = reputation
        self._store = store
        self._records = records
        self._low = low
        self._high = high
        self._keep = keep
        self._chance = chance if chance is not None else random.Random()
        self._candidates: dict[PeerId, _Candidate] = {}
        self._wake = trio.Event()
        self._consulting: set[PeerId] = set()
        self._saved: tuple[Signed, ...] = ()
        self._nursery: trio.Nursery | None = None
        self._slots = trio.Semaphore(DIALS)
        self.observed = ""
        """This node's IP address as the last directory saw it."""
        for address in seeds:
            self._add_seed(address)

    def reason(self) -> str | None:
        """Return why there is no connection, in words, or None when there is one."""
        if self._transport.peers():
            return None
        tried = [each for each in self._candidates.values() if each.away_since is not None]
        if not self._candidates:
            return "no seed is known: name one with --bootstrap"
        if not tried:
            return f"dialling {count(len(self._candidates), 'peer')}"
        last = max(tried, key=lambda each: each.next_try)
        wait = max(0.0, min(each.next_try for each in tried) - trio.current_time())
        return f"no seed answers ({len(tried)} tried; last: {last.cause}), next try in {span(wait)}"

    def refresh(self) -> None:
        """Register again with every directory, since our records have changed."""
        for peer in self._rpc.ready():
            self._on_ready(peer, True)

    async def run(self, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Dial until cancelled."""
        self._recall()
        async with trio.open_nursery() as self._nursery:
            try:
                self._transport.watch(self._on_peer)
                self._rpc.watch(self._on_ready)
                for peer in self._rpc.ready():
                    self._on_ready(peer, True)
                self._nursery.start_soon(self._consult_regularly)
                task_status.started()
                while True:
                    wait = self._start_due_dials()
                    with trio.move_on_after(wait):
                        await self._wake.wait()
                    self._wake = trio.Event()
            finally:
                self._nursery = None  # late callbacks start nothing

    # ---------------------------------------------------------------- candidates

    def _add_seed(self, address: Address) -> None:
        if (peer := address.peer) is None:
            raise ConfigError(f"the seed {address} {address.seed_fault()}")
        if peer != self._transport.me:
            known = self._candidates.setdefault(peer, _Candidate(peer, (), seed=True))
            known.addresses = (*known.addresses, address)

    def _recall(self) -> None:
        for signed in self._store.load():
            try:
                self._add_listed(signed)
            except RemoteProtocolError as error:
                log.warning("the saved record of a peer is dropped: %s", error)

    def _add_listed(self, signed: Signed) -> None:
        """Make the peer of the record a candidate; raises RemoteProtocolError."""
        record = open_record(signed)
        addresses, known = addresses_of(record), self._candidates.get(record.peer)
        if record.peer == self._transport.me or not addresses or (known and known.seed):
            return
        if known is None:
            if len(self._candidates) >= CANDIDATES and not self._forget_one():
                return
            known = self._candidates[record.peer] = _Candidate(record.peer, (), seed=False)
        known.addresses, known.record = addresses, signed

    def _forget_one(self) -> bool:
        """Remove the candidate that has been away longest; returns whether there was one."""
        away = [c for c in self._candidates.values() if not c.seed and c.away_since is not None]
        if away:
            del self._candidates[min(away, key=lambda c: c.away_since or 0.0).peer]
        return bool(away)

    # ---------------------------------------------------------------- dialling

    def _on_peer(self, peer: PeerId, connected: bool) -> None:
        candidate = self._candidates.get(peer)
        if candidate is not None:
            candidate.away_since = None
            candidate.next_try = trio.current_time() + self._chance.uniform(0.1, 0.5)
            if connected:
                candidate.answered, candidate.cause = True, ""
        self._wake.set()

    def _start_due_dials(self) -> float:
        """Start the dials that are due; returns the seconds until the next one may be."""
        now, peers = trio.current_time(), self._transport.peers()
        lacking = max(0, self._low - len(peers))
        waiting = [c for c in self._candidates.values() if c.peer not in peers and not c.dialling]
        self._chance.shuffle(waiting)
        for candidate in waiting:
            if candidate.next_try > now or self._reputation.banned(candidate.peer):
                continue
            if not candidate.seed:
                if not lacking:
                    continue
                lacking -= 1
            candidate.dialling = True
            assert self._nursery is not None
            self._nursery.start_soon(self._dial, candidate)
        self._close_surplus(peers)
        later = [c.next_try - now for c in waiting if not c.dialling and c.next_try > now]
        return min(later, default=LONGEST)

    def _close_surplus(self, peers: frozenset[PeerId]) -> None:
        spare = [
            peer
            for peer in sorted(peers)
            if not self._keep(peer)
            and not ((known := self._candidates.get(peer)) is not None and known.seed)
        ]
        assert self._nursery is not None
        surplus = min(len(spare), max(0, len(peers) - self._high))
        for peer in self._chance.sample(spare, surplus):
            self._nursery.start_soon(self._transport.hang_up, peer)

    async def _dial(self, candidate: _Candidate) -> None:
        try:
            async with self._slots:
                await self._transport.dial(candidate.peer, candidate.addresses)
            candidate.away_since = None
        except Unavailable as error:
            self._failed(candidate, str(error))
        finally:
            candidate.dialling = False
            self._wake.set()

    def _failed(self, candidate: _Candidate, cause: str) -> None:
        now = trio.current_time()
        if candidate.away_since is None:
            candidate.away_since = now
        wait = min(LONGEST, max(SHORTEST, SHARE * (now - candidate.away_since)))
        candidate.next_try = now + wait * self._chance.uniform(0.75, 1.25)
        if cause != candidate.cause:
            level = logging.WARNING if candidate.seed else logging.DEBUG
            who = "seed" if candidate.seed else "peer"
            log.log(level, "cannot reach %s %s: %s", who, short_peer(candidate.peer), cause)
        candidate.cause = cause

    # ---------------------------------------------------------------- directories

    def _on_ready(self, peer: PeerId, ready: bool) -> None:
        if ready and self._nursery is not None and peer not in self._consulting:
            self._consulting.add(peer)
            self._nursery.start_soon(self._consult, peer)

    async def _consult_regularly(self) -> None:
        while True:
            await trio.sleep(self._chance.uniform(0.75, 1.25) * CONSULT)
            for peer in self._rpc.ready():
                self._on_ready(peer, True)
            answered = [c.record for c in self._candidates.values() if c.answered and c.record]
            if tuple(answered[-REMEMBERED:]) != self._saved:
                self._saved = tuple(answered[-REMEMBERED:])
                self._store.save(self._saved)

    async def _consult(self, peer: PeerId) -> None:
        """Register with `peer` and ask for the peers it knows, in case it keeps a directory."""
        try:
            register = Register(records=self._records())
            reply = await self._rpc.call(peer, register, Registered, timeout=ANSWER_TIMEOUT)
            self.observed = reply.observed
            ask = ListPeers(run=None, most=MAX_LISTED)
            listing = await self._rpc.call(peer, ask, Listing, timeout=ANSWER_TIMEOUT)
            await self._take_listing(peer, listing)
        except DipacoError as error:
            log.debug("peer=%s does not serve as directory: %s", short_peer(peer), error)
        finally:
            self._consulting.discard(peer)
            self._wake.set()

    async def _take_listing(self, peer: PeerId, listing: Listing) -> None:
        for signed in listing.records:
            try:
                self._add_listed(signed)
            except RemoteProtocolError as error:
                await self._reputation.blame(peer, f"lists a false record: {error}")
                return
