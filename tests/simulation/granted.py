"""Runs without keepers whose owner has another scheduler go on, by the real rules of grants."""

from typing import Any

from dipaco.node.storage.files import DiskFull
from dipaco.protocol.errors import RemoteProtocolError, Unavailable
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.signed import sign
from dipaco.protocol.work.authority import scheduler_of_term
from dipaco.protocol.work.ledger import TermGranted
from dipaco.protocol.work.terms import OwnersGrant
from tests.simulation.blobs import Blobs
from tests.simulation.calls import Fetch, Part, Pull
from tests.simulation.chain import Chain
from tests.simulation.disk import Disk
from tests.simulation.oracle import Oracle
from tests.simulation.scheduler import SchedulerNode, SimulatedJournal
from tests.simulation.signatures import signing_key
from tests.simulation.world import Ask, Pause, Restart, Task

OWNER = "owner"  # the name of the owner's key
LOOK_SECONDS = 1.0
FOLLOW_SECONDS = 5.0


def grant_next_term(disk: Disk, run: Digest, manifest: Manifest, oracle: Oracle) -> bool:
    """Have the owner grant term 1 in the home of a node that is stopped, from its ledger on.

    False: it cannot be saved now.
    """
    chain = Chain(run, manifest, disk, oracle)
    grant = OwnersGrant(run=run, term=1, head=chain.record.chain_head)
    try:
        chain.heed(sign(grant, signing_key(OWNER)))
    except DiskFull:
        return False
    scheduler = scheduler_of_term(manifest.schedule.schedulers, 1)
    oracle.granted(grant, scheduler, chain.record.state)
    return True


class GrantedSchedulerNode(SchedulerNode):
    """Schedules while it is its turn by the owner's word; until then it follows, and serves."""

    def boot(self) -> None:
        self.journal = SimulatedJournal(self.disk, old=self.old)
        self.blobs = Blobs(self.disk, self.oracle)
        self.chain = Chain(self.run, self.manifest, self.disk, self.oracle)
        self.run_store = self
        self.ready = False
        """Whether it schedules."""
        self.spawn(self._live())
        self.spawn(self._follow())

    @property
    def _due(self) -> int:
        """The term in which the run is scheduled now."""
        record = self.chain.record
        return max(record.term, record.granted.term if record.granted else 0)

    def _live(self) -> Task:
        schedulers = self.manifest.schedule.schedulers
        while scheduler_of_term(schedulers, self._due) != self.peer:
            yield Pause(LOOK_SECONDS)
        self.term = self._due
        while not self._begun():
            yield Pause(LOOK_SECONDS)
        self.ready = True
        self.resume()
        while self._due == self.term:
            yield Pause(LOOK_SECONDS)
        raise Restart

    def _begun(self) -> bool:
        """Begin the term, once the ledger that it goes on from is here."""
        record = self.chain.record
        if record.term == self.term:
            return True
        if record.granted is None or record.chain_head != record.granted.head:
            return False
        assert self.chain.grant is not None
        before = len(self.chain.records)
        self._appended = []
        entry = TermGranted(grant=self.chain.grant)
        try:
            with self.journal.saving():
                self.append(self.run, entry, self.key, term=self.term)
        except DiskFull:
            self.chain.reread()
            return False
        self.chain.note_final(self._appended, self.chain.records[before:])
        for other in self.others:
            self.send(other, self.chain.part(before))
        return True

    # ------------------------------------------------------------------ what others ask and tell

    def answer(self, who: PeerId, request: Any) -> Any:
        match request:
            case Fetch():
                return self.blobs.answer(request)
            case Pull(first=first):
                return self.chain.part(first)
        if not self.ready:
            raise Unavailable("the run is not scheduled here")
        return super().answer(who, request)

    def disconnected(self, who: PeerId) -> None:
        if self.ready:
            super().disconnected(who)

    def look(self) -> None:
        if self.ready:
            super().look()

    def owner_grants(self) -> bool:
        return grant_next_term(self.disk, self.run, self.manifest, self.oracle)

    def heard(self, who: PeerId, message: Any) -> None:
        if isinstance(message, Part):
            self._offer(who, message)

    def _offer(self, who: PeerId, part: Part) -> None:
        try:
            if self.ready:
                self.chain.heed(part.grant)
            else:
                self.chain.offer(part)
        except RemoteProtocolError as error:
            self.oracle.struck(who, str(error))
        except DiskFull:
            self.chain.reread()
        if self.ready and self._due != self.term:
            raise Restart

    def _follow(self) -> Task:
        while True:
            who = self.random.choice(self.others)
            reply = yield Ask(who, Pull(len(self.chain.records)))
            if isinstance(reply, Part):
                self._offer(who, reply)
            yield Pause(FOLLOW_SECONDS)

    def _discard_lost(self, step: Any) -> Task:
        """Fetch what the scheduler before it had."""
        for blob in sorted({step.state, step.momentum} - {None}):
            yield from self.blobs.fetch(blob, self.others)
        return (yield from super()._discard_lost(step))
