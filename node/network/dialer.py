"""The loop that keeps a node connected, and the reason in words while it is not.

A seed is dialled whenever it is not connected; other candidates only while there are fewer than
`low` connections, and within `dial_budget`. No failure ends the loop: the commonest complaint about
networks like this one is a node that gave up. The candidates and their back-off are in
`candidates`.
"""

import logging
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from dipaco.node.network.addresses import OwnNames
from dipaco.node.network.allowance import Allowances
from dipaco.node.network.blob_stream import InThread
from dipaco.node.network.candidates import LONGEST, SHORTEST, Candidate, Candidates, Teller
from dipaco.node.network.dial_budget import DialBudget
from dipaco.node.network.known_peers import KnownPeers, PeerStore
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.rpc import Rpc
from dipaco.node.network.seats import Network
from dipaco.node.network.transport import Transport
from dipaco.protocol.errors import (
    DipacoError,
    Refusal,
    RemoteProtocolError,
    Unavailable,
    WrongPlace,
)
from dipaco.protocol.numbers import count, span
from dipaco.protocol.wire.address import Address, ip_text, scope_of_ip
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

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

LOW_CONNECTIONS = 16  # dial more below this; tens, since hundreds overload home routers
HIGH_CONNECTIONS = 48  # close some above this
DIALS = 4  # at once, of seeds and of others each: home routers hold few half-open connections
DIAL_DEADLINE = 20.0  # s for a peer, all of its addresses and the look-up of names included
GRACE = 10.0  # s in which a new peer above `high` can ask for the peers that we know
CONSULT = 60.0  # s between two calls of a directory
ANSWER_TIMEOUT = 10.0  # s for its answers
CONSULTED_PER_PREFIX = (
    16  # peers consulted in `CONSULT` s, beside known ones: a listing costs 10 ms
)
SUMMARY = 600.0  # s between two lines on ended connections


class Dialer:
    """Keeps a node connected.

    seeds    from flags or bootstrap.toml; raises ConfigError for one that names no peer.
    records  returns the node's own signed records for the addresses that it is given, as
             `addresses.sign_records` makes them.
    exempt   networks whose addresses are not counted together.
    keep     whether a run of this node needs the peer (a scheduler, a keeper): it stays connected
             above `high`, and is dialled more often while it is away.
    """

    def __init__(
        self,
        transport: Transport,
        rpc: Rpc,
        reputation: Reputation,
        store: PeerStore,
        *,
        seeds: Sequence[Address],
        records: Callable[[tuple[Address, ...]], tuple[Signed, ...]],
        exempt: Sequence[Network] = (),
        low: int = LOW_CONNECTIONS,
        high: int = HIGH_CONNECTIONS,
        keep: Callable[[PeerId], bool] = lambda peer: False,
        chance: random.Random | None = None,
        in_thread: InThread = trio.to_thread.run_sync,
    ) -> None:
        self._transport = transport
        self._guard = transport.guard
        self._rpc = rpc
        self._reputation = reputation
        self._store = KnownPeers(store, in_thread)
        self._records = records
        self._low = low
        self._high = high
        self._keep = keep
        self._chance = chance if chance is not None else random.Random()
        self._candidates = Candidates(transport.me, exempt)
        self._budget = DialBudget(exempt)
        self._consults = Allowances(CONSULTED_PER_PREFIX, seconds=CONSULT, keys=1024)
        self._names = OwnNames()
        self._since: dict[PeerId, float] = {}
        """When each peer that is connected now was connected."""
        self._closing: set[PeerId] = set()
        self._ended = 0
        self._summed = 0.0
        self._wake = trio.Event()
        self._consulting: set[PeerId] = set()
        self._nursery: trio.Nursery | None = None
        self._seed_places = trio.Semaphore(DIALS)
        self._other_places = trio.Semaphore(DIALS)
        for address in seeds:
            self._candidates.add_seed(address)

    def reason(self) -> str | None:
        """Return why there is no connection, in words, or None when there is one."""
        if self._transport.trouble:
            return self._transport.trouble
        if self._transport.peers():
            return None
        tried = [each for each in self._candidates if each.away_since is not None]
        if not self._candidates:
            return "no seed is known: name one with --bootstrap"
        if not tried:
            return f"dialling {count(len(self._candidates), 'peer')}"
        last = max(tried, key=lambda each: each.next_try)
        wait = max(0.0, min(each.next_try for each in tried) - trio.current_time())
        return f"no seed answers ({len(tried)} tried; last: {last.cause}), next try in {span(wait)}"

    @property
    def knows_peers(self) -> bool:
        """Whether there is any peer to dial, of an earlier start or a seed."""
        return len(self._candidates) > 0

    def refresh(self) -> None:
        """Register again with every directory, since our records have changed."""
        for peer in self._rpc.ready():
            self._on_ready(peer, True)

    def try_all_again(self) -> None:
        """Dial every peer that is not connected at once, whatever pause it was given."""
        now = trio.current_time()
        for candidate in self._candidates:
            candidate.next_try = now
        self._wake.set()

    async def run(self, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Dial until cancelled."""
        self._recall()
        async with trio.open_nursery() as self._nursery:
            try:
                self._summed = trio.current_time()
                self._transport.watch(self._on_peer)
                self._rpc.watch(self._on_ready)
                for peer in self._rpc.ready():
                    self._on_ready(peer, True)
                self._nursery.start_soon(self._consult_regularly)
                task_status.started()
                while True:
                    doing = "choosing the peers to dial"
                    wait = self._guard.call(doing, None, self._start_due_dials)
                    with trio.move_on_after(LONGEST if wait is None else wait):
                        await self._wake.wait()
                    self._wake = trio.Event()
            finally:
                self._nursery = None  # late callbacks start nothing

    def _recall(self) -> None:
        now = trio.current_time()

        def take(signed: Signed) -> None:
            self._guard.call("recalling a peer", None, self._candidates.add_listed, signed, now)

        self._guard.call("reading the known peers", None, self._store.recall, take)

    # ---------------------------------------------------------------- dialling

    def _on_peer(self, peer: PeerId, connected: bool) -> None:
        now, candidate = trio.current_time(), self._candidates.get(peer)
        if connected:
            self._since[peer] = now
            self._budget.seen(peer, self._ip_of(peer))
        else:
            self._since.pop(peer, None)
            self._ended += 1
        if candidate is not None and connected:
            candidate.connected(now)
        elif candidate is not None:
            needed = self._keep(peer)
            self._tell(candidate, candidate.disconnected(now, self._chance, needed=needed))
        self._wake.set()

    def _start_due_dials(self) -> float:
        """Start the dials that are due; returns the seconds until there may be more to do."""
        now, peers = trio.current_time(), self._transport.peers()
        lacking = max(0, self._low - len(peers))
        waiting = [c for c in self._candidates if c.peer not in peers and not c.dialling]
        due = [c for c in waiting if c.next_try <= now and not self._reputation.banned(c.peer)]
        self._chance.shuffle(due)
        # Many may claim one address: first come those that we know, or that answered before.
        for candidate in sorted(due, key=lambda each: not (each.trusted or each.answered)):
            if not candidate.seed:
                if not lacking or self._put_off(candidate, now):
                    continue
                lacking -= 1
            candidate.dialling = True
            assert self._nursery is not None
            self._nursery.start_soon(
                self._guard.run, "dialling", candidate.peer, self._dial, candidate
            )
        later = [c.next_try - now for c in waiting if not c.dialling and c.next_try > now]
        return min((*later, self._close_surplus(peers, now), LONGEST))

    def _put_off(self, candidate: Candidate, now: float) -> bool:
        """Return whether the budget allows none of its addresses now; it is then due later."""
        peer, known = candidate.peer, self._reputation.known(candidate.peer)
        places = candidate.addresses
        wait = min(self._budget.wait(peer, place, now, known=known) for place in places)
        if wait > 0:
            candidate.next_try = now + max(wait, SHORTEST)
        return wait > 0

    def _close_surplus(self, peers: frozenset[PeerId], now: float) -> float:
        """Hang up on the latest peers above `high`; returns the seconds until one more may be due.

        Peers that stay long are left alone: if any could be the one, each would come back and drive
        out another, without end. A new peer has the time to learn of others.
        """
        surplus = len(peers) - self._high - len(self._closing)
        if surplus <= 0:
            return LONGEST
        spare = [
            peer
            for peer in peers - self._closing
            if not self._keep(peer)
            and not ((known := self._candidates.get(peer)) is not None and known.seed)
        ]
        ages = {peer: now - self._since.get(peer, 0.0) for peer in spare}
        latest = sorted(spare, key=lambda peer: ages[peer])[:surplus]
        due = [peer for peer in latest if ages[peer] >= GRACE]
        for peer in due:
            self._closing.add(peer)
            assert self._nursery is not None
            self._nursery.start_soon(self._close, peer)
        later = [GRACE - ages[peer] for peer in latest if peer not in due]
        return max(SHORTEST, min(later, default=LONGEST))  # never so short that it rounds to 0

    async def _close(self, peer: PeerId) -> None:
        await self._transport.hang_up(peer, f"more than {self._high} connections")
        self._closing.discard(peer)
        self._wake.set()

    async def _dial(self, candidate: Candidate) -> None:
        try:
            async with self._seed_places if candidate.seed else self._other_places:
                candidate.next_try = trio.current_time() + SHORTEST  # whatever goes wrong
                with trio.move_on_after(DIAL_DEADLINE) as whole:
                    reach, peer = self._reach, candidate.peer
                    if not await self._guard.attempt("dialling", peer, reach, candidate):
                        raise Unavailable("a bug of this node: its log has the traceback")
                if whole.cancelled_caught:
                    raise Unavailable(f"no answer within {DIAL_DEADLINE:g} s at any address")
        except Unavailable as error:
            now, needed = trio.current_time(), self._keep(candidate.peer)
            self._tell(candidate, candidate.failed(str(error), now, self._chance, needed=needed))
        finally:
            candidate.dialling = False
            self._wake.set()

    async def _reach(self, candidate: Candidate) -> bool:
        if candidate.seed:
            await self._transport.dial(candidate.peer, candidate.next_addresses())
        else:
            await self._dial_listed(candidate)
        return True

    async def _dial_listed(self, candidate: Candidate) -> None:
        """Dial the addresses of a record that the budget allows; raises Unavailable."""
        peer, known = candidate.peer, self._reputation.known(candidate.peer)
        cause = Unavailable("its addresses were dialled often enough lately")
        for place in candidate.next_addresses():
            if peer in self._transport.peers():
                return
            if self._budget.wait(peer, place, trio.current_time(), known=known):
                continue
            dial = self._budget.begin(peer, place, trio.current_time(), known=known)
            try:
                await self._transport.dial(peer, (place,))
            except Unavailable as error:
                cause = error
                if isinstance(error, WrongPlace):
                    self._budget.missed(dial, trio.current_time())
                continue
            if self._ip_of(peer) == place.host:  # else it came to us while we dialled
                self._budget.reached(dial, trio.current_time())
            return
        raise cause

    def _ip_of(self, peer: PeerId) -> str | None:
        ip = self._transport.remote_ip(peer)
        return ip_text(ip) if ip else None

    def _tell(self, candidate: Candidate, cause: str | None) -> None:
        """Log a failure of which the cause is a new one."""
        if cause is not None:
            level = logging.WARNING if candidate.seed else logging.DEBUG
            who = "seed" if candidate.seed else "peer"
            log.log(level, "cannot reach %s %s: %s", who, short_peer(candidate.peer), cause)

    # ---------------------------------------------------------------- directories

    def _on_ready(self, peer: PeerId, ready: bool) -> None:
        if ready and self._nursery is not None and peer not in self._consulting:
            if not self._reputation.known(peer):
                source = self._reputation.prefix(peer) or peer
                now = trio.current_time()
                if self._consults.wait(source, now):
                    return  # it is asked with the others, at the next minute
                self._consults.spend(source, now)
            self._consulting.add(peer)
            doing = "consulting a directory"
            self._nursery.start_soon(self._guard.run, doing, peer, self._consult, peer)

    async def _consult_regularly(self) -> None:
        while True:
            if await self._names.look_up(self._transport.addresses):
                self.refresh()
            await trio.sleep(self._chance.uniform(0.75, 1.25) * CONSULT)
            self.refresh()
            await self._guard.run("saving the known peers", None, self._save)
            self._sum_up(trio.current_time())

    async def _save(self) -> None:
        await self._store.save(self._candidates.remembered(trio.current_time()))

    def _sum_up(self, now: float) -> None:
        """Log how many connections ended; each has a line of its own at the level debug."""
        if self._ended and now - self._summed >= SUMMARY:
            peers = len(self._transport.peers())
            log.info("%d connections ended lately, %d peers are connected", self._ended, peers)
            self._ended, self._summed = 0, now

    async def _consult(self, peer: PeerId) -> None:
        """Register with `peer` and ask for the peers it knows, in case it keeps a directory."""
        try:
            await self._register(peer)
            ask = ListPeers(run=None, most=MAX_LISTED)
            listing = await self._rpc.call(peer, ask, Listing, timeout=ANSWER_TIMEOUT)
            await self._take_listing(peer, listing)
        except DipacoError as error:
            log.debug("peer=%s does not serve as directory: %s", short_peer(peer), error)
        finally:
            self._consulting.discard(peer)
            self._wake.set()

    async def _register(self, peer: PeerId) -> None:
        """Register with `peer`; it may refuse a node that others cannot dial, and still list."""
        places = self._names.replaced_in(self._transport.addresses)
        register = Register(records=self._records(places))
        try:
            await self._rpc.call(peer, register, Registered, timeout=ANSWER_TIMEOUT)
        except (Refusal, Unavailable) as error:
            log.debug("peer=%s does not register us: %s", short_peer(peer), error)

    async def _take_listing(self, peer: PeerId, listing: Listing) -> None:
        """Take what `peer` lists; it is to blame for false signatures and forms alone."""
        scope = scope_of_ip(self._transport.remote_ip(peer))
        teller = Teller(scope, self._reputation.known(peer))
        for signed in listing.records:
            try:
                listed = open_record(signed).peer
            except RemoteProtocolError as error:
                await self._reputation.blame(peer, f"lists a false record: {error}")
                return
            try:
                found = self._candidates.add_listed(signed, trio.current_time(), teller)
            except RemoteProtocolError as error:
                log.debug("a record of peer=%s is left out: %s", short_peer(listed), error)
                continue
            if found is not None and found.connected_at is None and listed in self._since:
                found.connected(self._since[listed])
