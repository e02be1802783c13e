"""The line to the scheduler of one run: who it is, and whether it answers.

Every call of the volunteer to the scheduler goes through here, so status says `scheduler-away`
whichever call stays without an answer.
"""

import logging
import math
import time
from typing import TypeVar

import trio
from msgspec import UNSET
from msgspec.structs import replace

from dipaco.node.network.rpc import Rpc
from dipaco.node.runs.record import RunRecord
from dipaco.node.status.activity import RunActivity
from dipaco.protocol.errors import Refusal, RemoteProtocolError, Unavailable
from dipaco.protocol.numbers import span
from dipaco.protocol.wire.canonical import Wire
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.wire.text import one_line
from dipaco.protocol.work.authority import Authority, authority
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
    Reclaim,
    Stands,
    Submit,
)
from dipaco.protocol.work.kinds import Lease, Result, Token

log = logging.getLogger(__name__)

CALL_SECONDS = 10.0  # for a small question
SUBMIT_SECONDS = math.inf  # it pulls and inspects the blobs first; a lease that falls ends the wait
LOOK_SECONDS = 0.5  # between two looks whether another scheduler is there, or this one again
RETRY_SECONDS = 1.0  # first wait for a scheduler that is away; doubles
MAX_RETRY_SECONDS = 15.0
MOST_SHOWN = 8  # leases remembered: two are held at once
GOODBYE_SECONDS = 2.0  # to hand back a lease on the way out

A = TypeVar("A", bound=Wire)
B = TypeVar("B", bound=Wire)


class SchedulerLink:
    """Asks the scheduler of a run, and notes when it last answered."""

    def __init__(self, record: RunRecord, rpc: Rpc, activity: RunActivity) -> None:
        self._record, self._rpc, self._activity = record, rpc, activity
        self._answered = trio.current_time()
        self._shown: dict[Token, PeerId] = {}
        """By token of a lease the scheduler that granted it, or to which it was shown last."""
        self._refused = ""
        """Why it refused the last result; empty: it did not."""

    @property
    def authority(self) -> Authority:
        """The scheduler of the ledger's term, and its silence."""
        record = self._record
        return authority(
            record.manifest.schedule.schedulers,
            record.term,
            answered=self._answered,
            now=trio.current_time(),
        )

    @property
    def scheduler(self) -> PeerId:
        """The scheduler of the ledger's term."""
        return self.authority.scheduler

    async def ask(self, request: AskLease) -> Granted | NoLease:
        """Ask for a lease; raises Unavailable, RemoteProtocolError."""
        if self._record.keepers:
            request = replace(request, head=self._record.chain_head)
        reply = await self._granted(request)
        self._activity.queued = None
        if isinstance(reply, NoLease) and reply.place is not UNSET and reply.places is not UNSET:
            self._activity.queued = reply.place, reply.places
        return reply

    async def ask_next(self, request: AskNext) -> Granted | NoLease:
        """Ask for a second lease; raises Unavailable, RemoteProtocolError."""
        return await self._granted(request)

    async def _granted(self, request: AskLease | AskNext) -> Granted | NoLease:
        scheduler = self.scheduler
        reply = await self._call(request, Granted, NoLease, timeout=CALL_SECONDS)
        if isinstance(reply, Granted):
            self._shown = dict(list(self._shown.items())[-MOST_SHOWN:])
            self._shown[reply.lease.token] = scheduler
            self._renewed(reply.lease)
        return reply

    def _renewed(self, lease: Lease) -> None:
        self._activity.lease_until = time.time() + lease.ttl

    async def heartbeat(self, lease: Lease, beat: Heartbeat) -> Stands | Fallen:
        """Renew a lease; raises Unavailable, RemoteProtocolError."""
        reply = await self._reclaim(lease)
        if isinstance(reply, Fallen):
            return reply
        reply = await self._call(beat, Stands, Fallen, timeout=CALL_SECONDS)
        if isinstance(reply, Stands):
            self._renewed(lease)
        return reply

    async def _reclaim(self, lease: Lease) -> Stands | Fallen:
        """Show a lease to the scheduler of a new term, which did not grant it, once."""
        scheduler = self.scheduler
        if self._shown.get(lease.token, scheduler) == scheduler:
            return Stands()
        reply = await self._call(Reclaim(lease=lease), Stands, Fallen, timeout=CALL_SECONDS)
        if isinstance(reply, Stands):
            self._shown[lease.token] = scheduler
        return reply

    async def submit(self, lease: Lease, result: Result) -> Stands | Fallen:
        """Hand in a result; raises Unavailable, RemoteProtocolError.

        A scheduler that took over may know that it counts, though it does not know its lease.
        """
        await self._reclaim(lease)
        request = Submit(run=self._record.run, result=result)
        reply = await self._while_it_schedules(request)
        self._refused = reply.reason if isinstance(reply, Fallen) else ""
        return reply

    async def _while_it_schedules(self, request: Submit) -> Stands | Fallen:
        """Wait for the answer as long as the scheduler that was asked is the run's scheduler."""
        asked, reply = self.scheduler, None
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                while self.scheduler == asked:
                    await trio.sleep(LOOK_SECONDS)
                nursery.cancel_scope.cancel()

            if self._record.keepers:
                nursery.start_soon(watch)
            failure: Exception | None = None
            try:
                reply = await self._call(request, Stands, Fallen, timeout=SUBMIT_SECONDS)
            except (Unavailable, RemoteProtocolError) as error:  # bare here, a group outside
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if reply is None:
            raise Unavailable(f"{short_peer(asked)} schedules the run no more")
        return reply

    async def hand_back(self, lease: Lease, reason: str) -> None:
        """Give a lease back, so that another node may have the work at once.

        Best effort, also on the way out: a call that fails is logged and forgotten.
        """
        request = HandBack(run=self._record.run, token=lease.token, reason=one_line(reason))
        with trio.CancelScope(shield=True):
            try:
                await self._rpc.call(self.scheduler, request, Stands, timeout=GOODBYE_SECONDS)
            except (Unavailable, Refusal, RemoteProtocolError) as error:
                log.debug("lease not handed back: %s", error)

    async def pause(self, seconds: float) -> bool:
        """Wait before the scheduler is called again; returns whether the wait ended early.

        It ends after so many seconds, or as another scheduler takes over, or this one is back.
        """
        asked, there = self.scheduler, self._is_there
        with trio.move_on_after(seconds):
            while self.scheduler == asked and (there or not self._is_there):
                await trio.sleep(LOOK_SECONDS)
            return True
        return False

    async def pause_while_away(self, wait: float) -> float:
        """Wait as `pause` does after a call without an answer; returns how long to wait next."""
        early = await self.pause(wait)
        return RETRY_SECONDS if early else min(2 * wait, MAX_RETRY_SECONDS)

    @property
    def _is_there(self) -> bool:
        return self.scheduler in self._rpc.ready()

    async def holders(self) -> Holders:
        """Ask who works on which path; raises Unavailable, RemoteProtocolError."""
        request = AskHolders(run=self._record.run)
        reply = await self._rpc.call(self.scheduler, request, Holders, timeout=CALL_SECONDS)
        self._note_answer()
        return reply

    def say_away(self, error: Exception, wait: float) -> None:
        """Enter the state of a scheduler that is away; the next call follows after `wait` s."""
        self._activity.say("scheduler-away", problem=self._problem(error), wait=wait)

    def say_away_beside(self, error: Exception, wait: float) -> None:
        """Tell, beside the work that goes on, that the scheduler is away."""
        self._activity.say_beside("scheduler-away", problem=self._problem(error), wait=wait)

    def _problem(self, error: Exception) -> str:
        now = self.authority
        problem = f"{short_peer(now.scheduler)} silent for {span(now.silence)}: {error}"
        if self._refused:  # it hangs up on whoever hands in what no honest node makes
            problem += f"; it refused the last result: {self._refused}"
        return problem

    async def _call(self, request: Wire, one: type[A], other: type[B], *, timeout: float) -> A | B:
        reply = await self._rpc.call(self.scheduler, request, one, other, timeout=timeout)
        self._note_answer()
        return reply

    def _note_answer(self) -> None:
        self._answered = trio.current_time()
        self._activity.no_longer("scheduler-away")
