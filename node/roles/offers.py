"""The runs on offer as this node sees them, and the choice of one to work for.

A peer's word counts once it has told of all that it holds: the first manifest that a newcomer hears
of may be anybody's.
"""

from dataclasses import dataclass, field

import trio

from dipaco.node.assembly import Node
from dipaco.node.runs.choice import (
    Choice,
    RunOffer,
    choose,
    missing_text,
    next_text,
    offers_text,
)
from dipaco.node.runs.record import RunRecord
from dipaco.node.runs.remembered import last_run, remember_run
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId

LOOK_SECONDS = 1.0  # between two looks at what no condition tells of: connections


@dataclass
class RunChooser:
    """Chooses the runs that a node works for, one after the other."""

    node: Node
    refused: set[Digest] = field(default_factory=set)
    """Runs that this node cannot work for."""

    def __post_init__(self) -> None:
        self._last = last_run(self.node.home.root)
        if self._last is not None:
            self.node.run_store.keep(self._last)
        self._seeds = frozenset(a.peer for a in self.node.config.node.bootstrap if a.peer)

    async def next_run(self) -> RunRecord:
        """Wait for the run that is wanted, and remember it.

        It is over only if no other one is wanted.
        """
        while True:
            offers = self._offers()
            choice = choose(offers, wanted=self.node.config.run.id, last=self._last)
            if choice.run is not None and self._heard():
                self._last = choice.run
                self.node.run_store.keep(choice.run)
                remember_run(self.node.home.root, choice.run)
                return self.node.run_store.runs[choice.run]
            self._say_choosing(choice, offers)
            await self.something_new()

    async def something_new(self) -> None:
        """Wait until the choice may be another one."""
        with trio.move_on_after(LOOK_SECONDS):
            await self.node.run_store.changed.wait()

    def say_over(self, record: RunRecord) -> None:
        """Put it into the status that the run is over, and which others are on offer."""
        rounds, advice = record.rounds.last, next_text(record.run, self._offers())
        self.node.activity.of(record.run).say("run-over", round=rounds, rounds=rounds, next=advice)

    def _offers(self) -> list[RunOffer]:
        guard, records = self.node.guard, self.node.run_store.runs.values()
        offers = (
            guard.call("judging a run on offer", None, self._offer, record)
            for record in records
            if record.run not in self.refused
        )
        return [offer for offer in offers if offer is not None]

    def _offer(self, record: RunRecord) -> RunOffer:
        listed = self.node.run_store.listed_by(record.scheduler) or ()
        return RunOffer(
            run=record.run,
            name=record.manifest.name,
            signer=record.manifest.owner,
            of_seed=record.scheduler in self._seeds and record.run in listed,
            answers=record.scheduler in self.node.transport.peers(),
            over=record.over,
        )

    def _heard(self) -> bool:
        """Return whether a peer whose word counts has told of all its runs.

        A seed's always does, and each scheduler's on a run that nobody can put another in place of:
        one that is named by its whole id, or was worked for before. While no seed is connected, any
        peer's word does on such a run.
        """
        store, peers = self.node.run_store, self.node.transport.peers()
        told = {peer for peer in peers | self._seeds if store.listed_by(peer) is not None}
        if not self._seeds or self._seeds & told:
            return bool(told)
        schedulers = self._schedulers_of_pinned()
        return bool(schedulers & told or (schedulers and told and not self._seeds & peers))

    def _schedulers_of_pinned(self) -> set[PeerId]:
        ids = set(self.node.config.run.id)
        return {
            record.scheduler
            for record in self.node.run_store.runs.values()
            if record.run.hex() in ids or record.run == self._last
        }

    def _say_choosing(self, choice: Choice, offers: list[RunOffer]) -> None:
        say, peers = self.node.activity.say, len(self.node.transport.peers())
        if trouble := self.node.dialer.reason():
            say("no-peer", trouble=trouble)
        elif not self._heard():
            say("seed-silent", peers=peers)
        elif choice.among:
            say("several-runs", offers=offers_text(choice.among))
        elif choice.missing:
            say("not-on-offer", problem=missing_text(choice.missing, offers))
        else:
            say("no-run", peers=peers)
