"""Announcements on a topic, and the anti-entropy that replaces lost ones.

An announcement names a new value and never carries it; a peer that lacks the value pulls it from
the author. On each new connection, and every 10 to 30 s with a random peer, a node also compares
inventories and pulls the missing values: that alone brings all values to late joiners, restarted
nodes and both sides of a healed partition. Nothing is pushed.

The values' meaning is known to their owner alone, a `ValueStore`.
"""

import logging
import random
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import TYPE_CHECKING, Protocol

import trio
from msgspec import UNSET

from dipaco.node.network.allowance import Allowances
from dipaco.node.network.reputation import Reputation
from dipaco.node.network.rpc import Rpc
from dipaco.node.network.seats import Limits, Seat, Seats
from dipaco.node.network.transport import Transport
from dipaco.node.network.turns import Turns
from dipaco.protocol.errors import Refusal, RemoteProtocolError, SignerFault, Unavailable
from dipaco.protocol.wire.canonical import PROTOCOL_VERSION, decode, encode
from dipaco.protocol.wire.digest import Digest, sha256, tagged
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.wire.messages import (
    LEDGER_PART,
    MAX_ANNOUNCEMENT,
    MAX_ITEMS,
    MAX_KINDS,
    Announcement,
    AskInventory,
    Inventory,
    Item,
    LedgerPart,
    ReadLedger,
    ReadValue,
    Value,
)
from dipaco.protocol.wire.signed import Signed
from dipaco.protocol.work.streams import SYNC_CALLS, frame_bytes

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

Pull = Callable[..., Awaitable[None]]

TOPIC = f"/dipaco/announce/{PROTOCOL_VERSION}"
# Apart from the control stream: a spec of 1 MB must not delay a ping.
SYNC = f"/dipaco/sync/{PROTOCOL_VERSION}"
SYNC_LIMIT = frame_bytes(SYNC_CALLS)
# Each is judged by means of the ones before it.
KINDS = ("manifest", "spec", "grant", "receipt", "ledger")
LEDGER = "ledger"
PAUSE = (10.0, 30.0)  # s between two comparisons with a random peer
# By then a neighbour has probably pulled the value that an unconnected peer announced.
NEIGHBOUR_DELAY = 1.0  # s
ANSWER_TIMEOUT = 60.0  # s: enough for the largest value over a slow uplink
PULLS = 8  # pulls at once
MAX_PULLED = 64  # manifests pulled in one comparison from a peer that is not known here
# From one prefix of strangers, or one stranger of a prefix that is not counted; a run of 8 epochs
# and 200 volunteers has fewer values.
PULLED_PER_MINUTE = 512.0
MAX_ORIGINS = 4096  # of these remembered
HOLLOW = 4  # values that a peer names and does not hold, after which a comparison ends
TRIES = 3  # comparisons that fail with a peer before it waits its turn as all others do
SLICE = 128  # ledger records verified without a pause: 13 ms
# Pulls running or waiting; more are dropped, and the next comparison finds the values.
WAITING = Limits(in_all=128, per_prefix=32, per_peer=16, kept=64)
PULLS_OF_GROUP = 3  # at once from one prefix of strangers, or one peer
PULL_LOOK = 0.1  # s between two looks at a pull from another peer
SPREAD_PAUSE = 0.25  # s between two announcements in `spread`
DECLINED = 4096  # values remembered as not wanted, the latest ones
PATIENCE = 10.0  # s without a part from one peer, after which another is asked for the same value


class _HollowError(Unavailable):
    """A peer names a value that it does not hold."""


class ValueStore(Protocol):
    """The owner of the values that are gossiped: manifests, specs, receipts, ledgers."""

    def inventory(self) -> tuple[Item, ...]:
        """Return all held values, the most recent first; a ledger as its head and length."""

    def lacks(self, item: Item, peer: PeerId) -> bool:
        """Return whether a value that `peer` names is missing here, and wanted."""

    def keeps(self, run: Digest) -> bool:
        """Return whether this node works for a run; its values are pulled before all others."""

    def length(self, run: Digest) -> int:
        """Return the number of a ledger's records that are held."""

    def refuse(self, digest: Digest) -> None:
        """Have nobody asked again for the value that an item names by `digest`."""

    def read(self, kind: str, run: Digest, digest: Digest) -> bytes | None:
        """Return one signed value verbatim, or None when it is not held."""

    def read_part(self, run: Digest, first: int, limit: int) -> LedgerPart:
        """Return consecutive signed records from `first` on, of at most `limit` bytes in all.

        With the certificate of the head at which they end, if the run has keepers.
        """

    def offer(self, kind: str, data: bytes, *, run: Digest | None = None, origin: str = "") -> None:
        """Take a value from a peer; one that is held already changes nothing.

        run      the run under which the peer listed it.
        origin   the peer's IP prefix; empty: it is not counted.

        Raises RemoteProtocolError when the peer answers for what is wrong (it gets a strike),
        SignerFault when the value's signer does (nobody is asked for it again, and whoever handed
        it on gets no strike), Refusal when it is valid and not wanted (this peer is not asked for
        it again), Unavailable when it cannot be judged yet (this peer is asked for it again).
        """

    def note_listing(self, peer: PeerId, runs: Collection[Digest]) -> None:
        """Take the runs of the manifests that `peer` holds, after all its values were pulled."""

    def note_offer(self, peer: PeerId, run: Digest) -> None:
        """Take one more run whose manifest `peer` announced and holds."""

    def offer_ledger(
        self,
        run: Digest,
        records: tuple[bytes, ...],
        *,
        first: int | None = None,
        certificate: tuple[Signed, ...] = (),
    ) -> None:
        """Take consecutive records from number `first` on, of which some may be held already.

        certificate   of the head at which they end; without it the run has no keepers.

        Raises as `offer` does.
        """


class Gossip:
    """Brings the values that our peers hold into `values`.

    chance  chooses the peers and the times; seeded in tests.
    origin  returns the IP prefix of a peer; empty: it is not counted.
    """

    def __init__(
        self,
        transport: Transport,
        reputation: Reputation,
        values: ValueStore,
        *,
        chance: random.Random | None = None,
        origin: Callable[[PeerId], str] = lambda peer: "",
    ) -> None:
        self._transport = transport
        self._guard = transport.guard
        self._reputation = reputation
        self._values = values
        self._origin = origin
        self._chance = chance if chance is not None else random.Random()
        self._rpc = Rpc(transport, reputation, protocol=SYNC, limit=SYNC_LIMIT)
        self._rpc.handle(AskInventory, self._answer_inventory)
        self._rpc.handle(ReadValue, self._answer_value)
        self._rpc.handle(ReadLedger, self._answer_ledger)
        self._rpc.watch(self._on_peer)
        self._comparing: set[PeerId] = set()
        self._again: set[PeerId] = set()
        """Of these the peers to compare with once more, since more is wanted now."""
        self._told: tuple[tuple[Item, ...], tuple[Item, ...], Digest] | None = None
        """An inventory, the part of it that is told, and the digest of that part."""
        self._encoded: dict[Item, bytes] = {}
        """The encoding of every item that is told: most stay from one change to the next."""
        self._compared: set[PeerId] = set()
        """The connected peers whose values were all pulled at least once."""
        self._pulling: dict[tuple[str, Digest], float] = {}
        """The pulls under way, and until when each is waited for; a ledger by its run."""
        self._heads: dict[Digest, dict[PeerId, Item]] = {}
        """By run: the heads that peers named while its ledger was being pulled from another."""
        self._declined: OrderedDict[tuple[PeerId, str, Digest], None] = OrderedDict()
        self._failed: Counter[PeerId] = Counter()
        """Comparisons that failed with the connected peers."""
        self._turns = {known: Turns(PULLS, per_group=PULLS_OF_GROUP) for known in (False, True)}
        self._waiting = Seats("pulls", WAITING)
        self._pulled = Allowances(PULLED_PER_MINUTE, seconds=60.0, keys=MAX_ORIGINS)
        self._soon = False
        """Whether a comparison with any neighbour is about to begin."""
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Serve, listen and pull until cancelled."""
        announcements = await self._transport.subscribe(TOPIC)
        async with trio.open_nursery() as self._nursery:
            try:
                await self._nursery.start(self._rpc.run)
                self._nursery.start_soon(self._compare_regularly)
                task_status.started()
                async for author, data in announcements:
                    await self._guard.run(
                        "taking an announcement", author, self._on_announcement, author, data
                    )
            finally:
                self._nursery = None  # late callbacks start nothing

    @property
    def unheard(self) -> frozenset[PeerId]:
        """The connected peers whose values were not all pulled yet."""
        return frozenset(self._rpc.ready() - self._compared)

    async def announce(self, item: Item, size: int) -> None:
        """Tell all peers, at once and best effort, that this node now holds `item`."""
        await self._transport.publish(TOPIC, encode(Announcement(item=item, size=size)))

    async def spread(self, item: Item, size: int, *, within: float) -> int:
        """Announce `item` until all connected peers hold it, for at most `within` seconds.

        Use it for a value that peers must hold before this node stops. Returns the number of peers
        that hold it.
        """
        holders: set[PeerId] = set()
        asked: set[PeerId] = set()
        with trio.move_on_after(within):
            async with trio.open_nursery() as asking:
                while not holders or not self._rpc.ready() <= holders:
                    await self.announce(item, size)
                    for peer in self._rpc.ready() - asked:
                        asking.start_soon(
                            self._guard.run,
                            "asking whether a value has arrived",
                            peer,
                            self._note_when_held,
                            peer,
                            item,
                            holders,
                        )
                    asked |= self._rpc.ready()
                    await trio.sleep(SPREAD_PAUSE)
                asking.cancel_scope.cancel()
        return len(holders)

    async def _note_when_held(self, peer: PeerId, item: Item, holders: set[PeerId]) -> None:
        """Ask `peer` for its inventory until `item` is in it, then add `peer` to `holders`."""
        while True:
            try:
                ask = AskInventory(summary=self._inventory()[1])
                answer = await self._rpc.call(peer, ask, Inventory, timeout=ANSWER_TIMEOUT)
            except (Unavailable, Refusal, RemoteProtocolError) as error:
                log.debug("peer=%s does not say what it holds: %s", short_peer(peer), error)
            else:
                if answer.same or item in answer.items:
                    holders.add(peer)
                    return
            await trio.sleep(SPREAD_PAUSE)

    @property
    def rpc(self) -> Rpc:
        """The calls of the stream of values, which keepers share."""
        return self._rpc

    # ---------------------------------------------------------------- when to pull

    def _on_peer(self, peer: PeerId, ready: bool) -> None:
        self._compared.discard(peer)
        self._failed.pop(peer, None)
        if ready:
            self._start(self._compare, peer)

    async def _compare_regularly(self) -> None:
        while True:
            await trio.sleep(self._chance.uniform(*PAUSE))
            self._compare_with_any()

    def _compare_with_any(self) -> None:
        if peers := self._not_compared():
            self._start(self._compare, self._chance.choice(peers))

    def _not_compared(self) -> list[PeerId]:
        """Return the peers to compare with next: those with which it never succeeded, if any.

        One with which it failed often is one of all; else a few that never answer would be asked
        for ever. Every other time it is a known peer's turn, however many strangers there are. One
        with which a comparison is under way may be stuck in it.
        """
        free = self._rpc.ready() - self._comparing
        new = {p for p in free - self._compared if self._failed[p] < TRIES}
        known = {p for p in free if self._reputation.known(p)}
        if not new and known and self._chance.random() < 0.5:
            return sorted(known)
        return sorted(new) or sorted(free)

    async def _on_announcement(self, author: PeerId, data: bytes) -> None:
        if self._reputation.banned(author):  # others may still hand on what it publishes
            return
        try:
            item = decode(data, Announcement, limit=MAX_ANNOUNCEMENT).item
        except RemoteProtocolError as error:
            await self._reputation.blame(author, f"a malformed announcement: {error}")
            return
        if not self._lacks(item, author):
            return
        if author in self._rpc.ready():
            self._start(self._pull_announced, author, item)
        elif not self._soon and self._nursery is not None:
            self._soon = True
            self._nursery.start_soon(self._guard.run, "comparing soon", None, self._compare_soon)

    def _start(self, pull: Pull, peer: PeerId, *arguments: object) -> None:
        """Start a pull from `peer` unless too many wait."""
        if self._nursery is None:
            return
        known = self._reputation.known(peer)
        try:
            seat = self._waiting.take(peer, self._origin(peer), known=known)
        except Unavailable as error:
            log.debug("peer=%s no pull: %s", short_peer(peer), error)
            return
        self._nursery.start_soon(self._run_pull, seat, known, pull, peer, *arguments)

    async def _run_pull(
        self, seat: Seat, known: bool, pull: Pull, peer: PeerId, *arguments: object
    ) -> None:
        try:
            async with self._turns[known].turn(peer if known else seat.prefix or peer):
                await self._guard.attempt("pulling values", peer, pull, peer, *arguments)
        except (Unavailable, Refusal) as error:
            log.debug("pull: %s", error)
        except RemoteProtocolError as error:
            log.debug("pull from a peer that was hung up: %s", error)
        finally:
            self._waiting.leave(seat)

    # ---------------------------------------------------------------- pulling

    def _group(self, peer: PeerId) -> str:
        """Return with whom a stranger shares its turns and its pulls per minute."""
        return self._origin(peer) or peer

    async def _compare_soon(self) -> None:
        """Compare with any neighbour, once the author's own neighbours have had time to pull."""
        await trio.sleep(NEIGHBOUR_DELAY * self._chance.uniform(0.5, 1.5))
        self._soon = False
        self._compare_with_any()

    def compare_again(self) -> None:
        """Compare with all peers, since more is wanted than before."""
        for peer in self._rpc.ready():
            if peer in self._comparing:
                self._again.add(peer)
            else:
                self._start(self._compare, peer)

    async def _compare(self, peer: PeerId) -> None:
        """Ask `peer` for its inventory and pull the values that we lack."""
        if peer in self._comparing:
            return
        self._comparing.add(peer)
        self._failed[peer] += 1  # until it has succeeded
        try:
            ours, summary = self._inventory()
            ask = AskInventory(summary=summary)
            answer = await self._rpc.call(peer, ask, Inventory, timeout=ANSWER_TIMEOUT)
            await self._check_inventory(peer, answer)
            lacking = self._lacking(peer, answer.items)
            await self._pull(peer, lacking)
            while any(self._comes(item) for item in lacking):
                await trio.sleep(PULL_LOOK)
            await self._pull(peer, [item for item in lacking if self._lacks(item, peer)])
            self._compared.add(peer)
            del self._failed[peer]
            if peer not in self._again:  # else more is wanted by now than was pulled
                listed = ours if answer.same else answer.items
                self._values.note_listing(peer, {i.run for i in listed if i.kind == "manifest"})
        finally:
            self._comparing.discard(peer)
            if peer not in self._rpc.ready():
                self._failed.pop(peer, None)
            if peer in self._again:
                self._again.discard(peer)
                self._start(self._compare, peer)

    def _lacking(self, peer: PeerId, items: Iterable[Item]) -> list[Item]:
        """Return the values to pull from `peer`, each kind after those that it is judged by.

        Those of the runs that this node works for come first, and of an unknown peer's
        other manifests a part alone.
        """
        lacking = [
            item
            for kind in KINDS
            for item in items
            if item.kind == kind and self._lacks(item, peer)
        ]
        ours = [item for item in lacking if self._values.keeps(item.run)]
        others = [item for item in lacking if not self._values.keeps(item.run)]
        if self._reputation.known(peer):
            return ours + others
        manifests = sum(item.kind == KINDS[0] for item in others)
        return ours + others[: min(manifests, MAX_PULLED)] + others[manifests:]

    async def _check_inventory(self, peer: PeerId, answer: Inventory) -> None:
        kinds = Counter(item.kind for item in answer.items)
        if kinds and max(kinds.values()) > MAX_ITEMS:
            reason = f"lists more than {MAX_ITEMS} values of a kind"
        elif len(set(map(_key, answer.items))) < len(answer.items):
            reason = "lists a value twice"
        else:
            return
        await self._reputation.blame(peer, reason)
        raise RemoteProtocolError(reason)

    async def _pull_announced(self, peer: PeerId, item: Item) -> None:
        if self._lacks(item, peer):
            await self._pull(peer, [item])
            if item.kind == "manifest":
                self._values.note_offer(peer, item.run)

    async def _pull(self, peer: PeerId, items: Iterable[Item]) -> None:
        """Read the values of `items` from `peer`, one after the other, and offer them.

        Raises Unavailable when it holds too few of what it names, or has been asked for enough.
        """
        taken, hollow = [], 0
        known = self._reputation.known(peer)
        for item in items:
            if not known and self._pulled.wait(self._group(peer), trio.current_time()):
                raise Unavailable(f"{short_peer(peer)} has more values than it may bring now")
            try:
                if await self._pull_one(peer, item):
                    taken.append(item)
            except _HollowError as error:  # once it may just have dropped the value
                hollow += 1
                if hollow == HOLLOW:
                    raise Unavailable(f"{error}, nor others that it names") from error
        for item in taken:
            if self._lacks(item, peer):  # the value arrived, and the store did not keep it
                self._decline(peer, item)

    async def _pull_one(self, peer: PeerId, item: Item) -> bool:
        """Return whether the store took the value without an error."""
        key = _key(item)
        if (peer, item.kind, item.digest) in self._declined:
            return False
        if self._comes(item):
            if item.kind == LEDGER:
                self._heads.setdefault(item.run, {})[peer] = item
            return False
        self._note_progress(key)
        if not self._reputation.known(peer):
            self._pulled.spend(self._group(peer), trio.current_time())
        try:
            await (self._pull_ledger if item.kind == LEDGER else self._pull_value)(peer, item)
        except _HollowError:
            self._decline(peer, item)
            raise
        except Unavailable as error:
            log.debug("peer=%s %s later: %s", short_peer(peer), item.kind, error)
            return False
        except SignerFault as error:
            await self._blame_signer(item, error)
            return False
        except Refusal as error:
            log.debug("peer=%s %s not wanted: %s", short_peer(peer), item.kind, error)
            self._decline(peer, item)
            return False
        except RemoteProtocolError as error:
            await self._reputation.blame(peer, str(error))
            raise
        finally:
            self._pulling.pop(key, None)
            if item.kind == LEDGER:
                for other, head in self._heads.pop(item.run, {}).items():
                    self._start(self._pull_announced, other, head)
        return True

    async def _blame_signer(self, item: Item, fault: SignerFault) -> None:
        """Have nobody asked for a value again; its signer gets a strike if it is connected.

        One that is known here does not: a run of this node stands still without its scheduler.
        """
        self._values.refuse(item.digest)
        signer = PeerId(fault.signer)
        if signer in self._transport.peers() and not self._reputation.known(signer):
            await self._reputation.blame(signer, str(fault))

    def _comes(self, item: Item) -> bool:
        """Return whether another peer is bringing that value."""
        return trio.current_time() < self._pulling.get(_key(item), 0.0)

    def _note_progress(self, key: tuple[str, Digest]) -> None:
        self._pulling[key] = trio.current_time() + PATIENCE

    def _decline(self, peer: PeerId, item: Item) -> None:
        """Do not ask `peer` for `item` again; another peer may have the true value of that name."""
        self._declined[(peer, item.kind, item.digest)] = None
        if len(self._declined) > DECLINED:
            self._declined.popitem(last=False)

    async def _pull_value(self, peer: PeerId, item: Item) -> None:
        value = await self._rpc.call(peer, ReadValue(item=item), Value, timeout=ANSWER_TIMEOUT)
        if value.data is None:
            raise _HollowError(f"{short_peer(peer)} does not hold a {item.kind} that it names")
        if sha256(value.data) != item.digest:
            raise RemoteProtocolError(f"sends other bytes than those of the {item.kind} asked for")
        origin = "" if self._reputation.known(peer) else self._origin(peer)
        self._values.offer(item.kind, value.data, run=item.run, origin=origin)

    async def _pull_ledger(self, peer: PeerId, item: Item) -> None:
        """Read parts until our ledger is as long as `item` says; other pulls may add to it too."""
        while self._lacks(item, peer):
            first = self._values.length(item.run)
            ask = ReadLedger(run=item.run, first=first)
            part = await self._rpc.call(peer, ask, LedgerPart, timeout=ANSWER_TIMEOUT)
            if not part.records:
                raise _HollowError(f"{short_peer(peer)} does not hold a ledger that it names")
            await self._offer_part(item, first, part)
            if self._values.length(item.run) <= first:
                raise RemoteProtocolError(f"sends no ledger record from number {first} on")

    async def _offer_part(self, item: Item, first: int, part: LedgerPart) -> None:
        """Offer a part in slices, since signatures take the loop's time; one with keepers whole."""
        certificate = () if part.certificate is UNSET else part.certificate
        size = len(part.records) if certificate else SLICE
        for start in range(0, len(part.records), size):
            self._note_progress(_key(item))
            records = part.records[start : start + size]
            self._values.offer_ledger(
                item.run, records, first=first + start, certificate=certificate
            )
            await trio.lowlevel.checkpoint()

    # ---------------------------------------------------------------- our own values

    def _inventory(self) -> tuple[tuple[Item, ...], Digest]:
        """Return what peers are told that we hold, and its digest; made anew after a change."""
        whole = self._values.inventory()
        if self._told is None or self._told[0] is not whole:
            told = _bounded(whole)
            self._encoded = {item: self._encoded.get(item) or encode(item) for item in told}
            self._told = whole, told, summary_of(self._encoded.values())
        return self._told[1:]

    def _lacks(self, item: Item, peer: PeerId) -> bool:
        """Return whether we want a value; kinds of a newer version of the protocol we do not."""
        return item.kind in KINDS and self._values.lacks(item, peer)

    async def _answer_inventory(self, _peer: PeerId, ask: AskInventory) -> Inventory:
        items, summary = self._inventory()
        same = summary == ask.summary
        return Inventory(same=same, items=() if same else items)

    async def _answer_value(self, _peer: PeerId, ask: ReadValue) -> Value:
        item = ask.item
        return Value(data=self._values.read(item.kind, item.run, item.digest))

    async def _answer_ledger(self, _peer: PeerId, ask: ReadLedger) -> LedgerPart:
        return self._values.read_part(ask.run, ask.first, LEDGER_PART)


def _key(item: Item) -> tuple[str, Digest]:
    """Return the name of a value that does not change when a ledger grows."""
    return item.kind, item.run if item.kind == LEDGER else item.digest


def _bounded(items: Iterable[Item]) -> tuple[Item, ...]:
    """Keep the first `MAX_ITEMS` of each kind, and no more in all than an answer holds."""
    seen: Counter[str] = Counter()
    kept: list[Item] = []
    for item in items:
        seen[item.kind] += 1
        if seen[item.kind] <= MAX_ITEMS and len(kept) < MAX_ITEMS * MAX_KINDS:
            kept.append(item)
    return tuple(kept)


def summary_of(encoded: Iterable[bytes]) -> Digest:
    """Return one digest over the encoded items of an inventory, independent of their order."""
    return tagged("dipaco/1/inventory", *sorted(encoded))
