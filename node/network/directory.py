"""The rendezvous node's directory: the peers that are present, and their addresses.

The directory needs no trust: every record is signed by the peer it is about, and readers check
that. An entry lives for 30 s after the peer's latest sign of life, and ends with its connection.
Lists are random samples, so that no peer is dialled by all.

The clock is given as `now`, and records that must outlive a restart go to a `PeerStore`.
"""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import trio

from dipaco.node.network.addresses import record_scope
from dipaco.node.network.blob_stream import InThread
from dipaco.node.network.known_peers import KnownPeers, PeerStore
from dipaco.node.network.rpc import Rpc
from dipaco.node.network.transport import Transport
from dipaco.protocol.errors import Refusal, RemoteProtocolError, Unavailable
from dipaco.protocol.wire.address import Scope, scope_of_ip
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

LIFE = 30  # s; a peer is pinged every 10 to 15
MAX_ENTRIES = 4096  # 6 MB of records
MAX_PER_IP = 32  # behind one public or private address; nodes of this machine do not count
MAX_PER_RUN = 2048  # so that one run cannot fill the directory
SAVE_PAUSE = 5.0  # s between two writes; a restart may lose these, and the peers register again


@dataclass
class _Entry:
    records: tuple[tuple[Scope, Signed, PeerRecord], ...]
    ip: str | None
    ends: float

    @property
    def sequence(self) -> int:
        return max(record.sequence for _, _, record in self.records)

    def visible_from(self, asker: Scope) -> Signed | None:
        """Return the record with the most addresses among those that the asker can use."""
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

    def takes_part_in(self, run: Digest) -> bool:
        return any(run in record.runs for _, _, record in self.records)


class Directory:
    """Answers `Register` and `ListPeers`; call `renew` at every sign of life of a peer."""

    def __init__(
        self,
        transport: Transport,
        rpc: Rpc,
        store: PeerStore,
        *,
        chance: random.Random | None = None,
        now: Callable[[], float] = trio.current_time,
        in_thread: InThread = trio.to_thread.run_sync,
    ) -> None:
        self._transport = transport
        self._store = KnownPeers(store, in_thread)
        self._chance = chance if chance is not None else random.Random()
        self._now = now
        self._entries: dict[PeerId, _Entry] = {}
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
        if (entry := self._entries.get(peer)) is not None:
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
        await self._store.save(tuple(s for entry in alive for _, s, _ in entry.records))

    def _restore(self) -> None:
        """Load the saved records with a life of `LIFE` seconds, so that their peers can return."""
        found: dict[PeerId, list[tuple[Scope, Signed, PeerRecord]]] = {}
        guard = self._transport.guard

        def recall(signed: Signed) -> None:
            record = open_record(signed)
            found.setdefault(record.peer, []).append((record_scope(record), signed, record))

        for signed in guard.call("reading the directory", None, self._store.load) or ():
            try:
                guard.call("recalling a registration", None, recall, signed)
            except RemoteProtocolError as error:
                log.warning("a saved record is dropped: %s", error)
        for peer, records in found.items():
            self._entries[peer] = _Entry(tuple(records), None, self._now() + LIFE)

    def _alive(self) -> dict[PeerId, _Entry]:
        now = self._now()
        self._entries = {peer: entry for peer, entry in self._entries.items() if now < entry.ends}
        return self._entries

    def _on_peer(self, peer: PeerId, ready: bool) -> None:
        if not ready and self._entries.pop(peer, None) is not None:
            self._changed = True

    async def _register(self, peer: PeerId, ask: Register) -> Registered:
        ip = self._transport.remote_ip(peer)
        records = []
        for signed in ask.records:
            record = open_record(signed)
            if record.peer != peer:
                raise RemoteProtocolError(f"registers {record.peer}, which it is not")
            scope = record_scope(record)
            if scope >= scope_of_ip(ip):  # a remote peer's loopback address is of no use to others
                records.append((scope, signed, record))
        if not records:
            raise Refusal("none of your addresses can be reached from outside your own network")
        entry = _Entry(tuple(records), ip, self._now() + LIFE)
        before = self._alive().get(peer)
        if before is not None and entry.sequence < before.sequence:
            raise Refusal(f"your record {entry.sequence} is older than {before.sequence}")
        self._check_capacity(peer, entry)
        if before is None or not entry.says_the_same_as(before):
            self._changed = True
        self._entries[peer] = entry
        return Registered(observed=ip or "", life=LIFE)

    def _check_capacity(self, peer: PeerId, entry: _Entry) -> None:
        others = [other for known, other in self._entries.items() if known != peer]
        if len(others) >= MAX_ENTRIES:
            raise Unavailable("the directory is full")
        same_ip = sum(other.ip == entry.ip for other in others)
        if scope_of_ip(entry.ip) != Scope.MACHINE and same_ip >= MAX_PER_IP:
            raise Unavailable(f"{MAX_PER_IP} peers are registered from {entry.ip} already")
        for run in {run for _, _, record in entry.records for run in record.runs}:
            if sum(other.takes_part_in(run) for other in others) >= MAX_PER_RUN:
                raise Unavailable(f"{MAX_PER_RUN} peers are registered for this run already")

    async def _list(self, peer: PeerId, ask: ListPeers) -> Listing:
        asker = scope_of_ip(self._transport.remote_ip(peer))
        seen = [
            record
            for known, entry in self._alive().items()
            if known != peer and (ask.run is None or entry.takes_part_in(ask.run))
            if (record := entry.visible_from(asker)) is not None
        ]
        return Listing(records=tuple(self._chance.sample(seen, min(ask.most, len(seen)))))
