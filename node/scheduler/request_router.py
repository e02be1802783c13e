"""The end of the calls to schedulers: each goes to the scheduler of its run, or to its standby."""

from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager

import trio

from dipaco.node.scheduler.catching_up import hear_out
from dipaco.node.scheduler.holders import holders
from dipaco.node.scheduler.service import Scheduler
from dipaco.node.scheduler.standby import Standby
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.wire.digest import Digest, short
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.calls import (
    AskHolders,
    AskLease,
    AskNext,
    Fallen,
    Granted,
    HandBack,
    Heartbeat,
    Holders,
    NoLease,
    Noted,
    Reclaim,
    Stands,
    Submit,
    TermLeft,
)


class RequestRouter:
    """Passes each request to the scheduler of its run."""

    def __init__(self) -> None:
        self.schedulers: dict[Digest, Scheduler] = {}
        self.standbys: dict[Digest, Standby] = {}
        """Of the runs with keepers that this node may have to schedule."""
        self._preparing: set[Digest] = set()
        self.unheard: Callable[[], Set[PeerId]] = frozenset
        """Returns the connected peers whose ledgers were not pulled yet."""

    @contextmanager
    def preparing(self, run: Digest) -> Iterator[None]:
        """Count a run as scheduled here while its router is derived: nobody else should begin."""
        self._preparing.add(run)
        try:
            yield
        finally:
            self._preparing.discard(run)

    def scheduling(self, run: Digest) -> bool:
        """Return whether this node schedules a run, or is about to."""
        scheduler = self.schedulers.get(run)
        return run in self._preparing or (scheduler is not None and not scheduler.deposed)

    async def ask(self, peer: PeerId, request: AskLease) -> Granted | NoLease:
        """Answer `AskLease`."""
        scheduler = self.schedulers.get(request.run)
        if scheduler is None or scheduler.deposed:
            return _unknown(request.run)
        await hear_out(peer, self.unheard)
        return scheduler.ask(peer, request, trio.current_time())

    async def ask_next(self, peer: PeerId, request: AskNext) -> Granted | NoLease:
        """Answer `AskNext`."""
        scheduler = self.schedulers.get(request.run)
        if scheduler is None or scheduler.deposed:
            return _unknown(request.run)
        return scheduler.ask_next(peer, request, trio.current_time())

    async def heartbeat(self, peer: PeerId, request: Heartbeat) -> Stands | Fallen:
        """Answer `Heartbeat`."""
        return self._of(request.run).heartbeat(peer, request, trio.current_time())

    async def reclaim(self, peer: PeerId, request: Reclaim) -> Stands | Fallen:
        """Answer `Reclaim`."""
        return self._of(request.lease.run).reclaim(peer, request, trio.current_time())

    async def hand_back(self, peer: PeerId, request: HandBack) -> Stands:
        """Answer `HandBack`."""
        return self._of(request.run).hand_back(peer, request, trio.current_time())

    async def submit(self, peer: PeerId, request: Submit) -> Stands | Fallen:
        """Answer `Submit`."""
        return await self._of(request.run).submit(peer, request.result)

    async def holders(self, _peer: PeerId, request: AskHolders) -> Holders:
        """Answer `AskHolders`."""
        scheduler = self._of(request.run)
        return Holders(held=holders(scheduler.schedule, scheduler.beats))

    async def term_left(self, peer: PeerId, request: TermLeft) -> Noted:
        """Answer `TermLeft`."""
        standby = self.standbys.get(request.run)
        if standby is None:
            raise Unavailable(f"this node does not stand by for run {short(request.run)}")
        standby.note_left(peer, request.term)
        return Noted()

    def gone(self, peer: PeerId) -> None:
        """Note that a peer's connection broke."""
        for scheduler in self.schedulers.values():
            scheduler.gone(peer, trio.current_time())

    def _of(self, run: Digest) -> Scheduler:
        scheduler = self.schedulers.get(run)
        if scheduler is None or scheduler.deposed:
            # After a restart the router is derived first: leases in hand stand meanwhile.
            raise Unavailable(f"run {short(run)} is not scheduled here, or not yet")
        return scheduler


def _unknown(run: Digest) -> NoLease:
    reason = f"run {short(run)} is not scheduled here, or not yet"
    return NoLease(code="unknown-run", reason=reason, retry_after=2.0)
