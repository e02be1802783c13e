"""A node that may schedule a run with keepers, while another one does: when it is its turn.

It asks the run's other schedulers for their heads; one that ends in order says so (`TermLeft`), and
nobody waits for it. Time decides nothing but when this node asks the keepers for a term of its own;
whether it gets one, they decide.
"""

import logging
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

import trio

from dipaco.node.condition import Condition
from dipaco.node.network.rpc import Rpc
from dipaco.node.runs.record import RunRecord
from dipaco.node.scheduler.heads import heads_of, no_quorum
from dipaco.node.scheduler.replication import Deposed, Replication
from dipaco.node.status.activity import RunActivity
from dipaco.protocol.errors import Refusal, RemoteProtocolError, Unavailable
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.wire.signed import Signed
from dipaco.protocol.work.authority import scheduler_of_term
from dipaco.protocol.work.calls import HeadIs, Noted, TermLeft
from dipaco.protocol.work.candidate import acts_at, next_own_term

log = logging.getLogger(__name__)

BEAT_SECONDS = 2.0  # between two questions to the other schedulers
ASK_SECONDS = 2.0  # for their answer
KEEPERS_SECONDS = 10.0  # between two looks of a scheduler at the terms that keepers serve
CONNECT_SECONDS = 0.25  # between two looks for a quorum of keepers, as a start connects to them
GOODBYE_SECONDS = 1.0  # for the other schedulers to hear that this one ends
PAUSES = (0.5, 2.0)  # s, at random, before keepers are asked again that gave no quorum


@dataclass
class Standby:
    """Waits for this node's turn to schedule a run."""

    record: RunRecord
    rpc: Rpc
    me: PeerId
    activity: RunActivity
    chance: random.Random = field(default_factory=random.Random)
    seen: int = 0
    """The highest term that this node has heard of."""
    _heard: float = 0.0
    _head: object = None
    _leads: PeerId | None = None
    """Who said last that it schedules."""
    _left: dict[PeerId, int] = field(default_factory=dict)
    """By scheduler the term in which it said last that it ends."""
    _noted: Condition = field(default_factory=Condition)
    """Notified when one has said so."""

    async def until_due(self) -> None:
        """Wait until the scheduler has been silent for long enough; not where it is this node.

        A node that has just started learns first from a quorum of keepers which term it is.
        """
        await self._ask_keepers()
        await self._ask_others()
        if self._leads is None and self._owner == self.me:
            return
        self._heard = trio.current_time()
        while True:
            await self._ask_others()
            record = self.record
            self.seen = max(self.seen, record.term)
            if record.chain_head != self._head:
                self._heard, self._head = trio.current_time(), record.chain_head
            owner = self._owner
            proven = owner in record.faulty or self._left.get(owner) == self.seen
            due = acts_at(
                self._schedulers,
                self.me,
                self.seen,
                heard=self._heard,
                begun=record.begun,
                proven=proven,
            )
            if trio.current_time() >= due:
                return
            leads = self._leads or self._owner
            self.activity.say("standby", scheduler=short_peer(leads), term=self.seen)
            with trio.move_on_after(BEAT_SECONDS):
                await self._noted.wait()

    def note_left(self, peer: PeerId, term: int) -> None:
        """Note that a scheduler ends in order; raises RemoteProtocolError if the term is not its.

        What it says moves this node to ask the keepers, and nothing else.
        """
        if scheduler_of_term(self._schedulers, term) != peer:
            raise RemoteProtocolError(f"leaves term {term}, which belongs to another scheduler")
        self._left[peer] = term
        self._noted.notify()

    async def say_left(self, term: int) -> None:
        """Tell the other schedulers that this one ends in `term`: best effort, on the way out."""

        async def tell(peer: PeerId) -> None:
            try:
                await self.rpc.call(peer, request, Noted, timeout=GOODBYE_SECONDS)
            except (Unavailable, Refusal, RemoteProtocolError) as error:
                log.debug("%s does not hear that term %d ends: %s", short_peer(peer), term, error)

        request = TermLeft(run=self.record.run, term=term)
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for peer in set(self._schedulers) - {self.me}:
                    nursery.start_soon(tell, peer)

    async def begun(self, replication: Replication) -> tuple[Signed, ...] | None:
        """Begin the next term of this node; returns the acceptances that keepers keep.

        None when another scheduler was seen to go on meanwhile.
        """
        while True:
            term = next_own_term(self._schedulers, self.me, max(self.seen, self.record.term))
            try:
                return await replication.begin(term)
            except Deposed as higher:
                self.seen = max(self.seen, higher.term)
                log.info("term %d is not granted: term %d was promised", term, higher.term)
            except Unavailable as away:
                self.activity.say("no-quorum", problem=str(away))
            await trio.sleep(self.chance.uniform(*PAUSES))
            await self._ask_others()
            if self._leads is not None:
                return None

    async def until_outdone(self, term: int) -> None:
        """Return once a keeper serves no term as low as `term`, in which this node schedules."""
        while self.seen <= term:
            await trio.sleep(KEEPERS_SECONDS)
            await self._heads_of_keepers()

    @property
    def _schedulers(self) -> tuple[PeerId, ...]:
        return self.record.manifest.schedule.schedulers

    @property
    def _owner(self) -> PeerId:
        return scheduler_of_term(self._schedulers, self.seen)

    async def _ask_keepers(self) -> None:
        """Learn the highest term that a quorum of keepers knows."""
        keepers, quorum = self.record.keepers, self.record.manifest.schedule.keeper_quorum
        while True:
            answers = await self._heads_of_keepers(enough=quorum)
            if len(answers) >= quorum:
                return
            problem = no_quorum(quorum, keepers, set(keepers) - answers.keys())
            self.activity.say("no-quorum", problem=problem)
            await trio.sleep(CONNECT_SECONDS)

    async def _heads_of_keepers(self, *, enough: float = math.inf) -> dict[PeerId, HeadIs]:
        answers = await self._heads(self.record.keepers, enough)
        self.seen = max((self.seen, self.record.term, *(a.term for a in answers.values())))
        return answers

    async def _ask_others(self) -> None:
        """Ask the other schedulers where they stand, and whether they schedule."""
        answers = await self._heads(set(self._schedulers) - {self.me})
        leading = [peer for peer, answer in answers.items() if answer.scheduling]
        self._leads = leading[0] if leading else None
        if leading:
            self._heard = trio.current_time()

    async def _heads(
        self, peers: Iterable[PeerId], enough: float = math.inf
    ) -> dict[PeerId, HeadIs]:
        run = self.record.run
        return await heads_of(peers, run, self.rpc, timeout=ASK_SECONDS, enough=enough)
