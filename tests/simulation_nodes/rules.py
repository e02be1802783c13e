"""The oracle of level one, held at the seams of whole nodes: what they answer, and what they save.

The seams are patched for as long as a universe runs; every node still does what it does.
"""

import hashlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import trio

from dipaco.node.keeper.service import KeptRun
from dipaco.node.kinds.train import is_again
from dipaco.node.scheduler.kept import KeptScheduler
from dipaco.node.scheduler.replication import Replication
from dipaco.node.scheduler.schedule import Schedule
from dipaco.node.scheduler.service import Scheduler
from dipaco.node.storage.journal import Journal
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.wire.canonical import decode
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.signed import Signed, open_signed
from dipaco.protocol.work.authority import scheduler_of_term
from dipaco.protocol.work.calls import CosignedHead, Fallen, Granted, NoLease, Promised, Stands
from dipaco.protocol.work.kinds import Result, TrainLease, TrainResult
from dipaco.protocol.work.ledger import LedgerRecord
from dipaco.protocol.work.terms import Cosigned, Promise
from tests.simulation.oracle import UNNOTICED, Oracle, Violation


class Rules:
    """The rules of one universe, and what broke them."""

    def __init__(self, manifest: Manifest, peers: int) -> None:
        self.violations: list[str] = []
        self.events = hashlib.sha256()
        """Over node, number, digest and time of every ledger record that a node saved."""
        self._manifest, self._run = manifest, run_id(manifest)
        self._oracle = Oracle(peers, manifest.paths)
        self._told: dict[str, int] = {}
        """By node the ledger records that it has saved in its present life."""
        self._since: dict[Scheduler, float] = {}
        """When a scheduler could last do nothing about a lease that ends."""
        self._terms: dict[int, Replication] = {}
        """By term in which leases are granted who began it: every process begins its own."""

    def violate(self, rule: str) -> None:
        """Note that a rule does not hold: each once."""
        if rule not in self.violations:
            self.violations.append(rule)

    def hold(self, rule: Callable[..., None], *values: Any, **named: Any) -> None:
        """Hold values against a rule of the oracle."""
        try:
            rule(*values, **named)
        except Violation as violation:
            self.violate(str(violation))

    @property
    def length(self) -> int:
        """The number of records that any node ever took for final."""
        return self._oracle.length

    # ------------------------------------------------------------------ what nodes save

    def begins(self, name: str) -> None:
        """Note that a node starts."""
        self._told[name] = 0

    def saved(self, name: str, journal: Journal) -> None:
        """Hold the ledger records that a node saved against those of all nodes."""
        for record in journal.ledger(self._run, self._told.get(name, 0)):
            self._told[name] = record.seq + 1
            moment = f"{name} {record.seq} {trio.current_time():.6f}".encode()
            self.events.update(moment + record.digest)
            opened = open_signed(decode(record.data, Signed), LedgerRecord)
            self.hold(self._oracle.final, opened, record.digest)

    # ------------------------------------------------------------------ what nodes answer

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hold every answer of keepers and schedulers against the rules, until the block ends."""
        seams = (
            (KeptRun, "answer", self._keeper_answers),
            (Scheduler, "ask", self._grants),
            (Scheduler, "ask_next", self._grants),
            (Scheduler, "submit", self._counts),
            (Scheduler, "_end_leases", self._ends_leases),
            (Schedule, "discard", self._discards),
        )
        with ExitStack() as stack:
            for owner, name, watch in seams:
                watched = watch(getattr(owner, name))
                stack.enter_context(patch.object(owner, name, watched))
            yield

    def _keeper_answers(self, answer: Callable[..., Any]) -> Callable[..., Any]:
        def answered(kept: KeptRun, *values: Any) -> Any:
            me = kept.machine.me
            if not kept.forgot:
                self.hold(self._oracle.keeper, me, kept.state, self._manifest)
            reply = answer(kept, *values)
            if isinstance(reply, Promised):
                given = open_signed(reply.promise, Promise)
                self.hold(self._oracle.promised, me, given.term, given.head)
            elif isinstance(reply, CosignedHead):
                head = open_signed(reply.cosigned, Cosigned).head
                self.hold(self._oracle.cosigned, me, head)
            return reply

        return answered

    def _grants(self, ask: Callable[..., Granted | NoLease]) -> Callable[..., Granted | NoLease]:
        def asked(scheduler: Scheduler, *values: Any) -> Granted | NoLease:
            reply = ask(scheduler, *values)
            if isinstance(reply, Granted):
                self._granted(scheduler, reply)
            return reply

        return asked

    def _granted(self, scheduler: Scheduler, granted: Granted) -> None:
        lease = granted.lease
        if (
            isinstance(lease, TrainLease)
            and not is_again(scheduler.schedule.state, lease)
            and (lease.path, lease.round) in self._oracle.told
        ):
            self.violate(f"path {lease.path} round {lease.round} counts, and is leased again")
        if not isinstance(scheduler, KeptScheduler):
            return
        replication = scheduler._replication
        term, me = replication.term, replication.me
        if self._terms.setdefault(term, replication) is not replication:
            self.violate(f"leases are granted in term {term} by two that began it")
        schedulers = self._manifest.schedule.schedulers
        if not term or scheduler_of_term(schedulers, term) != me or scheduler._record.term != term:
            self.violate(f"a lease is granted in term {term}, which no quorum has begun with {me}")

    def _counts(
        self, submit: Callable[..., Awaitable[Stands | Fallen]]
    ) -> Callable[..., Awaitable[Stands | Fallen]]:
        async def submitted(scheduler: Scheduler, peer: PeerId, result: Result) -> Stands | Fallen:
            grant = scheduler.schedule.grants.get(result.token)
            lease = grant.lease if grant else None
            again = isinstance(lease, TrainLease) and is_again(scheduler.schedule.state, lease)
            reply = await submit(scheduler, peer, result)
            counts = isinstance(reply, Stands) and not again
            if counts and isinstance(lease, TrainLease) and isinstance(result, TrainResult):
                told, _ = self._oracle.told.setdefault((lease.path, lease.round), (peer, result))
                if told != peer:
                    self.violate(f"path {lease.path} round {lease.round} counts for two peers")
            return reply

        return submitted

    def _ends_leases(self, end: Callable[[Scheduler], None]) -> Callable[[Scheduler], None]:
        def ended(scheduler: Scheduler) -> None:
            now = trio.current_time()
            if scheduler.full or scheduler not in self._since:
                self._since[scheduler] = now
            since = self._since[scheduler]
            for grant in scheduler.schedule.grants.values():
                if now - max(grant.deadline, since) > UNNOTICED:
                    self.violate(f"a lease outlives its end by more than {UNNOTICED:.0f} s")
            end(scheduler)

        return ended

    def _discards(self, discard: Callable[..., Any]) -> Callable[..., Any]:
        def discarded(schedule: Schedule, path: int, round_: int) -> Any:
            changes = discard(schedule, path, round_)
            if changes:  # its blobs are lost
                self._oracle.told.pop((path, round_), None)
            return changes

        return discarded

    # ------------------------------------------------------------------ the end

    def at_end(self, state: Any, expected: Any) -> None:
        """Hold the run's end against that of an undisturbed run, and against what was told."""
        self.hold(self._oracle.at_end, state, expected)
