"""The rendezvous node's directory: the peers that are present, and their addresses.

The directory needs no trust: every record is signed by the peer it is about, and readers check
that. An entry lives for 30 s after the peer's latest sign of life, and ends with its connection.
Lists are random samples, so that no peer is dialled by all. They take one peer of each IP prefix in
turn, so that no network fills them; and first those peers that come from an IP address that their
record names, since the other addresses may be anybody's.

The clock is given as `now`, and records that must outlive a restart go to a `PeerStore`.
"""

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice, zip_longest
from typing import TYPE_CHECKING

import msgspec
import trio

from dipaco.node.network.addresses import addresses_of, record_scope
from dipaco.node.network.allowance import Allowances
from dipaco.node.network.blob_stream import InThread
from dipaco.node.network.known_peers import KnownPeers, PeerStore
from dipaco.node.network.rpc import Rpc
from dipaco.node.network.seats import Limits, Network, Seat, Seats, prefix_of
from dipaco.node.network.transport import Transport
from dipaco.protocol.errors import Refusal, RemoteProtocolError, Unavailable
from dipaco.protocol.wire.address import Scope, ip_text, scope_of_ip
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import (
    Listing,
    ListPeers,
    PeerRecord,
    Register,
    Registered,
    open_record,
)
from dipaco.protocol.wire.signed import Signed

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

LIFE = 60  # s; a peer pings or is pinged every 20 to 30
MAX_ENTRIES = 2048  # 13 MB of records; a rendezvous node has 256 connections
KEPT = 256  # of them, for peers that this node knows
MAX_PER_PREFIX = 64  # a lab has 30 machines in one /24
MAX_PER_RUN = 1024  # so that one run cannot fill the directory
CALLS_PER_MINUTE = 12  # of a peer, of each kind: a node makes one, and one more when it changes
SAVE_PAUSE = 30.0  # s between two writes; a restart may lose these, and the peers register again


Records = tuple[tuple[Scope, Signed, PeerRecord], ...]
"""The records of one peer, each with its narrowest scope."""


@dataclass
class _Entry:
    peer: PeerId
    records: Records
    ip: str
    """As this node sees it; empty: not known, or the entry is from before a restart."""
    prefix: str
    """By which it is counted; empty: it is not."""
    ends: float

    @cached_property
    def sequence(self) -> int:
        return max(record.sequence for _, _, record in self.records)

    @cached_property
    def runs(self) -> frozenset[Digest]:
        return frozenset(chain.from_iterable(record.runs for _, _, record in self.records))

    @cached_property
    def proven(self) -> bool:
        """Whether the peer comes from an IP address that it names."""
        places = chain.from_iterable(addresses_of(record) for _, _, record in self.records)
        return any(place.host == self.ip for place in places)

    @cached_property
    def visible(self) -> dict[Scope, Signed | None]:
        """The record with the most addresses among those that an asker of each scope can use."""
        return {asker: self._visible_from(asker) for asker in Scope}

    def _visible_from(self, asker: Scope) -> Signed | None:
        seen = [(len(r.addresses), n) for n, (scope, _, r) in enumerate(self.records)]
        seen = [(size, n) for size, n in seen if size and self.records[n][0] >= asker]
        return self.records[max(seen)[1]][1] if seen else None

    def says_the_same_as(self, other: "_Entry") -> bool:
        """Return whether only the sequence numbers differ: not worth a write to the disk."""
        ours, theirs = (
            [msgspec.structs.replace(record, sequence=0) for _, _, record in entry.records]
            for entry in (self, other)
        )
        return ours == theirs


def fair_sample(entries: Iterable[_Entry], most: int, chance: random.Random) -> list[_Entry]:
    """Return at most `most` entries, one of each prefix in turn; those of no prefix stand alone."""
    groups: defaultdict[str, list[_Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.prefix or entry.peer].append(entry)
    chosen = [chance.sample(group, min(most, len(group))) for group in groups.values()]
    chance.shuffle(chosen)
    turns = chain.from_iterable(zip_longest(*chosen))
    return list(islice((entry for entry in turns if entry is not None), most))


class Directory:
    """Answers `Register` and `ListPeers`; call `renew` at every sign of life of a peer."""

    def __init__(
        self,
        transport: Transport,
        rpc: Rpc,
        store: PeerStore,
        *,
        known: Callable[[PeerId], bool] = lambda peer: False,
        exempt: Sequence[Network] = (),
        chance: random.Random | None = None,
        now: Callable[[], float] = trio.current_time,
        in_thread: InThread = trio.to_thread.run_sync,
    ) -> None:
        """known    peers whose entries are never displaced, and have seats of their own.
        exempt   networks whose peers are not counted together.
        """
        self._transport = transport
        self._store = KnownPeers(store, in_thread)
        self._known = known
        self._exempt = exempt
        self._chance = chance if chance is not None else random.Random()
        self._now = now
        self._entries: dict[PeerId, _Entry] = {}
        """The one that gave no sign of life for longest stands first."""
        self._held: dict[PeerId, Seat] = {}
        limits = Limits(in_all=MAX_ENTRIES, per_prefix=MAX_PER_PREFIX, per_peer=2, kept=KEPT)
        self._seats = Seats("registrations", limits)
        self._of_run: Counter[Digest] = Counter()
        self._registers = Allowances(CALLS_PER_MINUTE, seconds=60.0, keys=MAX_ENTRIES)
        self._listings = Allowances(CALLS_PER_MINUTE, seconds=60.0, keys=MAX_ENTRIES)
        self._changed = False
        rpc.handle(Register, self._register)
        rpc.handle(ListPeers, self._list)
        rpc.watch(self._on_peer)

    @property
    def size(self) -> int:
        """The number of registered peers."""
        return len(self._alive())

    def renew(self, peer: PeerId) -> None:
        """Note a sign of life."""
        if (entry := self._entries.pop(peer, None)) is not None:
            self._entries[peer] = entry
            entry.ends = self._now() + LIFE

    async def run(self, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Load the saved records, and save every change, until cancelled."""
        self._restore()
        task_status.started()
        while True:
            await trio.sleep(SAVE_PAUSE)
            if self._changed:
                self._changed = False
                await self._transport.guard.run("saving the directory", None, self._save)

    async def _save(self) -> None:
        alive = self._alive().values()
        await self._store.save(tuple(signed for entry in alive for _, signed, _ in entry.records))

    def _restore(self) -> None:
        """Load the saved records with a life of `LIFE` seconds, so that their peers can return."""
        found: defaultdict[PeerId, list[tuple[Scope, Signed, PeerRecord]]] = defaultdict(list)

        guard = self._transport.guard

        def read(signed: Signed) -> None:
            record = open_record(signed)
            found[record.peer].append((record_scope(record), signed, record))

        def take(signed: Signed) -> None:
            guard.call("recalling a registration", None, read, signed)

        guard.call("reading the directory", None, self._store.recall, take)
        for peer, records in found.items():
            places = addresses_of(records[0][2])
            prefix = prefix_of(places[0].host if places else "", self._exempt)
            with suppress(Unavailable):
                self._enter(_Entry(peer, tuple(records), "", prefix, self._now() + LIFE))

    def _alive(self) -> dict[PeerId, _Entry]:
        """Return the entries, after those whose life is over have gone."""
        now = self._now()
        while self._entries and (first := next(iter(self._entries.values()))).ends <= now:
            self._remove(first.peer)
        return self._entries

    def _on_peer(self, peer: PeerId, ready: bool) -> None:
        if not ready and peer in self._entries:
            self._remove(peer)
            self._changed = True

    async def _register(self, peer: PeerId, ask: Register) -> Registered:
        self._count_call(self._registers, peer)
        found = self._transport.remote_ip(peer)
        ip = ip_text(found) if found else ""
        records = []
        for signed in ask.records:
            record = open_record(signed)
            if record.peer != peer:
                raise RemoteProtocolError(f"registers {record.peer}, which it is not")
            scope = record_scope(record)
            if scope >= scope_of_ip(
                found
            ):  # a remote peer's loopback address is of no use to others
                records.append((scope, signed, record))
        if not records:
            raise Refusal("none of your addresses can be reached from outside your own network")
        before, prefix = self._alive().get(peer), prefix_of(ip, self._exempt)
        entry = _Entry(peer, tuple(records), ip, prefix, self._now() + LIFE)
        self._enter(entry)
        if before is None or not entry.says_the_same_as(before):
            self._changed = True
        return Registered(observed=ip, life=LIFE)

    def _count_call(self, allowed: Allowances, peer: PeerId) -> None:
        """Raise Unavailable if `peer` calls too often."""
        if wait := allowed.wait(peer, self._now()):
            most = f"{CALLS_PER_MINUTE} times a minute"
            raise Unavailable(f"you call more often than {most}: try again in {wait:.0f} s")
        allowed.spend(peer, self._now())

    def _enter(self, entry: _Entry) -> None:
        """Put an entry in the place of the peer's older one; raises Refusal and Unavailable."""
        peer, before = entry.peer, self._entries.get(entry.peer)
        if before is not None and entry.sequence < before.sequence:
            raise Refusal(f"your record {entry.sequence} is older than {before.sequence}")
        new = entry.runs - before.runs if before is not None else entry.runs
        if any(self._of_run[run] >= MAX_PER_RUN for run in new):
            raise Unavailable(f"{MAX_PER_RUN} peers are registered for this run already")
        if before is None or before.prefix != entry.prefix:
            seat = self._seat(peer, entry.prefix)
            self._remove(peer)
            self._held[peer] = seat
        else:
            self._forget_runs(before)
        self._entries.pop(peer, None)
        self._entries[peer] = entry
        self._of_run.update(entry.runs)

    def _seat(self, peer: PeerId, prefix: str) -> Seat:
        """Take a seat. When all are taken, the peer goes that gave no sign of life for longest."""
        known = self._known(peer)
        room = known or not prefix or self._seats.held_by(prefix) < MAX_PER_PREFIX
        if room and len(self._seats) >= MAX_ENTRIES - (0 if known else KEPT):
            oldest = next((each for each in self._entries if not self._known(each)), None)
            if oldest is not None:
                self._remove(oldest)
        return self._seats.take(peer, prefix, known=known)

    def _remove(self, peer: PeerId) -> None:
        if (entry := self._entries.pop(peer, None)) is not None:
            self._seats.leave(self._held.pop(peer))
            self._forget_runs(entry)

    def _forget_runs(self, entry: _Entry) -> None:
        for run in entry.runs:
            self._of_run[run] -= 1
            if not self._of_run[run]:
                del self._of_run[run]

    async def _list(self, peer: PeerId, ask: ListPeers) -> Listing:
        self._count_call(self._listings, peer)
        asker = scope_of_ip(self._transport.remote_ip(peer))
        seen = [
            entry
            for entry in self._alive().values()
            if entry.peer != peer and (ask.run is None or ask.run in entry.runs)
            if entry.visible[asker] is not None
        ]
        chosen = fair_sample((each for each in seen if each.proven), ask.most, self._chance)
        if len(chosen) < ask.most:
            others = (each for each in seen if not each.proven)
            chosen += fair_sample(others, ask.most - len(chosen), self._chance)
        records = (each.visible[asker] for each in chosen)
        return Listing(records=tuple(record for record in records if record is not None))
