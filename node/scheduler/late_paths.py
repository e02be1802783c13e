"""The paths that outer steps do not wait for: the run's quorum and its grace. Pure.

Where the manifest has a quorum, a module that has the results of so many of its live paths waits
for the others only for the grace; then these miss the round (docs/method.md 2.10). The time is the
scheduler's own and is not saved: after a restart the grace begins anew. The ledger names who missed
a round, and its fold knows no time.
"""

from collections.abc import Collection

from msgspec import UNSET

from dipaco.node.kinds.pending_moments import Place
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.work.rounds import Rounds
from dipaco.protocol.work.run_state import RunState


class LatePaths:
    """Since when the modules of one run have their quorum."""

    def __init__(self, rounds: Rounds, ledger: RunState) -> None:
        self._rounds, self._ledger = rounds, ledger
        self._quorum = ledger.manifest.training.quorum
        self._since: dict[tuple[ModuleId, int], float] = {}
        """By module and version: its quorum is in, and the other paths can train."""

    def overdue(self, accepted: Collection[Place], now: float) -> tuple[Place, ...]:
        """Return the paths that miss their round now, of the first module that goes on without.

        accepted   path and round of the results that count.
        now        seconds on the scheduler's clock.
        """
        waiting = {}
        late: tuple[Place, ...] = ()
        for (module, version), missing in self._waiting(accepted):
            since = waiting[module, version] = self._since.get((module, version), now)
            assert self._quorum is not UNSET
            over = now - since >= self._quorum.grace
            if over and not late and not self._ledger.why_not_miss(missing, version):
                late = tuple((path, version) for path in missing)
        self._since = waiting
        return late

    def _waiting(
        self, accepted: Collection[Place]
    ) -> list[tuple[tuple[ModuleId, int], tuple[int, ...]]]:
        """Return the modules that have their quorum, and the paths that they still wait for.

        A path whose modules do not yet stand at the version before has had no time to train.
        """
        found = []
        quorum, ledger = self._quorum, self._ledger
        for module, version in self._rounds.next_versions() if quorum is not UNSET else ():
            paths = self._rounds.step_paths(module, version)
            missing = tuple(path for path in paths if (path, version) not in accepted)
            here = len(paths) - len(missing)
            if not missing or not here or quorum is UNSET:
                continue
            enough = quorum.reached(here, len(ledger.live_through(module, version)))
            if enough and all(ledger.path_version(path) == version - 1 for path in missing):
                found.append(((module, version), missing))
        return found
