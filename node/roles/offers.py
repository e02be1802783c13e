"""The runs on offer as this node sees them, and the choice of one to work for.

A peer's word counts once it has told of all that it holds: the first manifest that a newcomer hears
of may be anybody's.
"""

import logging
from dataclasses import dataclass, field

import trio

from dipaco.node.assembly import Node
from dipaco.node.runs.choice import (
    Choice,
    RunOffer,
    choose,
    is_named,
    missing_text,
    next_text,
    offers_text,
    others_text,
)
from dipaco.node.runs.record import RunRecord
from dipaco.node.runs.remembered import last_run, remember_run
from dipaco.node.runs.signers import pin_signer, pinned_signers
from dipaco.protocol.errors import Refusal
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId, fingerprint, short_peer

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks at what no condition tells of: connections
# Without an answer for as long a scheduler counts as gone: a restart and a slow line take less.
AWAY_SECONDS = 300.0


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
        self._seeds = frozenset(a.peer for a in self.node.config.seeds if a.peer)
        self._invited = self.node.config.run.invited
        self._pins = pinned_signers(self.node.home.root)
        self._signers = frozenset(self.node.config.run.signers)
        self._silent_since: dict[Digest, float] = {}
        """When each run's scheduler was first seen not to answer."""

    async def next_run(self) -> RunRecord:
        """Wait for the run that is wanted, pin its signer, and remember it.

        It is over only if no other one is wanted. Raises Refusal for an invitation to a run whose
        name is pinned to another signer: a person who was invited waits for no other run.
        """
        named = self.node.config.run.id
        while True:
            offers = self._offers()
            self._follow(offers)
            choice = choose(
                offers,
                wanted=named,
                signers=self._signers,
                last=self._last,
                invited=self._invited,
            )
            if self._invited and choice.of_others:
                raise Refusal(others_text(choice.of_others))
            chosen = next((offer for offer in offers if offer.run == choice.run), None)
            if chosen is not None and self._heard() and self._may_join(chosen):
                return self._join(chosen)
            self._say_choosing(choice, chosen, offers)
            await self.something_new()

    def _join(self, chosen: RunOffer) -> RunRecord:
        self._last = chosen.run
        self.node.run_store.keep(chosen.run)
        remember_run(self.node.home.root, chosen.run)
        new = fingerprint(chosen.signer)
        if chosen.pinned not in (None, chosen.signer):
            old = fingerprint(chosen.pinned)
            log.warning("run %s: signer %s takes the place of %s", chosen.name, new, old)
        pin_signer(self.node.home.root, chosen.name, chosen.signer)
        self._pins[chosen.name] = chosen.signer
        return self.node.run_store.runs[chosen.run]

    def _may_join(self, offer: RunOffer) -> bool:
        """Return whether to join now: a newcomer waits until the scheduler answers."""
        known = offer.run == self._last or is_named(offer, self.node.config.run.id)
        return offer.answers or offer.over or known

    def _follow(self, offers: list[RunOffer]) -> None:
        """Have the ledgers fetched of the runs that a person or a seed stands for.

        Of all others the manifest has to do: nothing is fetched or built for a stranger's run.
        """
        named = self.node.config.run.id
        stands = [
            offer.run
            for offer in offers
            if offer.of_seed
            or offer.signer in self._signers
            or is_named(offer, named)
            or (self._invited is not None and self._invited.is_for(offer.run, offer.signer))
        ]
        self.node.run_store.follow(stands)

    async def something_new(self) -> None:
        """Wait until the choice may be another one."""
        with trio.move_on_after(LOOK_SECONDS):
            await self.node.run_store.changed.wait()

    def say_over(self, record: RunRecord) -> None:
        """Put it into the status that the run is over, and which others are on offer."""
        rounds, advice = record.rounds.last, next_text(record.run, self._offers())
        self.node.activity.of(record.run).say("run-over", round=rounds, rounds=rounds, next=advice)

    def _offers(self) -> list[RunOffer]:
        guard, runs = self.node.guard, self.node.run_store.runs
        for run in self._silent_since.keys() - runs.keys():
            del self._silent_since[run]
        offers = (
            guard.call("judging a run on offer", None, self._offer, record)
            for record in runs.values()
            if record.run not in self.refused
        )
        return [offer for offer in offers if offer is not None]

    def _offer(self, record: RunRecord) -> RunOffer:
        answers = record.scheduler in self.node.transport.peers() and self._lists(
            record, record.scheduler
        )
        return RunOffer(
            run=record.run,
            name=record.manifest.name,
            signer=record.manifest.owner,
            of_seed=self._of_seed(record),
            answers=answers,
            dead=self._dead(record.run, answers=answers),
            pinned=self._pins.get(record.manifest.name),
            over=record.over,
        )

    def _of_seed(self, record: RunRecord) -> bool:
        """Return whether a seed schedules the run, or stands by to.

        Which scheduler's turn it is a newcomer learns from the ledger, which it follows for that.
        """
        schedulers = self._seeds.intersection(record.manifest.schedule.schedulers)
        return any(self._lists(record, scheduler) for scheduler in schedulers)

    def _lists(self, record: RunRecord, scheduler: PeerId) -> bool:
        return record.run in (self.node.run_store.listed_by(scheduler) or ())

    def _dead(self, run: Digest, *, answers: bool) -> bool:
        if answers:
            self._silent_since.pop(run, None)
            return False
        now = trio.current_time()
        return now - self._silent_since.setdefault(run, now) >= AWAY_SECONDS

    def _heard(self) -> bool:
        """Return whether a peer whose word counts has told of all its runs.

        A seed's always does, and each scheduler's on a run that nobody can put another in place of:
        one that is named by its whole id, or was worked for before. While no seed is connected, any
        peer's word does on such a run.
        """
        store, peers = self.node.run_store, self.node.transport.peers()
        told = {peer for peer in peers | self._seeds if store.has_told(peer)}
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

    def _say_choosing(
        self, choice: Choice, chosen: RunOffer | None, offers: list[RunOffer]
    ) -> None:
        say, peers = self.node.activity.say, len(self.node.transport.peers())
        if trouble := self.node.dialer.reason():
            say("no-peer", trouble=trouble)
        elif not self._heard():
            say("seed-silent", peers=peers)
        elif choice.among:
            say("several-runs", offers=offers_text(choice.among))
        elif chosen is not None:
            scheduler = self.node.run_store.runs[chosen.run].scheduler
            say("run-away", run=chosen.name, scheduler=short_peer(scheduler))
        elif choice.of_others:
            say("other-signer", problem=others_text(choice.of_others))
        elif choice.missing:
            say("not-on-offer", problem=missing_text(choice.missing, offers))
        else:
            say("no-run", peers=peers)
