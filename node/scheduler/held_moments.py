"""The moments of a run with keepers: enough keepers hold those from which the open rounds began.

Moments are twice as large as pseudo-gradients or more, so no outer step waits for those that its
own results made. It waits for those that its results began with: these have come since. So whatever
is lost with a scheduler and with the makers of moments, the last round of a path is all that has to
be trained once more, and what it begins with is on the keepers.
"""

from collections.abc import Callable

import trio

from dipaco.node.condition import Condition
from dipaco.node.kinds.changes import Change, DueStep, MomentsArrived, Recorded
from dipaco.node.scheduler.replication import Replication
from dipaco.node.scheduler.schedule import Schedule
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.tensors.feedback import carried_bytes
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.ledger import ModuleUpdated


class HeldMoments:
    """What keepers hold of the newest moments of each path."""

    def __init__(
        self, schedule: Schedule, replication: Replication, has: Callable[[Digest], bool]
    ) -> None:
        """has: whether a blob is here."""
        self._schedule, self._replication, self._has = schedule, replication, has
        self._held: dict[int, frozenset[Digest]] = {}
        """By path."""
        self._stale = set(range(schedule.manifest.paths))
        """The paths of which there may be others since the last look."""

    def note(self, change: Change) -> None:
        """Note a change that was made."""
        match change:
            case MomentsArrived(place=(path, _)):
                self._stale.add(path)
            case Recorded(entry=ModuleUpdated(contributions=contributions)):
                self._stale.update(each.path for each in contributions)

    def ready(self, step: DueStep) -> bool:
        """Return whether enough keepers hold the moments that the results of a step began with."""
        ledger = self._schedule.ledger
        return all(
            digest in self._held.get(each.path, ())
            for each in step.contributions
            for module, digest in ledger.path_moments(each.path, step.version)
            if module == step.module
        )

    async def run(self, due: Condition) -> None:
        """Have keepers hold what comes, until cancelled; raises Deposed.

        due   notified after each change; it is notified here, too.
        """
        async with trio.open_nursery() as nursery:
            while True:
                stale, self._stale = self._stale, set()
                for path in stale:
                    nursery.start_soon(self._hold, path, due)
                await due.wait()

    async def _hold(self, path: int, due: Condition) -> None:
        wanted = self._newest(path)
        if not wanted or (self._comes(path) and not all(map(self._has, wanted))):
            return  # it is looked at again once they are here
        what = f"an outer step, for the moments of path {path},"
        await self._replication.hold(wanted, (), what=what)
        if wanted == self._newest(path):
            self._held[path] = frozenset(wanted)
            due.notify()

    def _newest(self, path: int) -> dict[Digest, int]:
        """Return the moments that a path's next round begins with, and their lengths in bytes."""
        ledger, manifest = self._schedule.ledger, self._schedule.manifest
        version = ledger.path_version(path)
        if not 0 < version < self._schedule.rounds.last:
            return {}

        def length(module: ModuleId) -> int:
            sizes = ledger.topology.elements(module), manifest.by_muon(module)
            return carried_bytes(manifest.training.deltas, *sizes)

        return {digest: length(m) for m, digest in ledger.path_moments(path, version + 1)}

    def _comes(self, path: int) -> bool:
        """Return whether somebody is after those moments, or they are to be made again."""
        ledger = self._schedule.ledger
        last = ledger.last_round(path, ledger.path_version(path) + 1)
        return self._schedule.state.pending.get((path, last)) is not None
