"""The blobs of a run on a node that stores for it: which are needed, and the missing ones fetched.

So a keeper that lost its disk is repaired from the others, whatever is asked of it.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import trio

from dipaco.node.keeper.service import KeptRun
from dipaco.node.kinds.state import SchedulingState
from dipaco.node.network.exchange import Exchange
from dipaco.node.runs.record import RunRecord
from dipaco.node.runs.store import RunStore
from dipaco.node.scheduler.named_blobs import blobs_named
from dipaco.node.scheduler.retention import blobs_needed
from dipaco.node.scheduler.schedule import Schedule
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.claims import Claims
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.wire.digest import Digest, short
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.placement import order, share

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0  # between two looks at what a run needs: records come one after the other
FIRST_RETRY = 5.0  # s before a blob that nobody had is asked for again
LOST_SECONDS = 60.0  # without a connection, after which others hold a keeper's blobs, too
LONGEST_RETRY = 300.0  # s, after some attempts: moments stay with their maker for a while


@dataclass
class StoredRun:
    """The blobs of one run, held for everybody."""

    record: RunRecord
    run_store: RunStore
    blobs: BlobStore
    claims: Claims
    exchange: Exchange
    alive: Callable[[], Collection[PeerId]] = frozenset
    """Returns the peers that are connected now."""
    me: PeerId | None = None
    """This node, if it is a keeper that holds its share alone; None: it holds everything."""
    kept: KeptRun | None = None
    """What this node keeps as a keeper; None: it stores, and does not vote."""
    lacking: int = 0
    """Blobs that are needed and not here."""
    _seen: dict[PeerId, float] = field(default_factory=dict)
    """By keeper when it was connected last."""
    _later: dict[Digest, tuple[float, float]] = field(default_factory=dict)
    """By blob that nobody had: when it is asked for again, and the pause after that."""

    def __post_init__(self) -> None:
        record = self.record
        self._schedule = Schedule(SchedulingState(record.run, record.rounds, record.state))

    def needed(self) -> set[Digest]:
        """Return the blobs that the ledger, its tail and the open rounds name."""
        needed = blobs_needed(self._schedule)
        if self.kept is not None:
            state = self.kept.state
            for each in state.tail:
                needed.update(blobs_named(each.record.entry))
            for kept in state.acceptances.values():
                needed |= kept.acceptance.result.digests
        return needed

    def share(self, needed: Collection[Digest]) -> set[Digest]:
        """Return those of the blobs that this node holds, by who of the keepers is there.

        One that was there within `LOST_SECONDS` counts: whoever starts again is not lost.
        """
        if self.me is None:
            return set(needed)
        now, schedule = trio.current_time(), self.record.manifest.schedule
        for keeper in self.alive():
            if keeper in schedule.named_keepers:
                self._seen[keeper] = now
        there = [keeper for keeper, seen in self._seen.items() if now - seen < LOST_SECONDS]
        return share(self.me, needed, schedule.named_keepers, schedule.blob_copies, there)

    def claim(self) -> set[Digest]:
        """Have the blobs stay that are needed, which it returns, and those that were asked for.

        One that was asked for stays until something here names it; from then on, as long as it is
        needed.
        """
        needed = self.needed()
        asked: Collection[Digest] = ()
        if self.kept is not None:
            for blob in needed.intersection(self.kept.asked):
                del self.kept.asked[blob]
            asked = self.kept.asked
        self.claims.claim(("kept", self.record.run), needed.union(asked))
        return needed

    async def run(self, changed: Callable[[], None]) -> None:
        """Claim and fetch until cancelled; `changed` is called after each look."""
        needed, seen = self.claim(), self._stands()
        while True:
            if seen != self._stands():
                needed, seen = self.claim(), self._stands()
            mine = self.share(needed)
            await self._fetch(mine)
            self.lacking = sum(not self.blobs.has(blob) for blob in mine)
            changed()
            await trio.sleep(LOOK_SECONDS)

    def _stands(self) -> tuple[object, ...]:
        """Return what the needs follow from: it is equal as long as they are the same."""
        kept = self.kept
        kept_now = (kept.state, tuple(kept.asked)[-1:]) if kept is not None else ()
        return self.record.length, len(self.record.specs), kept_now

    async def _fetch(self, needed: Collection[Digest]) -> None:
        """Fetch what is missing, one blob after the other, from keepers first."""
        for blob in self._later.keys() - set(needed):
            del self._later[blob]
        for blob in needed:
            due, pause = self._later.get(blob, (0.0, FIRST_RETRY))
            if self.blobs.has(blob) or trio.current_time() < due:
                continue
            try:
                keepers = order(blob, self.record.manifest.schedule.named_keepers)
                last = (self.record.scheduler,)
                await self.exchange.fetch(blob, holders=keepers, last=last)
                self._later.pop(blob, None)
            except Unavailable as away:
                log.debug("blob %s is missing: %s", short(blob), away)
                again = trio.current_time() + pause
                self._later[blob] = again, min(2 * pause, LONGEST_RETRY)
